//! A run from its beginning to its end: data, connections, load, figures.

use crate::dialect::{Data, Server, Values, Watch};
use crate::keys::{Distribution, Keys};
use crate::output;
use crate::plan::{Arguments, Work};
use crate::record::Record;
use crate::results::{Results, TimedSample};
use crate::worker::{self, Group, Shared, Task, Times};
use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How often the server is asked about itself.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// From the last connection to the first operation.
const HEAD_START: Duration = Duration::from_millis(20);

/// Does what the command line asks for.
///
/// # Errors
/// What cannot be done, what the server says, and accounts that do not add up.
pub fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    let server = arguments.to_server();
    let version = server.version()?;
    let values = Values::new(arguments.value_bytes, arguments.seed);
    let data = arguments.work.data();
    if arguments.load {
        let bar = bar(
            arguments,
            arguments.keys,
            "{msg} [{wide_bar}] {pos}/{len} {eta}",
        );
        bar.set_message("loading");
        server.load(data, arguments.keys, &values, &|count| bar.inc(count))?;
        bar.finish_and_clear();
    }
    if arguments.time == 0.0 {
        return Ok(());
    }
    let before = accounts(arguments, &*server)?;
    let results = load(arguments, &*server, &values, version)?;
    let after = accounts(arguments, &*server)?;
    output::write(arguments, &results)?;
    if before != after {
        return Err(rd_tools::cli::with_hint(
            format!(
                "the accounts hold {} in all, and held {} before the run",
                after.unwrap_or_default(),
                before.unwrap_or_default()
            ),
            "Transactions were lost or done by halves, unless somebody else writes to them.",
        ));
    }
    Ok(())
}

/// What the accounts hold in all, if the work is about them.
fn accounts(arguments: &Arguments, server: &dyn Server) -> Result<Option<i64>> {
    match arguments.work.data() {
        Data::Accounts => Ok(Some(server.total(arguments.keys)?)),
        Data::Values => Ok(None),
    }
}

/// A progress bar; a hidden one if nobody wants to see it. It shows itself on terminals only.
fn bar(arguments: &Arguments, length: u64, template: &str) -> ProgressBar {
    if arguments.quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(length);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The groups of connections of each thread.
fn groups(arguments: &Arguments) -> Vec<Group> {
    let interval = arguments.rate.map(|rate| {
        let jobs = arguments.jobs as f64;
        Duration::from_secs_f64(jobs / rate)
    });
    let main = Group {
        work: arguments.full_work(),
        pipeline: arguments.pipeline,
        interval,
    };
    let writers = Group {
        work: Work::Set,
        pipeline: 1,
        interval: None,
    };
    vec![main, writers]
}

/// Opens the connections and deals them out to the threads.
///
/// Writers are spread evenly among the others, so that a server that deals its connections out to
/// several processes has some of them in each.
fn connect(
    arguments: &Arguments,
    server: &dyn Server,
) -> Result<Vec<Vec<(crate::address::Stream, usize)>>> {
    let mut of_jobs: Vec<Vec<_>> = (0..arguments.jobs).map(|_| Vec::new()).collect();
    let all = arguments.connections + arguments.writers;
    let mut writers = 0;
    for index in 0..all {
        // As many writers as an even spread has by now.
        let wanted = (index + 1) * arguments.writers / all;
        let group = usize::from(wanted > writers);
        writers = wanted;
        let stream = server.open(arguments.asynchronous);
        let stream = stream.with_context(|| format!("connection {} of {all}", index + 1))?;
        of_jobs[index % arguments.jobs].push((stream, group));
    }
    Ok(of_jobs)
}

/// Runs the load.
fn load(
    arguments: &Arguments,
    server: &dyn Server,
    values: &Values,
    version: String,
) -> Result<Results> {
    let mut watch = server.watch()?;
    let connections = connect(arguments, server)?;
    let begin = Instant::now() + HEAD_START;
    let start = begin + Duration::from_secs_f64(arguments.warm_up);
    let length = Duration::from_secs_f64(arguments.time);
    let times = Times {
        begin,
        start,
        end: start + length,
        timeout: Duration::from_secs(u64::from(arguments.timeout.max(1))),
    };
    let started = SystemTime::now() + start.saturating_duration_since(Instant::now());
    let shared = Arc::new(Shared::default());
    let position = Arc::new(AtomicU64::new(0));
    let groups = groups(arguments);
    let (done, threads) = mpsc::channel();
    for (job, connections) in connections.into_iter().enumerate() {
        let task = Task {
            connections,
            groups: groups.clone(),
            dialect: server.dialect(),
            keys: keys(arguments, job, &position)?,
            values: values.clone(),
            is_batched: arguments.batch,
            keeps_going: arguments.keep_going,
            times,
            shared: Arc::clone(&shared),
        };
        let done = done.clone();
        thread::Builder::new()
            .name(format!("load {job}"))
            .spawn(move || {
                // The master is there until all have told it.
                let _ = done.send(worker::run(task));
            })?;
    }
    drop(done);
    let (records, samples) = watch_over(arguments, &mut *watch, &threads, &times, &shared)?;
    let mut merged = merge(records, &times);
    let writers = merged.pop().filter(|_| arguments.writers > 0);
    let main = merged.pop().ok_or_else(|| anyhow!("no thread has run"))?;
    Ok(Results {
        version,
        started,
        length,
        is_open_loop: arguments.rate.is_some(),
        main,
        writers,
        samples,
    })
}

/// The keys of one thread.
fn keys(arguments: &Arguments, job: usize, position: &Arc<AtomicU64>) -> Result<Keys> {
    let seed = arguments.seed.wrapping_add(job as u64);
    let Arguments {
        distribution,
        keys,
        theta,
        ..
    } = arguments;
    Keys::new(*distribution, *keys, *theta, seed, position)
}

/// Samples the server and shows progress until all threads have told what they did.
fn watch_over(
    arguments: &Arguments,
    watch: &mut dyn Watch,
    threads: &mpsc::Receiver<Result<Vec<Record>>>,
    times: &Times,
    shared: &Shared,
) -> Result<(Vec<Vec<Record>>, Vec<TimedSample>)> {
    let whole = times.end.saturating_duration_since(times.begin);
    let template = "{msg} [{wide_bar}] {eta}";
    let bar = bar(arguments, whole.as_millis() as u64, template);
    let mut records = Vec::new();
    let mut samples: Vec<TimedSample> = Vec::new();
    let mut tick = times.begin;
    loop {
        tick = (tick + WATCH_EVERY).max(Instant::now());
        match threads.recv_timeout(tick.saturating_duration_since(Instant::now())) {
            Ok(record) => records.push(record?),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        if now < tick || now >= times.end {
            continue;
        }
        // The number is read first: log that belongs to it is there when the server answers.
        let operations = shared.operations.load(Ordering::Relaxed);
        let sample = watch.sample().context("asking the server about itself");
        let sample = match sample {
            Ok(sample) => sample,
            // The load's own error tells more, if there is one.
            Err(error) => {
                shared.is_over.store(true, Ordering::Relaxed);
                for record in threads {
                    record?;
                }
                return Err(error);
            }
        };
        let at_s = signed_s(times.start, Instant::now());
        let last = samples.last().map_or(0, |sample| sample.operations);
        let rate = (operations - last) as f64 / WATCH_EVERY.as_secs_f64();
        bar.set_message(format!("{} {rate:.0}/s", arguments.work.name()));
        bar.set_position(now.saturating_duration_since(times.begin).as_millis() as u64);
        samples.push(TimedSample {
            at_s,
            operations,
            sample,
        });
    }
    bar.finish_and_clear();
    Ok((records, samples))
}

/// Seconds from one moment to another, which may lie before it.
fn signed_s(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(since) => since.as_secs_f64(),
        None => -from.saturating_duration_since(to).as_secs_f64(),
    }
}

/// Adds up what the threads have recorded, group by group.
fn merge(records: Vec<Vec<Record>>, times: &Times) -> Vec<Record> {
    let length = times.end.saturating_duration_since(times.start);
    let groups = records.first().map_or(0, Vec::len);
    let mut merged: Vec<Record> = (0..groups)
        .map(|_| Record::new(times.start, length))
        .collect();
    for of_thread in &records {
        for (all, one) in merged.iter_mut().zip(of_thread) {
            all.merge(one);
        }
    }
    merged.iter_mut().for_each(Record::close);
    merged
}

/// What the run was, in words.
pub fn describe(arguments: &Arguments) -> String {
    let keys = match arguments.distribution {
        Distribution::Uniform => "uniform".to_owned(),
        Distribution::Zipfian => format!("zipfian ({})", arguments.theta),
        Distribution::Sequential => "sequential".to_owned(),
    };
    let pace = match arguments.rate {
        Some(rate) => format!("{rate} operations/s"),
        None => "closed loop".to_owned(),
    };
    let what = match arguments.work.data() {
        Data::Values => format!("keys, values of {} bytes", arguments.value_bytes),
        Data::Accounts => "accounts".to_owned(),
    };
    let mut text = format!(
        "{}, {} {keys} {what}, {} connections, {pace}",
        arguments.work.name(),
        arguments.keys,
        arguments.connections
    );
    let extras = [
        (
            arguments.pipeline > 1,
            format!("pipeline {}", arguments.pipeline),
        ),
        (
            arguments.writers > 0,
            format!("{} writers", arguments.writers),
        ),
        (arguments.batch, "batched".to_owned()),
        (arguments.serializable, "serializable".to_owned()),
        (
            arguments.asynchronous,
            "synchronous_commit = off".to_owned(),
        ),
    ];
    for (_, extra) in extras.iter().filter(|(is_so, _)| *is_so) {
        text.push_str(", ");
        text.push_str(extra);
    }
    text
}

//! Soak: hours of mixed load at an even rate, with harm done to the server in between, and what becomes
//! of its memory, its descriptors, its files and its answers over that time: they must stay what they were.
//!
//! A round has a quiet part, in which response times are measured and at the end of which a sample is
//! taken, and a harm out of the torture's, with its writers, whose acknowledged writes are looked for
//! afterwards. In the first third of the rounds every second harm is one that the server falls by or is
//! stopped for; from then on it runs in one life, so that what leaks has time to, and that life is what is
//! judged: what a restart sets back shows no growth from one life to the next.

use crate::support::cluster::Cluster;
use crate::support::{DEADLINE, process, skip};
use crate::torture::disk::SmallDisk;
use crate::torture::falls::Watch;
use crate::torture::victim::Harm;
use crate::torture::workload::{Look, Writer, ask, is_permitted};
use crate::torture::{self, Random, Report};
use nix::sys::signal::Signal;
use rd_wire::{Client, Reply, client};
use std::ffi::OsStr;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Harms that the server survives as it is.
const GENTLE: [Harm; 4] = [
    Harm::StandStill,
    Harm::ClockJump,
    Harm::Vanish,
    Harm::PostmasterRunsShort,
];
/// One more of these, on a small disk.
const GENTLE_ON_A_DISK: Harm = Harm::DiskFull;
/// Those that it does not, or that may end it. What restarts it under limits belongs to the torture.
const ROUGH: [Harm; 14] = [
    Harm::DescriptorsRunShort,
    Harm::MemoryRunsShort,
    Harm::Stray,
    Harm::KillServer,
    Harm::KillInCheckpoint,
    Harm::KillPostmaster,
    Harm::KillPostmasterAndStart,
    Harm::KillCheckpointer,
    Harm::KillWalwriter,
    Harm::KillBackend,
    Harm::KillInRestart,
    Harm::StandStillAndDie,
    Harm::ImmediateStop,
    Harm::FastStop,
];
/// One round in so many has a rough one, in the first part of all rounds.
const ROUGH_EVERY: u64 = 2;
/// One part in so many.
const ROUGH_PART: u64 = 3;
/// Samples of one life that it takes to tell whether something grows.
const SAMPLES_MIN: usize = 6;
/// Load that goes on while the server is harmed.
const HARM_LOAD: Duration = Duration::from_millis(500);
/// Writers of the torture.
const WRITERS: usize = 2;
/// Keys of a RANGE.
const RANGE_KEYS: &str = "20";
/// Longest filling of a value.
const FILL_MAX: u64 = 200;
/// Requests on their way at a time while the keys are made.
const LOAD_PIPELINE: usize = 1000;
/// Accounts between which money moves.
const ACCOUNTS: u64 = 64;

/// How much of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything random comes from.
    pub seed: u64,
    /// Rounds.
    pub rounds: u64,
    /// The quiet part of each.
    pub quiet: Duration,
    /// Connections.
    pub clients: usize,
    /// Operations of all connections together in a second.
    pub rate: u64,
    /// Keys that they work on.
    pub keys: u64,
    /// Mebibytes of a disk of its own for the server, which is full at times; none if this cannot be mounted.
    pub disk_mebibytes: Option<u64>,
    /// Settings of the server.
    pub settings: Vec<(String, String)>,
}

/// What was found at the end of a quiet part.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Seconds since the beginning.
    pub second: u64,
    /// The checkpointer's process id, which is another after each restart.
    pub life: u32,
    /// Memory of all processes beside what they share, bytes.
    pub memory_bytes: u64,
    /// Descriptors of all processes.
    pub descriptors: u64,
    /// Bytes of the relation files.
    pub base_bytes: u64,
    /// Bytes of the log.
    pub wal_bytes: u64,
    /// Bytes of everything else in the data directory.
    pub other_bytes: u64,
    /// Operations that were answered in the quiet part.
    pub operations: u64,
    /// Response times, counted from when an operation was due, microseconds: median, 99 %, 99.9 %, greatest.
    pub response_us: [u64; 4],
    /// What is done to the server next.
    pub harm: String,
}

/// How a measure has changed from the first third of the samples of a life to the last.
#[derive(Clone, Debug)]
pub struct Trend {
    /// Which one.
    pub name: &'static str,
    /// Median of the first third.
    pub first: u64,
    /// Median of the last third.
    pub last: u64,
    /// By what factor it may grow.
    pub factor_max: f64,
}

impl Trend {
    /// By what factor it has grown.
    pub fn factor(&self) -> f64 {
        self.last as f64 / self.first.max(1) as f64
    }

    /// Whether it has stayed what it was.
    pub fn is_flat(&self) -> bool {
        self.factor() <= self.factor_max
    }
}

/// What is measured, by what factor it may grow, and how it is got from a sample.
type Measure = (&'static str, f64, fn(&Sample) -> u64);

/// The trends of the life that these samples end with; `None` if it is too short. Its first tenth does not count:
/// files and caches fill up first. Response times may double, those of the slowest thousandth grow to four times what
/// they were, since a machine that does other things too cannot hold them evener.
pub fn trends(samples: &[Sample]) -> Option<Vec<Trend>> {
    let life = samples.last()?.life;
    let begin = samples.iter().rposition(|sample| sample.life != life);
    let last = &samples[begin.map_or(0, |before| before + 1)..];
    if last.len() < SAMPLES_MIN {
        return None;
    }
    let warm = &last[last.len().div_ceil(10)..];
    let third = warm.len() / 3;
    let measures: [Measure; 8] = [
        ("memory, bytes", 1.25, |sample| sample.memory_bytes),
        ("descriptors", 1.1, |sample| sample.descriptors),
        ("relation files, bytes", 1.1, |sample| sample.base_bytes),
        ("log, bytes", 1.5, |sample| sample.wal_bytes),
        ("other files, bytes", 1.25, |sample| sample.other_bytes),
        ("response, median, us", 2.0, |sample| sample.response_us[0]),
        ("response, 99 %, us", 2.0, |sample| sample.response_us[1]),
        ("response, 99.9 %, us", 4.0, |sample| sample.response_us[2]),
    ];
    let trend = |&(name, factor_max, measure): &Measure| Trend {
        name,
        first: median(&warm[..third], measure),
        last: median(&warm[warm.len() - third..], measure),
        factor_max,
    };
    Some(measures.iter().map(trend).collect())
}

fn median(samples: &[Sample], measure: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(measure).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What all clients look at.
struct Course {
    socket: PathBuf,
    keys: u64,
    /// From one operation of a client to its next.
    every: Duration,
    /// Texts of errors with which the server may refuse while it is harmed.
    permitted: &'static [&'static str],
    is_measured: AtomicBool,
    /// Operations that were answered while it was.
    measured: AtomicU64,
    is_over: AtomicBool,
}

/// What a client has seen.
#[derive(Default)]
struct Seen {
    response_us: Vec<u64>,
    /// An answer that cannot be right.
    wrong: Option<String>,
}

/// Why an operation was not answered.
enum Unanswered {
    /// The connection is broken, or the server does not serve.
    Broken,
    /// It was refused with this error.
    Refused(String),
    /// The answer cannot be right.
    Wrong(String),
}

/// One connection of the mixed load.
struct MixedClient<'a> {
    course: &'a Course,
    random: Random,
    seen: Seen,
}

impl MixedClient<'_> {
    /// Works at its rate until the round is over, and connects anew whenever the connection breaks.
    fn run(mut self) -> Seen {
        let mut due = Instant::now();
        while !self.course.is_over.load(Ordering::Relaxed) && self.seen.wrong.is_none() {
            let Ok(mut client) = Client::connect_unix(&self.course.socket) else {
                // The server is away; a moment later it may be back.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            if client.set_timeout(Some(DEADLINE)).is_ok() {
                // What was due while there was no server is not made up for.
                due = due.max(Instant::now());
                self.work(&mut client, &mut due);
            }
        }
        self.seen
    }

    fn work(&mut self, client: &mut Client, due: &mut Instant) {
        while !self.course.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let is_measured = self.course.is_measured.load(Ordering::Relaxed);
            match self.one(client) {
                Ok(()) if is_measured => {
                    self.seen.response_us.push(due.elapsed().as_micros() as u64);
                    self.course.measured.fetch_add(1, Ordering::Relaxed);
                }
                Ok(()) => {}
                Err(Unanswered::Broken) => return,
                // The quiet part may have come to its end since the operation was sent.
                Err(Unanswered::Refused(error))
                    if !self.course.is_measured.load(Ordering::Relaxed)
                        && is_permitted(&error, self.course.permitted) =>
                {
                    return;
                }
                Err(Unanswered::Refused(error)) => {
                    self.seen.wrong = Some(format!("an answer was: {error}"));
                    return;
                }
                Err(Unanswered::Wrong(what)) => {
                    self.seen.wrong = Some(what);
                    return;
                }
            }
            *due += self.course.every;
        }
    }

    fn key(&mut self) -> String {
        mixed_key(self.random.below(self.course.keys))
    }

    fn account(&mut self) -> String {
        account_key(self.random.below(ACCOUNTS))
    }

    fn value(&mut self, key: &str) -> String {
        let fill = self.random.below(FILL_MAX) as usize;
        mixed_value(key, fill)
    }

    fn one(&mut self, client: &mut Client) -> Result<(), Unanswered> {
        let key = self.key();
        match self.random.below(20) {
            0..=8 => {
                let reply = call(client, &["GET", &key])?;
                check_value(&key, &reply)
            }
            9..=12 => {
                let value = self.value(&key);
                expect_ok(call(client, &["SET", &key, &value])?)
            }
            13 => call(client, &["DEL", &key]).map(drop),
            14 => {
                let value = self.value(&key);
                let passing = format!("passing:{key}");
                expect_ok(call(client, &["SET", &passing, &value, "PX", "2000"])?)
            }
            15..=16 => self.range(client, &key),
            17..=18 => self.exec(client),
            _ => self.transaction(client, &key),
        }
    }

    fn range(&self, client: &mut Client, from: &str) -> Result<(), Unanswered> {
        let reply = call(client, &["RANGE", from, "mixed;", "LIMIT", RANGE_KEYS])?;
        let Some(pairs) = reply.as_slice() else {
            return Err(Unanswered::Wrong(format!("RANGE gave {reply:?}")));
        };
        let mut least = from.to_owned();
        for pair in pairs.chunks(2) {
            let key = pair.first().and_then(Reply::as_str).unwrap_or_default();
            if key < least.as_str() {
                let what = format!("RANGE from {from} gave {key} behind {least}");
                return Err(Unanswered::Wrong(what));
            }
            check_value(key, pair.get(1).unwrap_or(&Reply::Null))?;
            least = key.to_owned();
        }
        Ok(())
    }

    /// Moves money in one EXEC.
    fn exec(&mut self, client: &mut Client) -> Result<(), Unanswered> {
        let (from, to, sum) = (self.account(), self.account(), self.random.below(100));
        let sum = sum.to_string();
        client.send(&["MULTI"]);
        client.send(&["DECRBY", &from, &sum]);
        client.send(&["INCRBY", &to, &sum]);
        client.send(&["EXEC"]);
        client.flush().map_err(unanswered)?;
        let replies = client.receive_many(4).map_err(unanswered)?;
        match replies.iter().find_map(Reply::error) {
            Some(error) => Err(told(error)),
            None => Ok(()),
        }
    }

    /// Reads a key and writes it; somebody else may have been first.
    fn transaction(&mut self, client: &mut Client, key: &str) -> Result<(), Unanswered> {
        expect_ok(call(client, &["BEGIN"])?)?;
        check_value(key, &call(client, &["GET", key])?)?;
        let value = self.value(key);
        expect_ok(call(client, &["SET", key, &value])?)?;
        let reply = client.call(&["COMMIT"]).map_err(unanswered)?;
        match reply.error() {
            Some(error) if !error.starts_with("CONFLICT") => Err(told(error)),
            _ => Ok(()),
        }
    }
}

fn call(client: &mut Client, words: &[&str]) -> Result<Reply, Unanswered> {
    let reply = client.call(words).map_err(unanswered)?;
    match reply.error() {
        Some(error) => Err(told(error)),
        None => Ok(reply),
    }
}

/// What it means that no reply came: a connection that breaks is no wonder, one that stays and says nothing is.
fn unanswered(error: client::Error) -> Unanswered {
    match error {
        client::Error::Timeout => Unanswered::Wrong(error.to_string()),
        _ => Unanswered::Broken,
    }
}

/// What an error means: servers that start or stop, and connections that were cut off by that, are no
/// wonder.
fn told(error: &str) -> Unanswered {
    match is_permitted(error, &[]) {
        true => Unanswered::Broken,
        false => Unanswered::Refused(error.to_owned()),
    }
}

fn expect_ok(reply: Reply) -> Result<(), Unanswered> {
    match reply.is_ok() {
        true => Ok(()),
        false => Err(Unanswered::Wrong(format!("not OK but {reply:?}"))),
    }
}

fn check_value(key: &str, reply: &Reply) -> Result<(), Unanswered> {
    let starts = |text: &str| {
        text.strip_prefix(key)
            .is_some_and(|rest| rest.starts_with('='))
    };
    match reply {
        Reply::Null => Ok(()),
        reply if reply.as_str().is_some_and(starts) => Ok(()),
        reply => Err(Unanswered::Wrong(format!("{key} holds {reply:?}"))),
    }
}

/// Runs the plan. `tell` hears of each sample.
pub fn run(plan: &Plan, mut tell: impl FnMut(&Sample)) -> (Vec<Sample>, Report) {
    let mut random = Random::new(plan.seed);
    // Declared first, so that it goes last.
    let disk = plan.disk_mebibytes.and_then(|mebibytes| {
        let disk = SmallDisk::ext4(mebibytes).or_else(|| SmallDisk::mounted(mebibytes));
        if disk.is_none() {
            skip("no file system can be mounted for a full disk");
        }
        disk
    });
    let mut gentle_harms = GENTLE.to_vec();
    gentle_harms.extend(disk.as_ref().map(|_| GENTLE_ON_A_DISK));
    let mut cluster = Cluster::new(&[
        ("shared_buffers", "64MB"),
        ("max_wal_size", "128MB"),
        ("min_wal_size", "64MB"),
        ("checkpoint_timeout", "30s"),
        ("crash_restart_max", torture::RESTARTS_MAX),
    ]);
    if let Some(disk) = &disk {
        cluster.put_data(disk.path().join("data"));
    }
    for (name, value) in &plan.settings {
        cluster.set(name, value);
    }
    // Each kill is complained of, in as many ways as there are moments.
    cluster.announce("");
    cluster.start();
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| Writer::new(number, random.draw()))
        .collect();
    load(&cluster, plan.keys);
    let began = Instant::now();
    let mut report = Report::default();
    let mut watch = Watch::default();
    let (mut samples, mut gentle, mut rough) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let is_rough = round < plan.rounds / ROUGH_PART && (round + 1).is_multiple_of(ROUGH_EVERY);
        let (deck, harms) = match is_rough {
            true => (&mut rough, &ROUGH[..]),
            false => (&mut gentle, &gentle_harms[..]),
        };
        if deck.is_empty() {
            *deck = Harm::deck(harms, &mut random);
        }
        let harm = deck.pop().expect("just dealt");
        let course = Course {
            socket: cluster.socket(),
            keys: plan.keys,
            every: Duration::from_secs(1) * plan.clients as u32 / plan.rate.max(1) as u32,
            permitted: harm.refusals(),
            is_measured: AtomicBool::new(true),
            measured: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        };
        let (mut sample, done, seen) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..plan.clients)
                .map(|_| {
                    let client = MixedClient {
                        course: &course,
                        random: Random::new(random.draw()),
                        seen: Seen::default(),
                    };
                    scope.spawn(|| client.run())
                })
                .collect();
            // The load itself is what is wanted here, for as long as the plan says.
            std::thread::sleep(plan.quiet);
            // A sample is of something: on a busy machine the first answer may be late.
            let last = Instant::now() + DEADLINE;
            while course.measured.load(Ordering::Relaxed) == 0 && Instant::now() < last {
                std::thread::sleep(Duration::from_millis(1));
            }
            let sample = look(&cluster, began);
            course.is_measured.store(false, Ordering::Relaxed);
            let (back, done) = torture::under_load(
                &course.socket,
                std::mem::take(&mut writers),
                course.permitted,
                || {
                    std::thread::sleep(HARM_LOAD);
                    harm.inflict(&mut cluster, disk.as_ref(), &mut random)
                },
            );
            writers = back;
            course.is_over.store(true, Ordering::Relaxed);
            let seen: Vec<Seen> = clients
                .into_iter()
                .map(|client| client.join().expect("a client does not panic"))
                .collect();
            (sample, done, seen)
        });
        sample.harm.clone_from(&done.kind);
        take_in(&mut sample, seen, &mut report);
        tell(&sample);
        samples.push(sample);
        torture::settle(&mut cluster, &done, is_rough, &mut random, &mut report);
        torture::check(&mut cluster, &mut writers, &mut report);
        torture::check_service(&mut cluster, &mut report);
        torture::until_answered(&mut cluster, &mut report, check_accounts);
        report.losses.extend(watch.look(&cluster, harm.falls()));
        if !report.losses.is_empty() {
            let log = torture::tail(&cluster.log_since_start(), 60);
            report
                .losses
                .push(format!("after {}; server log:\n{log}", done.kind));
            break;
        }
    }
    if report.losses.is_empty() {
        cluster.stop(Signal::SIGINT);
        torture::verify(&mut cluster, &mut report);
        report.losses.extend(watch.look(&cluster, &[]));
    }
    report.acknowledged = writers.iter().map(Writer::acknowledged).sum();
    (samples, report)
}

/// Looks whether money was made or lost: it only moves, in whole transactions.
fn check_accounts(client: &mut Client) -> Result<u64, Look> {
    let mut words = vec!["MGET".to_owned()];
    words.extend((0..ACCOUNTS).map(account_key));
    let replies = ask(client, &[words])?;
    let balances = replies
        .first()
        .and_then(Reply::as_slice)
        .unwrap_or_default();
    let balance = |reply: &Reply| match reply {
        Reply::Null => Some(0),
        reply => reply.as_str()?.parse::<i64>().ok(),
    };
    match balances.iter().map(balance).sum::<Option<i64>>() {
        Some(0) if balances.len() as u64 == ACCOUNTS => Ok(0),
        sum => Err(Look::Lost(format!(
            "all accounts together hold {sum:?}, not 0: {balances:?}"
        ))),
    }
}

fn account_key(number: u64) -> String {
    format!("account:{number:03}")
}

/// Sets every key of the mixed load once, so that the files do not grow because they fill up.
fn load(cluster: &Cluster, keys: u64) {
    let mut client = cluster.client();
    for from in (0..keys).step_by(LOAD_PIPELINE) {
        let numbers = from..keys.min(from + LOAD_PIPELINE as u64);
        let count = numbers.clone().count();
        for number in numbers {
            let key = mixed_key(number);
            client.send(&["SET", &key, &mixed_value(&key, FILL_MAX as usize / 2)]);
        }
        for reply in client.receive_many(count).expect("replies") {
            assert!(reply.is_ok(), "{reply:?}");
        }
    }
}

/// Values begin with their key, so that one in the wrong place is seen.
fn mixed_value(key: &str, fill: usize) -> String {
    format!("{key}={}", "x".repeat(fill))
}

fn mixed_key(number: u64) -> String {
    format!("mixed:{number:09}")
}

fn take_in(sample: &mut Sample, seen: Vec<Seen>, report: &mut Report) {
    let mut all = Vec::new();
    for one in seen {
        all.extend(one.response_us);
        report.losses.extend(one.wrong);
    }
    all.sort_unstable();
    let at = |share: usize| {
        let index = (all.len() * share / 1000).min(all.len().saturating_sub(1));
        all.get(index).copied().unwrap_or_default()
    };
    sample.operations = all.len() as u64;
    sample.response_us = [at(500), at(990), at(999), at(1000)];
}

/// Looks at the processes and the files of a running server.
fn look(cluster: &Cluster, began: Instant) -> Sample {
    let mut sample = Sample {
        second: began.elapsed().as_secs(),
        ..Sample::default()
    };
    let children = cluster.children();
    let checkpointer = children.iter().find(|child| child.role == "checkpointer");
    sample.life = checkpointer.map_or(0, |child| child.pid);
    let pids = children.iter().map(|child| child.pid).chain(cluster.pid());
    for pid in pids {
        sample.memory_bytes += process::private_bytes(pid).unwrap_or_default();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        sample.descriptors += descriptors.map_or(0, |entries| entries.count() as u64);
    }
    let data = cluster.data_dir();
    sample.base_bytes = bytes_below(&data.join("base"));
    sample.wal_bytes = bytes_below(&data.join("wal"));
    // Each on its own: what grows between two looks is not counted as something else.
    let entries = fs::read_dir(&data).into_iter().flatten().flatten();
    let others = entries.filter(|entry| {
        !["base", "wal"]
            .map(OsStr::new)
            .contains(&&*entry.file_name())
    });
    sample.other_bytes = others.map(|entry| bytes_of(&entry)).sum();
    sample
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| bytes_of(&entry)).sum()
}

/// Bytes of a file, or of all files below a directory. One that goes away meanwhile does not count.
fn bytes_of(entry: &DirEntry) -> u64 {
    match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An hour of samples, of lives of so many minutes each: minute by minute, and minute of the life.
    fn samples(life_minutes: u64, memory: impl Fn(u64, u64) -> u64) -> Vec<Sample> {
        let sample = |minute: u64| Sample {
            life: (minute / life_minutes) as u32,
            memory_bytes: memory(minute, minute % life_minutes),
            descriptors: 100,
            ..Sample::default()
        };
        (0..60).map(sample).collect()
    }

    fn grown(samples: &[Sample]) -> Option<Vec<&'static str>> {
        let trends = trends(samples)?;
        let grown = trends.iter().filter(|trend| !trend.is_flat());
        Some(grown.map(|trend| trend.name).collect())
    }

    #[test]
    fn a_leak_is_seen_and_warming_up_is_none() {
        let level = samples(
            60,
            |minute, _| if minute < 6 { 10 } else { 100 + minute % 7 },
        );
        assert_eq!(grown(&level), Some(vec![]));
        let leak = samples(60, |minute, _| 100 + minute);
        assert_eq!(grown(&leak), Some(vec!["memory, bytes"]));
    }

    #[test]
    fn a_leak_is_seen_that_each_restart_takes_back() {
        let saw = samples(20, |_, of_life| 100 + 3 * of_life);
        assert_eq!(grown(&saw), Some(vec!["memory, bytes"]));
        let level = samples(20, |minute, _| 100 + minute / 20);
        assert_eq!(grown(&level), Some(vec![]));
    }

    #[test]
    fn of_a_short_life_nothing_is_said() {
        assert_eq!(grown(&samples(4, |_, of_life| of_life)), None);
        assert_eq!(grown(&[]), None);
    }
}

//! Torture: writers over real sockets, a server that is killed, stopped, signalled and starved at
//! random moments, and after each restart every acknowledged write is looked for.
//!
//! What each writer knows of its keys is a range: everything up to what was acknowledged must be
//! there, nothing beyond what was sent may be. Between the two lies what was under way when the
//! connection broke; the server may have done it or not, but not half of it.

pub mod disk;
pub mod victim;
pub mod workload;

use crate::support::DEADLINE;
use crate::support::cluster::{self, Cluster};
use disk::SmallDisk;
use nix::sys::signal::Signal;
use rd_wire::Client;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use victim::{Done, Harm, Then, VANISHING, vanishing_keys};
use workload::{Look, Writer};

/// Restarts after crashes that the server is allowed.
pub(crate) const RESTARTS_MAX: &str = "1000";
/// Size of the disk that can be filled: log and data of a long run, and some more.
const DISK_MEBIBYTES: u64 = 256;

/// A small generator of random numbers whose seed says all (SplitMix64, by Steele, Lea and Flood).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// How hard, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where everything random comes from.
    pub seed: u64,
    /// Rounds of load, harm, recovery and check.
    pub rounds: u64,
    /// Connections that write.
    pub writers: usize,
    /// Longest load of a round.
    pub load_max: Duration,
    /// The harms to choose from; all if there are none.
    pub harms: Vec<Harm>,
    /// Settings of the server, beside those that the program needs.
    pub settings: Vec<(String, String)>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each sort of harm was done.
    pub kills: BTreeMap<String, u64>,
    /// Writes that were acknowledged, and so looked for.
    pub acknowledged: u64,
    /// Looks at keys.
    pub checks: u64,
    /// How often the trees of the stopped server were walked whole.
    pub verified: u64,
    /// Everything that was wrong.
    pub losses: Vec<String>,
}

impl Report {
    /// Prints it, with the seed if anything was lost, and says how the program is to end.
    pub fn conclude(&self, seed: u64) -> ExitCode {
        for (kind, count) in &self.kills {
            println!("{count:6} x {kind}");
        }
        println!(
            "{} writes acknowledged, {} checks, all trees verified {} times",
            self.acknowledged, self.checks, self.verified
        );
        if self.losses.is_empty() {
            println!("nothing lost");
            return ExitCode::SUCCESS;
        }
        for loss in &self.losses {
            println!("LOST: {loss}");
        }
        println!("seed {seed}");
        ExitCode::FAILURE
    }
}

/// Runs the plan. `tell` hears of each round.
pub fn run(plan: &Plan, mut tell: impl FnMut(u64, &Report)) -> Report {
    let mut random = Random::new(plan.seed);
    // Declared first, so that it goes last.
    let disk = SmallDisk::mounted(DISK_MEBIBYTES);
    let mut cluster = Cluster::new(&[
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("crash_restart_max", RESTARTS_MAX),
        ("checkpoint_timeout", "30s"),
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
    let mut writers: Vec<Writer> = (0..plan.writers)
        .map(|number| Writer::new(number, random.draw()))
        .collect();
    let mut report = Report::default();
    let mut deck = Vec::new();
    for round in 0..plan.rounds {
        if deck.is_empty() {
            deck = Harm::deck(&plan.harms, &mut random);
        }
        let harm = deck.pop().expect("just dealt");
        let load = Duration::from_micros(random.below(plan.load_max.as_micros() as u64).max(1));
        let socket = cluster.socket();
        let (back, done) = under_load(&socket, writers, || {
            // The load itself is what is wanted here, for as long as was drawn.
            std::thread::sleep(load);
            let done = harm.inflict(&mut cluster, disk.as_ref(), &mut random);
            // A little load on a server that has lost a child, or is restarting.
            std::thread::sleep(Duration::from_micros(random.below(50_000)));
            done
        });
        writers = back;
        settle(&mut cluster, &done, &mut random, &mut report);
        check(&mut cluster, &mut writers, &mut report);
        check_service(&mut cluster, &mut report);
        tell(round, &report);
        if !report.losses.is_empty() {
            report.losses.push(format!(
                "after {:?} ({}); server log:\n{}",
                harm,
                done.kind,
                tail(&cluster.log_since_start(), 60)
            ));
            break;
        }
    }
    if report.losses.is_empty() {
        cluster.stop(Signal::SIGINT);
        verify(&mut cluster, &mut report);
    }
    report.acknowledged = writers.iter().map(Writer::acknowledged).sum();
    report
}

/// Has every tree of the stopped server checked: links, order, free blocks, numbers of keys.
pub fn verify(cluster: &mut Cluster, report: &mut Report) {
    // A process that was killed inside a sync is gone when the kernel is done with it. Until then
    // all goes on; should a stop come in between, then its end is a crash, which stops are not
    // restarted from.
    if cluster.control("Database cluster state") != "shut down" {
        let end = tail(&cluster.log_since_start(), 40);
        if !end.contains("was terminated by signal 9") {
            let what = "a stop did not end in order, and no kill explains it; server log";
            report.losses.push(format!("{what}:\n{end}"));
            return;
        }
        cluster.start();
        cluster.stop(Signal::SIGINT);
    }
    let data_dir = cluster.data_dir();
    let arguments = ["-D", data_dir.to_str().expect("a readable path"), "--quiet"];
    let (status, out, err) = cluster::run("rd_verify", &arguments);
    report.verified += 1;
    if !status.success() {
        report
            .losses
            .push(format!("rd_verify ended with {status}:\n{out}{err}"));
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let skip = text.lines().count().saturating_sub(lines);
    text.lines().skip(skip).collect::<Vec<_>>().join("\n")
}

/// Lets the writers write while `action` goes on, and brings them home.
pub fn under_load<T>(
    socket: &Path,
    writers: Vec<Writer>,
    action: impl FnOnce() -> T,
) -> (Vec<Writer>, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let (stop, socket) = (Arc::clone(&stop), socket.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    writer.write_until_broken(&socket, &stop);
                }
                writer
            })
        })
        .collect();
    let done = action();
    stop.store(true, Ordering::Relaxed);
    let home = |thread: JoinHandle<Writer>| thread.join().expect("a writer does not panic");
    (threads.into_iter().map(home).collect(), done)
}

/// Brings the server back, at times with another kill, or a signal, while it recovers.
pub(crate) fn settle(cluster: &mut Cluster, done: &Done, random: &mut Random, report: &mut Report) {
    *report.kills.entry(done.kind.clone()).or_default() += 1;
    report.losses.extend(done.wrong.clone());
    if done.then != Then::Serves {
        // Those who were to leave first have left with the load.
        if cluster.pid().is_some() {
            cluster.wait_exit();
        }
        if done.then == Then::EndsClean {
            verify(cluster, report);
        }
        cluster.spawn();
    }
    while random.below(4) == 0 {
        let delay = Duration::from_micros(random.below(30_000));
        std::thread::sleep(delay);
        let kind = match random.below(3) {
            0 if victim::kill_startup(cluster, random) => "kill of startup",
            1 if victim::end_startup(cluster, random) => {
                // It leaves, and the server with it, unless it had just done its work.
                if cluster.wait_ready().is_err() {
                    cluster.spawn();
                }
                "stray SIGTERM to startup"
            }
            _ => {
                cluster.kill_all();
                cluster.spawn();
                "kill of the server in recovery"
            }
        };
        *report.kills.entry(kind.to_owned()).or_default() += 1;
    }
    if let Err(status) = cluster.wait_ready() {
        report
            .losses
            .push(format!("the server ended with {status} instead of serving"));
    }
}

/// Looks whether the server has counted the keys of the writers right, beside so many others, after a
/// [`check`].
pub fn check_count(cluster: &mut Cluster, writers: &[Writer], others: u64, report: &mut Report) {
    if !report.losses.is_empty() {
        return;
    }
    let keys = writers.iter().map(Writer::keys).sum::<u64>() + others;
    let reply = cluster.client().call(&["DBSIZE"]);
    let counted = reply.map(|reply| reply.as_int());
    if !matches!(counted, Ok(Some(count)) if u64::try_from(count) == Ok(keys)) {
        let loss = format!("there are {keys} keys, and DBSIZE gives {counted:?}");
        report.losses.push(loss);
    }
}

/// Looks whether everything works that a harm could have left lame: connections that vanished have
/// left whole transactions, writes are taken, and checkpoints are made.
pub(crate) fn check_service(cluster: &mut Cluster, report: &mut Report) {
    let deadline = Instant::now() + DEADLINE;
    while report.losses.is_empty() {
        match try_service(cluster) {
            Ok(()) => return,
            Err(Look::Lost(loss)) => report.losses.push(loss),
            Err(Look::Broken(error)) if Instant::now() >= deadline => {
                report.losses.push(format!("no service: {error}"));
            }
            Err(Look::Broken(_)) => {
                // It may have fallen just now, by a signal that came late.
                if let Err(status) = cluster.wait_ready() {
                    let loss = format!("the server ended with {status}");
                    report.losses.push(loss);
                }
            }
        }
    }
}

fn try_service(cluster: &Cluster) -> Result<(), Look> {
    let broken = |error: rd_wire::client::Error| Look::Broken(error.to_string());
    let mut client =
        Client::connect_unix(cluster.socket()).map_err(|error| Look::Broken(error.to_string()))?;
    client.set_timeout(Some(DEADLINE)).map_err(broken)?;
    for number in 0..VANISHING {
        let [first, second] = vanishing_keys(number);
        let reply = client.call(&["MGET", &first, &second]).map_err(broken)?;
        match reply.as_slice() {
            Some([first, second]) if first == second => {}
            Some(_) => return Err(Look::Lost(format!("half a transaction: {reply:?}"))),
            None => return Err(Look::Broken(format!("{reply:?}"))),
        }
    }
    for words in [&["SET", "service", "1"][..], &["CHECKPOINT", "FAST"]] {
        let reply = client.call(words).map_err(broken)?;
        if let Some(error) = reply.error() {
            return Err(Look::Broken(format!("{words:?}: {error}")));
        }
    }
    Ok(())
}

/// Looks at every key of every writer, and notes what is wrong in the report. A server that has just lost a child may still say that it is
/// ready; then the connection breaks, and the look is taken again when it is back.
pub fn check(cluster: &mut Cluster, writers: &mut [Writer], report: &mut Report) {
    for writer in writers {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if !report.losses.is_empty() {
                return;
            }
            let looked = Client::connect_unix(cluster.socket())
                .map_err(|error| Look::Broken(error.to_string()))
                .and_then(|mut client| writer.check(&mut client));
            match looked {
                Ok(checks) => {
                    report.checks += checks;
                    break;
                }
                Err(Look::Broken(_)) if Instant::now() < deadline => {
                    if let Err(status) = cluster.wait_ready() {
                        report
                            .losses
                            .push(format!("the server ended with {status}"));
                    }
                }
                Err(Look::Broken(error)) => report.losses.push(format!("no answer: {error}")),
                Err(Look::Lost(loss)) => report.losses.push(loss),
            }
        }
    }
}

//! Torture: writers over real sockets, processes killed at random moments, and after each restart
//! every acknowledged write is looked for.
//!
//! What each writer knows of its keys is a range: everything up to what was acknowledged must be
//! there, nothing beyond what was sent may be. Between the two lies what was under way when the
//! connection broke; the server may have done it or not, but not half of it.

pub mod victim;
pub mod workload;

use crate::support::DEADLINE;
use crate::support::cluster::{self, Cluster};
use nix::sys::signal::Signal;
use rd_wire::Client;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use victim::Victim;
use workload::{Look, Writer};

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
    /// Rounds of load, kill, recovery and check.
    pub rounds: u64,
    /// Connections that write.
    pub writers: usize,
    /// Longest load of a round.
    pub load_max: Duration,
    /// Settings of the server, beside those that the program needs.
    pub settings: Vec<(String, String)>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How often each victim was killed.
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

/// Runs the plan. `tell` hears of each round.
pub fn run(plan: &Plan, mut tell: impl FnMut(u64, &Report)) -> Report {
    let mut random = Random::new(plan.seed);
    let mut cluster = Cluster::new(&[
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("crash_restart_max", "1000"),
        ("checkpoint_timeout", "30s"),
    ]);
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
    for round in 0..plan.rounds {
        let victim = Victim::choose(&mut random);
        let load = Duration::from_micros(random.below(plan.load_max.as_micros() as u64).max(1));
        writers = load_and_kill(&mut cluster, writers, victim, load, &mut random);
        *report.kills.entry(victim.name().to_owned()).or_default() += 1;
        settle(&mut cluster, victim, &mut random, &mut report);
        check(&mut cluster, &mut writers, &mut report);
        tell(round, &report);
        if !report.losses.is_empty() {
            report.losses.push(format!(
                "server log:\n{}",
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

/// Lets the writers write, kills the victim in the midst of it, and brings the writers home.
fn load_and_kill(
    cluster: &mut Cluster,
    writers: Vec<Writer>,
    victim: Victim,
    load: Duration,
    random: &mut Random,
) -> Vec<Writer> {
    let socket = cluster.socket();
    let (writers, ()) = under_load(&socket, writers, || {
        // The load itself is what is wanted here, for as long as was drawn.
        std::thread::sleep(load);
        victim.kill(cluster, random);
        // A little load on a server that has lost a child, or is restarting.
        std::thread::sleep(Duration::from_micros(random.below(50_000)));
    });
    writers
}

/// Brings the server back, at times with another kill while it recovers.
fn settle(cluster: &mut Cluster, victim: Victim, random: &mut Random, report: &mut Report) {
    if victim == Victim::FastStop {
        verify(cluster, report);
    }
    if victim.ends_server() {
        cluster.spawn();
    }
    while random.below(4) == 0 {
        let delay = Duration::from_micros(random.below(30_000));
        std::thread::sleep(delay);
        let name = if random.below(2) == 0 && victim::kill_startup(cluster) {
            "startup"
        } else {
            cluster.kill_all();
            cluster.spawn();
            "server in recovery"
        };
        *report.kills.entry(name.to_owned()).or_default() += 1;
    }
    if let Err(status) = cluster.wait_ready() {
        report
            .losses
            .push(format!("the server ended with {status} instead of serving"));
    }
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

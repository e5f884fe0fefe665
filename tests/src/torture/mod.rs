//! Torture: writers over real sockets, a server that is killed, stopped, signalled and starved at
//! random moments, and after each restart every acknowledged write is looked for.
//!
//! What each writer knows of its keys is a range: everything up to what was acknowledged must be
//! there, nothing beyond what was sent may be. Between the two lies what was under way when the
//! connection broke; the server may have done it or not, but not half of it.

pub mod disk;
pub mod falls;
mod pair;
pub mod victim;
pub mod workload;

use crate::support::DEADLINE;
use crate::support::cluster::{self, Cluster};
use disk::SmallDisk;
use falls::Watch;
use nix::sys::signal::Signal;
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use victim::{Done, Harm, Then, VANISHING, vanishing_keys};
use workload::{DATABASES, Look, Writer, words};

/// What every server that serves must take.
const SERVICE: [&str; 3] = ["SET", "service", "1"];
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
    let ext4 = match random.below(2) {
        0 => SmallDisk::ext4(DISK_MEBIBYTES),
        _ => None,
    };
    let disk = ext4.or_else(|| SmallDisk::mounted(DISK_MEBIBYTES));
    let mut cluster = Cluster::new(&[
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("crash_restart_max", RESTARTS_MAX),
        ("checkpoint_timeout", "30s"),
    ]);
    if let Some(disk) = &disk {
        cluster.put_data(disk.path().join("data"));
    }
    let (name, count) = workload::databases(plan.writers);
    cluster.set(name, &count);
    for (name, value) in &plan.settings {
        cluster.set(name, value);
    }
    // Each kill is complained of, in as many ways as there are moments. Falls are looked for beside that.
    cluster.announce("");
    cluster.start();
    let mut writers: Vec<Writer> = (0..plan.writers)
        .map(|number| Writer::new(number, random.draw()))
        .collect();
    let mut report = Report::default();
    let mut watch = Watch::default();
    let mut deck = Vec::new();
    for round in 0..plan.rounds {
        if deck.is_empty() {
            deck = Harm::deck(&plan.harms, &mut random);
        }
        let harm = deck.pop().expect("just dealt");
        let load = Duration::from_micros(random.below(plan.load_max.as_micros() as u64).max(1));
        let socket = cluster.socket();
        let (back, done) = under_load(&socket, writers, harm.refusals(), || {
            // The load itself is what is wanted here, for as long as was drawn.
            std::thread::sleep(load);
            let done = harm.inflict(&mut cluster, disk.as_ref(), &mut random);
            // A little load on a server that has lost a child, or is restarting.
            std::thread::sleep(Duration::from_micros(random.below(50_000)));
            done
        });
        writers = back;
        settle(&mut cluster, &done, true, &mut random, &mut report);
        check(&mut cluster, &mut writers, &mut report);
        check_service(&mut cluster, &mut report);
        check_count(&mut cluster, &writers, &mut report);
        report.losses.extend(watch.look(&cluster, harm.falls()));
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
        report.losses.extend(watch.look(&cluster, &[]));
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

/// Lets the writers write while `action` goes on, and brings them home. `permitted` are texts of errors with
/// which the server may refuse meanwhile ([`Writer::write_until_broken`]).
pub fn under_load<T>(
    socket: &Path,
    writers: Vec<Writer>,
    permitted: &'static [&'static str],
    action: impl FnOnce() -> T,
) -> (Vec<Writer>, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let (stop, socket) = (Arc::clone(&stop), socket.to_owned());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    writer.write_until_broken(&socket, &stop, permitted);
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

/// Brings the server back, if `is_rough` at times with another kill, or a signal, while it recovers.
pub(crate) fn settle(
    cluster: &mut Cluster,
    done: &Done,
    is_rough: bool,
    random: &mut Random,
    report: &mut Report,
) {
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
    while is_rough && random.below(4) == 0 {
        // Else most moments of a busy machine come before there is a process at all.
        let us_max = match random.below(3) {
            0 => 30_000,
            _ => {
                victim::wait_for_recovery(cluster);
                5_000
            }
        };
        std::thread::sleep(Duration::from_micros(random.below(us_max)));
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
                let mut is_recovering = victim::kill_in_recovery(cluster);
                cluster.spawn();
                if !is_recovering {
                    // It served, or had not come so far. Now it must recover.
                    victim::wait_for_recovery(cluster);
                    std::thread::sleep(Duration::from_micros(random.below(5_000)));
                    is_recovering = victim::kill_in_recovery(cluster);
                    cluster.spawn();
                }
                match is_recovering {
                    true => "kill of the server in recovery",
                    false => "kill of the server beside recovery",
                }
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

/// Looks whether each database has the keys of the writers and no others, and has counted them right, after
/// a [`check`] and a [`check_service`] or [`wait_for_writes`]. What connections that have vanished had sent may
/// be carried out meanwhile; then it looks again.
pub fn check_count(cluster: &mut Cluster, writers: &[Writer], report: &mut Report) {
    until_answered(cluster, report, |client| {
        let others = [vanished(client)? + 1];
        let of_all = (0..DATABASES).map(|database| {
            let own: u64 = writers.iter().map(|writer| writer.keys(database)).sum();
            (database, own + others.get(database).unwrap_or(&0))
        });
        let of_one = writers.iter().flat_map(Writer::own_databases);
        for (database, keys) in of_all.chain(of_one) {
            let asked = [
                words(["SELECT", &database.to_string()]),
                words(["DBSIZE"]),
                words(["COUNTRANGE", "", ""]),
            ];
            let replies = workload::ask(client, &asked)?;
            let number = |reply: &Reply| reply.as_int().and_then(|count| u64::try_from(count).ok());
            let counted: Vec<Option<u64>> = replies.iter().skip(1).map(number).collect();
            if counted.iter().any(|count| *count != Some(keys)) {
                return Err(Look::Broken(format!(
                    "database {database} has {keys} keys, and DBSIZE and COUNTRANGE give {counted:?}"
                )));
            }
        }
        Ok(0)
    });
}

/// Looks whether everything works that a harm could have left lame: connections that vanished are gone and
/// have left whole transactions, writes are taken, and checkpoints are made.
pub(crate) fn check_service(cluster: &mut Cluster, report: &mut Report) {
    until_answered(cluster, report, try_service);
}

/// Waits until a server that lacked something, and refused with `reason`, has found that it is there again: writes
/// must go on by themselves. Gives what is wrong if they do not.
pub fn wait_for_writes(cluster: &Cluster, reason: &str) -> Option<String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let connected = Client::connect_unix(cluster.socket());
        let reply = connected.and_then(|mut client| client.call(&SERVICE));
        match reply {
            Ok(Reply::Error(error)) if error.contains(reason) => {
                if Instant::now() >= deadline {
                    return Some(format!(
                        "nothing is short any more, and {SERVICE:?} is refused: {error}"
                    ));
                }
            }
            // Whatever else there is to say is for the looks that follow.
            _ => return None,
        }
        // Between two looks.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the server has no other connection.
fn wait_alone(client: &mut Client) -> Result<(), Look> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let replies = workload::ask(client, &[words(["INFO", "clients"])])?;
        let info = replies.first().and_then(Reply::as_str).unwrap_or_default();
        if info.lines().any(|line| line == "connected_clients:1") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let loss = format!("all connections but one are gone, and INFO says:\n{info}");
            return Err(Look::Lost(loss));
        }
        // Between two looks.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Counts the keys of connections that have vanished.
fn vanished(client: &mut Client) -> Result<u64, Look> {
    let mut keys = 0;
    let asked: Vec<Vec<String>> = (0..VANISHING)
        .map(|number| {
            let [first, second] = vanishing_keys(number);
            vec!["MGET".to_owned(), first, second]
        })
        .collect();
    for reply in workload::ask(client, &asked)? {
        match reply.as_slice() {
            Some([first, second]) if first == second => keys += 2 * u64::from(!first.is_null()),
            _ => return Err(Look::Lost(format!("half a transaction: {reply:?}"))),
        }
    }
    Ok(keys)
}

fn try_service(client: &mut Client) -> Result<u64, Look> {
    wait_alone(client)?;
    vanished(client)?;
    workload::ask(client, &[words(SERVICE), words(["CHECKPOINT", "FAST"])])?;
    Ok(0)
}

/// Looks at every key of every writer, and notes what is wrong in the report.
pub fn check(cluster: &mut Cluster, writers: &mut [Writer], report: &mut Report) {
    for writer in writers {
        report.checks += until_answered(cluster, report, |client| writer.check(client));
    }
}

/// Takes a look over a connection of its own, and gives what it gives; what is lost is noted in the report. A
/// server that has just lost a child may still say that it is ready; then the connection breaks, and the
/// look is taken again when it is back.
pub(crate) fn until_answered(
    cluster: &mut Cluster,
    report: &mut Report,
    mut look: impl FnMut(&mut Client) -> Result<u64, Look>,
) -> u64 {
    let deadline = Instant::now() + DEADLINE;
    while report.losses.is_empty() {
        let connected = Client::connect_unix(cluster.socket()).map_err(Look::unanswered);
        let looked = connected.and_then(|mut client| {
            client
                .set_timeout(Some(DEADLINE))
                .map_err(Look::unanswered)?;
            look(&mut client)
        });
        match looked {
            Ok(found) => return found,
            Err(Look::Broken(_)) if Instant::now() < deadline => {
                if let Err(status) = cluster.wait_ready() {
                    let loss = format!("the server ended with {status}");
                    report.losses.push(loss);
                }
            }
            Err(Look::Broken(error)) => report.losses.push(format!("no answer: {error}")),
            Err(Look::Lost(loss)) => report.losses.push(loss),
        }
    }
    0
}

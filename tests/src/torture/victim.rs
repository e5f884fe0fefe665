//! What is done to a server in a round, and to whom.
//!
//! Each harm says what the server does about it by itself: a round that expects something else of
//! it than what comes is reported as a loss.

use super::Random;
use super::disk::SmallDisk;
use super::workload::{DAMAGE, NO_ROOM, SHORTAGE, is_permitted};
use crate::support::cluster::Cluster;
use crate::support::log::label;
use crate::support::process::{self, Held, is_alive, is_stopped};
use crate::support::{DEADLINE, skip, wait_for};
use nix::sys::signal::Signal;
use rd_wire::{Client, Reply, client};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connections that vanish at a time.
pub const VANISHING: usize = 100;
/// Longest jump of the clock, seconds: shorter than what writers let keys live for.
const JUMP_MAX_S: u64 = 30 * 86_400;
/// How the log tells that a checkpoint begins.
const BEGUN: &str = "checkpoint starting";
/// How a start tells that it waits for what is left of an earlier server.
const WAITS: &str = "waiting for what is left of an earlier server";
/// Why a start has ended that has waited for too long.
const HELD: &str = "is held by processes of an earlier server";
/// How the postmaster tells that it restarts after the fall of a child.
const FALLEN: &str = "terminating all other server processes";
const READY: &str = "server is ready to accept connections";
/// What the postmaster says last.
const STOPPED: &str = "server is shut down";
/// How long the beginning of a checkpoint is waited for that may not come.
const BEGINNING_MAX: Duration = Duration::from_secs(1);
/// Crashes in a row that the server of a crash loop comes back from.
const LOOP_MAX: usize = 2;

/// How a server names what it lacks that does not start, or the system does that has not loaded it.
const SHORTAGES: [&str; 4] = [
    SHORTAGE,
    "Too many open files",
    "Cannot allocate memory",
    "loading shared libraries",
];
/// What the postmaster says last, when it has said why.
const GIVES_UP: &str = "server does not start";
/// How a child ends for want of memory, descriptors or threads, which says so before.
const SHORT_EXIT: &str = "exited with exit code 3";
/// How a process ends to which the system gives no memory where nothing can be refused. A PANIC ends so, too,
/// but says so before, in a line of its own.
const ABORTED: &str = "was terminated by signal 6: SIGABRT";
/// What a PANIC says of a process that may open no file of the log, and has none to close for it.
const NO_DESCRIPTOR: &str = "Too many open files";

/// What is done in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// SIGKILL for postmaster and all children at once.
    KillServer,
    /// The same, while a checkpoint is under way.
    KillInCheckpoint,
    /// SIGKILL for the postmaster alone; its children must leave by themselves.
    KillPostmaster,
    /// The same, and the next server is started while one of them is still there.
    KillPostmasterAndStart,
    /// SIGKILL for the checkpointer.
    KillCheckpointer,
    /// SIGKILL for the walwriter.
    KillWalwriter,
    /// SIGKILL for one of the backends.
    KillBackend,
    /// SIGKILL for somebody, or all, while the server is being stopped.
    KillInStop,
    /// SIGKILL for somebody, or all, while the server restarts after the fall of a child.
    KillInRestart,
    /// A process stands still for some time, and goes on.
    StandStill,
    /// A process stands still for some time, and is killed.
    StandStillAndDie,
    /// A signal that nobody should have sent.
    Stray,
    /// Children are killed until the server stays down.
    CrashLoop,
    /// No room is left on the disk, for some time.
    DiskFull,
    /// The same, and the server is killed and started meanwhile.
    DiskFullAndKill,
    /// The server runs with little memory.
    LittleMemory,
    /// The server runs with few file descriptors.
    FewDescriptors,
    /// Some of its children may open few files, for some time.
    DescriptorsRunShort,
    /// The postmaster may open no more files, for some time.
    PostmasterRunsShort,
    /// Some of its children get hardly more memory, for some time.
    MemoryRunsShort,
    /// The wall clock jumps, ahead or back.
    ClockJump,
    /// Many connections go away in the midst of a command.
    Vanish,
    /// An immediate stop by SIGQUIT.
    ImmediateStop,
    /// A fast stop, with its checkpoint.
    FastStop,
}

/// What the server does after a harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It ends, or has ended, and has to be started again.
    Ends,
    /// It ends by itself in order, and its trees can be looked at.
    EndsClean,
    /// It serves on, or serves again.
    Serves,
}

/// A harm that was done.
pub struct Done {
    /// For the report.
    pub kind: String,
    /// What comes of it.
    pub then: Then,
    /// What went wrong already.
    pub wrong: Option<String>,
}

impl Done {
    fn new(kind: impl Into<String>, then: Then) -> Done {
        Done {
            kind: kind.into(),
            then,
            wrong: None,
        }
    }
}

impl Harm {
    /// All of them.
    pub const ALL: [Harm; 24] = [
        Harm::KillServer,
        Harm::KillInCheckpoint,
        Harm::KillPostmaster,
        Harm::KillPostmasterAndStart,
        Harm::KillCheckpointer,
        Harm::KillWalwriter,
        Harm::KillBackend,
        Harm::KillInStop,
        Harm::KillInRestart,
        Harm::StandStill,
        Harm::StandStillAndDie,
        Harm::Stray,
        Harm::CrashLoop,
        Harm::DiskFull,
        Harm::DiskFullAndKill,
        Harm::LittleMemory,
        Harm::FewDescriptors,
        Harm::DescriptorsRunShort,
        Harm::PostmasterRunsShort,
        Harm::MemoryRunsShort,
        Harm::ClockJump,
        Harm::Vanish,
        Harm::ImmediateStop,
        Harm::FastStop,
    ];

    /// The harm of this name.
    ///
    /// # Errors
    /// The names that there are.
    pub fn named(name: &str) -> Result<Harm, String> {
        let found = Harm::ALL.iter().find(|harm| format!("{harm:?}") == name);
        found
            .copied()
            .ok_or_else(|| format!("there are {:?}", Harm::ALL))
    }

    /// These, or all if there are none, in an order of chance: each comes once in so many rounds.
    pub fn deck(harms: &[Harm], random: &mut Random) -> Vec<Harm> {
        let harms = if harms.is_empty() { &Harm::ALL } else { harms };
        let mut deck = harms.to_vec();
        for index in (1..deck.len()).rev() {
            deck.swap(index, random.below(index as u64 + 1) as usize);
        }
        deck
    }

    /// Texts of errors with which the server may refuse a command meanwhile.
    pub fn refusals(self) -> &'static [&'static str] {
        match self {
            Harm::DiskFull | Harm::DiskFullAndKill => &[NO_ROOM],
            Harm::LittleMemory
            | Harm::FewDescriptors
            | Harm::DescriptorsRunShort
            | Harm::MemoryRunsShort => &[SHORTAGE],
            _ => &[],
        }
    }

    /// Texts in lines of the log that tell of a fall which the harm accounts for, beside that of those who
    /// were sent a signal.
    pub fn falls(self) -> &'static [&'static str] {
        match self {
            Harm::LittleMemory | Harm::MemoryRunsShort => &[SHORT_EXIT, ABORTED],
            Harm::DescriptorsRunShort => &[SHORT_EXIT, NO_DESCRIPTOR, ABORTED],
            Harm::FewDescriptors => &[SHORT_EXIT],
            _ => &[],
        }
    }

    /// Does it to a server that serves.
    pub fn inflict(
        self,
        cluster: &mut Cluster,
        disk: Option<&SmallDisk>,
        random: &mut Random,
    ) -> Done {
        match self {
            Harm::KillServer => {
                cluster.kill_all();
                Done::new("kill of the server", Then::Ends)
            }
            Harm::KillInCheckpoint => kill_in_checkpoint(cluster, random),
            Harm::KillPostmaster => {
                kill_postmaster(cluster);
                Done::new("kill of the postmaster", Then::Ends)
            }
            Harm::KillPostmasterAndStart => kill_postmaster_and_start(cluster, random),
            Harm::KillCheckpointer => kill_role(cluster, "checkpointer", random),
            Harm::KillWalwriter => kill_role(cluster, "walwriter", random),
            Harm::KillBackend => kill_role(cluster, "backend", random),
            Harm::KillInStop => kill_in_stop(cluster, random),
            Harm::KillInRestart => kill_in_restart(cluster, random),
            Harm::StandStill => stand_still(cluster, random, Signal::SIGCONT),
            Harm::StandStillAndDie => stand_still(cluster, random, Signal::SIGKILL),
            Harm::Stray => stray(cluster, random),
            Harm::CrashLoop => crash_loop(cluster, random),
            Harm::DiskFull => fill_disk(cluster, disk, random, false),
            Harm::DiskFullAndKill => fill_disk(cluster, disk, random, true),
            Harm::LittleMemory => {
                let limit = format!("-v {}", 20_000 + random.below(1_000_000));
                run_limited(cluster, "little memory", &limit, random)
            }
            Harm::FewDescriptors => {
                let limit = format!("-n {}", 8 + random.below(150));
                run_limited(cluster, "few descriptors", &limit, random)
            }
            Harm::DescriptorsRunShort => {
                let few = some_of(cluster, random);
                run_short(cluster, &DESCRIPTORS, &few, random)
            }
            Harm::PostmasterRunsShort => {
                let postmaster = cluster.pid().expect("a server");
                run_short(cluster, &DESCRIPTORS_OF_POSTMASTER, &[postmaster], random)
            }
            Harm::MemoryRunsShort => {
                let few = some_of(cluster, random);
                run_short(cluster, &MEMORY, &few, random)
            }
            Harm::ClockJump => clock_jump(cluster, random),
            Harm::Vanish => {
                vanish(cluster, random);
                Done::new("connections that vanish", Then::Serves)
            }
            Harm::ImmediateStop => {
                cluster.stop(Signal::SIGQUIT);
                Done::new("immediate stop", Then::Ends)
            }
            Harm::FastStop => {
                cluster.stop(Signal::SIGINT);
                Done::new("fast stop", Then::EndsClean)
            }
        }
    }
}

/// Kills the server some time after it says that a checkpoint begins: one that is over soon, or one that takes
/// its time.
fn kill_in_checkpoint(cluster: &mut Cluster, random: &mut Random) -> Done {
    let (speed, pause_ms_max) = match random.below(2) {
        0 => ("FAST", 5),
        _ => ("SPREAD", 200),
    };
    let begun = |cluster: &Cluster| cluster.log_since_start().matches(BEGUN).count();
    let before = begun(cluster);
    let connected = Client::connect_unix(cluster.socket());
    let reply = connected.and_then(|mut client| client.call(&["CHECKPOINT", "NOWAIT", speed]));
    if reply.is_ok_and(|reply| reply.error().is_none()) {
        let deadline = Instant::now() + BEGINNING_MAX;
        // It may be kept waiting by another.
        while begun(cluster) == before && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    pause(random, pause_ms_max);
    cluster.kill_all();
    let kind = match is_in_checkpoint(&cluster.log_since_start()) {
        true => "kill of the server in a checkpoint",
        false => "kill of the server beside a checkpoint",
    };
    Done::new(kind, Then::Ends)
}

/// Whether the log ends within a checkpoint.
fn is_in_checkpoint(log: &str) -> bool {
    let begun = log.rfind(BEGUN);
    begun.is_some_and(|at| !log[at..].contains("checkpoint complete"))
}

/// Up to so many milliseconds: the moment is what is drawn.
fn pause(random: &mut Random, ms_max: u64) {
    std::thread::sleep(Duration::from_micros(random.below(ms_max * 1000)));
}

fn kill_postmaster(cluster: &mut Cluster) {
    let children = cluster.children();
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    wait_for("the orphans to leave", || {
        (!children.iter().any(|child| is_alive(child.pid))).then_some(())
    });
}

/// One of the children whose role begins so.
fn one_of(cluster: &Cluster, role: &str, random: &mut Random) -> Option<(u32, String)> {
    let mut found = cluster.children();
    found.retain(|child| child.role.starts_with(role));
    if found.is_empty() {
        return None;
    }
    let chosen = found.swap_remove(random.below(found.len() as u64) as usize);
    let name = chosen.role.split(' ').next().unwrap_or_default().to_owned();
    Some((chosen.pid, name))
}

fn kill_role(cluster: &Cluster, role: &str, random: &mut Random) -> Done {
    if let Some((pid, _)) = one_of(cluster, role, random) {
        cluster.send(pid, Signal::SIGKILL);
    }
    Done::new(format!("kill of a {role}"), Then::Serves)
}

/// Kills the startup process, if there is one now.
pub fn kill_startup(cluster: &Cluster, random: &mut Random) -> bool {
    kill_held(cluster, "startup", random)
}

/// Has the startup process leave, if there is one now.
pub fn end_startup(cluster: &Cluster, random: &mut Random) -> bool {
    let startup = one_of(cluster, "startup", random);
    if let Some((pid, _)) = &startup {
        cluster.send(*pid, Signal::SIGTERM);
    }
    startup.is_some()
}

/// Stops a process where it stands, so that the log, the status and the list of children stay what they are
/// until somebody has looked; false if it has ended.
fn hold(cluster: &Cluster, pid: u32) -> bool {
    cluster.send(pid, Signal::SIGSTOP);
    wait_for("a process to stand still, or to end", || {
        let is_held = is_stopped(pid);
        (is_held || !is_alive(pid)).then_some(is_held)
    })
}

/// Kills one of the children whose role begins so, if it is still there; says whether it was.
fn kill_held(cluster: &Cluster, role: &str, random: &mut Random) -> bool {
    let Some((pid, _)) = one_of(cluster, role, random) else {
        return false;
    };
    let is_held = hold(cluster, pid);
    cluster.send(pid, Signal::SIGKILL);
    is_held
}

/// Kills the postmaster while one of its children stands still, which cannot leave; the next server must wait
/// for it.
fn kill_postmaster_and_start(cluster: &mut Cluster, random: &mut Random) -> Done {
    let orphan = one_of(cluster, "", random).filter(|(pid, _)| hold(cluster, *pid));
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    cluster.spawn();
    let next = cluster.pid().expect("just started");
    let mut kind = "kill of the postmaster, start at once".to_owned();
    if let Some((orphan, role)) = orphan {
        let held = Held(orphan);
        wait_for("a start that waits, or its end", || {
            let has_told = cluster.log_since_start().contains(WAITS);
            (has_told || !is_alive(next)).then_some(())
        });
        // It does not wait for more than seconds.
        pause(random, 500);
        let end = [Signal::SIGCONT, Signal::SIGKILL][random.below(2) as usize];
        cluster.send(orphan, end);
        drop(held);
        kind = format!("kill of the postmaster, start beside an orphaned {role}");
    }
    wait_for("the start to go on, or its end", || {
        let goes_on = cluster.log_since_start().contains("starting Redoubt");
        (goes_on || !is_alive(next)).then_some(())
    });
    // On a machine with too much to do, those seconds may have been over before.
    if cluster.log_since_start().contains(HELD) {
        cluster.wait_exit();
        cluster.spawn();
    }
    Done::new(kind, Then::Serves)
}

fn kill_in_stop(cluster: &mut Cluster, random: &mut Random) -> Done {
    let (signal, mode) = [
        (Signal::SIGINT, "fast"),
        (Signal::SIGTERM, "smart"),
        (Signal::SIGQUIT, "immediate"),
    ][random.below(3) as usize];
    let postmaster = cluster.pid().expect("a server");
    let request = format!("received {mode} shutdown request");
    cluster.signal(signal);
    wait_for("a stop to begin", || {
        let has_begun = cluster.log_since_start().contains(&request);
        (has_begun || !is_alive(postmaster)).then_some(())
    });
    pause(random, 60);
    let is_held = hold(cluster, postmaster);
    let mut is_in_stop = is_held && !cluster.log_since_start().contains(STOPPED);
    if is_held {
        match random.below(3) {
            0 => cluster.kill_all(),
            1 => kill_postmaster(cluster),
            _ => {
                is_in_stop &= kill_held(cluster, "", random);
                cluster.signal(Signal::SIGCONT);
            }
        }
    }
    let kind = match is_in_stop {
        true => "kill in a stop",
        false => "kill beside a stop",
    };
    Done::new(kind, Then::Ends)
}

fn kill_in_restart(cluster: &mut Cluster, random: &mut Random) -> Done {
    let postmaster = cluster.pid().expect("a server");
    let falls = |cluster: &Cluster| cluster.log_since_start().matches(FALLEN).count();
    let before = falls(cluster);
    kill_role(cluster, "", random);
    wait_for("a restart to begin", || {
        let has_begun = falls(cluster) > before;
        (has_begun || !is_alive(postmaster)).then_some(())
    });
    let way = random.below(4);
    if way == 3 {
        wait_for("a startup process, or the end of recovery", || {
            let is_there = one_of(cluster, "startup", random).is_some();
            (is_there || cluster.status().starts_with("ready")).then_some(())
        });
    } else {
        pause(random, 20);
    }
    let is_held = hold(cluster, postmaster);
    let mut is_in_restart = is_held && !cluster.status().starts_with("ready");
    let then = match way {
        0 => {
            cluster.kill_all();
            Then::Ends
        }
        1 => {
            kill_postmaster(cluster);
            Then::Ends
        }
        _ => {
            let role = if way == 2 { "" } else { "startup" };
            is_in_restart &= kill_held(cluster, role, random);
            cluster.signal(Signal::SIGCONT);
            Then::Serves
        }
    };
    let kind = match is_in_restart {
        true => "kill in a crash restart",
        false => "kill beside a crash restart",
    };
    Done::new(kind, then)
}

/// Kills all of a server that was just started, or restarts; says whether it was recovering.
pub fn kill_in_recovery(cluster: &mut Cluster) -> bool {
    let postmaster = cluster.pid().expect("a server");
    let is_held = hold(cluster, postmaster);
    let mut children = cluster.children().into_iter();
    let is_recovering = is_held && children.any(|child| child.role.starts_with("startup"));
    cluster.kill_all();
    is_recovering
}

/// Waits until recovery is under way, or over, or the server has ended.
pub fn wait_for_recovery(cluster: &Cluster) {
    let postmaster = cluster.pid().expect("a server");
    wait_for("a startup process, or the end of recovery", || {
        let mut children = cluster.children().into_iter();
        let has_begun = children.any(|child| child.role.starts_with("startup"));
        let is_over = cluster.status().starts_with("ready") || !is_alive(postmaster);
        (has_begun || is_over).then_some(())
    });
}

/// Stops any process but by a signal that ends it, for some time.
fn stand_still(cluster: &mut Cluster, random: &mut Random, end: Signal) -> Done {
    let postmaster = cluster.pid().expect("a server");
    let (pid, role) = match random.below(8) {
        0 => (postmaster, "postmaster".to_owned()),
        _ => one_of(cluster, "", random).unwrap_or((postmaster, "postmaster".to_owned())),
    };
    cluster.send(pid, Signal::SIGSTOP);
    pause(random, 400);
    if pid == postmaster && end == Signal::SIGKILL {
        kill_postmaster(cluster);
        return Done::new("standstill and death of the postmaster", Then::Ends);
    }
    cluster.send(pid, end);
    let what = match end {
        Signal::SIGKILL => "standstill and death",
        _ => "standstill",
    };
    Done::new(format!("{what} of a {role}"), Then::Serves)
}

/// Sends a signal that the process may get from nobody, or not now.
fn stray(cluster: &mut Cluster, random: &mut Random) -> Done {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGHUP,
    ];
    let signal = signals[random.below(4) as usize];
    let postmaster = cluster.pid().expect("a server");
    let (pid, role) = match random.below(5) {
        0 => None,
        // There are more backends than others.
        1 => one_of(cluster, "checkpointer", random),
        2 => one_of(cluster, "walwriter", random),
        _ => one_of(cluster, "", random),
    }
    .unwrap_or((postmaster, "postmaster".to_owned()));
    cluster.send(pid, signal);
    let ends = pid == postmaster && signal == Signal::SIGTERM;
    let then = if ends { Then::Ends } else { Then::Serves };
    Done::new(format!("stray {signal} to a {role}"), then)
}

/// Lets children fall until the restart policy has the server stay down.
fn crash_loop(cluster: &mut Cluster, random: &mut Random) -> Done {
    let mut done = Done::new("crash loop", Then::Ends);
    cluster.stop(Signal::SIGINT);
    cluster.set("crash_restart_max", &LOOP_MAX.to_string());
    cluster.spawn();
    cluster.set("crash_restart_max", super::RESTARTS_MAX);
    while cluster.wait_ready().is_ok() {
        let said = |cluster: &Cluster, text| cluster.log_since_start().matches(text).count();
        let falls = said(cluster, FALLEN);
        if falls > 4 * LOOP_MAX {
            done.wrong = Some(format!("after {falls} falls the server still comes back"));
            return done;
        }
        let starts = said(cluster, READY);
        let postmaster = cluster.pid().expect("a server");
        let found = wait_for("a child, or the server's end", || {
            let child = one_of(cluster, "", random);
            (child.is_some() || !is_alive(postmaster)).then_some(child)
        });
        let Some((pid, _)) = found else {
            continue;
        };
        cluster.send(pid, Signal::SIGKILL);
        wait_for("a fall", || {
            // What looked ready may have begun to fall before: then this fall has two causes.
            let has_fallen = said(cluster, FALLEN) > falls || said(cluster, READY) > starts;
            (has_fallen || !is_alive(postmaster)).then_some(())
        });
        pause(random, 100);
    }
    let log = cluster.log_since_start();
    if !log.contains("than crash_restart_max allows") {
        done.wrong = Some(format!("a crash loop ended otherwise:\n{log}"));
    }
    done
}

/// Takes all room of the disk for some time.
fn fill_disk(
    cluster: &mut Cluster,
    disk: Option<&SmallDisk>,
    random: &mut Random,
    kills: bool,
) -> Done {
    let Some(disk) = disk else {
        skip("no file system can be mounted for a full disk");
        return Done::new("full disk (skipped: nothing can be mounted)", Then::Serves);
    };
    disk.fill();
    pause(random, 300);
    let mut done = Done::new(format!("full disk ({})", disk.kind()), Then::Serves);
    if kills {
        done.kind = format!("kill and start on a full disk ({})", disk.kind());
        cluster.kill_all();
        // As much as a start needs for files that are no data: pid file and lock.
        disk.leave(random.below(8) * 64 * 1024 + 64 * 1024);
        cluster.spawn();
        if let Err(status) = cluster.wait_ready() {
            let log = cluster.log_since_start();
            done.wrong = Some(format!("no start on a full disk: {status}\n{log}"));
            done.then = Then::Ends;
        }
        pause(random, 100);
    }
    disk.empty();
    if done.then == Then::Serves {
        done.wrong = super::wait_for_writes(cluster, NO_ROOM);
    }
    done
}

/// Has the server run under a limit for some time. Whether it can start is open; how it refuses, not.
fn run_limited(cluster: &mut Cluster, kind: &str, limit: &str, random: &mut Random) -> Done {
    let mut done = Done::new(kind, Then::Ends);
    cluster.stop(Signal::SIGINT);
    cluster.limit(limit);
    cluster.spawn();
    cluster.limit("");
    match cluster.wait_ready() {
        Ok(()) => {
            pause(random, 300);
            // It may be falling just now.
            if cluster.poll_exit().is_none() {
                cluster.stop(Signal::SIGINT);
            }
        }
        Err(status) => {
            done.kind = format!("{kind}: no start");
            let log = cluster.log_since_start();
            if !says_why(&log) {
                done.wrong = Some(format!("under {limit} it ends with {status}:\n{log}"));
            }
        }
    }
    done
}

/// A limit that is lowered while a process runs.
struct Limit {
    kind: &'static str,
    /// What `prlimit` calls it.
    option: &'static str,
    /// What `/proc` calls it.
    name: &'static str,
    /// A low one for this process.
    low: fn(u32, &mut Random) -> Option<u64>,
    /// Whether only commands that are larger than those of the load meet it.
    takes_much: bool,
}

const DESCRIPTORS: Limit = Limit {
    kind: "descriptors run short",
    option: "nofile",
    name: "Max open files",
    // What is open stays so; none has fewer than three.
    low: |_, random| Some(3 + random.below(40)),
    takes_much: false,
};

/// Connections wait until it can take them in.
const DESCRIPTORS_OF_POSTMASTER: Limit = Limit {
    kind: "descriptors of the postmaster run short",
    low: |_, _| Some(3),
    ..DESCRIPTORS
};

const MEMORY: Limit = Limit {
    kind: "memory runs short",
    option: "as",
    name: "Max address space",
    low: |pid, random| Some(process::address_bytes(pid)? + random.below(1 << 22)),
    takes_much: true,
};

/// Bytes that a backend is asked to take and to give back while memory is short.
const MUCH_BYTES: usize = 4 << 20;
/// Connections that ask for it, so that each backend has one.
const MUCH_CONNECTIONS: usize = 4;

/// Asks for more memory than is used otherwise. What is answered must be right, or a refusal for that reason; a
/// backend that falls answers nothing. Gives what is wrong.
fn ask_for_much(cluster: &Cluster) -> Option<String> {
    let text = "m".repeat(MUCH_BYTES);
    let connections: Vec<Client> = (0..MUCH_CONNECTIONS)
        .filter_map(|_| Client::connect_unix(cluster.socket()).ok())
        .collect();
    connections.into_iter().find_map(|mut client| {
        client.set_timeout(Some(DEADLINE)).ok()?;
        match client.call(&["PING", &text]) {
            Ok(Reply::Error(error)) if is_permitted(&error, &[SHORTAGE]) => None,
            Ok(Reply::Error(error)) => Some(format!("a long PING was answered by: {error}")),
            Ok(reply) if reply.as_str() == Some(&text) => None,
            Ok(_) => Some("a long PING was answered by something else".to_owned()),
            Err(client::Error::Timeout) => Some("a long PING is not answered".to_owned()),
            Err(_) => None,
        }
    })
}

/// Some of the children.
fn some_of(cluster: &Cluster, random: &mut Random) -> Vec<u32> {
    let few = (0..=random.below(3)).filter_map(|_| one_of(cluster, "", random));
    few.map(|(pid, _)| pid).collect()
}

/// Lowers a limit of processes that run, and raises it again.
fn run_short(cluster: &Cluster, limit: &Limit, pids: &[u32], random: &mut Random) -> Done {
    let mut done = Done::new(limit.kind, Then::Serves);
    let mut short = BTreeMap::new();
    for pid in pids {
        let before = process::soft_limit(*pid, limit.name);
        if let (Some(low), Some(before)) = ((limit.low)(*pid, random), before)
            && !short.contains_key(pid)
            && process::limit(*pid, &format!("--{}={low}:", limit.option))
        {
            short.insert(*pid, before);
        }
    }
    if short.is_empty() {
        skip("there is no prlimit");
        done.kind = format!("{} (skipped: no prlimit)", limit.kind);
        return done;
    }
    pause(random, 400);
    let answered = limit.takes_much.then(|| ask_for_much(cluster));
    for (pid, before) in short {
        // One that has fallen needs none.
        let _ = process::limit(pid, &format!("--{}={before}:", limit.option));
    }
    let waited = super::wait_for_writes(cluster, SHORTAGE);
    done.wrong = answered.flatten().or(waited);
    done
}

/// Whether a server that did not start says that it lacks something, and blames nothing else.
fn says_why(log: &str) -> bool {
    let is_named = |line: &str| SHORTAGES.iter().any(|text| line.contains(text));
    let blames = |line: &str| DAMAGE.iter().any(|text| line.contains(text));
    let is_end = |line: &&str| matches!(label(line), Some("FATAL" | "PANIC"));
    let mut ends = log.lines().filter(is_end);
    log.lines().any(is_named)
        && ends.all(|line| is_named(line) || line.contains(GIVES_UP))
        && !log.lines().any(blames)
}

/// Has the wall clock of the server jump by up to [`JUMP_MAX_S`]. It stays wrong until the next jump; a
/// server that is started anew has the right time again, which is a jump too.
fn clock_jump(cluster: &Cluster, random: &mut Random) -> Done {
    let direction = ["ahead", "behind"][random.below(2) as usize];
    let points = format!("clock={direction}@{}", random.below(JUMP_MAX_S));
    let mut done = Done::new(format!("clock {direction}"), Then::Serves);
    if let Ok(mut client) = Client::connect_unix(cluster.socket()) {
        // A server that falls just now has not heard of it.
        let reply = client.call(&["CONFIG", "SET", "fault_points", &points]);
        if let Ok(Reply::Error(error)) = reply {
            done.wrong = Some(format!("{points} was answered by: {error}"));
        }
    }
    done
}

/// The keys that vanishing connection `number` sets, always both to one value.
pub fn vanishing_keys(number: usize) -> [String; 2] {
    [format!("a:vanish:{number}"), format!("z:vanish:{number}")]
}

/// Many connections send transactions, the last of them not to its end, and go.
fn vanish(cluster: &Cluster, random: &mut Random) {
    let connections: Vec<UnixStream> = (0..VANISHING)
        .filter_map(|_| UnixStream::connect(cluster.socket()).ok())
        .collect();
    for (number, mut connection) in connections.into_iter().enumerate() {
        let [first, second] = vanishing_keys(number);
        let mut bytes = Vec::new();
        for _ in 0..=random.below(4) {
            let value = random.draw().to_string();
            let words = ["MSET", &first, &value, &second, &value];
            bytes.extend(format!("*{}\r\n", words.len()).into_bytes());
            for word in words {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
            }
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        // A server that closes first has not done anything.
        let _ = connection.write_all(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_start_must_say_what_it_lacks_and_blame_nothing_else() {
        let log = |ends: &[&str]| -> String {
            let line = |end: &&str| format!("2026-11-30 00:00:00.000 UTC [7] startup {end}\n");
            ends.iter().map(line).collect()
        };
        let gives_up = "FATAL:  server does not start: no shared memory";
        let lacks = "FATAL:  could not make events: Too many open files (os error 24)";
        assert!(says_why(&log(&[lacks, gives_up])));
        assert!(!says_why(&log(&[gives_up])));
        assert!(!says_why(&log(&[lacks, "PANIC:  index out of bounds"])));
        assert!(!says_why(&log(&[lacks, "ERROR:  page 7 is damaged"])));
    }

    #[test]
    fn a_log_ends_in_a_checkpoint_or_not() {
        assert!(!is_in_checkpoint("ready"));
        assert!(is_in_checkpoint("checkpoint starting: fast\n"));
        assert!(!is_in_checkpoint(
            "checkpoint starting: fast\ncheckpoint complete: fast\n"
        ));
    }
}

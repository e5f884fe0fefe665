//! Rounds of load, power cut, recovery and check.

use crate::disk::Disk;
use nix::sys::signal::Signal;
use rd_engine::init::UNFINISHED_FILE;
use rd_sys::simdisk::IoRecord;
use rd_tests::support::cluster::{Cluster, program};
use rd_tests::support::wait_for;
use rd_tests::torture::falls::Watch;
use rd_tests::torture::workload::{NO_ROOM, Writer, databases};
use rd_tests::torture::{
    Random, Report, check, check_count, tail, under_load, verify, wait_for_writes,
};
use rd_wire::Client;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a cut that is meant for a certain I/O waits for it, on a server that has little to do.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest load before a cut is prepared.
const LOAD_MAX: Duration = Duration::from_millis(300);
/// Cuts of a recovery, one in the recovery from the other, beside the first.
const DEPTH_MAX: u64 = 3;
/// Room that is left on a full disk, at most; and at least, when a server is to start on it.
const SPARE_BYTES_MAX: u64 = 512 << 10;
const SPARE_BYTES_MIN: u64 = 64 << 10;
/// The ways to sync the log; each is another pattern of calls to the kernel.
const SYNC_METHODS: [&str; 4] = ["fdatasync", "fsync", "open_datasync", "open_sync"];
/// The data directory, below the mount: `rd_initdb` makes both directories, and both names must last.
const DATA: &str = "made/data";

/// What goes on when the power fails.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Clients write.
    Load,
    /// Clients write, and a checkpoint is under way.
    Checkpoint,
    /// Clients write, and the server is being stopped.
    Stop,
    /// The server recovers from the last cut.
    Recovery,
    /// `rd_initdb` makes the directory.
    Making,
    /// Clients want to write, and there is no room, which the next start finds so too.
    FullDisk,
}

impl Moment {
    /// Draws one of those that a server is in which serves.
    fn choose(random: &mut Random) -> Moment {
        match random.below(5) {
            0 | 1 => Moment::Load,
            2 => Moment::Checkpoint,
            3 => Moment::Stop,
            _ => Moment::FullDisk,
        }
    }

    /// For the report.
    fn name(self) -> &'static str {
        match self {
            Moment::Load => "under load",
            Moment::Checkpoint => "in a checkpoint",
            Moment::Stop => "in a stop",
            Moment::Recovery => "in recovery",
            Moment::Making => "in rd_initdb",
            Moment::FullDisk => "on a full disk",
        }
    }

    /// Texts of errors with which the server may refuse a command meanwhile.
    fn refusals(self) -> &'static [&'static str] {
        match self {
            Moment::FullDisk => &[NO_ROOM],
            _ => &[],
        }
    }

    /// I/Os until the cut, at most.
    fn ios_max(self) -> u64 {
        match self {
            Moment::Load => 3000,
            Moment::Checkpoint | Moment::Stop | Moment::FullDisk => 600,
            Moment::Recovery => 400,
            Moment::Making => 150,
        }
    }
}

/// How often, how hard, and from which seed.
pub struct Plan {
    /// Where everything random comes from, but the timing of processes.
    pub seed: u64,
    /// Power cuts, those in recoveries not counted.
    pub cuts: u64,
    /// Connections that write.
    pub writers: usize,
}

/// A server on a disk whose power fails.
struct Bench {
    cluster: Cluster,
    disk: Disk,
    random: Random,
    report: Report,
    watch: Watch,
    /// The last I/Os before the last cut.
    last: Vec<IoRecord>,
    /// Whether the disk was full when the power failed last.
    was_full: bool,
    _place: TempDir,
}

/// Runs the plan; `Err` says why there can be no such disk here. `tell` hears of each round.
pub fn run(plan: &Plan, mut tell: impl FnMut(u64, &Report)) -> Result<Report, String> {
    let mut bench = Bench::new(plan)?;
    let mut writers: Vec<Writer> = (0..plan.writers)
        .map(|number| Writer::new(number, bench.random.draw()))
        .collect();
    bench.make();
    if bench.report.losses.is_empty() {
        bench.recover(&mut writers);
    }
    for round in 0..plan.cuts {
        if !bench.report.losses.is_empty() {
            break;
        }
        writers = bench.cut_under_load(writers);
        bench.recover(&mut writers);
        bench.look_for_falls();
        tell(round, &bench.report);
    }
    if bench.report.losses.is_empty() {
        bench.cluster.stop(Signal::SIGINT);
        verify(&mut bench.cluster, &mut bench.report);
        bench.look_for_falls();
    } else {
        bench.explain();
    }
    bench.report.acknowledged = writers.iter().map(Writer::acknowledged).sum();
    Ok(bench.report)
}

/// Kills all processes of a server on a disk without power, which cannot end before it lets go.
fn end(cluster: &mut Cluster, disk: &Disk) {
    let children = cluster.send_kills();
    disk.let_go();
    cluster.wait_gone(&children);
}

impl Bench {
    fn new(plan: &Plan) -> Result<Bench, String> {
        let place = tempfile::Builder::new().prefix("rdpower").tempdir();
        let place = place.map_err(|error| error.to_string())?;
        let mut random = Random::new(plan.seed);
        let disk = Disk::mounted(place.path(), random.draw())
            .map_err(|error| format!("no FUSE file system can be mounted: {error}"))?;
        let mut cluster = Cluster::new(&[
            ("min_wal_size", "4MB"),
            ("max_wal_size", "16MB"),
            ("shared_buffers", "16MB"),
        ]);
        let (name, count) = databases(plan.writers);
        cluster.set(name, &count);
        cluster.put_data(place.path().join(DATA));
        // What a start says of an end without a stop.
        cluster.announce("");
        Ok(Bench {
            cluster,
            disk,
            random,
            report: Report::default(),
            watch: Watch::default(),
            last: Vec::new(),
            was_full: false,
            _place: place,
        })
    }

    fn count(&mut self, moment: Moment) {
        let name = moment.name().to_owned();
        *self.report.kills.entry(name).or_default() += 1;
    }

    /// Loses what was not synced.
    fn power_cycle(&mut self, moment: Moment) {
        self.count(moment);
        self.last = self.disk.recent();
        self.disk.power_cycle(self.random.draw());
    }

    /// Has the data directory made, with the power failing meanwhile, until it fails too late: what
    /// was made by then must be there. Half a directory must be refused, in words that say so.
    fn make(&mut self) {
        let data_dir = self.cluster.data_dir();
        loop {
            let ios = self.random.below(Moment::Making.ios_max());
            self.disk.cut_after(ios);
            let mut making = Command::new(program("rd_initdb"))
                .arg("-D")
                .arg(&data_dir)
                .args(["--wal-segsize", "1"])
                .stdout(Stdio::null())
                .spawn()
                .expect("it was built");
            let made = wait_for("rd_initdb or the cut", || {
                let ended = making.try_wait().expect("our child");
                ended.map(Some).or(self.disk.is_cut().then_some(None))
            });
            if made.is_none() {
                making.kill().expect("our child");
                self.disk.let_go();
                making.wait().expect("our child");
            }
            self.power_cycle(Moment::Making);
            if let Some(status) = made {
                assert!(status.success(), "rd_initdb ended with {status}");
                return;
            }
            // Nothing is there; or what tells that it is not all; or all.
            let is_begun = data_dir
                .read_dir()
                .is_ok_and(|mut names| names.next().is_some());
            if data_dir.join(UNFINISHED_FILE).exists() {
                let (log, _) = self.cluster.start_refused();
                let is_told = log.contains("was never finished");
                assert!(is_told, "half a directory was refused by:\n{log}");
            } else if is_begun {
                assert!(data_dir.join("global/pg_control").exists());
            }
            self.disk.replace(self.random.draw());
        }
    }

    /// Lets clients write, and the power fail.
    fn cut_under_load(&mut self, writers: Vec<Writer>) -> Vec<Writer> {
        let moment = Moment::choose(&mut self.random);
        // A server that was short of room tries again within a second of there being some.
        let refusals = if self.was_full {
            Moment::FullDisk.refusals()
        } else {
            moment.refusals()
        };
        self.was_full = matches!(moment, Moment::FullDisk);
        let load = Duration::from_micros(self.random.below(LOAD_MAX.as_micros() as u64));
        let ios = self.random.below(moment.ios_max());
        let spare = self.random.below(SPARE_BYTES_MAX);
        let socket = self.cluster.socket();
        let (cluster, disk) = (&mut self.cluster, &self.disk);
        let (writers, ended) = under_load(&socket, writers, refusals, || {
            // The load itself is what is wanted here, for as long as was drawn.
            std::thread::sleep(load);
            match moment {
                Moment::Checkpoint => {
                    if let Ok(mut client) = Client::connect_unix(&socket) {
                        // Whether it is refused or not: the power fails either way.
                        let _ = client.cmd(&[b"CHECKPOINT", b"NOWAIT", b"FAST"]);
                    }
                }
                Moment::Stop => cluster.signal(Signal::SIGINT),
                Moment::FullDisk => disk.leave(Some(spare)),
                Moment::Load | Moment::Recovery | Moment::Making => {}
            }
            disk.cut_after(ios);
            let patience = Instant::now() + PATIENCE;
            end_when(cluster, disk, |_| {
                if Instant::now() > patience {
                    disk.cut_after(0);
                }
                // On a disk that is full, of a server that refuses everything, no I/O may come.
                Instant::now() > patience + PATIENCE
            })
        });
        self.note_end(moment, ended);
        self.power_cycle(moment);
        if matches!(moment, Moment::FullDisk) {
            // As much as a start needs for files that are no data: pid file and lock.
            self.disk.leave(Some(spare.max(SPARE_BYTES_MIN)));
        }
        writers
    }

    /// Draws by which calls the next start makes its log durable.
    fn choose_sync_method(&mut self) {
        let method = SYNC_METHODS[self.random.below(SYNC_METHODS.len() as u64) as usize];
        self.cluster.set("wal_sync_method", method);
    }

    /// Starts the server, at times with power that fails before it serves, and looks for all that
    /// was acknowledged.
    fn recover(&mut self, writers: &mut [Writer]) {
        for _ in 0..DEPTH_MAX {
            if self.random.below(3) > 0 {
                break;
            }
            self.disk
                .cut_after(self.random.below(Moment::Recovery.ios_max()));
            self.choose_sync_method();
            self.cluster.spawn();
            let (cluster, disk) = (&mut self.cluster, &self.disk);
            let ended = end_when(cluster, disk, |cluster| {
                cluster.status().starts_with("ready")
            });
            self.note_end(Moment::Recovery, ended);
            self.power_cycle(Moment::Recovery);
        }
        self.choose_sync_method();
        self.cluster.spawn();
        match self.cluster.wait_ready() {
            Ok(()) => {
                self.disk.leave(None);
                self.report
                    .losses
                    .extend(wait_for_writes(&self.cluster, NO_ROOM));
                check(&mut self.cluster, writers, &mut self.report);
                check_count(&mut self.cluster, writers, &mut self.report);
            }
            Err(status) => {
                let loss = format!("the server ended with {status} instead of serving");
                self.report.losses.push(loss);
            }
        }
    }

    /// A server that has ended by itself was to be stopped, and has done so in order.
    fn note_end(&mut self, moment: Moment, ended: Option<ExitStatus>) {
        let Some(status) = ended else { return };
        if !matches!(moment, Moment::Stop) || !status.success() {
            let loss = format!("the server ended with {status} {}", moment.name());
            self.report.losses.push(loss);
        }
    }

    /// On this disk nobody falls but by the power: what is short of room goes on, and nothing fails.
    fn look_for_falls(&mut self) {
        let falls = self.watch.look(&self.cluster, &[]);
        self.report.losses.extend(falls);
    }

    /// Adds what may say why.
    fn explain(&mut self) {
        let ios: Vec<String> = self.last.iter().map(|io| format!("{io:?}")).collect();
        let what = format!("the last I/Os before the cut:\n{}", ios.join("\n"));
        self.report.losses.push(what);
        let log = tail(&self.cluster.log(), 80);
        self.report.losses.push(format!("server log:\n{log}"));
    }
}

/// Waits until the power has failed or there is no more to wait for, and ends the server. Gives the status of
/// one that was first.
fn end_when(
    cluster: &mut Cluster,
    disk: &Disk,
    mut is_over: impl FnMut(&Cluster) -> bool,
) -> Option<ExitStatus> {
    let ended = wait_for("the cut", || {
        if disk.is_cut() || is_over(cluster) {
            return Some(None);
        }
        cluster.poll_exit().map(Some)
    });
    if ended.is_none() {
        end(cluster, disk);
    }
    ended
}

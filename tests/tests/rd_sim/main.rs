//! `rd_sim`: a whole server in one process on a simulated disk, crashed at every I/O.
//!
//! Several backends, walwriter, checkpointer with its workers, preparer of segments, and startup are
//! logical processes that a seed interleaves, I/O by I/O (`machine`). At each I/O of their work the
//! disk is copied and crashed in several ways; each copy is recovered, with crashes in recovery, in the
//! recovery from that, and in the one from that (`check`), and what is there is held against every commit
//! that was ever made (`ledger`), `pg_control` and files (`control`), and what was remembered (`history`).
//! The disk fails now and then, beside the work, a stop or a start, runs out of room (`harm`), or lies,
//! about pages (`damaged`) or about another file (`doubt`).
//! With `--interleave` processes do not only change at I/Os and waits, but before any operation on an
//! atomic of shared memory, as `rd_sys::simsched` chooses.
//! The same seed does the same, always; one that fails is printed and made short (`shrink`).
//!
//! Without arguments, as `cargo test` runs it, it runs a fixed set of seeds, sees that a seed repeats
//! itself, and spends some seconds on fresh ones.

mod access;
mod check;
mod content;
mod control;
mod damaged;
mod doubt;
mod harm;
mod history;
mod ledger;
mod machine;
mod memory;
mod parking;
mod run;
mod shrink;
mod text;
mod times;
mod work;

use check::Tally;
use clap::Parser;
use harm::Subject;
use machine::Failure;
use rd_tests::support::arguments::{CargoArgs, SeedArgs, Seeds};
use run::{Plan, Size};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Crashes a simulated server at every I/O of random work.
#[derive(Parser, Debug)]
#[command(name = "rd_sim")]
struct Args {
    #[command(flatten)]
    seeds: SeedArgs,
    /// Crashes at each I/O, each with another outcome of what was not synced, beside those that lose or
    /// keep all of it.
    #[arg(long, default_value_t = 1)]
    crashes: u64,
    /// Lives of the server for each seed.
    #[arg(long, default_value_t = 3)]
    lives: u64,
    /// Operations of each backend in each life, at most.
    #[arg(long, default_value_t = 10)]
    ops: u64,
    /// Lets processes change before any operation on an atomic of shared memory; crashes are fewer.
    #[arg(long)]
    interleave: bool,
    /// Lets the disk lie in the last life of each seed, not only in that of some.
    #[arg(long)]
    lies: bool,
    /// Runs this plan alone, as it was printed when a seed failed and was made short.
    #[arg(long)]
    plan: Option<String>,
    /// Says for each seed what was done.
    #[arg(long)]
    verbose: bool,
    /// Leaves a plan that fails as long as it is.
    #[arg(long)]
    no_shrink: bool,
    #[command(flatten)]
    cargo: CargoArgs,
}

/// Raised by every crash; whoever watches takes a server that raises it no more for one that hangs.
static BEAT: AtomicU64 = AtomicU64::new(0);
/// The seed under way.
static SEED: AtomicU64 = AtomicU64::new(0);
/// How long one recovery may take: this only guards against hanging.
const HANGS_AFTER: Duration = Duration::from_secs(120);

/// Says that something goes on.
pub fn beat() {
    BEAT.fetch_add(1, Ordering::Relaxed);
}

/// Ends the program when nothing goes on any more.
fn watch() {
    std::thread::spawn(|| {
        let mut last = (BEAT.load(Ordering::Relaxed), Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = BEAT.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > HANGS_AFTER {
                let seed = SEED.load(Ordering::Relaxed);
                eprintln!("seed {seed} hangs: the last recovery began {HANGS_AFTER:?} ago");
                std::process::abort();
            }
        }
    });
}

/// Seeds that are always run, by `cargo test`.
const FIXED_SEEDS: std::ops::Range<u64> = 1..8;
/// How long `cargo test` spends on others.
const FRESH: Duration = Duration::from_secs(5);

/// An option as it is given.
fn flag(is_given: bool, text: &str) -> &str {
    if is_given { text } else { "" }
}

struct Runner {
    args: Args,
    tally: Tally,
    seeds: u64,
    began: Instant,
}

impl Runner {
    fn size(&self) -> Size {
        Size {
            lives: self.args.lives,
            ops: self.args.ops,
            variants: self.args.crashes,
            interleaves: self.args.interleave,
            lies: self.args.lies,
        }
    }

    /// Runs one seed; false, and a report, if it fails.
    fn seed(&mut self, seed: u64) -> bool {
        SEED.store(seed, Ordering::Relaxed);
        beat();
        self.plan(Plan::new(seed, self.size()))
    }

    /// Runs a plan; false, and a report, if it fails.
    fn plan(&mut self, plan: Plan) -> bool {
        let seed = plan.seed;
        let before = self.tally;
        let done = plan.run(&mut self.tally);
        self.seeds += 1;
        if self.args.verbose {
            println!(
                "seed {seed}: {} operations, {} I/Os, {} crashes, trace {:016x}",
                plan.ops(),
                self.tally.ios - before.ios,
                self.tally.crashes - before.crashes,
                self.tally.trace,
            );
        }
        let Err(Failure(text)) = done else {
            return true;
        };
        println!("seed {seed} FAILS: {text}");
        println!(
            "  again: cargo test --profile sim -p rd-tests --test rd_sim -- --seed {seed} --seeds 1 \
             --crashes {} --lives {} --ops {}{}{}",
            self.args.crashes,
            self.args.lives,
            self.args.ops,
            flag(self.args.interleave, " --interleave"),
            flag(self.args.lies, " --lies"),
        );
        if !self.args.no_shrink {
            let run = |plan: &Plan| plan.run(&mut Tally::default());
            let (short, Failure(text)) = shrink::shrink(plan, Failure(text), &run);
            println!("made short, to {} operations: {text}", short.ops());
            println!("{:#?}", short.lives);
            println!("  again: ... -- --plan '{}'", text::print(&short));
        }
        false
    }

    fn report(&self) {
        let seconds = self.began.elapsed().as_secs_f64();
        let tally = &self.tally;
        println!(
            "{} seeds, {} I/Os, {} crashes recovered from, {:.0} a second, {:.1} s",
            self.seeds,
            tally.ios,
            tally.crashes,
            tally.crashes as f64 / seconds,
            seconds,
        );
        println!(
            "  {} ends of keys given or taken away, {} keys removed that had ended; {} namespaces renamed",
            tally.counts.ends, tally.counts.removed, tally.counts.renamed,
        );
        println!(
            "  in recoveries, by depth: {:?}; {} starts harmed by the disk, {} of them refused",
            &tally.at_depth[1..],
            tally.harmed,
            tally.refused,
        );
        let lied = Subject::ALL.map(|about| {
            let (lied, named) = (tally.lied[about as usize], tally.named[about as usize]);
            format!("{about:?} {lied} ({named})")
        });
        println!(
            "  crashes of disks that had lied, and those of them that named it: {}; {} lost the log's last \
             batch",
            lied.join(", "),
            tally.shortened,
        );
    }

    /// What `cargo test` runs.
    fn suite(&mut self) -> bool {
        if let Err(Failure(text)) = shrink::test(&Plan::new(7, self.size())) {
            println!("making plans short: {text}");
            return false;
        }
        [false, true].into_iter().all(|interleave| {
            self.args.interleave = interleave;
            self.half_a_suite()
        })
    }

    fn half_a_suite(&mut self) -> bool {
        let repeated = [(); 2].map(|()| {
            let mut tally = Tally::default();
            let done = Plan::new(7, self.size()).run(&mut tally);
            (done.is_ok(), tally.trace, tally.crashes)
        });
        if repeated[0] != repeated[1] {
            println!("seed 7 does not repeat itself: {repeated:?}");
            return false;
        }
        let before = self.tally;
        if !FIXED_SEEDS.into_iter().all(|seed| self.seed(seed)) {
            return false;
        }
        let mut reached = self.tally.at_depth.iter().zip(before.at_depth);
        if reached.any(|(now, before)| *now == before) {
            println!(
                "crashes in recoveries do not reach each depth: {:?}",
                self.tally
            );
            return false;
        }
        Seeds::fresh_for(FRESH).all(|seed| self.seed(seed))
    }

    fn run(&mut self) -> bool {
        if let Some(plan) = &self.args.plan {
            return match text::parse(plan) {
                Ok(plan) => self.plan(plan),
                Err(why) => {
                    println!("{why}");
                    false
                }
            };
        }
        match self.args.seeds.seeds() {
            Some(mut seeds) => seeds.all(|seed| self.seed(seed)),
            None => self.suite(),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.cargo.is_to_run("rd_sim") {
        return ExitCode::SUCCESS;
    }
    rd_sys::simproc::keep_memory();
    // A process that panics is reported by whoever resumed it.
    std::panic::set_hook(Box::new(|info| machine::note_panic(info.to_string())));
    watch();
    let mut runner = Runner {
        args,
        tally: Tally::default(),
        seeds: 0,
        began: Instant::now(),
    };
    println!("rd_sim");
    let is_good = runner.run();
    runner.report();
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

//! `interleavings`: the server's protocols in shared memory, each by itself, with its processes
//! interleaved at every operation on an atomic.
//!
//! Processes are logical ones on one thread (`rd_sys::simproc`); a seed draws who goes on and how far
//! (`rd_sys::simsched`). Nobody who sleeps without a limit goes on before somebody has woken it, so a
//! wake-up that is lost is a failure, as is a process that waits for ever. The same seed does the same,
//! always. `rd_sim --interleave` does the same to a whole server, with crashes.
//!
//! | scenario | module |
//! | --- | --- |
//! | `wal_insertion`: a ring of two pages that wraps, records larger than it | `log` |
//! | `group_commit`: leaders, followers and the walwriter | `log` |
//! | `commits`: several backends on the same leaves, with splits | `commits` |
//! | `snapshots`: held while others update and prune | `commits` |
//! | `leaves`: cut, emptied and taken out under commits, transactions and walks | `leaves` |
//! | `horizon`: snapshots published and versions pruned, without the pages | `horizon` |
//! | `checkpoint_requests`: asked for and answered | `requests` |
//! | `clean_frames`: a pool that is far too small | `frames` |
//! | `epochs`: what was unlinked, and is given back; processes that die in a descent | `slots` |
//! | `dying_children`: what the postmaster reads that a child has left half written | `slots` |
//! | `deaths`: children that die anywhere, and the postmaster, which waits for none | `deaths` |
//!
//! Without arguments, as `cargo test` runs it, each runs a fixed set of seeds, sees that one repeats
//! itself, and spends about a second on fresh ones.

mod commits;
mod deaths;
mod frames;
mod horizon;
mod leaves;
mod ledger;
mod log;
#[path = "../rd_sim/memory.rs"]
mod memory;
#[path = "../rd_sim/parking.rs"]
mod parking;
mod requests;
mod server;
mod slots;

use clap::Parser;
use rd_sys::simproc;
use rd_tests::support::arguments::{CargoArgs, SeedArgs, Seeds};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs protocols of the server under interleavings at its atomics.
#[derive(Parser, Debug)]
#[command(name = "interleavings")]
struct Args {
    #[command(flatten)]
    seeds: SeedArgs,
    #[command(flatten)]
    cargo: CargoArgs,
}

/// Runs a seed; gives a number that tells one run from another.
type Run = fn(seed: u64) -> Result<u64, String>;

const SCENARIOS: [(&str, Run); 11] = [
    ("wal_insertion", log::wal_insertion),
    ("group_commit", log::group_commit),
    ("commits", commits::commits),
    ("snapshots", commits::snapshots),
    ("leaves", leaves::leaves),
    ("horizon", horizon::horizon),
    ("checkpoint_requests", requests::checkpoint_requests),
    ("clean_frames", frames::clean_frames),
    ("epochs", slots::epochs),
    ("dying_children", slots::dying_children),
    ("deaths", deaths::deaths),
];

/// Seeds that are always run, by `cargo test`.
const FIXED_SEEDS: u64 = 100;
/// Seeds that find something if it is put back, and are always run: that tidying up around a key dropped
/// its newest version when leaves were joined meanwhile. Whoever changes what a scenario does, step by
/// step, looks for others: with the mistake put back.
const FOUND: [(&str, u64); 3] = [
    ("snapshots", 1563),
    ("snapshots", 30_170),
    // Who is passed over by priorities for ever.
    ("horizon", 72_782_763_846),
];
/// How long `cargo test` spends on others.
const FRESH: Duration = Duration::from_millis(700);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// The seed under way.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs one seed.
fn run_seed(run: Run, seed: u64) -> Result<u64, String> {
    SEED.set(seed);
    match catch_unwind(AssertUnwindSafe(|| run(seed))) {
        Ok(done) => done,
        Err(_) => Err(LAST_PANIC.take()),
    }
}

/// Runs seeds, and gives how many.
fn run_seeds((name, run): (&str, Run), seeds: impl IntoIterator<Item = u64>) -> Result<u64, ()> {
    let mut count = 0;
    for seed in seeds {
        if let Err(text) = run_seed(run, seed) {
            println!("{name}: seed {seed} FAILS: {text}");
            println!(
                "  again: cargo test --profile sim -p rd-tests --test interleavings -- {name} \
                 --seed {seed} --seeds 1"
            );
            return Err(());
        }
        count += 1;
    }
    Ok(count)
}

/// What `cargo test` runs.
fn run_suite(scenario: (&str, Run)) -> Result<u64, ()> {
    let [one, again] = [1, 1].map(|seed| run_seed(scenario.1, seed));
    if one != again {
        println!(
            "{}: seed 1 does not repeat itself: {one:?}, {again:?}",
            scenario.0
        );
        return Err(());
    }
    let found = FOUND.iter().filter(|(name, _)| *name == scenario.0);
    let always = (1..=FIXED_SEEDS).chain(found.map(|(_, seed)| *seed));
    let count = run_seeds(scenario, always)?;
    Ok(count + run_seeds(scenario, Seeds::fresh_for(FRESH))?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let is_chosen = |(name, _): &&(&str, Run)| args.cargo.is_to_run(name);
    let chosen: Vec<_> = SCENARIOS.iter().filter(is_chosen).copied().collect();
    if chosen.is_empty() {
        return ExitCode::SUCCESS;
    }
    simproc::keep_memory();
    // A process that panics is reported with its seed.
    std::panic::set_hook(Box::new(|info| {
        // One that panics while it is given up takes the program with it.
        eprintln!("seed {}: {info}", SEED.get());
        LAST_PANIC.set(info.to_string());
    }));
    let plural = if chosen.len() == 1 { "" } else { "s" };
    println!("running {} test{plural}", chosen.len());
    let mut is_good = true;
    for scenario in chosen {
        let began = Instant::now();
        let done = match args.seeds.seeds() {
            None => run_suite(scenario),
            Some(seeds) => run_seeds(scenario, seeds),
        };
        let seconds = began.elapsed().as_secs_f64();
        match done {
            Ok(seeds) => println!("test {} ... ok ({seeds} seeds, {seconds:.1} s)", scenario.0),
            Err(()) => println!("test {} ... FAILED", scenario.0),
        }
        is_good &= done.is_ok();
    }
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

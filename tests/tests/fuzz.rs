//! Hostile input on the stable compiler: every file of the corpora in `fuzz/corpus`, and seeded
//! mutations of them, through the functions that the fuzzing programs call.
//!
//! Of each input by itself it is seen that the function returns, does not panic, and takes no more
//! memory than its target allows for an input of that length. An input that does not come back, or
//! that ends the process, is found in the directory of temporary files of the build, which the failure
//! names.
//!
//! `RD_FUZZ_ROUNDS=1000000` runs more mutations of each target than the few seconds' worth here;
//! `RD_WRITE_CORPUS=1` writes the corpora anew from the sound inputs.

use rd_sys::memory::{CountingAllocator, most_taken_by};
use rd_tests::fuzz::{BYTES_PER_BYTE, TARGETS, Target};
use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Mutations of each target.
const ROUNDS: u64 = 3000;
/// Inputs grow no longer, in bytes.
const INPUT_BYTES_MAX: usize = 4096;
/// An input that takes longer is taken to hang. Each takes about a millisecond; this only has to be
/// more than a crowded machine makes of it.
const HANGS: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target.name)
}

/// The corpus, in the order of its files' names.
fn inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus(target))
        .expect("every target has a corpus")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("readable"))
        .collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// One change of the sort that finds mistakes: bits, odd numbers, pieces left out, doubled, or taken
/// from another input.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len());
    let length = 1 + random.below(16);
    let end = (at + length).min(input.len());
    match random.below(8) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.next() as u8,
        2 => {
            let odd = [0, 1, 0x7F, 0x80, 0xFF];
            let byte = odd[random.below(odd.len())];
            let width = [1, 2, 4, 8][random.below(4)];
            input
                .iter_mut()
                .skip(at)
                .take(width)
                .for_each(|place| *place = byte);
        }
        3 => drop(input.drain(at..end)),
        4 => {
            let piece = input[at..end].to_vec();
            input.splice(at..at, piece);
        }
        5 => {
            let from = random.below(other.len());
            let piece = &other[from..(from + length).min(other.len())];
            input.splice(at..end, piece.iter().copied());
        }
        6 => input.truncate(at),
        _ => {
            let digits = [
                "9223372036854775807",
                "-1",
                "4294967296",
                "0",
                "18446744073709551616",
            ];
            let text = digits[random.below(digits.len())];
            input.splice(at..end, text.bytes());
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

/// Runs a target on inputs, one after another, while somebody watches.
struct Runner {
    target: &'static Target,
    /// Holds the input under way: for whoever wants to know what ended the process.
    path: PathBuf,
    /// When it began.
    since: Arc<Mutex<Instant>>,
    /// Lets go of the watchdog.
    _watched: Sender<()>,
}

impl Runner {
    fn new(target: &'static Target) -> Runner {
        let name = format!("fuzz-{}-{}", target.name, std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let since = Arc::new(Mutex::new(Instant::now()));
        let (watched, over) = mpsc::channel();
        let (watching, input) = (Arc::clone(&since), path.clone());
        thread::spawn(move || {
            while over.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if watching.lock().expect("not poisoned").elapsed() > HANGS {
                    // Not by way of the test's own output, which dies with the process.
                    let _ = writeln!(
                        io::stderr(),
                        "{} has not come back for {HANGS:?} from the input in \"{}\"",
                        target.name,
                        input.display()
                    );
                    std::process::abort();
                }
            }
        });
        Runner {
            target,
            path,
            since,
            _watched: watched,
        }
    }

    fn run(&self, input: &[u8], what: &str) {
        let Target {
            name,
            run,
            fixed_bytes,
            ..
        } = self.target;
        fs::write(&self.path, input).expect("a file of ours");
        *self.since.lock().expect("not poisoned") = Instant::now();
        let (outcome, taken) =
            most_taken_by(|| catch_unwind(AssertUnwindSafe(|| run(input))).is_ok());
        let shown = input.escape_ascii();
        assert!(outcome, "{name} fails on {what}: {shown}");
        let allowed = fixed_bytes + BYTES_PER_BYTE * input.len();
        assert!(
            taken <= allowed,
            "{name} takes {taken} bytes of memory, of {allowed} allowed, for {what}: {shown}"
        );
    }
}

impl Drop for Runner {
    /// Not if it fails: the file is the input that it fails on.
    fn drop(&mut self) {
        if !thread::panicking() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn fuzz(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target");
    if std::env::var_os("RD_WRITE_CORPUS").is_some() {
        fs::create_dir_all(corpus(target)).expect("ours");
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(corpus(target).join(format!("seed{number}")), seed).expect("ours");
        }
    }
    let inputs = inputs(target);
    let runner = Runner::new(target);
    // What is made once is no input's.
    (target.run)(&inputs[0]);
    for (number, input) in inputs.iter().enumerate() {
        runner.run(input, &format!("file {number} of its corpus"));
    }
    let rounds = std::env::var("RD_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        let mut random = Random(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..1 + random.below(6) {
            let other = &inputs[random.below(inputs.len())];
            mutate(&mut input, other, &mut random);
        }
        runner.run(&input, &format!("mutation {round}"));
    }
}

/// Without this a test could pass because nothing is counted.
#[test]
fn memory_is_counted_for_each_input_by_itself() {
    let taken = |bytes: usize| most_taken_by(|| drop(black_box(vec![0u8; bytes]))).1;
    for bytes in [1 << 24, 1000] {
        assert!((bytes..bytes + 1000).contains(&taken(bytes)));
    }
    let grown = |bytes: usize| {
        let mut vec = Vec::new();
        (0..bytes).for_each(|_| vec.push(0u8));
        black_box(&vec).len()
    };
    let (len, taken) = most_taken_by(|| grown(100_000));
    assert!((len..2 * len).contains(&taken), "{taken}");
    let elsewhere = || thread::spawn(|| drop(black_box(vec![0u8; 1 << 20]))).join();
    let (joined, taken) = most_taken_by(elsewhere);
    assert!(joined.is_ok() && taken < 100_000, "{taken}");
}

/// The programs in `fuzz` are no part of the workspace, so no build sees that they are right: there is
/// one for each target, in the manifest too, and it calls the target's function and no other.
#[test]
fn the_programs_are_those_of_the_targets() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("readable");
    let import = "rd-tests = { path = \"../tests\", features = [\"sim\"] }";
    assert!(manifest.contains(import));
    for Target { name, .. } in TARGETS {
        let program = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs")));
        let expected = format!(
            "//! Fuzzing of `rd_tests::fuzz::{name}`.\n\
             #![no_main]\n\
             \n\
             libfuzzer_sys::fuzz_target!(|input: &[u8]| rd_tests::fuzz::{name}(input));\n"
        );
        assert_eq!(program.expect("every target has one"), expected);
        let bin = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&bin), "{name}");
    }
    let names: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    let entries = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(fuzz.join(folder)).expect("readable");
        let paths = entries.map(|entry| entry.expect("readable").path());
        let stems = paths.map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into()));
        stems.map(|stem| stem.expect("a name")).collect()
    };
    assert_eq!(entries("fuzz_targets"), names);
    assert_eq!(entries("corpus"), names);
    assert_eq!(manifest.matches("[[bin]]").count(), names.len());
}

macro_rules! targets {
    ($($name:ident)*) => {
        $( #[test] fn $name() { fuzz(stringify!($name)); } )*

        #[test]
        fn every_target_is_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            // The programs call these.
            let _: &[fn(&[u8])] = &[$(rd_tests::fuzz::$name),*];
        }
    };
}

targets!(request reply numbers config page record wal waldump control history doublewrite);

//! Hostile input on the stable compiler: every file of the corpora in `fuzz/corpus`, and seeded
//! mutations of them, through the functions that the fuzzing programs call.
//!
//! `RD_FUZZ_ROUNDS=1000000` runs more mutations of each target than the few seconds' worth here;
//! `RD_WRITE_CORPUS=1` writes the corpora anew from the sound inputs.

use rd_tests::fuzz::{TARGETS, Target};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Mutations of each target.
const ROUNDS: u64 = 3000;
/// Inputs grow no longer, in bytes.
const INPUT_BYTES_MAX: usize = 4096;
/// No input may make the process larger, in kB.
const MEMORY_KB_MAX: u64 = 400 << 10;

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

fn memory_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .expect("a number of kB")
}

fn run(target: &Target, input: &[u8], what: &str) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        outcome.is_ok(),
        "{} fails on {what}: {}",
        target.name,
        input.escape_ascii()
    );
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
    for (number, input) in inputs.iter().enumerate() {
        run(target, input, &format!("file {number} of its corpus"));
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
        run(target, &input, &format!("mutation {round}"));
    }
    assert!(memory_kb() < MEMORY_KB_MAX, "{} kB were taken", memory_kb());
}

macro_rules! targets {
    ($($name:ident)*) => {
        $( #[test] fn $name() { fuzz(stringify!($name)); } )*

        #[test]
        fn every_target_is_run_and_has_a_program() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            for name in names {
                let path = format!("../fuzz/fuzz_targets/{name}.rs");
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists(), "{name}");
            }
        }
    };
}

targets!(request reply numbers config page record wal control doublewrite);

//! Churn: a set of keys of constant size whose members are updated, deleted and put back, millions
//! of times, and what that does to the files over time: their size, how full the leaves are, and
//! how many versions there are of each key.
//!
//! The clients stop at each sample; after a checkpoint the files on disk are what the buffers are,
//! and `rd_verify` reads a copy of them, while a snapshot may stay open in the server.

use crate::support::DEADLINE;
use crate::support::cluster::{self, Cluster};
use crate::torture::Random;
use rd_wire::{Client, Reply};
use std::path::Path;
use std::time::{Duration, Instant};

/// Connections that write, each to keys of its own.
const WRITERS: u64 = 4;
/// Commands on their way at a time on each.
const PIPELINE: u64 = 64;
/// Bytes of values on their way at a time on each, so that neither side waits to write.
const PIPELINE_BYTES: usize = 256 << 10;

/// What is done to the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Half of the commands set a key; a quarter delete one, a quarter put one back.
    Update,
    /// The same; a key that was deleted comes back under a name that was never used.
    Fresh,
    /// All keys are set in order, then deleted in order; and so on.
    Drain,
    /// All keys are set in order, again and again: what was packed is overwritten.
    Order,
}

/// How much of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub workload: Workload,
    /// Commands in all.
    pub operations: u64,
    /// Keys of the set.
    pub keys: u64,
    /// Longest value, in bytes; their lengths are spread evenly from 0.
    pub value_bytes_max: u64,
    /// Whether a snapshot is held from the first sample to the end.
    pub holds_snapshot: bool,
    /// How many samples are taken, beside that of the beginning.
    pub samples: u64,
    /// Where everything random comes from.
    pub seed: u64,
    /// Settings of the server.
    pub settings: Vec<(String, String)>,
}

/// What was found at some time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Commands carried out so far.
    pub operations: u64,
    /// Seconds that they took.
    pub seconds: f64,
    /// Bytes of all relation files.
    pub file_bytes: u64,
    /// Blocks of them that are in use.
    pub used_blocks: u64,
    /// Keys that have a value.
    pub keys: u64,
    /// Versions by key.
    pub versions_per_key: f64,
    /// Leaves.
    pub leaves: u64,
    /// How full they are, in percent.
    pub leaf_fill_percent: f64,
}

/// One connection's share of the keys.
struct Writer {
    client: Client,
    random: Random,
    workload: Workload,
    value_bytes_max: u64,
    /// By key: under which number it is there, or was last.
    names: Vec<u64>,
    is_there: Vec<bool>,
    /// One that was deleted and is to be put back next.
    gone: Option<usize>,
    /// Commands so far, where they go in order.
    next: u64,
    fresh: u64,
    number: u64,
}

impl Writer {
    fn key(&self, index: usize) -> String {
        // The owner comes last, so that the keys of all lie among each other.
        format!("key:{:012}:{}", self.names[index], self.number)
    }

    fn set(&mut self, index: usize) -> usize {
        let value =
            vec![self.random.draw() as u8; self.random.below(self.value_bytes_max + 1) as usize];
        self.client
            .send(&[b"SET", self.key(index).as_bytes(), &value]);
        self.is_there[index] = true;
        value.len()
    }

    fn delete(&mut self, index: usize) -> usize {
        self.client.send(&["DEL".to_owned(), self.key(index)]);
        self.is_there[index] = false;
        0
    }

    /// Sends one command; gives the bytes of its value.
    fn send_one(&mut self) -> usize {
        let count = self.names.len() as u64;
        let in_order = (self.next % count) as usize;
        self.next += 1;
        match self.workload {
            Workload::Order => self.set(in_order),
            Workload::Drain if ((self.next - 1) / count).is_multiple_of(2) => self.set(in_order),
            Workload::Drain => self.delete(in_order),
            Workload::Update | Workload::Fresh => {
                if let Some(gone) = self.gone.take() {
                    if self.workload == Workload::Fresh {
                        self.names[gone] = self.fresh;
                        self.fresh += 1;
                    }
                    return self.set(gone);
                }
                let index = self.random.below(count) as usize;
                // Two of these for each that is followed by a return, so a half of all.
                if self.is_there[index] && self.random.below(3) == 0 {
                    self.gone = Some(index);
                    return self.delete(index);
                }
                self.set(index)
            }
        }
    }

    fn work(&mut self, mut operations: u64) {
        while operations > 0 {
            let (mut sent, mut bytes) = (0, 0);
            while sent < PIPELINE.min(operations) && bytes < PIPELINE_BYTES {
                bytes += self.send_one();
                sent += 1;
            }
            for reply in self.client.receive_many(sent as usize).expect("replies") {
                assert!(reply.error().is_none(), "{reply:?}");
            }
            operations -= sent;
        }
    }
}

/// Carries the plan out. `tell` hears of each sample.
///
/// # Panics
/// When the server refuses something, or a tree is not as it must be.
pub fn run(plan: &Plan, mut tell: impl FnMut(&Sample)) -> Vec<Sample> {
    let mut cluster = Cluster::new(&[
        ("shared_buffers", "256MB"),
        ("max_wal_size", "1GB"),
        ("max_snapshot_age", "0"),
        ("idle_in_transaction_timeout", "0"),
    ]);
    for (name, value) in &plan.settings {
        cluster.set(name, value);
    }
    // A log that outruns its size is no complaint here.
    cluster.announce("WARNING");
    cluster.start();
    let mut random = Random::new(plan.seed);
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|number| writer(plan, &cluster, number, &mut random))
        .collect();
    if plan.workload != Workload::Drain {
        each(&mut writers, |writer| {
            let workload = std::mem::replace(&mut writer.workload, Workload::Order);
            writer.work(writer.names.len() as u64);
            writer.workload = workload;
            writer.next = 0;
        });
    }
    let mut samples = vec![look(&cluster, 0, Duration::ZERO)];
    tell(&samples[0]);
    let mut holder = cluster.client();
    if plan.holds_snapshot {
        let begun = holder.call(&["BEGIN", "READ", "ONLY"]).expect("a reply");
        assert!(begun.is_ok(), "{begun:?}");
    }
    let mut taken = Duration::ZERO;
    for sample in 1..=plan.samples {
        let share = plan.operations / plan.samples / WRITERS;
        let begun = Instant::now();
        each(&mut writers, |writer| writer.work(share));
        taken += begun.elapsed();
        let found = look(&cluster, sample * share * WRITERS, taken);
        tell(&found);
        samples.push(found);
    }
    if plan.holds_snapshot {
        let seen = holder.call(&["COUNTRANGE", "", ""]).expect("a reply");
        assert_eq!(
            seen,
            Reply::Int(plan.keys as i64),
            "the snapshot sees what was there"
        );
        drop(holder);
        let found = look(&cluster, plan.operations, taken);
        tell(&found);
        samples.push(found);
    }
    samples
}

fn writer(plan: &Plan, cluster: &Cluster, number: u64, random: &mut Random) -> Writer {
    let keys = plan.keys / WRITERS;
    let mut client = cluster.client();
    client.set_timeout(Some(DEADLINE)).expect("a timeout");
    Writer {
        client,
        random: Random::new(random.draw()),
        workload: plan.workload,
        value_bytes_max: plan.value_bytes_max,
        names: (0..keys).collect(),
        is_there: vec![false; keys as usize],
        gone: None,
        next: 0,
        fresh: keys,
        number,
    }
}

fn each(writers: &mut [Writer], work: impl Fn(&mut Writer) + Sync) {
    std::thread::scope(|scope| {
        for writer in writers {
            scope.spawn(|| work(writer));
        }
    });
}

/// Looks at the files of an idle server.
fn look(cluster: &Cluster, operations: u64, taken: Duration) -> Sample {
    let mut client = cluster.client();
    // The second covers what was still being given back during the first.
    for _ in 0..2 {
        let done = client.call(&["CHECKPOINT"]).expect("a reply");
        assert!(done.is_ok(), "{done:?}");
    }
    let copy = tempfile::tempdir().expect("a directory");
    let to = copy.path().join("data");
    cluster.copy_data(&to);
    let file_bytes = bytes_of(&cluster.path("base"));
    let arguments = ["--force", "-D", to.to_str().expect("a readable path")];
    let (status, out, err) = cluster::run("rd_verify", &arguments);
    assert!(status.success(), "{out}{err}");
    let mut sample = Sample {
        operations,
        seconds: taken.as_secs_f64(),
        file_bytes,
        ..Sample::default()
    };
    let data = out
        .lines()
        .filter(|line| line.contains(" blocks: ") && !line.contains("catalog"));
    for line in data {
        let words: Vec<&str> = line.split([' ', '(', '%']).collect();
        let before = |word: &str| -> f64 {
            let at = words
                .iter()
                .position(|each| each.trim_end_matches([',', ':', ')']) == word);
            let number = at.and_then(|at| words[at.checked_sub(1)?].parse().ok());
            number.unwrap_or_else(|| panic!("no number before {word} in {line}"))
        };
        let blocks = before("blocks");
        let free = words
            .windows(3)
            .find(|three| three[1] == "free" && three[2] == "blocks,");
        let free: f64 = free
            .and_then(|three| three[0].parse().ok())
            .expect("free blocks");
        sample.used_blocks = (blocks - free) as u64;
        sample.keys = before("keys") as u64;
        sample.versions_per_key = before("versions") / before("keys").max(1.0);
        sample.leaves = before("leaves") as u64;
        let full = line
            .split("leaves (")
            .nth(1)
            .and_then(|rest| rest.split('%').next());
        sample.leaf_fill_percent = full.and_then(|text| text.parse().ok()).expect("the fill");
    }
    sample
}

fn bytes_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let sizes = entries.map(|entry| {
        let metadata = entry.and_then(|entry| entry.metadata());
        metadata.map_or(0, |metadata| metadata.len())
    });
    sizes.sum()
}

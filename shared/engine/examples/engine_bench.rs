//! How fast the engine alone is, in memory and in one thread: loads, replaces, reads and scans keys
//! with values of 100 bytes.
//!
//! `cargo run --release -p rd-engine --example engine_bench [keys]`

#[path = "../tests/support/mod.rs"]
mod support;

use rd_engine::{Chunk, View};
use std::sync::Arc;
use std::time::Instant;
use support::{DB0, Helpers, Rig, Rng};

/// Nanoseconds that this thread has run: the machine may have other things to do.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

struct Start {
    wall: Instant,
    cpu_ns: u64,
}

impl Start {
    fn now() -> Start {
        Start {
            wall: Instant::now(),
            cpu_ns: cpu_ns(),
        }
    }
}

fn main() {
    let keys: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let directory = tempfile::tempdir().expect("a directory");
    let storage = rd_sys::storage::RealStorage::new(directory.path().to_owned());
    let rig = Arc::new(Rig::on(
        Arc::new(storage),
        (keys / 20).max(4096) as usize,
        16 << 20,
    ));
    let _helpers = Helpers::start(&rig);
    let mut engine = rig.engine(0);
    let mut rng = Rng::new(7);
    let mut retries = 0u64;
    let mut set = |engine: &mut rd_engine::Engine, number: u64| {
        let key = format!("key:{number:012}");
        let value = [b'x'; 100];
        loop {
            let done = engine.write(DB0, &[key.as_bytes()], &mut |access| {
                access.put(0, &value, None)
            });
            match done {
                Err(rd_engine::EngineError::Park(_)) => {
                    retries += 1;
                    std::thread::yield_now();
                }
                done => break done.expect("a write"),
            }
        }
    };
    let report = |what: &str, count: u64, start: Start| {
        let each = |ns: u64| ns as f64 / count as f64;
        let (wall, cpu) = (
            start.wall.elapsed().as_nanos() as u64,
            cpu_ns() - start.cpu_ns,
        );
        println!(
            "{what:<28} {:>8.0} ns each, {:>6.0} ns of CPU",
            each(wall),
            each(cpu)
        );
    };

    let start = Start::now();
    for number in 0..keys {
        set(&mut engine, number);
    }
    report("SET, ascending", keys, start);
    let start = Start::now();
    for _ in 0..keys {
        set(&mut engine, rng.below(keys));
    }
    report("SET, random, existing", keys, start);
    let start = Start::now();
    for _ in 0..keys {
        set(&mut engine, keys + rng.below(keys));
    }
    report("SET, random, half new", keys, start);
    println!("{:<28} {retries:>8} times", "waited for the log");
    for view in [View::Durable, View::Newest] {
        let start = Start::now();
        let mut bytes = 0;
        for _ in 0..keys {
            let key = format!("key:{:012}", rng.below(keys));
            let read = engine.get(DB0, key.as_bytes(), view, |value| {
                value.map_or(0, |value| value.bytes.len())
            });
            bytes += read.expect("a read").result;
        }
        report(&format!("GET, random ({} MB)", bytes >> 20), keys, start);
    }
    let start = Start::now();
    let mut cursor = engine
        .range(DB0, b"", None, u64::MAX, View::Newest)
        .expect("a cursor");
    let mut count = 0;
    let chunk = Chunk {
        entries: 1000,
        bytes: 1 << 20,
    };
    while engine
        .range_next(&mut cursor, chunk, &mut |_, _| count += 1)
        .expect("a chunk")
    {}
    report("RANGE over everything", count, start);
    engine.rest();
    let store = rig.store(rd_base::Role::Startup);
    let pages = rd_engine::verify::LivePages {
        store: &store,
        file: rig.db0_file(),
    };
    println!("{:?}", rd_engine::verify::verify(&pages));
}

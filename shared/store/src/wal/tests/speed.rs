//! How fast the hot paths are. Run by hand: `cargo test -p rd-store --release -- --ignored speed
//! --nocapture`.

use super::*;
use std::time::{Duration, Instant};

const BATCH: u64 = 20_000;
const BATCHES: u64 = 50;

fn per(total: Duration, count: u64) -> f64 {
    total.as_nanos() as f64 / count as f64
}

#[test]
#[ignore = "measures; proves nothing"]
fn speed_of_inserting_and_reading() {
    let rig = Rig::new(2048, 2048);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, 1, 200);
    let bytes = credit_for(builder.bytes().len());
    let (mut inserting, mut crediting, mut flushing) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..BATCHES {
        while rig.preparer().step() == files::Step::Prepared {}
        let mut credit = rig.wal.take_credit(BATCH * bytes).expect("room");
        let began = Instant::now();
        for _ in 0..BATCH {
            rig.wal
                .insert(backend(0), &mut builder, &mut credit, |_| {});
        }
        inserting += began.elapsed();
        let began = Instant::now();
        for _ in 0..BATCH {
            drop(rig.wal.take_credit(bytes).expect("room"));
        }
        crediting += began.elapsed();
        let began = Instant::now();
        flusher.flush_all();
        flushing += began.elapsed();
        let upto = Lsn::new(rig.wal.durable_lsn().get() + (64 << 20));
        let wal = &rig.wal;
        wal.retire_segments(&rig.disk, wal.durable_lsn(), upto)
            .expect("a good disk");
    }
    let count = BATCH * BATCHES;
    println!("insert of {bytes} bytes: {:.1} ns", per(inserting, count));
    println!("credit taken and returned: {:.1} ns", per(crediting, count));
    println!(
        "flush (simulated disk): {:.0} MB/s",
        (count * bytes) as f64 * 1e3 / flushing.as_nanos() as f64
    );
    let told = Instant::now();
    for _ in 0..count {
        std::hint::black_box(rig.wal.flush_target());
    }
    println!(
        "flush target looked at: {:.1} ns",
        per(told.elapsed(), count)
    );
    read_speed(&rig);
}

fn read_speed(rig: &Rig) {
    let first = wal_page::segment_start(
        files::list(&rig.disk, TIMELINE, rig.wal.segment_bytes()).expect("a good disk")[0],
        rig.wal.segment_bytes(),
    );
    let from = rig.read_from(first);
    let mut reader = WalReader::first_from(storage(&rig.disk), from).expect("a good disk");
    let (began, start) = (Instant::now(), reader.lsn());
    let mut records = 0;
    while reader.next().expect("a good disk").is_some() {
        records += 1;
    }
    let bytes = reader.lsn().bytes_since(start);
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "read {records} records, {:.0} MB/s",
        bytes as f64 / 1e6 / seconds
    );
}

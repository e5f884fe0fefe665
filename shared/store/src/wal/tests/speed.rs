//! How fast the hot paths are. Run by hand: `cargo test -p rd-store --release -- --ignored speed
//! --nocapture`.

use super::*;
use std::time::{Duration, Instant};

const BATCH: u64 = 20_000;
const BATCHES: u64 = 50;

/// The best of all batches: what others do on the machine meanwhile is not what is measured.
struct Best(Duration);

impl Best {
    fn of(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        self.0 = self.0.min(began.elapsed());
    }

    fn ns_each(&self) -> f64 {
        self.0.as_nanos() as f64 / BATCH as f64
    }
}

#[test]
#[ignore = "measures; proves nothing"]
fn speed_of_inserting_and_reading() {
    let rig = Rig::new(2048, 2048);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, 1, 200);
    let bytes = credit_for(builder.bytes().len());
    let [mut insert, mut credit, mut flush, mut target] = [(); 4].map(|()| Best(Duration::MAX));
    for _ in 0..BATCHES {
        while rig.preparer().step() == files::Step::Prepared {}
        let mut taken = rig.wal.take_credit(BATCH * bytes).expect("room");
        insert.of(|| {
            for _ in 0..BATCH {
                rig.wal.insert(backend(0), &mut builder, &mut taken, |_| {});
            }
        });
        credit.of(|| {
            for _ in 0..BATCH {
                drop(rig.wal.take_credit(bytes).expect("room"));
            }
        });
        target.of(|| {
            for _ in 0..BATCH {
                std::hint::black_box(rig.wal.flush_target());
            }
        });
        flush.of(|| flusher.flush_all());
        let upto = Lsn::new(rig.wal.durable_lsn().get() + (64 << 20));
        let wal = &rig.wal;
        wal.retire_segments(&rig.disk, wal.durable_lsn(), upto)
            .expect("a good disk");
    }
    println!("insert of {bytes} bytes: {:.1} ns", insert.ns_each());
    println!("credit taken and returned: {:.1} ns", credit.ns_each());
    println!("flush target looked at: {:.1} ns", target.ns_each());
    println!(
        "flush (simulated disk): {:.0} MB/s",
        bytes as f64 * 1e3 / flush.ns_each()
    );
    read_speed(&rig);
}

fn read_speed(rig: &Rig) {
    let first = wal_page::segment_start(
        files::list(&rig.disk, TIMELINE, rig.wal.segment_bytes()).expect("a good disk")[0],
        rig.wal.segment_bytes(),
    );
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let from = rig.read_from(first);
        let mut reader = WalReader::first_from(storage(&rig.disk), from).expect("a good disk");
        let (began, start) = (Instant::now(), reader.lsn());
        while reader.next().expect("a good disk").is_some() {}
        let bytes = reader.lsn().bytes_since(start);
        best = best.max(bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
    }
    println!("read: {best:.0} MB/s");
}

/// One commit at a time on a real disk, by each method: the choice of the default.
#[test]
#[ignore = "measures; proves nothing"]
fn speed_of_the_sync_methods() {
    let dir = tempfile::tempdir().expect("a place for files");
    let real: Arc<dyn Storage> = Arc::new(rd_sys::storage::RealStorage::new(dir.path().to_owned()));
    let rig = Rig::new(512, 2048);
    files::create(&*real, TIMELINE, rig.wal.segment_bytes()).expect("an empty directory");
    while rig.preparer().step() == files::Step::Prepared {}
    fill_two(&*real, rig.wal.segment_bytes());
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, 1, 200);
    for _ in 0..2 {
        for method in WalSyncMethod::ALL {
            let stats = rig.stats.clone();
            let (wal, disk) = (rig.wal.clone(), Arc::clone(&real));
            let mut flusher = Flusher::new(wal, disk, stats, walwriter(), *method);
            let began = Instant::now();
            for _ in 0..500 {
                rig.insert(backend(0), &mut builder);
                flusher.flush_all();
            }
            let each = began.elapsed().as_micros() / 500;
            println!("{}: {each} us", method.word());
        }
    }
}

/// Fills the segments 1 and 2, which the log of the test lies in.
fn fill_two(storage: &dyn Storage, segment_bytes: u64) {
    for number in [1, 2] {
        let path = files::path(TIMELINE, number, segment_bytes);
        let mode = rd_sys::storage::OpenMode::CreateNew;
        let there = storage.exists(&path).expect("a good disk");
        let mode = if there {
            rd_sys::storage::OpenMode::ReadWrite
        } else {
            mode
        };
        let file = storage.open(&path, mode).expect("a good disk");
        for offset in (0..segment_bytes).step_by(1 << 20) {
            file.write_all_at(&vec![0; 1 << 20], offset)
                .expect("a good disk");
        }
        file.sync_all().expect("a good disk");
    }
    storage.sync_dir(WAL_DIR).expect("a good disk");
}

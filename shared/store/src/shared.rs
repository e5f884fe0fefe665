//! The one list of what is in shared memory.
//!
//! The postmaster plans, makes and opens all of it before its first fork, so that it lies at one
//! address in all children; after a child's crash it makes everything anew. Each topic plans its
//! own regions and explains its own words; what belongs to no topic is in the root below.
//!
//! Invariant: nothing in the segment is a pointer, and all of it is valid when it is all zeros.

use crate::brake::{Brake, BrakeRegions};
use crate::buffer::{Pool, PoolRegions};
use crate::checkpoint::{CheckpointRegions, CheckpointShared};
use crate::clients::{Clients, ClientsRegions};
use crate::cursors::{Cursors, CursorsRegions};
use crate::expiry::{Expiry, ExpiryRegions};
use crate::files::{Files, FilesRegions};
use crate::history::{History, HistoryRegions};
use crate::namespaces::{Namespaces, NamespacesRegions};
use crate::procs::{Procs, ProcsRegions};
use crate::scrub::{ScrubRegions, ScrubShared};
use crate::snapshot::{SnapshotRegions, Snapshots};
use crate::stats::{Stats, StatsRegions};
use crate::wal::{Wal, WalRegions};
use rd_base::Config;
use rd_base::Overrides;
use rd_base::limits::{CONFIG_OVERRIDES_BYTES_MAX, PAGE_BYTES};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::{Area, Latch, One, Plan, Region, Segment, ShmError, clock};
use std::io;
use std::sync::Arc;
use zerocopy::{FromBytes, KnownLayout};

/// What shared memory is sized from; fixed for the life of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Frames of shared buffers.
    pub frames: usize,
    /// Bytes of the WAL ring, a multiple of the WAL page.
    pub wal_ring_bytes: u64,
    /// Bytes of a WAL segment file.
    pub wal_segment_bytes: u64,
}

impl Sizes {
    /// The sizes that `config` asks for.
    pub fn from_config(config: &Config) -> Sizes {
        Sizes {
            frames: (config.shared_buffers_bytes() / PAGE_BYTES as u64) as usize,
            wal_ring_bytes: config.wal_buffers_bytes(),
            wal_segment_bytes: config.wal_segment_size_bytes(),
        }
    }
}

/// What is going on in the server as a whole. Numbers are in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nothing has been read yet.
    Starting = 0,
    /// Torn pages are repaired and the end of the log is made durable again.
    Repairing = 1,
    /// The log is replayed.
    Redo = 2,
    /// Clients are served.
    Running = 3,
}

/// Words that belong to no topic.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Root {
    /// [`Phase`]. atomic: Release by startup, Acquire by all.
    phase: AtomicU32,
    /// Generation of the text in `overrides`, which lies in the half of its parity: the next one is
    /// written into the other half, so that whoever dies over it leaves this one whole.
    /// atomic: guard `overrides_latch` for writers; readers check it before and after.
    overrides_generation: AtomicU32,
    /// guard: itself; taken by backends, never by the postmaster.
    overrides_latch: Latch,
    /// Where redo began, where it is, and where the log was last seen to end.
    /// atomic: Relaxed, written by startup; for display.
    redo_from: AtomicU64,
    redo_at: AtomicU64,
    redo_until: AtomicU64,
    /// Wall clock, in microseconds, when the making of the segment began. const after boot.
    made_at_us: AtomicU64,
    /// The same by the monotonic clock, nanoseconds. const after boot.
    made_at_ns: AtomicU64,
    /// Number of the last connection. atomic: Relaxed.
    last_connection: AtomicU64,
    /// Bytes in each half of `overrides`. guard: as `overrides_generation`.
    overrides_bytes: [AtomicU64; 2],
    /// How often the configuration's files were read on the life of this segment.
    /// atomic: Release by the postmaster, Acquire by all.
    file_reads: AtomicU64,
}

/// Progress of recovery, as shown to those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedoProgress {
    /// Where redo began.
    pub from: u64,
    /// The LSN it has reached.
    pub at: u64,
    /// Where the log is expected to end.
    pub until: u64,
}

/// Words of one text of the parameters set by `CONFIG SET`.
const OVERRIDES_WORDS: usize = CONFIG_OVERRIDES_BYTES_MAX / 8;

/// Where everything lies.
#[derive(Clone, Copy)]
struct Regions {
    root: Region<Root>,
    /// Two halves, of [`OVERRIDES_WORDS`] each.
    overrides: Region<AtomicU64>,
    procs: ProcsRegions,
    stats: StatsRegions,
    snapshots: SnapshotRegions,
    wal: WalRegions,
    checkpoint: CheckpointRegions,
    brake: BrakeRegions,
    history: HistoryRegions,
    files: FilesRegions,
    namespaces: NamespacesRegions,
    clients: ClientsRegions,
    cursors: CursorsRegions,
    expiry: ExpiryRegions,
    scrub: ScrubRegions,
    pool: PoolRegions,
}

/// All that is in shared memory, opened.
pub struct Shared {
    /// What it was sized from.
    pub sizes: Sizes,
    /// What each process tells the others.
    pub procs: Procs,
    /// Counters.
    pub stats: Stats,
    /// Published snapshots.
    pub snapshots: Snapshots,
    /// The write-ahead log.
    pub wal: Wal,
    /// Checkpoints asked for and done.
    pub checkpoint: CheckpointShared,
    /// How fast commits may be.
    pub brake: Brake,
    /// The last checkpoints and recoveries.
    pub history: History,
    /// Relation files.
    pub files: Files,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Connections, for `CLIENT LIST`.
    pub clients: Clients,
    /// Where SCANs go on.
    pub cursors: Cursors,
    /// When the next key ends.
    pub expiry: Expiry,
    /// What the scrub of relation files has found.
    pub scrub: ScrubShared,
    /// Shared buffers.
    pub pool: Pool,
    root: One<Root>,
    overrides: Area<AtomicU64>,
    /// Kept so that whoever holds this holds the mapping.
    #[cfg_attr(not(feature = "sim"), expect(dead_code))]
    segment: Segment,
    #[cfg(feature = "sim")]
    regions: Regions,
}

/// Shared memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The segment itself.
    #[error("{0}")]
    Segment(#[from] ShmError),
    /// The descriptors of the processes' events.
    #[error("could not make the event descriptors of the processes: {0}")]
    Events(#[from] io::Error),
}

fn plan(sizes: &Sizes) -> (Plan, Regions) {
    let mut plan = Plan::new();
    let regions = Regions {
        root: plan.reserve(1),
        overrides: plan.reserve(2 * OVERRIDES_WORDS),
        procs: ProcsRegions::plan(&mut plan),
        stats: StatsRegions::plan(&mut plan),
        snapshots: SnapshotRegions::plan(&mut plan),
        wal: WalRegions::plan(&mut plan, sizes),
        checkpoint: CheckpointRegions::plan(&mut plan),
        brake: BrakeRegions::plan(&mut plan),
        history: HistoryRegions::plan(&mut plan),
        files: FilesRegions::plan(&mut plan),
        namespaces: NamespacesRegions::plan(&mut plan),
        clients: ClientsRegions::plan(&mut plan),
        cursors: CursorsRegions::plan(&mut plan),
        expiry: ExpiryRegions::plan(&mut plan),
        scrub: ScrubRegions::plan(&mut plan),
        pool: PoolRegions::plan(&mut plan, sizes),
    };
    (plan, regions)
}

impl Shared {
    /// Makes the named segment and opens all of it. `keep_name` leaves the name in `/dev/shm` for
    /// inspection.
    ///
    /// # Errors
    /// When there is not enough shared memory, or no descriptor is left.
    pub fn create(sizes: Sizes, name: &str, keep_name: bool) -> Result<Arc<Shared>, SharedError> {
        let (began_us, began_ns) = (clock::wall_us(), clock::monotonic_ns());
        let (plan, regions) = plan(&sizes);
        let shared = Shared::open(Segment::create(&plan, name, keep_name)?, sizes, &regions)?;
        // Much memory takes some time to be had, and is waited for as the rest of a start is.
        shared.made_at(began_us, began_ns);
        Ok(shared)
    }

    /// The same in memory without a name, for one process and its threads.
    ///
    /// # Errors
    /// As for [`Shared::create`].
    pub fn anonymous(sizes: Sizes) -> Result<Arc<Shared>, SharedError> {
        let (plan, regions) = plan(&sizes);
        Shared::open(Segment::anonymous(&plan)?, sizes, &regions)
    }

    /// Bytes of the whole segment.
    pub fn bytes(&self) -> usize {
        plan(&self.sizes).0.len()
    }

    fn open(segment: Segment, sizes: Sizes, at: &Regions) -> Result<Arc<Shared>, SharedError> {
        let procs = Procs::open(&segment, &at.procs)?;
        let stats = Stats::open(&segment, &at.stats);
        let wal = Wal::open(&segment, &at.wal, &sizes, procs.clone(), stats.clone());
        let shared = Shared {
            sizes,
            stats,
            snapshots: Snapshots::open(&segment, &at.snapshots),
            checkpoint: CheckpointShared::open(&segment, &at.checkpoint),
            brake: Brake::open(&segment, &at.brake),
            history: History::open(&segment, &at.history),
            files: Files::open(&segment, &at.files),
            namespaces: Namespaces::open(&segment, &at.namespaces),
            clients: Clients::open(&segment, &at.clients),
            cursors: Cursors::open(&segment, &at.cursors),
            expiry: Expiry::open(&segment, &at.expiry),
            scrub: ScrubShared::open(&segment, &at.scrub),
            pool: Pool::open(&segment, &at.pool, &sizes),
            root: segment.one(at.root),
            overrides: segment.area(at.overrides),
            procs,
            wal,
            #[cfg(feature = "sim")]
            regions: *at,
            segment,
        };
        shared.made_at(clock::wall_us(), clock::monotonic_ns());
        Ok(Arc::new(shared))
    }

    fn made_at(&self, wall_us: u64, monotonic_ns: u64) {
        self.root.made_at_us.store(wall_us, Ordering::Relaxed);
        self.root.made_at_ns.store(monotonic_ns, Ordering::Relaxed);
    }

    /// Memory for another server like this one, which is gone, all zero again. A new one where
    /// somebody holds on to a part of the old.
    ///
    /// # Errors
    /// As for [`Shared::create`].
    #[cfg(feature = "sim")]
    pub fn again(old: Arc<Shared>) -> Result<Arc<Shared>, SharedError> {
        let sizes = old.sizes;
        let (segment, regions) = (old.segment.clone(), old.regions);
        drop(old);
        match segment.into_zeroed() {
            Some(segment) => Shared::open(segment, sizes, &regions),
            None => Shared::anonymous(sizes),
        }
    }

    /// What the server is doing.
    pub fn phase(&self) -> Phase {
        match self.root.phase.load(Ordering::Acquire) {
            1 => Phase::Repairing,
            2 => Phase::Redo,
            3 => Phase::Running,
            _ => Phase::Starting,
        }
    }

    /// Says what the server is doing; for the startup process.
    pub fn set_phase(&self, phase: Phase) {
        self.root.phase.store(phase as u32, Ordering::Release);
    }

    /// How far redo has come.
    pub fn redo_progress(&self) -> RedoProgress {
        RedoProgress {
            from: self.root.redo_from.load(Ordering::Relaxed),
            at: self.root.redo_at.load(Ordering::Relaxed),
            until: self.root.redo_until.load(Ordering::Relaxed),
        }
    }

    /// Says how far redo has come; for the startup process.
    pub fn set_redo_progress(&self, progress: RedoProgress) {
        self.root.redo_from.store(progress.from, Ordering::Relaxed);
        self.root.redo_at.store(progress.at, Ordering::Relaxed);
        self.root
            .redo_until
            .store(progress.until, Ordering::Relaxed);
    }

    /// Wall clock, in microseconds since 1970, when the making of this segment began: at start, or
    /// at the last crash restart.
    pub fn made_at_us(&self) -> u64 {
        self.root.made_at_us.load(Ordering::Relaxed)
    }

    /// The same by the monotonic clock, nanoseconds.
    pub fn made_at_ns(&self) -> u64 {
        self.root.made_at_ns.load(Ordering::Relaxed)
    }

    /// How often the configuration's files were read since this segment was made. Whoever has seen
    /// fewer reads them again when told that the configuration has changed.
    pub fn file_reads(&self) -> u64 {
        self.root.file_reads.load(Ordering::Acquire)
    }

    /// Says that they were read once more; the postmaster's.
    pub fn count_file_read(&self) {
        self.root.file_reads.fetch_add(1, Ordering::Release);
    }

    /// Replaces the parameters set by `CONFIG SET`: `change` makes the new ones from those in
    /// force, under the latch, so that two sessions do not lose each other's. Returns the new ones.
    ///
    /// # Errors
    /// Those of `change`; then the old ones stay.
    pub fn change_overrides<E>(
        &self,
        change: impl FnOnce(&Overrides) -> Result<Overrides, E>,
    ) -> Result<Overrides, E> {
        let root = &self.root;
        let _guard = root.overrides_latch.lock();
        let new = change(&self.overrides_at_rest())?;
        let bytes = new.encode();
        assert!(
            bytes.len() <= CONFIG_OVERRIDES_BYTES_MAX,
            "the overrides' own limit"
        );
        let next = self.overrides_generation().wrapping_add(1);
        // Who still reads what was in this half before finds that there is a newer generation.
        fence(Ordering::SeqCst);
        let (words, length) = self.overrides_half(next);
        for (word, bytes) in words.iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        length.store(bytes.len() as u64, Ordering::Relaxed);
        root.overrides_generation.store(next, Ordering::SeqCst);
        Ok(new)
    }

    /// Where the text of this generation lies, and its bytes.
    fn overrides_half(&self, generation: u32) -> (&[AtomicU64], &AtomicU64) {
        let half = (generation % 2) as usize;
        let words = &self.overrides[half * OVERRIDES_WORDS..][..OVERRIDES_WORDS];
        (words, &self.root.overrides_bytes[half])
    }

    /// The parameters set by `CONFIG SET`. While they are being replaced it waits for the new ones.
    pub fn overrides(&self) -> Overrides {
        let _guard = self.root.overrides_latch.lock();
        self.overrides_at_rest()
    }

    /// How often they were replaced.
    pub fn overrides_generation(&self) -> u32 {
        self.root.overrides_generation.load(Ordering::SeqCst)
    }

    /// Those of [`Shared::overrides`], by whoever holds the latch.
    fn overrides_at_rest(&self) -> Overrides {
        self.peek_overrides()
            .expect("whoever holds the latch finds the overrides whole")
    }

    /// The parameters set by `CONFIG SET`, or `None`, which says nothing about them: they were
    /// replaced meanwhile, or cannot be made out. Takes no latch and trusts nothing, so that the
    /// postmaster may call it; everybody else wants [`Shared::overrides`]. When nobody else is left
    /// it finds what was set last, be it that somebody has died while he set more.
    pub fn peek_overrides(&self) -> Option<Overrides> {
        let before = self.overrides_generation();
        let (words, length) = self.overrides_half(before);
        let length = length.load(Ordering::Relaxed) as usize;
        if length > CONFIG_OVERRIDES_BYTES_MAX {
            return None;
        }
        let words = words.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(length);
        fence(Ordering::SeqCst);
        if before != self.overrides_generation() {
            return None;
        }
        Overrides::decode(&bytes).ok()
    }
}

//! Fault points: named places where a test makes the server fail.
//!
//! They are armed by a text, `name=action[@n]` parted by commas: the n-th passing of the point (by
//! whatever process; the first if nothing is said) does the action and disarms the point, so that
//! the server that is started after a crash does not fall over the same stone.
//!
//! | action | what happens |
//! | --- | --- |
//! | `abort` | the process aborts |
//! | `kill` | the process ends by SIGKILL |
//! | `eio` | the operation fails as with a bad disk |
//! | `enospc` | the operation fails as with a full disk |
//! | `enfile` | the operation fails as when the system has no file descriptor left |
//! | `pause` | the process waits there until the point is disarmed |
//!
//! Beside them, `clock=ahead@3600` or `clock=behind@3600` lets the wall clock of all processes go wrong by
//! so many seconds, until it is armed otherwise.
//!
//! Invariant: while nothing is armed a point costs two loads and a branch.

use crate::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::atomic::{AtomicI64, AtomicU32};
use crate::process::{self, Pid, Signal};
use crate::shm::{One, Plan, Segment, ShmError};
use crate::{crash, futex};
use std::io;
use std::sync::OnceLock;
use zerocopy::{FromBytes, KnownLayout};

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The points there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$name),*];

            /// The name by which it is armed.
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$name => $text,)*
                }
            }
        }
    };
}

faults! {
    /// A commit has its LSN and has not copied its record.
    CommitReserved = "commit_reserved",
    /// A commit's record is in the ring, and not all of its pages are changed.
    CommitApplying = "commit_applying",
    /// A split's own record is in the ring, and its parent does not know yet.
    SplitLogged = "split_logged",
    /// The log is about to be written.
    WalWrite = "wal_write",
    /// The log was written and is about to be synced.
    WalSync = "wal_sync",
    /// The log was synced, and nobody was told.
    WalPublish = "wal_publish",
    /// A segment is about to be made or recycled.
    WalSegment = "wal_segment",
    /// A checkpoint has its redo point and has written nothing.
    CheckpointBegun = "checkpoint_begun",
    /// A batch was written to the double-write area and is about to be synced; an error is the sync's.
    DoublewriteSync = "doublewrite_sync",
    /// A batch is in the double-write area, synced, and no page of it is in its place.
    DoublewriteSynced = "doublewrite_synced",
    /// A page is about to be written in its place.
    PageWrite = "page_write",
    /// A relation file is about to be synced; an error is the sync's.
    FileSync = "file_sync",
    /// The relation files are about to be synced.
    CheckpointSync = "checkpoint_sync",
    /// The relation files are synced, and `pg_control` is old.
    CheckpointSynced = "checkpoint_synced",
    /// A checkpoint of a single namespace is about to begin.
    NamespaceBegun = "namespace_begun",
    /// The header of a single namespace's file is stamped and synced, and `pg_control` is old.
    NamespaceStamped = "namespace_stamped",
    /// `pg_control` says of a single namespace's file what its header says, and nobody was told.
    NamespaceCovered = "namespace_covered",
    /// A slot of `pg_control` is about to be written.
    ControlWrite = "control_write",
    /// A slot of `pg_control` was written and is about to be synced; an error is the sync's.
    ControlSync = "control_sync",
    /// One slot of `pg_control` is new, and the other old.
    ControlFirstSlot = "control_first_slot",
    /// `pg_control` is new, and old segments are still there.
    CheckpointDone = "checkpoint_done",
    /// A record of the history is about to be written.
    HistoryWrite = "history_write",
    /// A relation file is about to grow.
    FileExtend = "file_extend",
    /// A backend is about to find that it has time for all its connections; an error says that it
    /// has not.
    BackendCrowded = "backend_crowded",
    /// Recovery has read `pg_control` and changed nothing.
    RecoveryBegun = "recovery_begun",
    /// Recovery is about to apply a record.
    RecoveryRecord = "recovery_record",
    /// Redo is at its end, and the server is not open yet.
    RecoveryDone = "recovery_done",
}

const COUNT: usize = Fault::ALL.len();

/// Shared by all processes that were forked since it was made.
#[derive(FromBytes, KnownLayout)]
#[repr(C)]
struct Table {
    /// By how much the wall clock is ahead, microseconds. atomic.
    clock_skew_us: AtomicI64,
    /// How many points are armed. atomic.
    armed: AtomicU32,
    points: [Point; COUNT],
}

#[derive(FromBytes, KnownLayout)]
#[repr(C)]
struct Point {
    /// An [`Action`], or 0. atomic: written last when arming.
    action: AtomicU32,
    /// Passings left until the action, itself included. atomic.
    left: AtomicU32,
    /// Actions done. atomic.
    hits: AtomicU32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Abort = 1,
    Kill = 2,
    Eio = 3,
    Enospc = 4,
    Pause = 5,
    Enfile = 6,
}

const ACTIONS: [(&str, Action); 6] = [
    ("abort", Action::Abort),
    ("kill", Action::Kill),
    ("eio", Action::Eio),
    ("enospc", Action::Enospc),
    ("pause", Action::Pause),
    ("enfile", Action::Enfile),
];

static TABLE: OnceLock<One<Table>> = OnceLock::new();

/// Why nothing was armed.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    /// The text is wrong.
    #[error(
        "\"{0}\" is not a fault point: expected name=action[@n], as in wal_sync=kill@3, or \
         clock=ahead@SECONDS"
    )]
    Syntax(String),
    /// There is no room for the table.
    #[error(transparent)]
    Memory(#[from] ShmError),
}

/// Makes the table, before the first fork, so that [`arm`] in one process reaches all.
pub fn prepare() -> Result<(), ShmError> {
    if TABLE.get().is_none() {
        let mut plan = Plan::new();
        let region = plan.reserve(1);
        let table = Segment::anonymous(&plan)?.one(region);
        // Another thread may have been first; its table is as good.
        let _ = TABLE.set(table);
    }
    Ok(())
}

/// What a text asks for: of each point, and by how much the clock is to go wrong.
type Wanted = ([Option<(Action, u32)>; COUNT], i64);

/// Whether [`arm`] takes a text.
pub fn check(text: &str) -> Result<(), FaultError> {
    wanted(text).map(drop)
}

fn wanted(text: &str) -> Result<Wanted, FaultError> {
    let mut wanted = [None; COUNT];
    let mut clock_skew_us = 0;
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        if let Some(skew_us) = parse_clock(part) {
            clock_skew_us = skew_us;
            continue;
        }
        let (index, action, nth) =
            parse(part).ok_or_else(|| FaultError::Syntax(part.to_owned()))?;
        wanted[index] = Some((action, nth));
    }
    Ok((wanted, clock_skew_us))
}

/// Arms the points that `text` names and disarms all others; empty disarms all.
pub fn arm(text: &str) -> Result<(), FaultError> {
    let (wanted, clock_skew_us) = wanted(text)?;
    let is_nothing = clock_skew_us == 0 && wanted.iter().all(Option::is_none);
    if TABLE.get().is_none() && is_nothing {
        return Ok(());
    }
    prepare()?;
    let table = TABLE.get().expect("it was just prepared");
    table.clock_skew_us.store(clock_skew_us, Relaxed);
    for (point, wanted) in table.points.iter().zip(wanted) {
        if point.action.swap(0, AcqRel) != 0 {
            table.armed.fetch_sub(1, AcqRel);
            futex::futex_wake(&point.action, u32::MAX);
        }
        if let Some((action, nth)) = wanted {
            point.left.store(nth, Relaxed);
            table.armed.fetch_add(1, AcqRel);
            point.action.store(action as u32, Release);
        }
    }
    Ok(())
}

fn parse(part: &str) -> Option<(usize, Action, u32)> {
    let (name, rest) = part.split_once('=')?;
    let (action, nth) = match rest.split_once('@') {
        Some((action, nth)) => (action, nth.trim().parse().ok().filter(|nth| *nth > 0)?),
        None => (rest, 1),
    };
    let index = Fault::ALL
        .iter()
        .position(|fault| fault.name() == name.trim())?;
    let (_, action) = ACTIONS.iter().find(|(text, _)| *text == action.trim())?;
    Some((index, *action, nth))
}

/// By how many microseconds `clock=ahead@60` or `clock=behind@60` puts the clock ahead.
fn parse_clock(part: &str) -> Option<i64> {
    let (direction, seconds) = part.strip_prefix("clock=")?.split_once('@')?;
    let skew_us = i64::from(seconds.parse::<u32>().ok()?) * 1_000_000;
    match direction {
        "ahead" => Some(skew_us),
        "behind" => Some(-skew_us),
        _ => None,
    }
}

/// By how much the wall clock is to be ahead of the machine's, microseconds.
#[inline]
pub(crate) fn clock_skew_us() -> i64 {
    TABLE
        .get()
        .map_or(0, |table| table.clock_skew_us.load(Relaxed))
}

/// How often the point's action was done.
pub fn hits(fault: Fault) -> u32 {
    TABLE
        .get()
        .map_or(0, |table| table.points[fault as usize].hits.load(Acquire))
}

/// Passes a point. An error is the fault's, to be treated as the operation's own.
#[inline]
pub fn point(fault: Fault) -> io::Result<()> {
    match TABLE.get() {
        Some(table) if table.armed.load(Relaxed) != 0 => pass(table, fault),
        _ => Ok(()),
    }
}

#[cold]
fn pass(table: &Table, fault: Fault) -> io::Result<()> {
    let point = &table.points[fault as usize];
    let armed = point.action.load(Acquire);
    let Some((_, action)) = ACTIONS.iter().find(|(_, action)| *action as u32 == armed) else {
        return Ok(());
    };
    let counted = |left: u32| left.checked_sub(1);
    if point.left.fetch_update(AcqRel, Relaxed, counted) != Ok(1) {
        return Ok(());
    }
    point.hits.fetch_add(1, AcqRel);
    log::warn!("fault point {} does its action", fault.name());
    if *action == Action::Pause {
        while point.action.load(Acquire) == armed {
            futex::futex_wait(&point.action, armed, None);
        }
        return Ok(());
    }
    if point.action.swap(0, AcqRel) != 0 {
        table.armed.fetch_sub(1, AcqRel);
    }
    match action {
        Action::Abort => crash::panic_abort(&format!("fault point {}", fault.name())),
        Action::Kill => {
            process::kill(Pid::own(), Signal::Kill)?;
            unreachable!("nobody survives SIGKILL");
        }
        Action::Enospc => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Action::Enfile => Err(io::Error::from_raw_os_error(libc::ENFILE)),
        Action::Eio | Action::Pause => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_point_fires_once_at_its_turn() {
        point(Fault::WalSync).expect("nothing is armed");
        arm("").expect("nothing to do");
        for bad in [
            "wal_sync",
            "wal_sync=",
            "no_such=eio",
            "wal_sync=eio@0",
            "wal_sync=eio@x",
            "clock=ahead",
            "clock=ahead@x",
            "clock=eio@1",
        ] {
            assert!(matches!(arm(bad), Err(FaultError::Syntax(text)) if text == bad));
        }
        arm("wal_sync=eio@3, page_write = enospc").expect("good");
        point(Fault::ControlWrite).expect("not armed");
        point(Fault::WalSync).expect("the first passing");
        point(Fault::WalSync).expect("the second passing");
        let error = point(Fault::WalSync).expect_err("the third passing");
        assert_eq!(
            (error.raw_os_error(), hits(Fault::WalSync)),
            (Some(libc::EIO), 1)
        );
        point(Fault::WalSync).expect("it fires once");
        let error = point(Fault::PageWrite).expect_err("the first passing");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        arm("wal_sync=pause").expect("good");
        std::thread::scope(|scope| {
            let paused = scope.spawn(|| point(Fault::WalSync));
            while hits(Fault::WalSync) < 2 {
                std::thread::yield_now();
            }
            arm("").expect("good");
            paused
                .join()
                .expect("it goes on")
                .expect("without an error");
        });
        let right_us = clock::wall_us();
        arm("clock=ahead@86400").expect("good");
        assert!(clock::wall_us() >= right_us + 86_400_000_000);
        arm("clock=behind@86400,wal_sync=eio@9").expect("good");
        assert!(clock::wall_us() < right_us);
        arm("").expect("good");
        assert!(clock::wall_us() >= right_us);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNT);
    }
}

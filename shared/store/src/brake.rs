//! The brake: how fast commits may write log at most while the checkpointer is in danger of falling
//! behind. Published by the checkpointer, obeyed by the backends.
//!
//! Commits are slowed and never refused. What is limited is the log that all commits write together,
//! so that the limit does not depend on how many connections there are. Each commit, once carried
//! out, takes the next place in a queue of time, as wide as its log takes at the published rate (the
//! generic cell rate algorithm); its connection's next request is not carried out before that place
//! has passed. So connections take turns, and one that seldom writes waits seldom.
//!
//! Invariants:
//! - Without a rate nothing is written here: a commit costs one load.
//! - No connection waits longer than [`DELAY_MAX_NS`] behind one commit.

use rd_base::counters::Counter;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::{One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Longest time for which a connection is held back behind one commit, nanoseconds.
pub const DELAY_MAX_NS: u64 = 1_000_000_000;
/// A connection is not held back for less: no clock of an event loop is finer, nanoseconds.
pub const DELAY_MIN_NS: u64 = 1_000_000;
/// How far the queue may lag behind the clock: what was not used of the rate lately may be used up,
/// so that wake-ups that come late do not lower it; nanoseconds.
const SLACK_NS: u64 = 5_000_000;

/// What commits are slowed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BrakeCause {
    /// The log since the redo point nears `max_wal_size`.
    Wal = 1,
    /// Frames become dirty faster than they are cleaned.
    Frames = 2,
    /// The server is stopping, and what is dirty is to be written before clients are ended.
    Stop = 3,
}

impl BrakeCause {
    /// All of them.
    pub const ALL: [BrakeCause; 3] = [BrakeCause::Wal, BrakeCause::Frames, BrakeCause::Stop];

    /// Under what it is counted how many commits were slowed for it, and for how long.
    pub const fn counters(self) -> (Counter, Counter) {
        match self {
            BrakeCause::Wal => (Counter::CommitsSlowedWal, Counter::CommitsSlowedWalMicros),
            BrakeCause::Frames => (
                Counter::CommitsSlowedFrames,
                Counter::CommitsSlowedFramesMicros,
            ),
            BrakeCause::Stop => (Counter::CommitsSlowedStop, Counter::CommitsSlowedStopMicros),
        }
    }

    /// The word for it, as in INFO.
    pub const fn name(self) -> &'static str {
        match self {
            BrakeCause::Wal => "wal",
            BrakeCause::Frames => "frames",
            BrakeCause::Stop => "stop",
        }
    }
}

/// The brake as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrakeState {
    /// Why.
    pub cause: BrakeCause,
    /// Bytes of log that commits may write in a second, all together.
    pub bytes_per_s: u64,
}

/// What a commit has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Why.
    pub cause: BrakeCause,
    /// The connection's next request waits until then, monotonic nanoseconds.
    pub until_ns: u64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Words {
    /// Bytes of log in a second; 0: commits are not slowed. atomic: Relaxed, written by the
    /// checkpointer.
    bytes_per_s: AtomicU64,
    /// [`BrakeCause`]. atomic: as `bytes_per_s`; whoever sees a new one of the two with an old one
    /// of the other counts one commit under the wrong cause.
    cause: AtomicU32,
    reserved: AtomicU32,
    /// See [`Brake::pages_per_s`]. atomic: as `bytes_per_s`.
    pages_per_s: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Queue {
    /// When the last place in the queue has passed, monotonic nanoseconds. atomic: Relaxed.
    end_ns: AtomicU64,
}

/// Where that lies in the segment.
#[derive(Clone, Copy)]
pub struct BrakeRegions {
    words: Region<Words>,
    queue: Region<Queue>,
}

impl BrakeRegions {
    /// Reserves room.
    pub fn plan(plan: &mut Plan) -> BrakeRegions {
        BrakeRegions {
            words: plan.reserve(1),
            queue: plan.reserve(1),
        }
    }
}

/// How fast commits may be.
#[derive(Clone)]
pub struct Brake {
    words: One<Words>,
    queue: One<Queue>,
}

impl Brake {
    /// Opens this part of shared memory.
    pub fn open(segment: &Segment, regions: &BrakeRegions) -> Brake {
        Brake {
            words: segment.one(regions.words),
            queue: segment.one(regions.queue),
        }
    }

    /// Limits the log of all commits together; for the checkpointer.
    pub fn publish(&self, state: BrakeState) {
        let words = &self.words;
        words.cause.store(state.cause as u32, Ordering::Relaxed);
        words
            .bytes_per_s
            .store(state.bytes_per_s.max(1), Ordering::Relaxed);
    }

    /// Lets commits go as fast as they can; for the checkpointer.
    pub fn release(&self) {
        self.words.bytes_per_s.store(0, Ordering::Relaxed);
    }

    /// Says how fast pages are written; for the checkpointer.
    pub fn publish_speed(&self, pages_per_s: u64) {
        self.words.pages_per_s.store(pages_per_s, Ordering::Relaxed);
    }

    /// Pages that a checkpoint which does not rest writes in a second, as last seen; 0 before there
    /// was one.
    pub fn pages_per_s(&self) -> u64 {
        self.words.pages_per_s.load(Ordering::Relaxed)
    }

    /// Whether commits are slowed.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.words.bytes_per_s.load(Ordering::Relaxed) != 0
    }

    /// How; nothing, while they are not.
    pub fn state(&self) -> Option<BrakeState> {
        let bytes_per_s = self.words.bytes_per_s.load(Ordering::Relaxed);
        let cause = match self.words.cause.load(Ordering::Relaxed) {
            2 => BrakeCause::Frames,
            3 => BrakeCause::Stop,
            _ => BrakeCause::Wal,
        };
        (bytes_per_s > 0).then_some(BrakeState { cause, bytes_per_s })
    }

    /// Takes a place in the queue for what has written `bytes` of log, and says for how long its
    /// connection has to wait; nothing, if that is not worth while.
    pub fn charge(&self, now_ns: u64, bytes: u64) -> Option<Delay> {
        let BrakeState { cause, bytes_per_s } = self.state()?;
        let width = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s);
        let width_ns = u64::try_from(width).unwrap_or(u64::MAX).min(DELAY_MAX_NS);
        let place_after = |end_ns: u64| {
            let earliest_ns = now_ns.saturating_sub(SLACK_NS);
            end_ns.clamp(earliest_ns, now_ns + DELAY_MAX_NS) + width_ns
        };
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        let queue = &self.queue.end_ns;
        let before = queue.fetch_update(order.0, order.1, |end_ns| Some(place_after(end_ns)));
        let end_ns = place_after(before.unwrap_or_else(|end_ns| end_ns));
        let until_ns = end_ns.min(now_ns + DELAY_MAX_NS);
        (until_ns >= now_ns + DELAY_MIN_NS).then_some(Delay { cause, until_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn brake(bytes_per_s: u64) -> Brake {
        let mut plan = Plan::new();
        let regions = BrakeRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let brake = Brake::open(&segment, &regions);
        if bytes_per_s > 0 {
            brake.publish(BrakeState {
                cause: BrakeCause::Frames,
                bytes_per_s,
            });
        }
        brake
    }

    #[test]
    fn each_cause_is_counted_under_its_own_name() {
        for cause in BrakeCause::ALL {
            let (count, micros) = cause.counters();
            assert_eq!(count.name(), format!("commits_slowed_{}", cause.name()));
            assert_eq!(micros.name(), format!("commits_slowed_{}_us", cause.name()));
        }
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let brake = brake(0);
        assert_eq!((brake.is_on(), brake.state()), (false, None));
        assert_eq!(brake.charge(7, 1 << 30), None);
        brake.publish(BrakeState {
            cause: BrakeCause::Wal,
            bytes_per_s: 1,
        });
        assert!(brake.is_on() && brake.charge(7, 1).is_some());
        brake.release();
        assert_eq!(brake.charge(7, 1), None);
    }

    /// Connections that write as soon as they may: how many bytes a second, and the longest wait.
    fn rate_of(brake: &Brake, connections: usize, bytes: u64) -> (u64, u64) {
        let mut free_ns = vec![0; connections];
        let (mut written, mut longest_ns) = (0, 0);
        for now_ns in (0..10_000 * MS).step_by(MS as usize) {
            for free_ns in &mut free_ns {
                // As often as they may: a wait that is too short is none.
                for _ in 0..100 {
                    if *free_ns > now_ns {
                        break;
                    }
                    written += bytes;
                    if let Some(delay) = brake.charge(now_ns, bytes) {
                        assert_eq!(delay.cause, BrakeCause::Frames);
                        longest_ns = longest_ns.max(delay.until_ns - now_ns);
                        *free_ns = delay.until_ns;
                    }
                }
            }
        }
        (written / 10, longest_ns)
    }

    #[test]
    fn the_rate_is_that_of_all_together_however_many_there_are() {
        for connections in [1, 4, 64, 500] {
            let brake = brake(1_000_000);
            let (per_s, longest_ns) = rate_of(&brake, connections, 1000);
            assert!(
                (900_000..1_150_000).contains(&per_s),
                "{per_s} bytes/s by {connections}"
            );
            let fair_ns = connections as u64 * MS;
            assert!(
                longest_ns <= fair_ns + 2 * MS,
                "{longest_ns} ns of {fair_ns}"
            );
        }
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_delay() {
        let brake = brake(1000);
        let charge = || brake.charge(5 * DELAY_MAX_NS, 64 << 20).expect("a delay");
        // The first one finds a queue that has been empty for a while.
        assert_eq!(charge().until_ns, 6 * DELAY_MAX_NS - SLACK_NS);
        for _ in 0..10 {
            assert_eq!(charge().until_ns, 6 * DELAY_MAX_NS);
        }
        // And the queue is not longer than that either.
        let later = brake.charge(8 * DELAY_MAX_NS, 10).expect("a delay");
        assert_eq!(later.until_ns, 8 * DELAY_MAX_NS + 5 * MS);
    }
}

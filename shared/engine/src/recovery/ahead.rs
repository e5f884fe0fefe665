//! Whether a worker of redo tells the system of the pages that it will soon read.
//!
//! Each hint is a request of its own to the disk. Where a read takes a millisecond it saves nearly all
//! of that, since many are then under way at once; where it takes some tens of microseconds, or the
//! page is in the system's cache, it costs a worker more than it saves. So by default some reads are
//! timed now and then, and the hints follow from what they took.

use rd_base::words::RecoveryPrefetch;

/// How many pages ahead their reading is begun.
pub(super) const READS_AHEAD: usize = 64;
/// After so many pages in memory the next ones are taken to be there as well.
const RESIDENT_MAX: usize = 4 * READS_AHEAD;
/// Reads from one sample to the next.
const PERIOD: usize = 8192;
/// Reads of a sample: the first ones were begun ahead, or may have been, and tell nothing.
const UNTIMED: usize = READS_AHEAD;
const TIMED: usize = 32;
/// What a read takes on average, if it is worth a hint; nanoseconds. A hint took about 10 microseconds
/// of the processor, and a read from a fast disk 50 altogether.
const WORTH_NS: u64 = 200_000;

/// What a worker knows of its reads.
pub(super) struct ReadAhead {
    mode: RecoveryPrefetch,
    /// How many pages there were since the last one that was not in memory.
    resident: usize,
    /// Reads since the sample began.
    reads: usize,
    /// What those that were timed took.
    took_ns: u64,
    is_worth: bool,
}

impl ReadAhead {
    /// Of a worker that has read nothing.
    pub fn new(mode: RecoveryPrefetch) -> ReadAhead {
        ReadAhead {
            mode,
            resident: 0,
            reads: 0,
            took_ns: 0,
            is_worth: false,
        }
    }

    /// Whether a page that comes is to be looked for, and asked for if it is not in memory.
    pub fn is_wanted(&self) -> bool {
        let is_sampling = self.reads < UNTIMED + TIMED;
        self.resident < RESIDENT_MAX
            && match self.mode {
                RecoveryPrefetch::Off => false,
                RecoveryPrefetch::On => true,
                RecoveryPrefetch::Try => self.is_worth && !is_sampling,
            }
    }

    /// A page was in memory.
    pub fn found(&mut self) {
        self.resident += 1;
    }

    /// A page had to be read, which took so long.
    pub fn has_read(&mut self, took_ns: u64) {
        self.resident = 0;
        if (UNTIMED..UNTIMED + TIMED).contains(&self.reads) {
            self.took_ns += took_ns;
        }
        self.reads += 1;
        if self.reads == UNTIMED + TIMED {
            self.is_worth = self.took_ns >= TIMED as u64 * WORTH_NS;
        } else if self.reads == PERIOD {
            (self.reads, self.took_ns) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: usize = UNTIMED + TIMED;

    fn after(mode: RecoveryPrefetch, reads: &[(usize, u64)]) -> ReadAhead {
        let mut ahead = ReadAhead::new(mode);
        for (count, took_ns) in reads {
            (0..*count).for_each(|_| ahead.has_read(*took_ns));
        }
        ahead
    }

    #[test]
    fn slow_reads_are_begun_ahead_and_fast_ones_are_not() {
        let wanted = |reads: &[(usize, u64)]| after(RecoveryPrefetch::Try, reads).is_wanted();
        assert!(!wanted(&[]));
        assert!(!wanted(&[(SAMPLE - 1, 1_000_000)]), "nothing is known");
        assert!(wanted(&[(SAMPLE, 1_000_000)]));
        assert!(!wanted(&[(SAMPLE, 50_000)]));
        assert!(
            wanted(&[(SAMPLE, 1_000_000), (1000, 5_000)]),
            "those that were begun ahead tell nothing"
        );
    }

    #[test]
    fn a_disk_that_becomes_faster_or_slower_is_noticed() {
        let slow = (PERIOD, 1_000_000);
        let changed = [slow, (UNTIMED, 5_000), (TIMED, 50_000)];
        assert!(!after(RecoveryPrefetch::Try, &changed).is_wanted());
        let unchanged = [slow, (UNTIMED, 5_000), (TIMED, 1_000_000)];
        assert!(after(RecoveryPrefetch::Try, &unchanged).is_wanted());
        assert!(
            !after(RecoveryPrefetch::Try, &[slow]).is_wanted(),
            "not while a sample is taken"
        );
    }

    #[test]
    fn on_and_off_are_that() {
        let slow = [(SAMPLE, 1_000_000)];
        assert!(!after(RecoveryPrefetch::Off, &slow).is_wanted());
        assert!(after(RecoveryPrefetch::On, &[]).is_wanted());
    }

    #[test]
    fn what_is_in_memory_is_not_looked_for_long() {
        let mut ahead = ReadAhead::new(RecoveryPrefetch::On);
        (0..RESIDENT_MAX).for_each(|_| ahead.found());
        assert!(!ahead.is_wanted());
        ahead.has_read(0);
        assert!(ahead.is_wanted());
    }
}

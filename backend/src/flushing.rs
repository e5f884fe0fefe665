//! Whether a backend flushes the log itself, or leaves that to the walwriter.
//!
//! A backend that flushes does nothing else meanwhile; one that leaves it to the walwriter costs
//! itself and the machine a wake-up for each flush. Which is less is weighed by windows of time:
//!
//! - It leaves it if it is *busy*: if there is work for most of the time that its own flushes leave.
//!   Then it has better things to do than to wait for the disk.
//! - It leaves it if it has *readers*, connections that are served without waiting for the disk: if
//!   they would wait for its flushes for longer than the wake-ups take. So thousands of reads a
//!   second count on any disk, and those of a monitor only on one that is so slow that wake-ups are
//!   nothing beside it.

use rd_store::stats::Flushes;
use rd_sys::cpu;

/// Length of a window.
const WINDOW_NS: u64 = 100_000_000;
/// A backend is busy if it runs for so many of a hundred parts of the time in which it does not
/// flush.
const BUSY_PERCENT: u64 = 75;
/// Processor time that a flush by the walwriter costs more, microseconds: two changes of the process,
/// on a processor that others want too.
const WAKE_UP_US: u64 = 20;

/// What a backend knows of its last windows.
#[derive(Default)]
pub struct Flushing {
    began_ns: u64,
    /// What the thread had run when the window began.
    ran_ns: u64,
    /// For how long it has flushed in this window.
    flushed_ns: u64,
    /// Turns of connections, in this window, that did not wait for the disk.
    reads: u64,
    /// All processes' flushes when the window began.
    flushes: Flushes,
    is_left: bool,
}

impl Flushing {
    /// A connection has had a turn that did not wait for the disk.
    pub fn note_read(&mut self) {
        self.reads += 1;
    }

    /// The backend has flushed for so long.
    pub fn note_flush(&mut self, took_ns: u64) {
        self.flushed_ns += took_ns;
    }

    /// Whether flushing is left to others.
    pub fn is_left(&self) -> bool {
        self.is_left
    }

    /// Ends the window if it is over; asked once in a turn.
    pub fn look(&mut self, now_ns: u64, flushes: impl FnOnce() -> Flushes) {
        if now_ns >= self.began_ns + WINDOW_NS {
            self.end_window(now_ns, cpu::thread_ns(), flushes());
        }
    }

    fn end_window(&mut self, now_ns: u64, ran_ns: u64, flushes: Flushes) {
        let passed_ns = now_ns - self.began_ns;
        let free_ns = passed_ns.saturating_sub(self.flushed_ns);
        let is_busy = (ran_ns - self.ran_ns) * 100 >= free_ns * BUSY_PERCENT;
        let Flushes { count, micros } = flushes.since(&self.flushes);
        // A read waits for `micros / count`.
        let has_readers = self.reads > 0
            && u128::from(self.reads) * u128::from(micros)
                >= u128::from(count) * u128::from(count * WAKE_UP_US);
        *self = Flushing {
            began_ns: now_ns,
            ran_ns,
            flushed_ns: 0,
            reads: 0,
            flushes,
            is_left: is_busy || has_readers,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of 100 ms: what it ran and flushed, milliseconds; reads; all flushes and what each
    /// took, microseconds.
    struct Window {
        ran_ms: u64,
        flushed_ms: u64,
        reads: u64,
        flushes: u64,
        each_us: u64,
    }

    const CALM: Window = Window {
        ran_ms: 20,
        flushed_ms: 30,
        reads: 0,
        flushes: 300,
        each_us: 100,
    };

    fn is_left_after(window: &Window) -> bool {
        let mut flushing = Flushing::default();
        let before = Flushes {
            count: 7,
            micros: 70_000,
        };
        flushing.end_window(WINDOW_NS, 0, before);
        flushing.note_flush(window.flushed_ms * 1_000_000);
        (0..window.reads).for_each(|_| flushing.note_read());
        let after = Flushes {
            count: before.count + window.flushes,
            micros: before.micros + window.flushes * window.each_us,
        };
        flushing.end_window(2 * WINDOW_NS, window.ran_ms * 1_000_000, after);
        flushing.is_left()
    }

    #[test]
    fn who_has_time_flushes() {
        assert!(!is_left_after(&CALM));
    }

    #[test]
    fn who_is_busy_beside_its_flushes_leaves_them() {
        let busy = |ran_ms, flushed_ms| {
            is_left_after(&Window {
                ran_ms,
                flushed_ms,
                ..CALM
            })
        };
        assert!(busy(60, 30));
        assert!(busy(80, 0), "and goes on to leave them");
        assert!(!busy(60, 0));
    }

    #[test]
    fn many_reads_count_on_a_fast_disk_and_each_on_a_slow_one() {
        let read = |reads, flushes, each_us| {
            is_left_after(&Window {
                reads,
                flushes,
                each_us,
                ..CALM
            })
        };
        assert!(read(1000, 800, 100));
        assert!(!read(1, 800, 100), "a monitor");
        assert!(read(1, 10, 8000));
        assert!(read(1, 0, 0), "nobody writes");
    }

    #[test]
    fn a_window_that_is_not_over_changes_nothing() {
        let mut flushing = Flushing::default();
        flushing.look(WINDOW_NS - 1, || unreachable!("it is not over"));
    }

    #[test]
    fn counters_set_to_zero_do_no_harm() {
        let mut flushing = Flushing::default();
        let before = Flushes {
            count: 900,
            micros: 90_000,
        };
        flushing.end_window(WINDOW_NS, 0, before);
        flushing.note_read();
        flushing.end_window(2 * WINDOW_NS, 0, Flushes::default());
        assert!(flushing.is_left());
    }
}

//! How busy the processors are: this thread, and the machine.

use crate::clock;
use std::fs::File;
use std::io::Read;

/// Nanoseconds that this thread has run on a processor.
pub fn thread_ns() -> u64 {
    clock::read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds, all processors together, in which there was nothing to run since the machine
/// booted, in steps of some milliseconds; none where the system does not tell.
pub fn idle_ns() -> Option<u64> {
    // The line for all processors together is the first, and short.
    let mut head = [0; 256];
    let len = File::open("/proc/stat").ok()?.read(&mut head).ok()?;
    let ticks = idle_ticks(std::str::from_utf8(head.get(..len)?).ok()?)?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(ticks.saturating_mul(1_000_000_000 / u64::try_from(per_second).ok()?))
}

/// Of `/proc/stat`, whose first line is `cpu user nice system idle iowait ...` in clock ticks.
fn idle_ticks(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let mut ticks = words.skip(3).map(str::parse::<u64>);
    let idle = ticks.next()?.ok()?;
    let waiting = ticks.next()?.ok()?;
    Some(idle + waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_understood() {
        let text = "cpu  10 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(idle_ticks(text), Some(450));
        for wrong in ["", "cpu", "cpu0 1 2 3 4 5", "cpu 1 2 3 x 5", "cpu 1 2 3 4"] {
            assert_eq!(idle_ticks(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_thread_that_works_is_seen_working() {
        let before = thread_ns();
        while thread_ns() < before + 1_000_000 {}
        assert!(idle_ns().is_some(), "Linux tells");
    }
}

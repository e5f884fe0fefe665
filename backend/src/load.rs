//! Whether a backend has time for all its connections.
//!
//! A backend is crowded if it keeps its processor busy while others have nothing to run: then some
//! of its connections are better served by another one. If no processor is idle, another backend
//! would only take time from the clients and from this one, and each flush would serve fewer
//! commits. Looked at by windows of time; one is not enough, since clients come in bursts.

use rd_sys::cpu;

/// Length of a window.
const WINDOW_NS: u64 = 100_000_000;
/// A backend is busy if it runs for so many of a hundred parts of the time.
const BUSY_PERCENT: u64 = 90;
/// Processors are idle if for so many of a hundred parts of the time one has nothing to run.
const IDLE_PERCENT: u64 = 30;
/// For how long a backend that could not be relieved is not looked at.
const REST_NS: u64 = 2_000_000_000;

/// The windows of one backend.
#[derive(Default)]
pub struct Load {
    began_ns: u64,
    /// What the thread had run when the window began.
    ran_ns: u64,
    /// What all processors had idled when the window began, if the window before was busy.
    idled_ns: Option<u64>,
}

impl Load {
    /// Whether it is crowded; asked once in a turn.
    pub fn is_crowded(&mut self, now_ns: u64) -> bool {
        now_ns >= self.began_ns + WINDOW_NS
            && self.end_window(now_ns, cpu::thread_ns(), cpu::idle_ns)
    }

    /// Nothing could be done about it; asked again later.
    pub fn rest(&mut self, now_ns: u64) {
        self.began_ns = now_ns + REST_NS;
        self.ran_ns = u64::MAX;
    }

    fn end_window(
        &mut self,
        now_ns: u64,
        ran_ns: u64,
        idle_ns: impl FnOnce() -> Option<u64>,
    ) -> bool {
        let passed_ns = now_ns - self.began_ns;
        let ran = ran_ns.saturating_sub(self.ran_ns);
        (self.began_ns, self.ran_ns) = (now_ns, ran_ns);
        let before = self.idled_ns.take();
        if ran * 100 < passed_ns * BUSY_PERCENT {
            return false;
        }
        // Where the system does not tell, as good as idle: the other backend is there to be used.
        let idled_ns = idle_ns().unwrap_or(u64::MAX);
        self.idled_ns = Some(idled_ns);
        let is_idle = |before: u64| {
            idled_ns == u64::MAX
                || idled_ns.saturating_sub(before) * 100 >= passed_ns * IDLE_PERCENT
        };
        before.is_some_and(is_idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window of a second: for how many milliseconds the thread ran, and for how many processors
    /// idled, if the system tells.
    type Window = (u64, Option<u64>);

    /// After which windows it was crowded.
    fn crowded(windows: &[Window]) -> Vec<bool> {
        let mut load = Load::default();
        let (mut now, mut ran, mut idled) = (0, 0, 0);
        let end = |&(ran_ms, idle_ms): &Window| {
            now += 1_000_000_000;
            ran += ran_ms * 1_000_000;
            idled += idle_ms.unwrap_or(0) * 1_000_000;
            load.end_window(now, ran, || idle_ms.map(|_| idled))
        };
        windows.iter().map(end).collect()
    }

    #[test]
    fn busy_beside_idle_processors_for_two_windows_is_crowded() {
        let (busy, full, calm) = ((1000, Some(900)), (1000, Some(100)), (800, Some(900)));
        assert_eq!(crowded(&[busy, busy]), [false, true]);
        assert_eq!(crowded(&[busy, full]), [false, false]);
        assert_eq!(crowded(&[busy, calm, busy]), [false; 3]);
        assert_eq!(crowded(&[(1000, None), (1000, None)]), [false, true]);
        assert_eq!(crowded(&[calm, calm]), [false, false]);
    }

    #[test]
    fn who_rests_is_asked_later() {
        let mut load = Load::default();
        load.rest(1_000_000_000);
        assert!(!load.is_crowded(1_500_000_000));
        assert_eq!(load.began_ns, 3_000_000_000);
        assert!(!load.is_crowded(3_100_000_000));
        assert_eq!(load.began_ns, 3_100_000_000);
    }
}

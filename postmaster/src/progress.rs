//! How far recovery is, for those who wait: the pid file's status line and the `-LOADING` reply.
//!
//! The numbers come from shared memory, which the postmaster does not trust: whatever they are,
//! something sensible is printed.

use crate::pidfile::Progress;
use rd_store::shared::{Phase, RedoProgress};

/// What to show, for redo that has run for `elapsed_ms`; none before recovery.
pub fn progress(phase: Phase, redo: RedoProgress, elapsed_ms: u64) -> Option<Progress> {
    match phase {
        Phase::Starting | Phase::Running => None,
        Phase::Repairing => Some(Progress {
            phase: "repair",
            percent: None,
            eta_s: None,
        }),
        Phase::Redo => {
            let total = redo.until.saturating_sub(redo.from);
            let done = redo.at.saturating_sub(redo.from).min(total);
            Some(Progress {
                phase: "redo",
                percent: scaled(done, 100, total).and_then(|percent| u8::try_from(percent).ok()),
                eta_s: scaled(total - done, elapsed_ms, done).map(|ms| ms.div_ceil(1000)),
            })
        }
    }
}

/// `part * by / whole`; none if there is no whole.
fn scaled(part: u64, by: u64, whole: u64) -> Option<u64> {
    let product = u128::from(part) * u128::from(by);
    let quotient = product.checked_div(u128::from(whole))?;
    Some(u64::try_from(quotient).unwrap_or(u64::MAX))
}

/// The progress in words, for the `-LOADING` reply.
pub fn in_words(progress: Progress) -> String {
    let Progress { phase, .. } = progress;
    match (progress.percent, progress.eta_s) {
        (Some(percent), Some(eta_s)) => format!("{phase} {percent}%, about {eta_s} s left"),
        (Some(percent), None) => format!("{phase} {percent}%"),
        (None, _) => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redo(from: u64, at: u64, until: u64, elapsed_ms: u64) -> String {
        let redo = RedoProgress { from, at, until };
        in_words(progress(Phase::Redo, redo, elapsed_ms).expect("in recovery"))
    }

    #[test]
    fn percent_and_time_left() {
        assert_eq!(redo(1000, 1000, 2000, 0), "redo 0%");
        assert_eq!(redo(1000, 1250, 2000, 500), "redo 25%, about 2 s left");
        assert_eq!(redo(1000, 2000, 2000, 500), "redo 100%, about 0 s left");
    }

    #[test]
    fn nonsense_is_survived() {
        assert_eq!(redo(5, 5, 5, 1), "redo");
        assert_eq!(redo(9, 3, 1, 1), "redo");
        assert_eq!(redo(0, u64::MAX, 10, 7), "redo 100%, about 0 s left");
        let endless = redo(0, 1, u64::MAX, u64::MAX);
        assert_eq!(
            endless,
            format!("redo 0%, about {} s left", u64::MAX.div_ceil(1000))
        );
    }

    #[test]
    fn only_recovery_has_progress() {
        let redo = RedoProgress {
            from: 0,
            at: 1,
            until: 2,
        };
        assert_eq!(progress(Phase::Starting, redo, 1), None);
        assert_eq!(progress(Phase::Running, redo, 1), None);
        let repairing = progress(Phase::Repairing, redo, 1).expect("in recovery");
        assert_eq!(in_words(repairing), "repair");
    }
}

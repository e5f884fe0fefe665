//! Falls of a server that nobody has caused: a process that panics, or that the kernel ends, under load.
//!
//! A server restarts after one and recovers, so that nothing need be lost; only its log tells. Whoever
//! harms it on purpose knows which processes it has sent which signals ([`Cluster::send`]).

use crate::support::cluster::Cluster;
use crate::support::log::label;
use nix::sys::signal::Signal;

/// Signals that the postmaster sends itself, of which a process dies that has no handler for them yet.
const OF_THE_POSTMASTER: [Signal; 2] = [Signal::SIGTERM, Signal::SIGQUIT];
/// What the postmaster says before it sends SIGKILL.
const OVERDUE: &str = "did not leave within shutdown_kill_timeout";

/// Reads the log of a cluster piece by piece.
#[derive(Debug, Default)]
pub struct Watch {
    /// Bytes that were read.
    read: usize,
}

impl Watch {
    /// The lines of the log since the last look that tell of a fall for which nothing accounts: no signal
    /// that the cluster was made to send, and none of the texts that are `permitted` now.
    pub fn look(&mut self, cluster: &Cluster, permitted: &[&str]) -> Vec<String> {
        let log = cluster.log();
        let news = log.get(self.read..).expect("a log only grows");
        // A line that is being written is for the next look.
        let news = &news[..news.rfind('\n').map_or(0, |end| end + 1)];
        self.read += news.len();
        let has_sent = |pid, signal| cluster.has_sent(pid, signal);
        unaccounted(news, permitted, has_sent)
    }
}

fn unaccounted(
    log: &str,
    permitted: &[&str],
    has_sent: impl Fn(u32, Signal) -> bool,
) -> Vec<String> {
    let is_overdue = log.contains(OVERDUE);
    let is_accounted = |line: &str| {
        let ended = ended(line);
        let is_ours = ended.as_ref().is_some_and(|(pid, end)| match end {
            // By what it does itself when it is told to.
            End::Code => has_sent(*pid, Signal::SIGTERM),
            End::Signal(signal) => {
                has_sent(*pid, *signal)
                    || OF_THE_POSTMASTER.contains(signal)
                    || (*signal == Signal::SIGKILL && is_overdue)
            }
            End::UnknownSignal => false,
        });
        is_ours || permitted.iter().any(|text| line.contains(text))
    };
    let lines = log.lines().filter(|line| {
        let is_panic = label(line) == Some("PANIC") || line.contains("panicked at");
        is_panic || ended(line).is_some()
    });
    let unaccounted = lines.filter(|line| !is_accounted(line));
    unaccounted.map(str::to_owned).collect()
}

/// How a process has ended that was not to.
enum End {
    Code,
    Signal(Signal),
    UnknownSignal,
}

/// The process whose end the postmaster tells of here, and how it came: `backend 0 (PID 17) was terminated
/// by signal 11: SIGSEGV`.
fn ended(line: &str) -> Option<(u32, End)> {
    let (_, rest) = line.split_once(" (PID ")?;
    let (pid, how) = rest.split_once(") ")?;
    let pid = pid.parse().ok()?;
    if how.starts_with("exited with exit code") {
        return Some((pid, End::Code));
    }
    let signal = how.strip_prefix("was terminated by signal ")?;
    let name = signal.split(": ").nth(1).map(str::parse);
    Some((
        pid,
        name.and_then(Result::ok)
            .map_or(End::UnknownSignal, End::Signal),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
        2026-11-30 00:00:00.000 UTC [1] postmaster LOG:  backend 0 (PID 7) was terminated by signal 9: SIGKILL\n\
        2026-11-30 00:00:00.000 UTC [1] postmaster LOG:  backend 1 (PID 8) was terminated by signal 11: SIGSEGV\n\
        2026-11-30 00:00:00.000 UTC [1] postmaster LOG:  startup (PID 9) was terminated by signal 15: SIGTERM\n\
        2026-11-30 00:00:00.000 UTC [1] postmaster LOG:  startup (PID 10) exited with exit code 1\n\
        2026-11-30 00:00:00.000 UTC [6] backend 2 PANIC:  could not sync file \"wal/1\"\n\
        2026-11-30 00:00:00.000 UTC [6] backend 2 LOG:  PANIC is only a word here\n";

    fn found(permitted: &[&str], sent: &[(u32, Signal)]) -> Vec<String> {
        unaccounted(LOG, permitted, |pid, signal| sent.contains(&(pid, signal)))
    }

    #[test]
    fn what_was_sent_or_is_permitted_accounts_for_a_fall_and_nothing_else_does() {
        let ends = |lines: &[String], ends: &[&str]| {
            let pairs = lines.iter().zip(ends);
            lines.len() == ends.len() && pairs.clone().all(|(line, end)| line.ends_with(end))
        };
        let all = found(&[], &[]);
        let expected = ["9: SIGKILL", "11: SIGSEGV", "exit code 1", "\"wal/1\""];
        assert!(ends(&all, &expected), "{all:#?}");
        let sent = [
            (7, Signal::SIGKILL),
            (8, Signal::SIGKILL),
            (10, Signal::SIGTERM),
        ];
        let rest = found(&["could not sync"], &sent);
        assert!(ends(&rest, &["11: SIGSEGV"]), "{rest:#?}");
    }
}

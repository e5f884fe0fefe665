//! Removes keys whose time has come, in the backend that is the remover (`rd_store::expiry`).
//!
//! A key that has ended is invisible at once; removing it only gives its room back, by commits like
//! any others. The remover sleeps until the soonest end that is known, then sweeps through all
//! keys, a little in each turn: as many commits as `expire_rate` allows, and looking for more for
//! [`LOOK_NS`].
//!
//! # The clock
//!
//! Whether a key has ended is told by the wall clock, which may be set. What a wrong clock hides
//! comes back when it is set right, unless it was removed. So nothing is removed until the wall
//! clock has gone as evenly as the monotonic one for `expire_clock_settle`: after a start, and
//! after each jump of either direction by more than [`JUMP_US`].
//!
//! Invariant: a commit of the remover deletes only keys that have ended at the time of the commit,
//! by a clock that was found even in the same turn.

use crate::server::Server;
use rd_base::counters::Counter;
use rd_engine::{EngineError, NamespaceId};
use rd_store::expiry::NEVER_MS;
use rd_store::namespaces::NAMESPACES_MAX;

/// From one turn of a sweep to the next.
const TURN_NS: u64 = 20_000_000;
/// From the end of a sweep to the begin of the next, and from a look at the clock to the next.
const PAUSE_NS: u64 = 1_000_000_000;
/// After an error.
const ERROR_PAUSE_NS: u64 = 10_000_000_000;
/// However far the soonest end is, the clock is looked at so often while there is one.
const LOOK_AT_CLOCK_NS: u64 = 60_000_000_000;
/// For how long a turn looks for keys that have ended.
const LOOK_NS: u64 = 500_000;
/// Keys removed by one commit.
const BATCH: usize = 64;
/// The clocks may differ by so much from one look to the next, and by a thousandth of the time in
/// between.
const JUMP_US: u64 = 500_000;

/// Tells whether the wall clock can be trusted.
#[derive(Debug, Default)]
struct ClockGuard {
    /// Wall clock and monotonic clock at the last look, in microseconds.
    last: Option<(u64, u64)>,
    /// Since when the wall clock has been even, by the monotonic one.
    even_since_us: u64,
}

impl ClockGuard {
    /// Looks at the clocks; true if the wall clock has been even for `settle_us`.
    fn look(&mut self, wall_us: u64, monotonic_us: u64, settle_us: u64) -> bool {
        let is_even = self.last.is_some_and(|(wall, monotonic)| {
            let passed = monotonic_us.saturating_sub(monotonic);
            wall_us.abs_diff(wall + passed) <= JUMP_US + passed / 1000
        });
        if !is_even {
            if self.last.is_some() {
                log::warn!(
                    "the wall clock has jumped; keys that end are not removed until it has been \
                     even for expire_clock_settle"
                );
            }
            self.even_since_us = monotonic_us;
        }
        self.last = Some((wall_us, monotonic_us));
        monotonic_us - self.even_since_us >= settle_us
    }
}

/// A way through all keys of all namespaces.
#[derive(Debug)]
struct Sweep {
    namespace: usize,
    from: Vec<u8>,
    /// The soonest end of a key that has not ended yet.
    soonest_ms: u64,
}

/// The remover's state; of no use in the other backends.
#[derive(Debug, Default)]
pub struct Expirer {
    guard: ClockGuard,
    sweep: Option<Sweep>,
    /// Keys found, to be removed, of the sweep's namespace.
    ended: Vec<Vec<u8>>,
    /// Not before this, by the monotonic clock.
    next_turn_ns: u64,
}

impl Expirer {
    /// When it has something to do, by the monotonic clock; none if not before it is told.
    pub fn due_ns(&self, server: &Server) -> Option<u64> {
        let expiry = &server.store.shared.expiry;
        if !expiry.is_remover(server.store.slot) || server.config.expire_rate() == 0 {
            return None;
        }
        if self.sweep.is_some() {
            return Some(self.next_turn_ns);
        }
        let next_ms = expiry.next_ms();
        if next_ms == NEVER_MS {
            return None;
        }
        let left_ms = next_ms.saturating_sub(server.wall_us() / 1000);
        let left_ns = left_ms.saturating_mul(1_000_000).min(LOOK_AT_CLOCK_NS);
        Some(self.next_turn_ns.max(server.now_ns.saturating_add(left_ns)))
    }

    /// Does what is due.
    pub fn turn(&mut self, server: &mut Server) {
        let now_ns = server.now_ns;
        if now_ns < self.next_turn_ns || self.due_ns(server).is_none_or(|due| due > now_ns) {
            return;
        }
        let settle_us = server.config.expire_clock_settle().as_micros() as u64;
        let monotonic_us = server.store.clock.monotonic_ns() / 1000;
        let wall_us = server.wall_us();
        if !self.guard.look(wall_us, monotonic_us, settle_us) {
            // Not longer than it takes to settle, nor than a jump back should stay unnoticed.
            self.next_turn_ns = now_ns + PAUSE_NS.min(settle_us.saturating_mul(1000)).max(TURN_NS);
            return;
        }
        if self.sweep.is_none() {
            self.begin(server, wall_us / 1000);
        }
        let pause_ns = match self.advance(server, wall_us / 1000) {
            Ok(true) => TURN_NS,
            Ok(false) => PAUSE_NS,
            Err(EngineError::Park(reason)) => {
                server.park(reason);
                TURN_NS
            }
            // Dropped or closed in between, with all that was to be removed.
            Err(
                EngineError::NoNamespace
                | EngineError::NamespaceReadOnly(_)
                | EngineError::NamespaceOffline(_),
            ) => {
                self.ended.clear();
                self.next_namespace(server);
                TURN_NS
            }
            Err(error) => {
                log::error!("could not remove keys that have ended: {error}");
                // All is looked through anew.
                self.ended.clear();
                self.sweep = None;
                server.store.shared.expiry.found(0);
                ERROR_PAUSE_NS
            }
        };
        self.next_turn_ns = now_ns + pause_ns;
    }

    fn begin(&mut self, server: &Server, now_ms: u64) {
        let expiry = &server.store.shared.expiry;
        if expiry.next_ms() <= now_ms {
            expiry.begin();
            self.sweep = Some(Sweep {
                namespace: 0,
                from: Vec::new(),
                soonest_ms: NEVER_MS,
            });
        }
    }

    /// Goes on with the sweep; false at its end.
    fn advance(&mut self, server: &mut Server, now_ms: u64) -> Result<bool, EngineError> {
        let turns_per_s = 1_000_000_000 / TURN_NS;
        let mut allowed = u64::from(server.config.expire_rate()).div_ceil(turns_per_s) as usize;
        let until_ns = server.store.clock.monotonic_ns() + LOOK_NS;
        while let Some(sweep) = &mut self.sweep {
            // What cannot be written is swept when it can be again.
            let is_writable = |id: &NamespaceId| {
                let access = server.engine.access(*id);
                access.is_ok_and(|(access, _)| access.is_writable())
            };
            let namespace = server.engine.namespace(sweep.namespace);
            let Some(namespace) = namespace.filter(is_writable) else {
                self.ended.clear();
                self.next_namespace(server);
                continue;
            };
            if !self.ended.is_empty() {
                let count = self.ended.len().min(BATCH).min(allowed);
                if count == 0 {
                    return Ok(true);
                }
                self.remove(server, namespace, count)?;
                allowed -= count;
                continue;
            }
            let clock = server.store.clock.clone();
            if clock.monotonic_ns() >= until_ns {
                return Ok(true);
            }
            let swept = server
                .engine
                .sweep(namespace, &sweep.from, now_ms, &mut |swept| {
                    swept.ended.len() < allowed && clock.monotonic_ns() < until_ns
                })?;
            self.ended = swept.ended;
            sweep.soonest_ms = sweep.soonest_ms.min(swept.soonest_ms.unwrap_or(NEVER_MS));
            match swept.next {
                Some(next) => sweep.from = next,
                None if self.ended.is_empty() => self.next_namespace(server),
                // The place of the last key: what follows is nothing.
                None => sweep.from = self.ended.last().cloned().unwrap_or_default(),
            }
        }
        Ok(false)
    }

    /// Goes on to the next namespace, or ends the sweep.
    fn next_namespace(&mut self, server: &Server) {
        let Some(sweep) = &mut self.sweep else {
            return;
        };
        sweep.namespace += 1;
        sweep.from.clear();
        if sweep.namespace >= NAMESPACES_MAX {
            server.store.shared.expiry.found(sweep.soonest_ms);
            self.sweep = None;
        }
    }

    /// Removes the last `count` of the keys found.
    fn remove(
        &mut self,
        server: &mut Server,
        namespace: NamespaceId,
        count: usize,
    ) -> Result<(), EngineError> {
        let first = self.ended.len() - count;
        let batch = self.ended.get(first..).unwrap_or(&[]);
        let keys: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        let removed = server.engine.remove_ended(namespace, &keys)?;
        server.add(Counter::ExpiredKeys, removed.result as u64);
        // Nobody waits for it.
        server.store.shared.wal.request_lazy_flush(removed.lsn);
        self.ended.truncate(first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_clock_is_trusted_once_it_has_been_even_for_long_enough() {
        let mut guard = ClockGuard::default();
        let settle = 10 * SECOND;
        let mut look = |wall: u64, monotonic: u64| guard.look(wall, monotonic, settle);
        let start = 1_700_000_000 * SECOND;
        assert!(!look(start, 0), "nothing is known at first");
        assert!(!look(start + 9 * SECOND, 9 * SECOND));
        assert!(look(start + 10 * SECOND, 10 * SECOND));
        // Set forward by a year.
        let year = 31_536_000 * SECOND;
        assert!(!look(start + year + 11 * SECOND, 11 * SECOND));
        assert!(!look(start + year + 20 * SECOND, 20 * SECOND));
        // And back again, before it has settled.
        assert!(!look(start + 20 * SECOND, 20 * SECOND));
        assert!(!look(start + 29 * SECOND, 29 * SECOND));
        assert!(look(start + 30 * SECOND, 30 * SECOND));
        // Slowly brought in line is no jump.
        assert!(look(start + 1030 * SECOND + SECOND, 1030 * SECOND));
        // Asleep for an hour, which the monotonic clock has not counted.
        assert!(!look(start + 4700 * SECOND, 1031 * SECOND));
    }
}

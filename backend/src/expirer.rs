//! Removes keys whose time has come, in the backend that is the remover (`rd_store::expiry`).
//!
//! A key that has ended is invisible at once; removing it only gives its room back, by commits like
//! any others. The remover sleeps until the soonest end that is known, then sweeps through all
//! keys, a little in each turn: as many commits as `expire_rate` allows, and looking for more for
//! [`LOOK_NS`]. What lies on a page that cannot be read stays, and is looked for again after ten minutes;
//! where the page above it cannot be read either, so does the rest of the namespace.
//!
//! Invariant: a commit of the remover deletes only keys that have ended at the time of the commit,
//! by a clock that was found even in the same turn (`clock_guard.rs`).

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
/// When what lies on a damaged page is looked for again, and how often it is told of.
const DAMAGED_PAUSE_MS: u64 = 600_000;
/// However far the soonest end is, the clock is looked at so often while there is one.
const LOOK_AT_CLOCK_NS: u64 = 60_000_000_000;
/// For how long a turn looks for keys that have ended.
const LOOK_NS: u64 = 500_000;
/// Keys removed by one commit.
const BATCH: usize = 64;

/// A way through all keys of all namespaces.
#[derive(Debug)]
struct Sweep {
    namespace: usize,
    from: Vec<u8>,
    /// The soonest end of a key that has not ended yet.
    soonest_ms: u64,
    /// There were pages that could not be read.
    met_damage: bool,
}

/// Whether it is about a page that cannot be read, or a tree that is not whole: it stays so.
fn is_damage(error: &EngineError) -> bool {
    matches!(error, EngineError::Page(_) | EngineError::Tree { .. })
}

/// The remover's state; of no use in the other backends.
#[derive(Debug, Default)]
pub struct Expirer {
    sweep: Option<Sweep>,
    /// Keys found, to be removed, of the sweep's namespace.
    ended: Vec<Vec<u8>>,
    /// Not before this, by the monotonic clock.
    next_turn_ns: u64,
    /// Damage is not told of before this.
    tells_again_ns: u64,
    credit: Credit,
}

/// How many keys may be removed in a turn: in the long run as many as the rate says, also where that is
/// less than a key, or not a whole number of keys, a turn.
#[derive(Debug, Default)]
struct Credit {
    /// In parts of a key, of which a key has [`Credit::PARTS`].
    parts: u64,
}

impl Credit {
    const PARTS: u64 = 1_000_000_000 / TURN_NS;

    /// A turn begins. What the one before was allowed and did not use is lost.
    fn begin_turn(&mut self, keys_per_s: u32) {
        self.parts = self.parts % Self::PARTS + u64::from(keys_per_s);
    }

    fn keys(&self) -> usize {
        (self.parts / Self::PARTS) as usize
    }

    fn take(&mut self, keys: usize) {
        self.parts -= keys as u64 * Self::PARTS;
    }
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
        let wall_us = server.wall_us();
        if !server.trusts_clock() {
            // Not longer than it takes to settle, nor than a jump back should stay unnoticed.
            let settle_ns = server.config.expire_clock_settle().as_nanos() as u64;
            self.next_turn_ns = now_ns + PAUSE_NS.min(settle_ns).max(TURN_NS);
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
            Err(error) if is_damage(&error) => {
                self.tell_of(server, &error);
                self.pass_over(server);
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
                met_damage: false,
            });
        }
    }

    /// Goes on with the sweep; false at its end.
    fn advance(&mut self, server: &mut Server, now_ms: u64) -> Result<bool, EngineError> {
        self.credit.begin_turn(server.config.expire_rate());
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
                let count = self.ended.len().min(BATCH).min(self.credit.keys());
                if count == 0 {
                    return Ok(true);
                }
                match self.remove(server, namespace, count) {
                    Ok(()) => self.credit.take(count),
                    // A page that this takes: a leaf that was read can be full.
                    Err(error) if is_damage(&error) => {
                        self.ended.truncate(self.ended.len() - count);
                        self.tell_of(server, &error);
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let clock = server.store.clock.clone();
            if clock.monotonic_ns() >= until_ns {
                return Ok(true);
            }
            // Where none may be removed now, one that is found tells that there is something to do.
            let most = self.credit.keys().max(1);
            let swept = server
                .engine
                .sweep(namespace, &sweep.from, now_ms, &mut |swept| {
                    swept.ended.len() < most && clock.monotonic_ns() < until_ns
                })?;
            self.ended = swept.ended;
            sweep.soonest_ms = sweep.soonest_ms.min(swept.soonest_ms.unwrap_or(NEVER_MS));
            match swept.next {
                Some(next) => sweep.from = next,
                None if self.ended.is_empty() => self.next_namespace(server),
                // Behind the last key: what follows is nothing.
                None => {
                    sweep.from = self.ended.last().cloned().unwrap_or_default();
                    sweep.from.push(0);
                }
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
            if sweep.met_damage {
                let again_ms = server.wall_us() / 1000 + DAMAGED_PAUSE_MS;
                sweep.soonest_ms = sweep.soonest_ms.min(again_ms);
            }
            server.store.shared.expiry.found(sweep.soonest_ms);
            self.sweep = None;
        }
    }

    /// Notes that keys stay which have ended.
    fn tell_of(&mut self, server: &Server, error: &EngineError) {
        if let Some(sweep) = &mut self.sweep {
            sweep.met_damage = true;
        }
        if server.now_ns >= self.tells_again_ns {
            self.tells_again_ns = server.now_ns + DAMAGED_PAUSE_MS * 1_000_000;
            log::error!(
                "keys that have ended stay where a page cannot be read; others are removed: {error}"
            );
        }
    }

    /// Goes on behind a leaf that cannot be read; behind the namespace, if that is so of the page above it.
    fn pass_over(&mut self, server: &Server) {
        let Some(sweep) = &mut self.sweep else {
            return;
        };
        let behind = server
            .engine
            .namespace(sweep.namespace)
            .and_then(|namespace| server.engine.sweep_behind(namespace, &sweep.from).ok()?);
        match behind {
            Some(next) => sweep.from = next,
            None => self.next_namespace(server),
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

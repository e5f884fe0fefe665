//! Commits that are slowed: what `rd_store::brake` publishes, applied to connections.
//!
//! A backend never sleeps for it. A connection whose commit is charged more time than has passed
//! runs no further command, and is not read from, until that time is over; its replies go out as
//! ever, and other connections are served meanwhile.

use crate::connection::Connection;
use crate::server::Server;
use crate::slab::Slab;
use rd_base::counters::Counter;

/// What a command is charged from: the log that this process has written before it. Nothing, while
/// commits are not slowed.
pub struct Mark(Option<u64>);

/// To be called before a command.
#[inline]
pub fn mark(server: &Server) -> Mark {
    let shared = &server.store.shared;
    let written = || shared.stats.of(server.store.slot, Counter::WalBytes);
    Mark(shared.brake.is_on().then(written))
}

/// Charges the log that was written since `mark` to the connection.
#[inline]
pub fn charge(server: &Server, connection: &mut Connection, mark: Mark) {
    if let Mark(Some(before)) = mark {
        charge_since(server, connection, before);
    }
}

#[cold]
fn charge_since(server: &Server, connection: &mut Connection, before: u64) {
    let shared = &server.store.shared;
    let written = shared.stats.of(server.store.slot, Counter::WalBytes);
    // Somebody may have set the counters to 0.
    let bytes = written.saturating_sub(before);
    if bytes == 0 {
        return;
    }
    let Some(delay) = shared.brake.charge(server.now_ns, bytes) else {
        return;
    };
    if connection.is_gone {
        // There is nobody to be slowed, and what it has sent is to be carried out.
        return;
    }
    connection.braked_until_ns = delay.until_ns;
    let micros = (delay.until_ns - server.now_ns) / 1000;
    let (count, time) = delay.cause.counters();
    server.count(count);
    server.add(time, micros);
}

/// The connections that are held back, by their tokens.
#[derive(Default)]
pub struct Braked {
    tokens: Vec<u64>,
    /// When the first of them is free again, monotonic nanoseconds.
    first_ns: u64,
}

impl Braked {
    /// Takes a connection up that is held back at `now_ns`.
    pub fn note(&mut self, token: u64, connection: &mut Connection, now_ns: u64) {
        if connection.braked_until_ns <= now_ns || connection.is_braked {
            return;
        }
        connection.is_braked = true;
        self.first_ns = match self.tokens.is_empty() {
            true => connection.braked_until_ns,
            false => self.first_ns.min(connection.braked_until_ns),
        };
        self.tokens.push(token);
    }

    /// When the first is free again.
    pub fn first_ns(&self) -> Option<u64> {
        (!self.tokens.is_empty()).then_some(self.first_ns)
    }

    /// Gives those that are free again at `now_ns`.
    pub fn release(&mut self, connections: &mut Slab<Connection>, now_ns: u64) -> Vec<u64> {
        let mut free = Vec::new();
        if self.first_ns().is_none_or(|first_ns| first_ns > now_ns) {
            return free;
        }
        self.first_ns = u64::MAX;
        self.tokens.retain(|token| {
            let Some(connection) = connections.get_mut(*token) else {
                // Closed since.
                return false;
            };
            let stays = connection.braked_until_ns > now_ns;
            if stays {
                self.first_ns = self.first_ns.min(connection.braked_until_ns);
            } else {
                connection.is_braked = false;
                free.push(*token);
            }
            stays
        });
        free
    }
}

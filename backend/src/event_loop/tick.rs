//! What is done about once a second: connections, transactions and long replies that have taken too
//! long are ended.

use super::EventLoop;
use crate::connection::{Connection, Hold};
use crate::transaction::AgeLimits;
use rd_base::Config;
use rd_base::counters::Counter;

/// How often idle connections are looked at.
const TICK_NS: u64 = 1_000_000_000;

/// For how long what may last; 0 is for ever.
struct Limits {
    quiet_ns: u64,
    stall_ns: u64,
    ages: AgeLimits,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    /// Its client is not heard of.
    Quiet,
    /// Its client takes nothing of the reply under way.
    Stalled,
    /// The snapshot that the reply under way is made from is too old.
    Old,
}

impl Limits {
    fn of(config: &Config) -> Limits {
        Limits {
            quiet_ns: config.timeout().as_nanos() as u64,
            stall_ns: config.long_read_stall_timeout().as_nanos() as u64,
            ages: AgeLimits::of(config),
        }
    }

    /// Why the connection is to be closed, if it is.
    fn overdue(&self, connection: &Connection, now_ns: u64) -> Option<Overdue> {
        // Also one that owes the rest of a request, or does not read, as Redis does.
        let quiet_ns = connection.quiet_ns(now_ns);
        if self.quiet_ns != 0 && quiet_ns.is_some_and(|ns| ns > self.quiet_ns) {
            return Some(Overdue::Quiet);
        }
        if self.stall_ns != 0 && connection.is_stalled(now_ns, self.stall_ns) {
            return Some(Overdue::Stalled);
        }
        let age_ns = connection.stream_age_ns(now_ns);
        let is_old = age_ns.is_some_and(|age_ns| self.ages.is_too_old(age_ns));
        is_old.then_some(Overdue::Old)
    }

    /// Ends the transaction of a connection that is not closed, and gives its watched keys up, if it
    /// is time for that; whether a transaction was ended.
    fn end_forgotten(&self, connection: &mut Connection, now_ns: u64) -> bool {
        let idle_ns = match connection.hold {
            Hold::Free => now_ns.saturating_sub(connection.session.active_at_ns),
            // It is the server that its client waits for.
            Hold::Parked | Hold::Waiting(_) | Hold::Closing => 0,
        };
        let transactions = &mut connection.session.transactions;
        if connection.stream.is_some() {
            // Its transaction ends with it.
            transactions.lose_old_watch(now_ns, &self.ages);
            return false;
        }
        transactions.end_forgotten(now_ns, idle_ns, &self.ages)
    }
}

impl EventLoop {
    /// Looks at all connections, and says when to do so next.
    pub(super) fn tick(&mut self) {
        let now_ns = self.server.now_ns;
        self.next_tick_ns = now_ns + TICK_NS;
        self.server.look_at_clock();
        let limits = Limits::of(&self.server.config);
        for token in self.connections.tokens() {
            let Some(connection) = self.connections.get_mut(token) else {
                continue;
            };
            if let Some(overdue) = limits.overdue(connection, now_ns) {
                overdue.warn(connection);
                if connection.session.transactions.began_ns().is_some() && overdue == Overdue::Old {
                    self.server.count(Counter::TransactionsTimedOut);
                }
                self.close(token);
                continue;
            }
            let idle_ns = now_ns.saturating_sub(connection.session.active_at_ns);
            if connection.is_idle() && idle_ns > TICK_NS {
                connection.shrink();
            }
            if limits.end_forgotten(connection, now_ns) {
                self.server.count(Counter::TransactionsTimedOut);
            }
            self.account(token);
        }
    }
}

impl Overdue {
    fn warn(self, connection: &Connection) {
        let command = connection.session.last_command.map(|id| id.command().name);
        let command = command.unwrap_or("last");
        let (what, limit) = match self {
            Overdue::Quiet => return,
            Overdue::Stalled => (
                format!("which has taken nothing of its {command} reply"),
                "long_read_stall_timeout",
            ),
            Overdue::Old => (
                format!("whose {command} reply has been under way"),
                "max_snapshot_age",
            ),
        };
        log::warn!(
            "closing connection {} ({}), {what} for longer than {limit}: that holds a snapshot, and \
             with it old versions",
            connection.session.id,
            connection.session.address,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Client, Rig};
    use crate::server::Server;

    const SECOND_NS: u64 = 1_000_000_000;

    /// However steadily a reply is read, and for whatever a client waits.
    #[test]
    fn what_holds_a_snapshot_for_too_long_is_ended() {
        let settings = [("max_snapshot_age", "60s"), ("client_output_max", "16kB")];
        let (rig, _) = Rig::by_hand(&settings, SECOND_NS);
        let mut server = rig.server(0);
        let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&mut server)).collect();
        for number in 0..100 {
            let key = format!("key:{number}");
            let set = [b"SET", key.as_bytes(), &vec![b'v'; 10_000]];
            clients[0].send(&rig, &mut server, &set);
            rig.flush();
            clients[0].received(&server);
        }
        let mut ask = |server: &mut Server, client: usize, at_s: u64, words: &str| {
            server.now_ns = at_s * SECOND_NS;
            let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            clients[client].send(&rig, server, &words);
            // It reads, if not much.
            clients[client].connection.progress_at_ns = u64::MAX;
        };
        // A reply, one within a transaction, one behind a WATCH; and a WATCH whose client waits.
        ask(&mut server, 1, 10, "BEGIN");
        ask(&mut server, 2, 10, "WATCH key:1");
        ask(&mut server, 3, 10, "WATCH key:1");
        for client in 0..3 {
            ask(&mut server, client, 40, "RANGE k l");
        }
        ask(&mut server, 3, 40, "CLIENT SYNCHRONOUS-COMMIT OFF");
        ask(&mut server, 3, 40, "SET key value");
        ask(&mut server, 3, 40, "WAITAOF 1 0 0");
        let limits = Limits::of(&server.config);
        let mut look = |at_s: u64| {
            let now_ns = at_s * SECOND_NS;
            let judge = |client: &mut Client| {
                let connection = &mut client.connection;
                assert!(matches!(connection.hold, Hold::Waiting(_)));
                let overdue = limits.overdue(connection, now_ns);
                assert!(!limits.end_forgotten(connection, now_ns));
                let watches = &connection.session.transactions.watches;
                (overdue.is_some(), watches.snapshot.is_some())
            };
            clients.iter_mut().map(judge).unzip()
        };
        let (closed, watches): (Vec<bool>, Vec<bool>) = look(70);
        assert_eq!(closed, [false; 4]);
        assert_eq!(watches, [false, false, true, true]);
        let (closed, watches) = look(71);
        assert_eq!(closed, [false, true, false, false]);
        assert_eq!(watches, [false; 4]);
        assert_eq!(look(100).0, closed);
        assert_eq!(look(101).0, [true, true, true, false]);
    }
}

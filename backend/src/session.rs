//! What a client has set for its connection, and what `CLIENT LIST` shows of it.

use crate::transaction::Transactions;
use rd_base::Lsn;
use rd_base::handover::{self, Handover, Peer};
use rd_engine::NamespaceId;
use rd_store::clients::ClientTurn;
use rd_wire::{CommandId, Proto};

/// Whether replies are sent, as CLIENT REPLY says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    /// They are.
    #[default]
    On,
    /// None is.
    Off,
    /// The next command's will not be.
    SkipNext,
    /// That of the command under way is not.
    Skip,
}

/// What is switched on, as a number for the next backend.
mod mark {
    pub const NO_EVICT: u32 = 1;
    pub const NO_TOUCH: u32 = 1 << 1;
    pub const RESP3: u32 = 1 << 2;
    pub const SYNCHRONOUS: u32 = 1 << 3;
    pub const ASYNCHRONOUS: u32 = 1 << 4;
    pub const SILENT: u32 = 1 << 5;
}

/// One connection's settings and identity.
pub struct Session {
    /// Number of the connection.
    pub id: u64,
    /// The peer's address as text.
    pub address: String,
    /// The server's address that it came by, as text.
    pub local_address: String,
    /// The user at the other end of a unix socket.
    pub unix_uid: Option<u32>,
    /// The protocol agreed by HELLO.
    pub proto: Proto,
    /// The namespace that it uses.
    pub namespace: NamespaceId,
    /// Name given by CLIENT SETNAME.
    pub name: String,
    /// Library name and version given by CLIENT SETINFO.
    pub library_name: String,
    /// See `library_name`.
    pub library_version: String,
    /// Whether replies to writes wait for the disk, by CLIENT SYNCHRONOUS-COMMIT; `None`: as the
    /// parameter says.
    pub synchronous_commit: Option<bool>,
    /// Wall clock of the connection, in microseconds.
    pub connected_at_us: u64,
    /// Monotonic clock of the last command, in nanoseconds: of its end, if it has ended.
    pub active_at_ns: u64,
    /// The last command.
    pub last_command: Option<CommandId>,
    /// Whether the last command was answered without waiting for the disk (see `event_loop`).
    pub was_ungated: bool,
    /// Its row in the shared table of clients.
    pub row: Option<usize>,
    /// The greatest LSN that a reply of this session has waited for or waits for. While it is not
    /// durable the session reads at the insert position, so that it sees its own writes.
    pub newest_seen: Lsn,
    /// The transaction that it is in.
    pub transactions: Transactions,
    /// Whether replies are sent.
    pub replies: Replies,
    /// As CLIENT NO-EVICT says; nobody is evicted, so it is shown and no more.
    pub no_evict: bool,
    /// As CLIENT NO-TOUCH says; reads are not recorded, so it is shown and no more.
    pub no_touch: bool,
}

/// What commands set for the connection, and what a transaction that fails takes back.
#[derive(PartialEq)]
pub struct Settings {
    proto: Proto,
    namespace: NamespaceId,
    names: [String; 3],
    synchronous_commit: Option<bool>,
    replies: Replies,
    no_evict: bool,
    no_touch: bool,
}

impl Session {
    /// What is set now.
    pub fn settings(&self) -> Settings {
        Settings {
            proto: self.proto,
            namespace: self.namespace,
            names: [&self.name, &self.library_name, &self.library_version].map(String::clone),
            synchronous_commit: self.synchronous_commit,
            replies: self.replies,
            no_evict: self.no_evict,
            no_touch: self.no_touch,
        }
    }

    /// Sets everything as it was; the table of clients does not know yet.
    pub fn set_back(&mut self, settings: &Settings) {
        self.proto = settings.proto;
        self.namespace = settings.namespace;
        [
            &mut self.name,
            &mut self.library_name,
            &mut self.library_version,
        ]
        .into_iter()
        .zip(&settings.names)
        .for_each(|(name, old)| name.clone_from(old));
        self.synchronous_commit = settings.synchronous_commit;
        self.replies = settings.replies;
        (self.no_evict, self.no_touch) = (settings.no_evict, settings.no_touch);
    }

    /// A fresh connection, which came by `local_address`.
    pub fn new(handover: Handover, local_address: String, wall_us: u64, now_ns: u64) -> Session {
        let unix_uid = match handover.peer {
            Peer::Unix { uid, .. } => Some(uid),
            Peer::Tcp(_) => None,
        };
        Session {
            id: handover.connection,
            address: handover.peer.address().to_owned(),
            local_address,
            unix_uid,
            proto: Proto::Resp2,
            namespace: NamespaceId::DB0,
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            synchronous_commit: None,
            connected_at_us: wall_us,
            active_at_ns: now_ns,
            last_command: None,
            was_ungated: false,
            row: None,
            newest_seen: Lsn::ZERO,
            transactions: Transactions::default(),
            replies: Replies::On,
            no_evict: false,
            no_touch: false,
        }
    }

    /// A connection that another backend has served so far; none if what that says of it means
    /// nothing.
    pub fn handed_over(handover: Handover, local_address: String, now_ns: u64) -> Option<Session> {
        let settings = handover.settings.clone()?;
        let is_on = |mark| settings.marks & mark != 0;
        let [name, library_name, library_version] = settings.names;
        let synchronous_commit = match (is_on(mark::SYNCHRONOUS), is_on(mark::ASYNCHRONOUS)) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        Some(Session {
            proto: if is_on(mark::RESP3) {
                Proto::Resp3
            } else {
                Proto::Resp2
            },
            namespace: NamespaceId::from_number(settings.namespace)?,
            name,
            library_name,
            library_version,
            synchronous_commit,
            active_at_ns: settings.active_at_ns,
            row: settings.row.map(|row| row as usize),
            newest_seen: Lsn::new(settings.newest_seen),
            replies: if is_on(mark::SILENT) {
                Replies::Off
            } else {
                Replies::On
            },
            no_evict: is_on(mark::NO_EVICT),
            no_touch: is_on(mark::NO_TOUCH),
            ..Session::new(handover, local_address, settings.connected_at_us, now_ns)
        })
    }

    /// What another backend has to know; none in the middle of a transaction, or while it watches
    /// keys, or has to be told that it lost those it watched.
    pub fn to_hand_over(&self) -> Option<Handover> {
        let is_silent = match self.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext | Replies::Skip => return None,
        };
        let watches = &self.transactions.watches;
        if !self.transactions.is_none() || !watches.keys.is_empty() || watches.is_lost {
            return None;
        }
        let marks = [
            (mark::NO_EVICT, self.no_evict),
            (mark::NO_TOUCH, self.no_touch),
            (mark::RESP3, self.proto == Proto::Resp3),
            (mark::SYNCHRONOUS, self.synchronous_commit == Some(true)),
            (mark::ASYNCHRONOUS, self.synchronous_commit == Some(false)),
            (mark::SILENT, is_silent),
        ];
        let set = marks
            .iter()
            .filter_map(|&(mark, is_on)| is_on.then_some(mark));
        let settings = handover::Settings {
            newest_seen: self.newest_seen.get(),
            namespace: self.namespace.number(),
            connected_at_us: self.connected_at_us,
            active_at_ns: self.active_at_ns,
            row: self.row.map(|row| row as u32),
            marks: set.sum(),
            names: [&self.name, &self.library_name, &self.library_version].map(String::clone),
        };
        let address = self.address.clone();
        let peer = match self.unix_uid {
            Some(uid) => Peer::Unix { uid, path: address },
            None => Peer::Tcp(address),
        };
        Some(Handover {
            connection: self.id,
            peer,
            settings: Some(settings),
        })
    }

    /// What it has done last, for the table of clients.
    pub fn turn(&self) -> ClientTurn {
        ClientTurn {
            command: self.last_command.map_or(0, |id| id as u32 + 1),
            active_at_ns: self.active_at_ns,
            queued: self.transactions.queued().map(|count| count as u32),
            watched: self.transactions.watches.keys.len() as u32,
        }
    }

    /// What it has switched on, as a number for the table of clients.
    pub fn marks(&self) -> u32 {
        u32::from(self.no_evict) | u32::from(self.no_touch) << 1
    }

    /// [`Session::marks`], and whether commands are being queued, in the letters of `CLIENT LIST`.
    pub fn letters(marks: u32, is_queueing: bool) -> String {
        let letters = [
            ('x', is_queueing),
            ('e', marks & 1 != 0),
            ('T', marks & 2 != 0),
        ];
        let mut text: String = letters
            .iter()
            .filter_map(|(letter, is_shown)| is_shown.then_some(*letter))
            .collect();
        if text.is_empty() {
            text.push('N');
        }
        text
    }

    /// A command begins: whether its reply is skipped is decided now.
    pub fn begin_command(&mut self) {
        if self.replies == Replies::SkipNext {
            self.replies = Replies::Skip;
        }
    }

    /// A command has ended.
    pub fn end_command(&mut self) {
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        let names = [&self.name, &self.library_name, &self.library_version];
        names.iter().map(|name| name.capacity()).sum::<usize>() + self.transactions.heap_bytes()
    }

    /// Back to the state of a fresh connection, as RESET asks.
    pub fn reset(&mut self) {
        self.proto = Proto::Resp2;
        self.namespace = NamespaceId::DB0;
        self.name.clear();
        self.synchronous_commit = None;
        self.transactions.clear();
        self.replies = Replies::On;
        self.no_evict = false;
        self.no_touch = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(session: &Session) -> Option<Session> {
        let handover = session.to_hand_over()?;
        Session::handed_over(handover, session.local_address.clone(), 77)
    }

    #[test]
    fn the_next_backend_knows_all_that_was_set() {
        let peer = Peer::Unix {
            uid: 7,
            path: "/run/x:0".to_owned(),
        };
        let handover = Handover {
            connection: 5,
            peer,
            settings: None,
        };
        let mut session = Session::new(handover, "/run/x:0".to_owned(), 11, 12);
        for (proto, synchronous_commit, replies, is_on) in [
            (Proto::Resp2, None, Replies::On, false),
            (Proto::Resp3, Some(true), Replies::Off, true),
            (Proto::Resp3, Some(false), Replies::On, true),
        ] {
            session.proto = proto;
            session.synchronous_commit = synchronous_commit;
            session.replies = replies;
            (session.no_evict, session.no_touch) = (is_on, !is_on);
            session.namespace = NamespaceId::new(9).expect("one of the first");
            session.name = "name".to_owned();
            session.library_name = "library".to_owned();
            session.library_version = "1".to_owned();
            session.row = Some(3);
            session.newest_seen = Lsn::new(0x1234);
            let after = moved(&session).expect("it may move");
            assert_eq!(
                (after.id, &after.address, after.unix_uid),
                (5, &session.address, Some(7))
            );
            assert_eq!((after.proto, after.replies), (proto, replies));
            assert_eq!(after.synchronous_commit, synchronous_commit);
            assert_eq!((after.no_evict, after.no_touch), (is_on, !is_on));
            assert_eq!((after.namespace, after.row), (session.namespace, Some(3)));
            assert_eq!((after.connected_at_us, after.active_at_ns), (11, 12));
            assert_eq!(after.newest_seen, session.newest_seen);
            let names = [&after.name, &after.library_name, &after.library_version];
            assert_eq!(names, ["name", "library", "1"]);
        }
        session.replies = Replies::SkipNext;
        assert!(
            moved(&session).is_none(),
            "in the middle of a command's replies"
        );
        session.replies = Replies::On;
        session.transactions.watches.is_lost = true;
        assert!(moved(&session).is_none(), "its EXEC is to do nothing");
        session.transactions.clear();
        assert!(moved(&session).is_some());
    }
}

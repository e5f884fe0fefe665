//! What a client has set for its connection, and what `CLIENT LIST` shows of it.

use crate::transaction::Transactions;
use rd_base::Lsn;
use rd_base::handover::{Handover, Peer};
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
    /// Monotonic clock of the last command, in nanoseconds.
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

impl Session {
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

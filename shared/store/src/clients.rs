//! The table of clients: what each backend shows of its connections, so that `CLIENT LIST` on one
//! shows those of all.
//!
//! A row belongs to one connection and is written by its backend alone. Its text is read without a
//! latch: the version is odd while it is being written, and a reader that meets an odd or changed
//! version leaves the row out after a few tries. The table is for people; nothing depends on it.

use crate::procs::SlotNo;
use rd_base::limits::PROCESSES_MAX;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::{Area, One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Connections that can be listed; more are served, but not listed.
const ROWS: usize = 16_384;
/// Words of text in a row.
const TEXT_WORDS: usize = 31;
const TEXT_BYTES: usize = TEXT_WORDS * 8;
/// Between the parts of a row's text; no part can hold it.
const SEPARATOR: char = '\n';
/// How often a reader tries a row that is being written.
const TRIES: usize = 8;

#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
struct Row {
    /// The connection; 0: the row is free. atomic: taken by compare-exchange.
    id: AtomicU64,
    /// Odd while `text` is written. atomic: Release by the owner, Acquire by readers.
    version: AtomicU32,
    /// Slot of the backend. atomic: Relaxed.
    slot: AtomicU32,
    /// Last command, as a number of the command table and one; 0: none. atomic: Relaxed.
    command: AtomicU32,
    /// Protocol, as the wire layer numbers it. atomic: Relaxed.
    proto: AtomicU32,
    /// Monotonic clock of the last command. atomic: Relaxed.
    active_at_ns: AtomicU64,
    /// Wall clock of the connection. atomic: Relaxed.
    connected_at_us: AtomicU64,
    /// The connection that is to be closed, if it still has the row. atomic: Relaxed; `kills` tells
    /// of it.
    to_be_killed: AtomicU64,
    /// What it has switched on; see [`ClientState::marks`]. atomic: Relaxed.
    marks: AtomicU32,
    /// Index of the namespace that it uses. atomic: Relaxed.
    namespace: AtomicU32,
    /// Commands queued since MULTI, and one; 0: it is in no MULTI. atomic: Relaxed.
    queued: AtomicU32,
    /// Keys that it watches. atomic: Relaxed.
    watched: AtomicU32,
    _unused: u32,
    /// Addresses, name, library name and version. guard: `version`.
    text: [AtomicU64; TEXT_WORDS],
}

/// What is for all connections.
#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
struct Head {
    /// Until when commands are held back, by the monotonic clock; 0: they are not. atomic: Relaxed.
    paused_until_ns: AtomicU64,
    /// Whether only writes are held back. atomic: Relaxed.
    pauses_writes_only: AtomicU32,
    _unused: u32,
}

/// Where the table lies in the segment.
#[derive(Clone, Copy)]
pub struct ClientsRegions {
    head: Region<Head>,
    rows: Region<Row>,
    kills: Region<AtomicU32>,
}

impl ClientsRegions {
    /// Reserves room for the table.
    pub fn plan(plan: &mut Plan) -> ClientsRegions {
        ClientsRegions {
            head: plan.reserve(1),
            rows: plan.reserve(ROWS),
            kills: plan.reserve(PROCESSES_MAX),
        }
    }
}

/// The table of clients.
#[derive(Clone)]
pub struct Clients {
    head: One<Head>,
    rows: Area<Row>,
    /// For each slot, how many of its connections are to be closed. atomic: Release by who asks,
    /// Acquire by the backend.
    kills: Area<AtomicU32>,
}

/// What CLIENT PAUSE holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Until when, by the monotonic clock, in nanoseconds.
    pub until_ns: u64,
    /// Whether commands that only read go on.
    pub writes_only: bool,
}

/// What a connection shows of itself; see [`Clients::describe`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientState<'a> {
    /// The peer's address.
    pub address: &'a str,
    /// The server's address that it came by.
    pub local_address: &'a str,
    /// The connection's name.
    pub name: &'a str,
    /// Name and version of the client's library.
    pub library_name: &'a str,
    /// See `library_name`.
    pub library_version: &'a str,
    /// Wall clock of the connection, in microseconds.
    pub connected_at_us: u64,
    /// The protocol, as the wire layer numbers it.
    pub proto: u8,
    /// What it has switched on, as the backend numbers it.
    pub marks: u32,
    /// Index of the namespace that it uses.
    pub namespace: u32,
}

/// What a connection has done last; see [`Clients::note`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientTurn {
    /// Number of the last command in the command table, and one; 0: none so far.
    pub command: u32,
    /// Monotonic clock of it, in nanoseconds.
    pub active_at_ns: u64,
    /// How many commands are queued since MULTI; none outside.
    pub queued: Option<u32>,
    /// Keys that it watches.
    pub watched: u32,
}

/// A row as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRow {
    /// Number of the connection.
    pub id: u64,
    /// Slot of the backend that serves it.
    pub backend: u32,
    /// What it has done last.
    pub turn: ClientTurn,
    /// The protocol, as the wire layer numbers it.
    pub proto: u8,
    /// What it has switched on, as the backend numbers it.
    pub marks: u32,
    /// Index of the namespace that it uses.
    pub namespace: u32,
    /// Wall clock of the connection, in microseconds.
    pub connected_at_us: u64,
    /// The peer's address.
    pub address: String,
    /// The server's address that it came by.
    pub local_address: String,
    /// The connection's name.
    pub name: String,
    /// Name of the client's library.
    pub library_name: String,
    /// Its version.
    pub library_version: String,
}

impl Clients {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &ClientsRegions) -> Clients {
        Clients {
            head: segment.one(regions.head),
            rows: segment.area(regions.rows),
            kills: segment.area(regions.kills),
        }
    }

    /// Takes a row for connection `id`, which is not 0, of the backend in `slot`; none when all
    /// are taken.
    pub fn take(&self, id: u64, slot: SlotNo) -> Option<usize> {
        let home = (id as usize).wrapping_mul(0x9E37_79B1) % ROWS;
        let index = (0..ROWS).map(|step| (home + step) % ROWS).find(|index| {
            let word = &self.rows[*index].id;
            word.load(Ordering::Relaxed) == 0
                && word
                    .compare_exchange(0, id, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        })?;
        self.rows[index]
            .slot
            .store(slot.index() as u32, Ordering::Relaxed);
        Some(index)
    }

    /// Gives a row back.
    pub fn give_back(&self, index: usize) {
        // Whoever takes it next shows nothing of this one until it describes itself.
        self.describe(index, &ClientState::default());
        self.note(index, ClientTurn::default());
        let row = &self.rows[index];
        row.id.store(0, Ordering::Release);
    }

    /// Another backend, the one in `slot`, serves the connection from now on. It must ask
    /// [`Clients::is_to_be_killed`] afterwards.
    pub fn pass_on(&self, index: usize, slot: SlotNo) {
        let row = &self.rows[index];
        row.slot.store(slot.index() as u32, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Shows `state` in a row that the caller has taken. Texts that do not fit are cut.
    pub fn describe(&self, index: usize, state: &ClientState<'_>) {
        let row = &self.rows[index];
        let parts = [
            state.address,
            state.local_address,
            state.name,
            state.library_name,
            state.library_version,
        ];
        let mut bytes = parts.join("\n").into_bytes();
        bytes.resize(TEXT_BYTES, 0);
        let version = row.version.load(Ordering::Relaxed);
        row.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, chunk) in row.text.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        row.connected_at_us
            .store(state.connected_at_us, Ordering::Relaxed);
        row.proto.store(u32::from(state.proto), Ordering::Relaxed);
        row.marks.store(state.marks, Ordering::Relaxed);
        row.namespace.store(state.namespace, Ordering::Relaxed);
        row.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// Shows what a connection has done last.
    pub fn note(&self, index: usize, turn: ClientTurn) {
        let row = &self.rows[index];
        row.command.store(turn.command, Ordering::Relaxed);
        row.active_at_ns.store(turn.active_at_ns, Ordering::Relaxed);
        let queued = turn.queued.map_or(0, |count| count.saturating_add(1));
        row.queued.store(queued, Ordering::Relaxed);
        row.watched.store(turn.watched, Ordering::Relaxed);
    }

    /// Asks for connection `id` to be closed. Returns the slot of its backend, which is to be woken;
    /// none if it is not listed.
    pub fn kill(&self, id: u64) -> Option<SlotNo> {
        let is_it = |row: &&Row| row.id.load(Ordering::Relaxed) == id;
        let row = self.rows.iter().find(is_it)?;
        row.to_be_killed.store(id, Ordering::Relaxed);
        // Whoever takes the connection over either sees this, or is seen.
        fence(Ordering::SeqCst);
        let slot = SlotNo::new(row.slot.load(Ordering::Relaxed) as usize);
        self.kills[slot.index()].fetch_add(1, Ordering::Release);
        Some(slot)
    }

    /// Whether connections of the backend in `slot` are to be closed; each is asked for once.
    pub fn take_kills(&self, slot: SlotNo) -> bool {
        let word = &self.kills[slot.index()];
        word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Acquire) != 0
    }

    /// Whether connection `id`, whose row this is, is to be closed.
    pub fn is_to_be_killed(&self, index: usize, id: u64) -> bool {
        self.rows[index].to_be_killed.load(Ordering::Relaxed) == id
    }

    /// Holds commands back; none lets them go on.
    pub fn set_pause(&self, pause: Option<Pause>) {
        let head = &self.head;
        let writes_only = pause.is_some_and(|pause| pause.writes_only);
        head.pauses_writes_only
            .store(u32::from(writes_only), Ordering::Relaxed);
        head.paused_until_ns
            .store(pause.map_or(0, |pause| pause.until_ns), Ordering::Relaxed);
    }

    /// The pause that ended at `until_ns` is over: nobody need look at the clock for it any more.
    pub fn end_pause(&self, until_ns: u64) {
        let word = &self.head.paused_until_ns;
        // Another may have begun: that one stays.
        let _ = word.compare_exchange(until_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What is held back, if anything; it may be over.
    #[inline]
    pub fn pause(&self) -> Option<Pause> {
        let until_ns = self.head.paused_until_ns.load(Ordering::Relaxed);
        (until_ns != 0).then(|| Pause {
            until_ns,
            writes_only: self.head.pauses_writes_only.load(Ordering::Relaxed) != 0,
        })
    }

    /// How many connections have a row.
    pub fn count(&self) -> usize {
        self.rows
            .iter()
            .filter(|row| row.id.load(Ordering::Relaxed) != 0)
            .count()
    }

    /// How many of the process in `slot` do.
    pub fn count_of(&self, slot: SlotNo) -> usize {
        let is_its = |row: &&Row| {
            let owner = row.slot.load(Ordering::Relaxed);
            row.id.load(Ordering::Relaxed) != 0 && owner == slot.index() as u32
        };
        self.rows.iter().filter(is_its).count()
    }

    /// All rows, in no order.
    pub fn list(&self) -> Vec<ClientRow> {
        self.rows.iter().filter_map(read).collect()
    }
}

fn read(row: &Row) -> Option<ClientRow> {
    for _ in 0..TRIES {
        let version = row.version.load(Ordering::Acquire);
        let id = row.id.load(Ordering::Relaxed);
        if id == 0 {
            return None;
        }
        let bytes: Vec<u8> = row
            .text
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        let mut read = ClientRow {
            id,
            backend: row.slot.load(Ordering::Relaxed),
            turn: ClientTurn {
                command: row.command.load(Ordering::Relaxed),
                active_at_ns: row.active_at_ns.load(Ordering::Relaxed),
                queued: row.queued.load(Ordering::Relaxed).checked_sub(1),
                watched: row.watched.load(Ordering::Relaxed),
            },
            proto: row.proto.load(Ordering::Relaxed) as u8,
            marks: row.marks.load(Ordering::Relaxed),
            namespace: row.namespace.load(Ordering::Relaxed),
            connected_at_us: row.connected_at_us.load(Ordering::Relaxed),
            address: String::new(),
            local_address: String::new(),
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
        };
        fence(Ordering::Acquire);
        if version % 2 == 1 || row.version.load(Ordering::Relaxed) != version {
            continue;
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut parts = text
            .trim_end_matches('\0')
            .split(SEPARATOR)
            .map(str::to_owned);
        read.address = parts.next().unwrap_or_default();
        read.local_address = parts.next().unwrap_or_default();
        read.name = parts.next().unwrap_or_default();
        read.library_name = parts.next().unwrap_or_default();
        read.library_version = parts.next().unwrap_or_default();
        return Some(read);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_listed_until_the_row_is_given_back() {
        let mut plan = Plan::new();
        let regions = ClientsRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let clients = Clients::open(&segment, &regions);
        let state = ClientState {
            address: "127.0.0.1:4711",
            local_address: "127.0.0.1:7432",
            name: "worker",
            library_name: "lib",
            library_version: "1.2",
            connected_at_us: 5,
            proto: 1,
            marks: 2,
            namespace: 3,
        };
        let first = clients.take(1, SlotNo::new(3)).expect("a row");
        clients.describe(first, &state);
        let turn = ClientTurn {
            command: 9,
            active_at_ns: 77,
            queued: Some(0),
            watched: 2,
        };
        clients.note(first, turn);
        // The same home, so the next place.
        let second = clients
            .take(1 + ROWS as u64, SlotNo::new(4))
            .expect("a row");
        clients.describe(
            second,
            &ClientState {
                name: &"x".repeat(1000),
                ..state
            },
        );
        assert_ne!(first, second);
        let rows = clients.list();
        assert_eq!((clients.count(), rows.len()), (2, 2));
        let row = rows.iter().find(|row| row.id == 1).expect("the first");
        assert_eq!(
            [&row.address, &row.local_address, &row.name],
            ["127.0.0.1:4711", "127.0.0.1:7432", "worker"]
        );
        assert_eq!(
            (row.library_name.as_str(), row.library_version.as_str()),
            ("lib", "1.2")
        );
        assert_eq!((row.turn, row.backend), (turn, 3));
        assert_eq!((row.marks, row.namespace), (2, 3));
        assert_eq!(clients.kill(7), None);
        assert_eq!(clients.kill(1), Some(SlotNo::new(3)));
        assert!(!clients.take_kills(SlotNo::new(4)));
        assert!(clients.take_kills(SlotNo::new(3)));
        assert!(!clients.take_kills(SlotNo::new(3)), "asked for once");
        assert!(clients.is_to_be_killed(first, 1));
        assert!(!clients.is_to_be_killed(second, 1 + ROWS as u64));
        clients.give_back(first);
        assert_eq!(clients.list().len(), 1);
        let next = clients.take(1, SlotNo::new(3)).expect("a row");
        assert_eq!(next, first, "the row is used again");
        let rows = clients.list();
        let row = rows.iter().find(|row| row.id == 1).expect("the next");
        assert_eq!((row.address.as_str(), row.name.as_str()), ("", ""));
        assert_eq!(row.turn, ClientTurn::default());
    }
}

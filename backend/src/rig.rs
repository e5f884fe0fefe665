//! A backend's state in a test: on a simulated disk, with neither a loop nor other processes, so
//! that a test says when the log is flushed and when a client reads.

use crate::connection::{Connection, Hold};
use crate::server::Server;
use crate::session::Session;
use crate::turn;
use rd_base::handover::{Handover, Peer};
use rd_base::{Config, Lsn, Role, StartCount};
use rd_engine::Engine;
use rd_engine::init::{InitOptions, init_storage};
use rd_store::relation::RelationFiles;
use rd_store::wal::segments::Step;
use rd_store::wal::{Flusher, Preparer, WalStart};
use rd_store::{ChildContext, Shared, Sizes, SlotNo, Store, control_file};
use rd_sys::clock::Clock;
use rd_sys::deathwatch::DeathWatch;
use rd_sys::simdisk::SimStorage;
use rd_sys::storage::Storage;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SEGMENT_BYTES: u64 = 4 << 20;
const RING_BYTES: u64 = 4 << 20;
const FRAMES: usize = 2048;
/// A command that is parked so often in a row waits for what no test will do.
const PARKED_MAX: usize = 100;

/// The number that the next client gets.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Memory and disk of a server.
pub struct Rig {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    config: Arc<Config>,
    clock: Clock,
}

impl Rig {
    /// A new data directory, opened under these settings.
    pub fn new(settings: &[(&str, &str)]) -> Rig {
        Rig::with_clock(settings, Clock::Real)
    }

    /// The same, by a clock that stands at `start_ns`, and the handle that moves it.
    pub fn by_hand(settings: &[(&str, &str)], start_ns: u64) -> (Rig, Arc<AtomicU64>) {
        let (clock, time) = Clock::manual(start_ns);
        (Rig::with_clock(settings, clock), time)
    }

    /// The same, by a clock that each look at it moves on.
    pub fn in_haste(settings: &[(&str, &str)], start_ns: u64) -> (Rig, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(start_ns));
        let clock = Clock::Hasty(Arc::clone(&time));
        (Rig::with_clock(settings, clock), time)
    }

    fn with_clock(settings: &[(&str, &str)], clock: Clock) -> Rig {
        let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
        let mut pairs = vec![("double_write_size", "8MB")];
        pairs.extend_from_slice(settings);
        let config = Config::from_pairs(&pairs).expect("valid");
        let config = config.with_wal_segment_size(SEGMENT_BYTES).expect("valid");
        let options = InitOptions {
            config: &config,
            system_identifier: 42,
            now_us: 1,
            conf_lines: "",
        };
        init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
        let sizes = Sizes {
            frames: FRAMES,
            wal_ring_bytes: RING_BYTES,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let rig = Rig {
            shared: Shared::anonymous(sizes).expect("memory"),
            storage,
            config: Arc::new(config),
            clock,
        };
        rig.start();
        rig.flush();
        rig
    }

    /// What startup does after a clean stop.
    fn start(&self) {
        let control = control_file::read(&*self.storage)
            .expect("pg_control")
            .control;
        for row in &control.files {
            self.shared
                .files
                .load(row, row.blocks, control.keys_lsn)
                .expect("few files");
        }
        self.shared.files.raise_next_number(control.next_file);
        let start = WalStart {
            end: control.redo_lsn,
            timeline: control.timeline,
            start_count: StartCount::new(control.start_count.get() + 1),
            system_id: control.system_identifier,
        };
        self.shared
            .wal
            .start_at(&self.storage, &start)
            .expect("the log goes on");
        rd_engine::namespace::load_namespaces(&self.store(Role::Startup)).expect("a catalog");
    }

    /// What a process of this role works on.
    pub fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a role with a slot");
        let (storage, config) = (Arc::clone(&self.storage), Arc::clone(&self.config));
        let clock = self.clock.clone();
        Store::new(Arc::clone(&self.shared), storage, clock, slot, config)
    }

    /// The state of backend `number`.
    pub fn server(&self, number: u16) -> Server {
        let role = Role::Backend(number);
        let store = self.store(role);
        Server::new(Engine::open(store.clone()), store, role)
    }

    /// What backend `number` is forked with, but for its connections.
    pub fn context(&self, number: u16) -> ChildContext {
        ChildContext {
            role: Role::Backend(number),
            data_dir: PathBuf::new(),
            config: Arc::clone(&self.config),
            file_reads: 0,
            shared: Arc::clone(&self.shared),
            connections: None,
            death_watch: DeathWatch::create().expect("a pipe"),
        }
    }

    /// Makes everything durable that was inserted, and segments ahead.
    pub fn flush(&self) {
        Flusher::for_store(&self.store(Role::Walwriter)).flush_all();
        let wal = self.shared.wal.clone();
        let mut preparer = Preparer::new(wal, Arc::clone(&self.storage), 4 * SEGMENT_BYTES);
        while preparer.step() == Step::Prepared {}
    }

    /// Where the log ends.
    pub fn insert_lsn(&self) -> Lsn {
        self.shared.wal.insert_lsn()
    }

    /// Makes files longer as was asked for.
    pub fn grow_files(&self) {
        let relations = RelationFiles::writer(Arc::clone(&self.storage));
        for work in self.shared.files.take_work() {
            match relations.grow(work.file, work.from, work.to) {
                Ok(()) => self.shared.files.grown(work.file, work.to),
                Err(error) => self.shared.files.growth_failed(work.file, &error),
            }
        }
    }
}

/// A client of a backend: both ends of its connection.
pub struct Client {
    /// The backend's end.
    pub connection: Connection,
    peer: UnixStream,
}

impl Client {
    /// Connects.
    pub fn new(server: &mut Server) -> Client {
        let (ours, peer) = UnixStream::pair().expect("descriptors");
        ours.set_nonblocking(true).expect("a socket");
        peer.set_nonblocking(true).expect("a socket");
        let handover = Handover {
            connection: CONNECTIONS.fetch_add(1, Ordering::SeqCst),
            peer: Peer::Tcp("127.0.0.1:1".to_owned()),
            settings: None,
        };
        let session = Session::new(
            handover,
            "127.0.0.1:2".to_owned(),
            server.wall_us(),
            server.now_ns,
        );
        let limits = server.request_limits();
        Client {
            connection: Connection::new(OwnedFd::from(ours), limits, session),
            peer,
        }
    }

    /// Sends a request, which is carried out as far as it can be in one turn. A command that waits
    /// for files to grow is given what it waits for; one that waits for the log stays parked.
    pub fn send(&mut self, rig: &Rig, server: &mut Server, words: &[&[u8]]) {
        let connection = &mut self.connection;
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        connection.input.extend_from_slice(&request);
        turn::run_buffered(server, connection);
        for _ in 0..PARKED_MAX {
            if !matches!(connection.hold, Hold::Parked) {
                return;
            }
            rig.grow_files();
            connection.hold = Hold::Free;
            turn::run_buffered(server, connection);
        }
    }

    /// Goes on with the command under way, if it takes several turns; whether it does.
    pub fn go_on(&mut self, server: &mut Server) -> bool {
        match std::mem::replace(&mut self.connection.hold, Hold::Free) {
            Hold::Waiting(waiting) => {
                self.connection.hold = turn::proceed(server, &mut self.connection, waiting);
            }
            other => self.connection.hold = other,
        }
        matches!(self.connection.hold, Hold::Waiting(_))
    }

    /// All that may be sent to the client now, as it reads it.
    pub fn received(&mut self, server: &Server) -> Vec<u8> {
        let durable = server.store.shared.wal.durable_lsn();
        self.connection.output.release(durable);
        let mut received = Vec::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            let mut sent_bytes = 0;
            assert!(self.connection.send(&mut sent_bytes), "the peer is there");
            match self.peer.read(&mut chunk) {
                Ok(count) => received.extend_from_slice(&chunk[..count]),
                Err(_) => return received,
            }
        }
    }

    /// A request whose reply may be read at once.
    pub fn call(&mut self, rig: &Rig, server: &mut Server, words: &[&[u8]]) -> String {
        self.send(rig, server, words);
        let mut received = self.received(server);
        while self.go_on(server) {
            received.extend_from_slice(&self.received(server));
        }
        received.extend_from_slice(&self.received(server));
        String::from_utf8_lossy(&received).into_owned()
    }
}

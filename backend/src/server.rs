//! What all connections of a backend share: the engine, the configuration, limits and sums.

use crate::clock_guard::ClockGuard;
use crate::connection::{Connection, Hold};
use crate::expirer::Expirer;
use crate::flushing::Flushing;
use crate::session::Session;
use crate::waiting::Streams;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rd_base::conf_file::{self, FILE_NAME};
use rd_base::counters::Counter;
use rd_base::limits::{SNAPSHOTS_OF_A_TURN, SNAPSHOTS_PER_PROCESS};
use rd_base::{Config, Lsn, Role, logline};
use rd_engine::{Engine, EngineError, ParkReason, View};
use rd_store::Store;
use rd_store::clients::{ClientState, Pause};
use rd_sys::Shortage;
use rd_wire::{CommandId, Flags, Limits};
use std::cell::Cell;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Chores done in a turn of the loop.
const CHORES_PER_TURN: usize = 4;
/// For how long nothing is said of shortages after a warning.
const SHORTAGE_WARNING_NS: u64 = 10_000_000_000;

/// How long CONFIG REWRITE waits for that of another backend, and between two looks.
const REWRITE_WAIT: Duration = Duration::from_secs(1);
const REWRITE_LOOK: Duration = Duration::from_millis(2);

/// Locks a directory, if it is free or is soon.
fn lock_soon(path: &Path) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + REWRITE_WAIT;
    let mut directory = File::open(path)?;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                directory = back;
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(io::Error::other(
                    "another one is under way, or a program has locked the data directory; try again",
                ));
            }
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(REWRITE_LOOK);
    }
}

/// Gives a file another text: a new one of the same mode takes its place when it is on disk. Messages
/// call it `shown`.
fn replace_file(path: &Path, shown: &Path, text: &str) -> io::Result<()> {
    let with_end = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        PathBuf::from(name)
    };
    let (temporary, its_shown) = (with_end(path), with_end(shown));
    let write = || -> io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        // What a crash has left may not be writable.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true);
        let mut file = options.mode(mode & 0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| about(&its_shown, &error))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| {
            fs::rename(&temporary, path)?;
            directory.sync_all()
        })
        .map_err(|error| about(shown, &error))
}

/// The error, with the file that it is about.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("\"{}\": {error}", path.display()))
}

/// A backend's state beside its connections.
pub struct Server {
    /// The trees.
    pub engine: Engine,
    /// Shared memory and the data directory.
    pub store: Store,
    /// The configuration as of the last reload.
    pub config: Arc<Config>,
    /// The backend's role, for messages.
    pub role: Role,
    /// Monotonic clock at the beginning of this turn.
    pub now_ns: u64,
    /// Heap bytes of all connections.
    pub memory_bytes: usize,
    /// The least LSN for which a parked command waits.
    pub parked_until: Option<Lsn>,
    /// When a command that waits is to be looked at, whatever comes until then.
    held_until_ns: Option<u64>,
    /// Whether there is tidying up to do as soon as nothing else is.
    pub has_chores: bool,
    /// Whether this backend flushes the log itself.
    pub flushing: Flushing,
    /// Removes keys whose time has come.
    expirer: Expirer,
    /// Whether their time can have come.
    clock_guard: ClockGuard,
    /// Streams under way (see `waiting.rs`).
    pub streams: Streams,
    /// Whether commands wait for a stream to end, so that theirs can begin.
    awaits_stream: Cell<bool>,
    /// Whether commands wait for the end of a CLIENT PAUSE.
    holds_back: Cell<bool>,
    /// Until when nothing is said of shortages.
    warns_again_at_ns: Cell<u64>,
}

impl Server {
    /// A backend's state after its fork.
    pub fn new(engine: Engine, store: Store, role: Role) -> Server {
        let config = Arc::clone(&store.config);
        let now_ns = store.clock.monotonic_ns();
        Server {
            engine,
            store,
            config,
            role,
            now_ns,
            memory_bytes: 0,
            parked_until: None,
            held_until_ns: None,
            has_chores: false,
            flushing: Flushing::default(),
            expirer: Expirer::default(),
            clock_guard: ClockGuard::default(),
            streams: Streams::default(),
            awaits_stream: Cell::new(false),
            holds_back: Cell::new(false),
            warns_again_at_ns: Cell::new(0),
        }
    }

    /// A turn of the loop begins.
    pub fn begin_turn(&mut self) {
        self.now_ns = self.store.clock.monotonic_ns();
        let stats = &self.store.shared.stats;
        self.flushing.look(self.now_ns, || stats.flushes());
    }

    /// Tidies up a little behind earlier commits.
    pub fn tidy(&mut self) {
        self.has_chores = self.engine.tidy(CHORES_PER_TURN);
    }

    /// Writes what CONFIG SET has changed into `redoubt.conf`: into a new file, which takes the
    /// place of the old one when it is on disk; if that is a link, of what it leads to. One backend at
    /// a time does so, from the look at what is set to the file's new name: of two, the later one
    /// writes what both have set. All clients of this backend wait meanwhile, so that another does not
    /// get ready is an error soon.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a server would not start with the new one; the
    /// old one is then as it was.
    pub fn rewrite_configuration(&self) -> io::Result<()> {
        let place = self
            .config
            .reach_data_dir()
            .ok_or(io::ErrorKind::NotFound)?;
        let _lock = lock_soon(place)?;
        let link = place.join(FILE_NAME);
        let shown = self.config.data_dir().unwrap_or(place).join(FILE_NAME);
        // The directory may be elsewhere by now: only who has made a link says where the file is.
        let is_link = fs::symlink_metadata(&link)
            .map_err(|error| about(&shown, &error))?
            .is_symlink();
        let (path, shown) = if is_link {
            let target = fs::canonicalize(&link).map_err(|error| about(&shown, &error))?;
            (target.clone(), target)
        } else {
            (link, shown)
        };
        let old = fs::read_to_string(&path).map_err(|error| about(&shown, &error))?;
        let changes = self.store.shared.overrides().to_changes();
        let text = conf_file::rewrite(&old, &changes);
        self.config.check_file(&text).map_err(|problems| {
            io::Error::other(format!("no server would start with it: {problems}"))
        })?;
        replace_file(&path, &shown, &text)
    }

    /// A turn has ended: no descent is under way until the next begins.
    pub fn end_turn(&self) {
        self.engine.rest();
    }

    /// Wall clock, in microseconds since 1970.
    pub fn wall_us(&self) -> u64 {
        self.store.clock.wall_us()
    }

    /// Looks whether the wall clock goes evenly.
    pub fn look_at_clock(&mut self) {
        let (wall_us, monotonic_us) = self.store.clock.both_us();
        let has_jumped = self.clock_guard.look(wall_us, monotonic_us);
        // Once is enough.
        if has_jumped && self.store.shared.expiry.is_remover(self.store.slot) {
            log::warn!(
                "the wall clock has jumped; keys that end are not removed until it has been even \
                 for expire_clock_settle"
            );
        }
    }

    /// Whether keys may be deleted because their time has come by the wall clock, now.
    pub fn trusts_clock(&mut self) -> bool {
        self.look_at_clock();
        let settle_us = self.config.expire_clock_settle().as_micros() as u64;
        self.clock_guard.has_settled(settle_us)
    }

    /// Takes a new configuration into use.
    pub fn reconfigure(&mut self, config: Arc<Config>) {
        self.store.config = Arc::clone(&config);
        self.engine.store_mut().config = Arc::clone(&config);
        logline::set_level(config.log_min_messages());
        self.config = config;
    }

    /// What a client may send at most.
    pub fn request_limits(&self) -> Limits {
        Limits {
            bulk_bytes_max: self.config.proto_max_bulk_len_bytes() as usize,
            request_bytes_max: self.config.client_query_max_bytes() as usize,
            ..Limits::default()
        }
    }

    /// The limit of [`Server::memory_bytes`].
    pub fn memory_bytes_max(&self) -> usize {
        self.config.backend_memory_max_bytes() as usize
    }

    /// Bytes of unsent replies above which a connection's next command is not carried out.
    pub fn output_max(&self) -> usize {
        self.config.client_output_max_bytes() as usize
    }

    /// Whether the connection's next command may be carried out now.
    pub fn may_run(&self, connection: &Connection) -> bool {
        matches!(connection.hold, Hold::Free)
            && connection.output.unsent() <= self.output_max()
            && connection.braked_until_ns <= self.now_ns
    }

    /// Adds one to `counter`.
    pub fn count(&self, counter: Counter) {
        self.store.count(counter);
    }

    /// Adds `count` to `counter`.
    pub fn add(&self, counter: Counter, count: u64) {
        self.store.add(counter, count);
    }

    /// The LSN at which a session's read sees its own writes.
    pub fn view(&self, session: &Session) -> View<'static> {
        let is_behind = session.newest_seen > self.store.shared.wal.durable_lsn();
        if is_behind {
            View::Newest
        } else {
            View::Durable
        }
    }

    /// Whether replies of this session wait for the disk.
    pub fn is_synchronous(&self, session: &Session) -> bool {
        session
            .synchronous_commit
            .unwrap_or(self.config.synchronous_commit())
    }

    /// Notes that a reply shows what was written at `lsn`, and says for what it must wait.
    pub fn gate(&self, session: &mut Session, lsn: Lsn) -> Lsn {
        session.newest_seen = session.newest_seen.max(lsn);
        if self.is_synchronous(session) {
            return lsn;
        }
        if lsn > self.store.shared.wal.durable_lsn() {
            // Nobody waits for it; it is to be durable within wal_writer_delay all the same.
            self.store.shared.wal.request_lazy_flush(lsn);
        }
        Lsn::ZERO
    }

    /// A command waits for `reason`. An LSN is seen to at the turn's end, like those that replies
    /// wait for; whoever makes another reason go away gives notice.
    pub fn park(&mut self, reason: ParkReason) {
        if let ParkReason::Durable(lsn) = reason {
            self.parked_until = Some(self.parked_until.map_or(lsn, |least| least.min(lsn)));
        }
    }

    /// A command waits no longer than until `until_ns` by the monotonic clock, if that is given.
    pub fn look_again_at(&mut self, until_ns: Option<u64>) {
        self.held_until_ns = self.held_until_ns.into_iter().chain(until_ns).min();
    }

    /// Whether it is time for one of those that said so.
    pub fn has_held_due(&self) -> bool {
        self.held_until_ns.is_some_and(|until| until <= self.now_ns)
    }

    /// All commands that wait are looked at: they say anew until when they wait.
    pub fn forget_held(&mut self) {
        self.parked_until = None;
        self.held_until_ns = None;
        self.awaits_stream.set(false);
    }

    /// The error reply for what the engine could not do. Damage goes to the log too.
    pub fn error_reply(&self, error: &EngineError) -> String {
        match error {
            EngineError::Page(_) | EngineError::Tree { .. } => {
                let advice =
                    "look at it with rd_verify, or restore the data directory from a backup";
                log::error!("{error}; {advice}");
                format!("CORRUPT {error}; {advice}")
            }
            EngineError::Conflict { .. } => format!("CONFLICT {error}"),
            EngineError::NamespaceReadOnly(_) => format!("READONLY {error}"),
            EngineError::NamespaceOffline(_) => format!("OFFLINE {error}"),
            EngineError::ReadOnly | EngineError::CannotGrow { .. } => format!("MISCONF {error}"),
            EngineError::DiskFull { .. } => {
                format!("MISCONF {error}; writes go on when there is room")
            }
            EngineError::Shortage { .. } => {
                self.warn_of_shortage(error);
                format!("ERR {error}")
            }
            _ => format!("ERR {error}"),
        }
    }

    /// The error reply for want of memory to do `what`.
    pub fn no_memory(&self, what: String) -> String {
        let shortage = Shortage::Memory;
        self.error_reply(&EngineError::Shortage { what, shortage })
    }

    /// Says it in the log, once in a while: it befalls one command after the other.
    fn warn_of_shortage(&self, error: &EngineError) {
        if self.now_ns >= self.warns_again_at_ns.get() {
            self.warns_again_at_ns
                .set(self.now_ns + SHORTAGE_WARNING_NS);
            log::warn!("a command was refused: {error}");
        }
    }

    /// Takes a row of the table of clients for a new connection. Without one it is served all
    /// the same, but not listed.
    pub fn enlist(&self, session: &mut Session) {
        session.row = self.store.shared.clients.take(session.id, self.store.slot);
        if let Some(row) = session.row {
            self.publish(row, session);
        }
    }

    /// Shows a session's present state to `CLIENT LIST`.
    pub fn publish(&self, row: usize, session: &Session) {
        let state = ClientState {
            address: &session.address,
            local_address: &session.local_address,
            name: &session.name,
            library_name: &session.library_name,
            library_version: &session.library_version,
            connected_at_us: session.connected_at_us,
            proto: session.proto as u8,
            marks: session.marks(),
            namespace: session.namespace.index() as u32,
        };
        self.store.shared.clients.describe(row, &state);
    }

    /// Remembers whether the connection was a reader in this turn, and shows it to `CLIENT LIST`.
    pub fn note_turn(&mut self, session: &Session) {
        if session.was_ungated {
            self.flushing.note_read();
        }
        self.note_session(session);
    }

    /// Shows what a session has done last to `CLIENT LIST`.
    pub fn note_session(&self, session: &Session) {
        if let Some(row) = session.row {
            self.store.shared.clients.note(row, session.turn());
        }
    }

    /// Whether a command is held back by CLIENT PAUSE.
    #[inline]
    pub fn is_paused(&self, id: CommandId) -> bool {
        match self.store.shared.clients.pause() {
            None => false,
            Some(pause) => self.is_held_back(pause, id),
        }
    }

    /// Whether a further stream may begin; if not, it is known that one waits.
    pub fn may_stream(&self) -> bool {
        let may = self.has_stream_room();
        self.awaits_stream.set(self.awaits_stream.get() || !may);
        may
    }

    fn has_stream_room(&self) -> bool {
        self.streams.count() < self.long_reads_max()
    }

    fn long_reads_max(&self) -> usize {
        self.config.long_reads_max() as usize
    }

    /// Whether a session may keep a snapshot from one command to the next. So many do at most that
    /// streams, and commands that are done in one turn, find one all the same.
    ///
    /// # Errors
    /// When too many do.
    pub fn may_keep_snapshot(&self) -> Result<(), EngineError> {
        let limit = SNAPSHOTS_PER_PROCESS - SNAPSHOTS_OF_A_TURN - self.long_reads_max();
        let published = self.store.shared.snapshots.count(self.store.slot);
        if published.saturating_sub(self.streams.count()) < limit {
            return Ok(());
        }
        Err(EngineError::TooManySnapshots { limit })
    }

    /// Whether a stream may begin that a command waits for.
    pub fn has_awaited_stream_room(&self) -> bool {
        self.awaits_stream.get() && self.has_stream_room()
    }

    /// Whether a command was held back by a CLIENT PAUSE that is over, since this was last asked.
    pub fn has_pause_ended(&self) -> bool {
        let is_on = |pause: Pause| pause.until_ns > self.now_ns;
        let has_ended =
            self.holds_back.get() && !self.store.shared.clients.pause().is_some_and(is_on);
        has_ended && self.holds_back.replace(false)
    }

    #[cold]
    fn is_held_back(&self, pause: Pause, id: CommandId) -> bool {
        if pause.until_ns <= self.store.clock.monotonic_ns() {
            self.store.shared.clients.end_pause(pause.until_ns);
            return false;
        }
        let ends_it = matches!(id, CommandId::ClientUnpause | CommandId::ClientPause);
        // A transaction that only reads is held back as well: it is seldom.
        let writes = id.command().flags.contains(Flags::WRITE)
            || matches!(id, CommandId::Exec | CommandId::Commit);
        let is_held_back = !ends_it && (writes || !pause.writes_only);
        self.holds_back.set(self.holds_back.get() || is_held_back);
        is_held_back
    }

    /// Removes keys whose time has come, if this backend is the one to do that.
    pub fn remove_ended(&mut self) {
        let mut expirer = std::mem::take(&mut self.expirer);
        expirer.turn(self);
        self.expirer = expirer;
    }

    /// When the loop has something to do although nothing happens, by the monotonic clock.
    /// `has_held`: there are connections whose command waits.
    pub fn wakes_at_ns(&self, has_held: bool) -> Option<u64> {
        let pause = self.store.shared.clients.pause();
        let pause_ends = pause
            .filter(|pause| has_held && pause.until_ns > self.now_ns)
            .map(|pause| pause.until_ns);
        self.expirer
            .due_ns(self)
            .into_iter()
            .chain(pause_ends)
            .chain(self.held_until_ns.filter(|_| has_held))
            .min()
    }

    /// Drops what is kept for a connection that is closed.
    pub fn forget(&mut self, connection: &Connection) {
        self.part_with(connection);
        if let Some(row) = connection.session.row {
            self.store.shared.clients.give_back(row);
        }
    }

    /// A connection is no longer here; it may be elsewhere.
    pub fn part_with(&mut self, connection: &Connection) {
        self.memory_bytes -= connection.accounted_bytes;
    }

    /// Takes over the row of a connection that another backend has served so far. `false`: it was
    /// to be closed meanwhile.
    pub fn take_over(&self, session: &Session) -> bool {
        let clients = &self.store.shared.clients;
        let Some(row) = session.row else {
            return true;
        };
        clients.pass_on(row, self.store.slot);
        !clients.is_to_be_killed(row, session.id)
    }

    /// Leaves, when every connection has been served and closed.
    pub fn leave(&self) -> ! {
        self.end_turn();
        rd_sys::fork::exit_process(0)
    }
}

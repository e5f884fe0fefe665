//! The table of parameters: one row each. Everything that lists parameters is made from it: the
//! getters of [`crate::config::Config`], `CONFIG GET`, the sample `redoubt.conf` and
//! `docs/parameters.md`.
//!
//! Invariants, tested below: every default and every extreme value is valid for its own row; names
//! are unique; a row's getter fits its kind.

use crate::limits::{
    BACKENDS_MAX, DATABASES_MAX, LONG_READS_CEILING, NAMED_NAMESPACES_MAX, VALUE_BYTES_CEILING,
};
use crate::units::{DAY, GB, HOUR, KB, MB, MILLISECOND, MINUTE, Measure, SECOND, TB};
use crate::value::Kind;
use crate::words::{
    EndOfRecoveryCheckpoint, LogMinMessages, RecoveryPrefetch, TornPageProtection, WalSyncMethod,
    Words,
};
use std::fmt;

/// The longest time without traffic that the kernel takes (its `MAX_TCP_KEEPIDLE`).
const TCP_KEEPALIVE_MAX: u64 = 32_767 * SECOND;

/// When a change of a parameter takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Written down by `rd_initdb`; no file or command changes it later.
    Initdb,
    /// Read when the server starts; a change needs a restart.
    Postmaster,
    /// A reload (SIGHUP) or `CONFIG SET` is enough.
    Sighup,
    /// As `Sighup`, and each session can have a value of its own.
    Session,
}

impl Context {
    /// Whether a running server can take a new value.
    pub const fn at_run_time(self) -> bool {
        matches!(self, Context::Sighup | Context::Session)
    }

    /// The remark in sample and documentation; empty if there is nothing to warn of.
    pub const fn remark(self) -> &'static str {
        match self {
            Context::Initdb => "fixed by rd_initdb",
            Context::Postmaster => "change requires restart",
            Context::Sighup => "",
            Context::Session => "also per session",
        }
    }
}

/// Who may change a parameter by `CONFIG SET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any connection.
    Anyone,
    /// Only the server's own user, over the unix socket: addresses, paths, commands to run.
    Local,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name in files and commands.
    pub name: &'static str,
    /// What its value is, with unit and bounds.
    pub kind: Kind,
    /// The value where nothing is said, as a file would write it.
    pub default: &'static str,
    /// When a change takes effect.
    pub context: Context,
    /// Who may change it by command.
    pub reach: Reach,
    /// Values that strain the code that depends on it; tests run with them.
    pub extremes: &'static [&'static str],
    /// Redis's name for it, where another.
    pub redis_name: Option<&'static str>,
    /// What it does, in one line.
    pub help: &'static str,
    /// Where it stands in sample and documentation.
    pub section: Section,
}

impl Parameter {
    const fn new(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
        Parameter {
            name,
            kind,
            default,
            context: Context::Sighup,
            reach: Reach::Anyone,
            extremes: &[],
            redis_name: None,
            help: "",
            section: Section::Connections,
        }
    }
    const fn bool(name: &'static str, default: &'static str) -> Parameter {
        Self::new(name, Kind::Bool, default)
    }
    const fn int(name: &'static str, default: &'static str, min: u64, max: u64) -> Parameter {
        Self::new(name, Kind::Int { min, max }, default)
    }
    const fn float(name: &'static str, default: &'static str, min: f64, max: f64) -> Parameter {
        Self::new(name, Kind::Float { min, max }, default)
    }
    const fn text(name: &'static str, default: &'static str) -> Parameter {
        Self::new(name, Kind::Text, default)
    }
    const fn word<W: Words>(name: &'static str, default: &'static str) -> Parameter {
        Self::new(name, Kind::Word { words: W::WORDS }, default)
    }
    /// A size; `unit` is the worth of a bare number, in bytes.
    const fn size(
        name: &'static str,
        default: &'static str,
        unit: u64,
        min: u64,
        max: u64,
    ) -> Parameter {
        let kind = Kind::Measured {
            measure: Measure::Size,
            unit,
            min,
            max,
        };
        Self::new(name, kind, default)
    }
    /// A duration; `unit` is the worth of a bare number, in microseconds.
    const fn time(
        name: &'static str,
        default: &'static str,
        unit: u64,
        min: u64,
        max: u64,
    ) -> Parameter {
        let kind = Kind::Measured {
            measure: Measure::Duration,
            unit,
            min,
            max,
        };
        Self::new(name, kind, default)
    }
    const fn context(mut self, context: Context) -> Parameter {
        self.context = context;
        self
    }
    const fn at_start(self) -> Parameter {
        self.context(Context::Postmaster)
    }
    const fn local(mut self) -> Parameter {
        self.reach = Reach::Local;
        self
    }
    const fn extremes(mut self, extremes: &'static [&'static str]) -> Parameter {
        self.extremes = extremes;
        self
    }
    const fn redis(mut self, name: &'static str) -> Parameter {
        self.redis_name = Some(name);
        self
    }
    const fn help(mut self, help: &'static str) -> Parameter {
        self.help = help;
        self
    }
}

/// The getter that fits a kind; a word that is none of these does not compile.
macro_rules! getter {
    (bool $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> bool {
            self.value(Param::$id).as_bool()
        }
    };
    (int $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> u32 {
            self.value(Param::$id).as_u32()
        }
    };
    (float $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> f64 {
            self.value(Param::$id).as_f64()
        }
    };
    (size $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        #[doc = " In bytes."]
        pub fn $getter(&self) -> u64 {
            self.value(Param::$id).as_u64()
        }
    };
    (time $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> std::time::Duration {
            std::time::Duration::from_micros(self.value(Param::$id).as_u64())
        }
    };
    (text $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> &str {
            self.value(Param::$id).as_text()
        }
    };
    ($word:ident $id:ident $getter:ident $help:literal) => {
        #[doc = $help]
        pub fn $getter(&self) -> $word {
            $word::ALL[self.value(Param::$id).as_word()]
        }
    };
}

/// Makes the ids, the table, the sections and the getters from one list. Each row reads
/// `Id: type getter = row, "help";`.
macro_rules! parameters {
    ($( $section:ident $title:literal {
        $( $id:ident : $kind:ident $getter:ident = $row:expr, $help:literal ; )*
    } )*) => {
        /// The sections of the sample file and of the documentation, in their order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Section {
            $( #[doc = $title] $section, )*
        }

        impl Section {
            /// All sections.
            pub const ALL: &[Section] = &[$( Section::$section, )*];
            /// The heading.
            pub const fn title(self) -> &'static str {
                match self { $( Section::$section => $title, )* }
            }
        }

        /// A parameter's place in the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Param {
            $( $( #[doc = $help] $id, )* )*
        }

        impl Param {
            /// Every parameter, in the order of the table.
            pub const ALL: &[Param] = &[$( $( Param::$id, )* )*];
        }

        static TABLE: &[Parameter] = &[
            $( $( Parameter { section: Section::$section, ..$row.help($help) }, )* )*
        ];

        /// One getter for each parameter, made from the table.
        impl crate::config::Config {
            $( $( getter!($kind $id $getter $help); )* )*
        }
    };
}

impl Param {
    /// The row.
    pub fn row(self) -> &'static Parameter {
        &TABLE[self as usize]
    }

    /// The name, as files and commands write it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The parameter of that name; case does not matter, and `-` is as good as `_`, since Redis's
    /// own names are written with it.
    pub fn find(name: &str) -> Option<Param> {
        let same = |known: &str| {
            known.len() == name.len()
                && known.bytes().zip(name.bytes()).all(|(known, given)| {
                    let given = if given == b'-' { b'_' } else { given };
                    known == given.to_ascii_lowercase()
                })
        };
        let own = |param: &Param| same(param.name());
        let redis = |param: &Param| {
            let redis_name = param.row().redis_name;
            redis_name.is_some_and(|known| known.eq_ignore_ascii_case(name))
        };
        let mut all = Param::ALL.iter().copied();
        all.clone().find(own).or_else(|| all.find(redis))
    }

    /// The known name that `name` was probably meant to be.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        let ranked = Param::ALL.iter().map(|param| {
            let known = param.name();
            (edit_distance(&name, known), known)
        });
        let (distance, known) = ranked.min()?;
        (distance <= 2.max(known.len() / 3)).then_some(known)
    }
}

impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many letters must be changed, added or taken away to make `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Bytes of a buffer or log page, the unit of a bare number where PostgreSQL counts in pages.
const PAGE: u64 = 8 * KB;

parameters! {
Connections "Connections" {
    ListenAddresses: text listen_addresses =
        Parameter::text("listen_addresses", "127.0.0.1").at_start().local()
            .extremes(&["", "*", "127.0.0.1,::1"]).redis("bind"),
        "Addresses to listen on, comma-separated; '*' is all, '' is none. There are no passwords.";
    Port: int port =
        Parameter::int("port", "7432", 0, 65535).at_start().local(),
        "TCP port, also part of the unix socket's name; 0 is no TCP.";
    UnixSocketDirectory: text unix_socket_directory =
        Parameter::text("unix_socket_directory", "").at_start().local(),
        "Directory of the unix socket; '' is the data directory.";
    UnixSocketPermissions: int unix_socket_permissions =
        Parameter::new("unix_socket_permissions", Kind::Octal { max: 0o777 }, "0700")
            .at_start().local().redis("unixsocketperm"),
        "Access permissions of the unix socket, in octal.";
    MaxConnections: int max_connections =
        Parameter::int("max_connections", "10000", 1, 1_000_000).extremes(&["1", "2"])
            .redis("maxclients"),
        "Most client connections at a time; further ones get an error.";
    Backends: int backends =
        Parameter::int("backends", "0", 0, BACKENDS_MAX as u64).at_start().extremes(&["1"]),
        "Backend processes; 0 is as many as there are cores, at least 2.";
    BackendFill: int backend_fill =
        Parameter::int("backend_fill", "64", 1, 1_000_000).extremes(&["1"]),
        "A backend gets this many connections before the next one gets any.";
    Databases: int databases =
        Parameter::int("databases", "16", 1, DATABASES_MAX as u64).at_start().extremes(&["1"]),
        "Databases that SELECT can name, counted from 0.";
    MaxNamespaces: int max_namespaces =
        Parameter::int("max_namespaces", "64", 0, NAMED_NAMESPACES_MAX as u64)
            .extremes(&["1"]),
        "Namespaces that NAMESPACE CREATE makes, at most.";
    Timeout: time timeout =
        Parameter::time("timeout", "0", SECOND, 0, 365 * DAY)
            .extremes(&["1s"]).redis("timeout"),
        "Close a client that sends, or reads, nothing for this long; 0 is never.";
    IdleInTransactionTimeout: time idle_in_transaction_timeout =
        Parameter::time("idle_in_transaction_timeout", "10min", SECOND, 0, 365 * DAY)
            .extremes(&["1s"]),
        "Roll back a transaction whose client has been idle for this long; 0 is never.";
    MaxSnapshotAge: time max_snapshot_age =
        Parameter::time("max_snapshot_age", "1h", SECOND, 0, 365 * DAY).extremes(&["1s"]),
        "End a transaction, or a reply in several parts, that sees a moment longer ago; 0 is never.";
    LongReadStallTimeout: time long_read_stall_timeout =
        Parameter::time("long_read_stall_timeout", "1min", SECOND, 0, 365 * DAY)
            .extremes(&["1s"]),
        "Close a client that takes nothing of a reply in several parts for this long; 0 is never.";
    TcpKeepalive: time tcp_keepalive =
        Parameter::time("tcp_keepalive", "300s", SECOND, 0, TCP_KEEPALIVE_MAX)
            .redis("tcp-keepalive"),
        "Probe a silent TCP client after this long; 0 leaves it to the system.";
}
Memory "Memory and limits" {
    SharedBuffers: size shared_buffers_bytes =
        Parameter::size("shared_buffers", "128MB", PAGE, 16 * MB, 16 * TB).at_start()
            .extremes(&["16MB"]),
        "Shared memory for pages of the data files.";
    BackendMemoryMax: size backend_memory_max_bytes =
        Parameter::size("backend_memory_max", "256MB", KB, 32 * MB, TB).extremes(&["32MB"]),
        "Most memory of one backend for the input, replies and write sets of its connections.";
    ClientOutputMax: size client_output_max_bytes =
        Parameter::size("client_output_max", "1MB", KB, 16 * KB, GB).extremes(&["16kB"]),
        "Unsent replies above which no further command of that connection is run.";
    LongReadsMax: int long_reads_max =
        Parameter::int("long_reads_max", "32", 1, LONG_READS_CEILING as u64).extremes(&["1"]),
        "Replies in several parts that one backend has under way; further ones wait.";
    ClientQueryMax: size client_query_max_bytes =
        Parameter::size("client_query_max", "32MB", KB, MB, GB),
        "Largest query buffer of one connection; a longer command ends the connection.";
    ProtoMaxBulkLen: size proto_max_bulk_len_bytes =
        Parameter::size("proto_max_bulk_len", "16MB", 1, MB, 512 * MB).redis("proto-max-bulk-len"),
        "Longest single argument of a command.";
    MaxValueSize: size max_value_size_bytes =
        Parameter::size("max_value_size", "16MB", KB, KB, VALUE_BYTES_CEILING as u64)
            .extremes(&["1kB"]),
        "Longest value that can be stored; one that is there already may be longer.";
    MaxTransactionSize: size max_transaction_size_bytes =
        Parameter::size("max_transaction_size", "64MB", KB, MB, GB).extremes(&["1MB"]),
        "Most bytes of keys and values that one transaction can write.";
}
Expiry "Expiry" {
    ExpireRate: int expire_rate =
        Parameter::int("expire_rate", "10000", 0, 1_000_000).extremes(&["0", "1"]),
        "Most keys whose time has come that are removed in a second; 0 is none.";
    ExpireClockSettle: time expire_clock_settle =
        Parameter::time("expire_clock_settle", "1min", MILLISECOND, 0, DAY).extremes(&["0"]),
        "Keys whose time has come are removed only while the clock has not jumped for this long.";
}
Wal "Write-ahead log" {
    SynchronousCommit: bool synchronous_commit =
        Parameter::bool("synchronous_commit", "on").context(Context::Session).local()
            .extremes(&["off"]),
        "Reply only when the commit is durable; off: durable, and seen by all, in wal_writer_delay.";
    WalSyncMethod: WalSyncMethod wal_sync_method =
        Parameter::word::<WalSyncMethod>("wal_sync_method", "open_datasync"),
        "How the log is forced to disk.";
    WalBuffers: size wal_buffers_bytes =
        Parameter::size("wal_buffers", "0", PAGE, 0, GB).at_start().extremes(&["256kB"]),
        "Ring of log not yet written, at least 256kB; 0 is 1/32 of shared_buffers, 4MB to 64MB.";
    WalSegmentSize: size wal_segment_size_bytes =
        Parameter::size("wal_segment_size", "16MB", MB, MB, GB).context(Context::Initdb),
        "Size of a log file.";
    WalWriterDelay: time wal_writer_delay =
        Parameter::time("wal_writer_delay", "200ms", MILLISECOND, MILLISECOND, 10 * SECOND)
            .extremes(&["1ms", "10s"]),
        "Longest time that an asynchronous commit stays unsynced.";
    MaxWalSize: size max_wal_size_bytes =
        Parameter::size("max_wal_size", "1GB", MB, 2 * MB, 2048 * TB),
        "Log size that checkpoints keep to.";
    MinWalSize: size min_wal_size_bytes =
        Parameter::size("min_wal_size", "80MB", MB, 2 * MB, 2048 * TB),
        "Log files up to this size are recycled rather than removed.";
}
Checkpoints "Checkpoints" {
    CheckpointTimeout: time checkpoint_timeout =
        Parameter::time("checkpoint_timeout", "5min", SECOND, 30 * SECOND, DAY)
            .extremes(&["30s"]),
        "Longest time between two checkpoints.";
    CheckpointCompletionTarget: float checkpoint_completion_target =
        Parameter::float("checkpoint_completion_target", "0.9", 0.0, 1.0)
            .extremes(&["0", "1"]),
        "Part of the time until the next checkpoint over which the writing is spread.";
    CheckpointTimeoutMax: time checkpoint_timeout_max =
        Parameter::time("checkpoint_timeout_max", "0", SECOND, 0, DAY),
        "A checkpoint that takes longer than this goes on as fast as it can; 0 is no limit.";
    CheckpointWarning: time checkpoint_warning =
        Parameter::time("checkpoint_warning", "30s", SECOND, 0, DAY),
        "Warn when log size forces checkpoints closer together than this; 0 is never.";
    CheckpointHeartbeat: time checkpoint_heartbeat =
        Parameter::time("checkpoint_heartbeat", "3s", MILLISECOND, 100 * MILLISECOND, MINUTE)
            .extremes(&["100ms"]),
        "How often pg_control takes up the durable LSN and the redo point.";
    RecoveryTimeTarget: time recovery_time_target =
        Parameter::time("recovery_time_target", "10s", MILLISECOND, 0, DAY)
            .extremes(&["0", "500ms"]),
        "Longest time that recovery after a crash should take; 0 is no limit.";
    CheckpointMinPause: time checkpoint_min_pause =
        Parameter::time("checkpoint_min_pause", "0", SECOND, 0, DAY),
        "Quiet time kept between two checkpoints that are not urgent.";
    CheckpointFlushAfter: size checkpoint_flush_after_bytes =
        Parameter::size("checkpoint_flush_after", "256kB", PAGE, 0, 2 * MB).extremes(&["0"]),
        "Ask the system to begin writing after this much; 0 leaves it to the sync.";
    CheckpointFailuresMax: int checkpoint_failures_max =
        Parameter::int("checkpoint_failures_max", "10", 1, 1000).extremes(&["1"]),
        "Failed checkpoints in a row after which the server turns read-only, or does not open.";
    TornPageProtection: TornPageProtection torn_page_protection =
        Parameter::word::<TornPageProtection>("torn_page_protection", "double_write").at_start(),
        "Guard against half-written pages; off is for file systems that write 8kB atomically.";
    DoubleWriteSize: size double_write_size_bytes =
        Parameter::size("double_write_size", "16MB", PAGE, 8 * MB, GB).at_start()
            .extremes(&["8MB"]),
        "Size of the double-write area.";
    ScrubRate: size scrub_rate_bytes =
        Parameter::size("scrub_rate", "4MB", KB, 0, TB).extremes(&["0", "8kB", "1TB"]),
        "Bytes of relation files read and checked in a second, beside all else; 0 is none.";
    ScrubInterval: time scrub_interval =
        Parameter::time("scrub_interval", "7d", SECOND, SECOND, 365 * DAY).extremes(&["1s"]),
        "Time between the beginnings of two scrubs of all files; the first is when the server starts.";
}
Recovery "Crash and recovery" {
    EndOfRecoveryCheckpoint: EndOfRecoveryCheckpoint end_of_recovery_checkpoint =
        Parameter::word::<EndOfRecoveryCheckpoint>("end_of_recovery_checkpoint", "after_open"),
        "Whether clients wait for the checkpoint that follows recovery.";
    RecoveryWorkers: int recovery_workers =
        Parameter::int("recovery_workers", "0", 0, 64).at_start().extremes(&["1", "5"]),
        "Threads that redo pages in recovery, each its own; 0 is one for each core, at most 8.";
    RecoveryPrefetch: RecoveryPrefetch recovery_prefetch =
        Parameter::word::<RecoveryPrefetch>("recovery_prefetch", "try").at_start(),
        "Tell the system which pages redo will soon read; try does so if reads are slow.";
    RestartAfterCrash: bool restart_after_crash =
        Parameter::bool("restart_after_crash", "on"),
        "Recover and go on when a process has crashed; off stops the server.";
    CrashRestartMax: int crash_restart_max =
        Parameter::int("crash_restart_max", "5", 0, 1000).extremes(&["0"]),
        "Most restarts after crashes within crash_restart_window; after one more it stays down.";
    CrashRestartWindow: time crash_restart_window =
        Parameter::time("crash_restart_window", "1min", SECOND, SECOND, DAY),
        "Time over which crashes are counted.";
    ShutdownKillTimeout: time shutdown_kill_timeout =
        Parameter::time("shutdown_kill_timeout", "5s", MILLISECOND, 100 * MILLISECOND, HOUR)
            .extremes(&["100ms"]),
        "Kill processes that have not left this long after an immediate stop or a crash.";
}
Logging "Logging" {
    LogMinMessages: LogMinMessages log_min_messages =
        Parameter::word::<LogMinMessages>("log_min_messages", "log"),
        "Least severe messages that are logged, to standard error.";
    LogCheckpoints: bool log_checkpoints =
        Parameter::bool("log_checkpoints", "on"),
        "Log each checkpoint, with its cause and cost.";
    LogConnections: bool log_connections =
        Parameter::bool("log_connections", "off"),
        "Log each connection and its end.";
    LogStartupProgressInterval: time log_startup_progress_interval =
        Parameter::time("log_startup_progress_interval", "10s", MILLISECOND, 0, DAY),
        "How often recovery reports its progress; 0 is never.";
}
Developer "Developer options" {
    ShmKeepName: bool shm_keep_name =
        Parameter::bool("shm_keep_name", "off").at_start(),
        "Keep the name of the shared memory segment, for inspection.";
    FaultPoints: text fault_points =
        Parameter::text("fault_points", "").local(),
        "Named places at which to fail on purpose; for crash tests only.";
}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;

    #[test]
    fn defaults_extremes_and_bounds_read_back() {
        for param in Param::ALL.iter().copied() {
            let row = param.row();
            let bounds = row.kind.range().map(|(min, max)| [min, max]);
            let bounds = bounds.iter().flatten().map(String::as_str);
            let words = match row.kind {
                Kind::Word { words } => words,
                _ => &[],
            };
            let extremes = row.extremes.iter().chain(words).copied();
            for text in extremes.chain(bounds).chain([row.default]) {
                let value = row.kind.parse(text);
                let value = value.unwrap_or_else(|error| panic!("{param} = {text}: {error}"));
                let printed = row.kind.print(&value);
                assert_eq!(row.kind.parse(&printed), Ok(value), "{param} = {printed}");
            }
        }
    }

    #[test]
    fn rows_are_well_formed() {
        for (index, param) in Param::ALL.iter().copied().enumerate() {
            let row = param.row();
            assert_eq!(param as usize, index);
            assert_eq!(Param::find(row.name), Some(param));
            assert_eq!(
                Param::find(&row.name.to_uppercase().replace('_', "-")),
                Some(param)
            );
            assert!(row.help.ends_with('.') && row.help.len() < 100, "{param}");
            if let Some(redis) = row.redis_name {
                assert_eq!(Param::find(redis), Some(param));
            }
            if let Kind::Int { max, .. } | Kind::Octal { max } = row.kind {
                assert!(
                    u32::try_from(max).is_ok(),
                    "{param}: its getter returns 32 bits"
                );
            }
            if let Kind::Measured { unit, min, max, .. } = row.kind {
                assert!(
                    min.is_multiple_of(unit) && max.is_multiple_of(unit),
                    "{param}"
                );
            }
        }
    }

    #[test]
    fn wrong_values_say_what_would_be_right() {
        let cases: &[(Param, &str, &str)] = &[
            (
                Param::SharedBuffers,
                "1MB",
                "1MB is outside the valid range (16MB .. 16TB)",
            ),
            (
                Param::SharedBuffers,
                "128mb",
                "invalid value \"128mb\": valid units are B, kB, MB, GB, TB",
            ),
            (
                Param::CheckpointTimeout,
                "5m",
                "invalid value \"5m\": valid units are us, ms, s, min, h, d",
            ),
            (
                Param::CheckpointTimeout,
                "29",
                "29s is outside the valid range (30s .. 1d)",
            ),
            (
                Param::Port,
                "65536",
                "65536 is outside the valid range (0 .. 65535)",
            ),
            (
                Param::Port,
                "-1",
                "invalid value \"-1\": must not be negative",
            ),
            (
                Param::Port,
                "7432x",
                "invalid value \"7432x\": must be a number without unit",
            ),
            (Param::Port, "", "invalid value \"\": not a number"),
            (
                Param::Port,
                "99999999999999999999",
                "invalid value \"99999999999999999999\": too large",
            ),
            (
                Param::UnixSocketPermissions,
                "0800",
                "invalid value \"0800\": must be octal, as in 0700",
            ),
            (
                Param::UnixSocketPermissions,
                "1777",
                "1777 is outside the valid range (0000 .. 0777)",
            ),
            (
                Param::UnixSocketPermissions,
                "",
                "invalid value \"\": must be octal, as in 0700",
            ),
            (
                Param::CheckpointCompletionTarget,
                "1.1",
                "1.1 is outside the valid range (0 .. 1)",
            ),
            (
                Param::CheckpointCompletionTarget,
                "nan",
                "invalid value \"nan\": not a number",
            ),
            (
                Param::LogCheckpoints,
                "maybe",
                "invalid value \"maybe\": must be on or off",
            ),
            (
                Param::WalSyncMethod,
                "sync",
                "invalid value \"sync\": must be one of fdatasync, fsync, open_datasync, open_sync",
            ),
            (Param::FaultPoints, "a\nb", "text holds a control character"),
        ];
        for (param, text, message) in cases {
            let error = param.row().kind.parse(text).expect_err("must be refused");
            assert_eq!(error.to_string(), *message, "{param} = {text}");
        }
        let long = "x".repeat(1024);
        assert!(Param::FaultPoints.row().kind.parse(&long).is_err());
        let quoted = Param::Port
            .row()
            .kind
            .parse(&long)
            .expect_err("no number")
            .to_string();
        assert!(
            quoted.len() < 100,
            "messages do not repeat long input: {quoted}"
        );
        assert_eq!(
            Param::CheckpointCompletionTarget
                .row()
                .kind
                .parse("-0")
                .map(|v| format!("{v:?}")),
            Ok(format!("{:?}", Value::Real(0.0)))
        );
    }

    #[test]
    fn a_misspelt_name_is_recognised() {
        for (given, meant) in [
            ("shared_bufers", Some("shared_buffers")),
            ("sharedbuffers", Some("shared_buffers")),
            ("prot", Some("port")),
            ("checkpoint-timout", Some("checkpoint_timeout")),
            ("MAX_WAL_SIZ", Some("max_wal_size")),
            ("something_else", None),
            ("", None),
        ] {
            let nearest = Param::nearest(given);
            assert_eq!(nearest, meant, "{given:?}");
        }
    }
}

//! Every fixed limit, and the relations between them.

/// Bytes of a page of a relation file and of a buffer frame.
pub const PAGE_BYTES: usize = 8192;
/// Bytes of a page of the write-ahead log.
pub const WAL_PAGE_BYTES: usize = 8192;
/// No log is longer, in bytes: at ten gigabytes a second it lasts for fourteen years. An LSN above is
/// damage, and arithmetic with those below cannot overflow.
pub const LOG_BYTES_MAX: u64 = 1 << 62;
/// Numbers that only grow (starts, relation files) end so far below the end of their 32 bits that
/// one can be added; a greater one is damage.
pub const GROWING_U32_MAX: u32 = u32::MAX - (1 << 16);
/// As [`GROWING_U32_MAX`], for what has 64 bits.
pub const GROWING_U64_MAX: u64 = u64::MAX >> 1;
/// Most levels of a tree: a page above more of them is damaged.
pub const TREE_LEVELS_MAX: u8 = 64;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 2048;
/// Key and value up to this many bytes together stay in the leaf; larger values overflow.
pub const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// The upper bound of the parameter `max_value_size`.
pub const VALUE_BYTES_CEILING: usize = 16 << 20;
/// Bytes of one piece of a relation file.
pub const FILE_PIECE_BYTES: u64 = 1 << 30;
/// Most backend processes.
pub const BACKENDS_MAX: usize = 64;
/// Processes that own a slot in shared memory: startup, checkpointer, walwriter, backends.
pub const PROCESSES_MAX: usize = BACKENDS_MAX + 3;
/// Snapshots that one process can hold published at a time.
pub const SNAPSHOTS_PER_PROCESS: usize = 256;
/// Of these, how many are for commands that are done at the end of their turn.
pub const SNAPSHOTS_OF_A_TURN: usize = 16;
/// Greatest value of `long_reads_max`: each holds a snapshot, and half are left for others.
pub const LONG_READS_CEILING: usize = SNAPSHOTS_PER_PROCESS / 2;
/// Relation files that exist at a time, those that wait to be unlinked included.
pub const FILES_MAX: usize = 2048;
/// Databases that `SELECT` can name, at most.
pub const DATABASES_MAX: usize = 256;
/// Namespaces that can be created by name, at most.
pub const NAMED_NAMESPACES_MAX: usize = 256;
/// Least size of the log's ring in shared memory, in bytes.
pub const WAL_BUFFERS_BYTES_MIN: u64 = 256 << 10;
/// Longest text that a parameter can have, in bytes.
pub const PARAMETER_TEXT_BYTES_MAX: usize = 1023;
/// Bytes that all values set by `CONFIG SET` can take in shared memory.
pub const CONFIG_OVERRIDES_BYTES_MAX: usize = 8192;
/// How deep configuration files can include each other.
pub const CONFIG_INCLUDE_DEPTH_MAX: usize = 10;
/// Largest configuration file, in bytes; also of all files that one includes together.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;
/// Files that a configuration is read from, each counted as often as it is included.
pub const CONFIG_FILES_MAX: usize = 256;
/// Lines of all files together that set a parameter.
pub const CONFIG_ASSIGNMENTS_MAX: usize = 10_000;
/// Problems of a configuration that are listed; that there are more is the last one.
pub const CONFIG_PROBLEMS_MAX: usize = 100;
/// Letters of an unknown parameter's name that a message shows.
pub const CONFIG_NAME_SHOWN_MAX: usize = 64;

// Beside the file of each namespace there is room for those that wait to be unlinked.
const _: () = assert!(FILES_MAX >= 2 * (DATABASES_MAX + NAMED_NAMESPACES_MAX));
const _: () = assert!(INLINE_BYTES_MAX >= KEY_BYTES_MAX);
const _: () = assert!(FILE_PIECE_BYTES.is_multiple_of(PAGE_BYTES as u64));

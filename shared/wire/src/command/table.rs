//! The rows. A new command is one row here; everything else follows from it.
//!
//! Arity, flags, key specs, categories and tips are those of Redis where Redis has the command,
//! for clients act on them. A test compares them with the fixture of a Redis server's answers.

use super::build::*;
use super::{Arg, ArgKind, Command, Flags, Group};

const KEY: Arg = arg("key", ArgKind::Key);
const FLUSH_ARGS: &[Arg] = &[one_of(
    "flush-type",
    &[token("async", "ASYNC"), token("sync", "SYNC")],
)
.optional()];
const EXPIRE_CONDITION: Arg = one_of(
    "condition",
    &[
        token("nx", "NX"),
        token("xx", "XX"),
        token("gt", "GT"),
        token("lt", "LT"),
    ],
)
.optional();
const BIT_UNIT: Arg = one_of("unit", &[token("byte", "BYTE"), token("bit", "BIT")]).optional();
const FIELD_GET: Arg = block("get-block", &[text("encoding"), integer("offset")]).after("GET");
const ON_OR_OFF: Arg = one_of("enabled", &[token("on", "ON"), token("off", "OFF")]);
const RANGE_BOUNDS: Arg = one_of(
    "range",
    &[
        block("bounds", &[text("start"), text("end")]),
        text("prefix").after("PREFIX"),
    ],
);
const RANGE_ARGS: &[Arg] = &[
    RANGE_BOUNDS,
    integer("count").after("LIMIT").optional(),
    one_of("part", &[token("keys", "KEYS"), token("values", "VALUES")]).optional(),
];
const OF_ITS_VALUE: &str = "O(N) in the length of the value";
/// Of what is one step by itself.
const OF_ALL_KEYS: &str = "O(1), within a transaction O(N) in the number of keys";
const OF_ITS_DIRTY_PAGES: &str = "O(N) in the number of the namespace's dirty pages";
/// What changes namespaces as a whole.
const NAMESPACE: Flags = Flags::WRITE.and(Flags::NO_MULTI).and(Flags::NOSCRIPT);
/// What tells of the server without changing it.
const STAT: Flags = ANYTIME.and(Flags::NOSCRIPT);
const NAMES: &[Arg] = &[text("command-name").optional().multiple()];

macro_rules! commands {
    ($( $(#[doc = $doc:literal])* $id:ident => $row:expr; )+) => {
        /// A command that can be called: the index of its row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CommandId {
            $( #[doc = concat!("The command `", stringify!($id), "`.")] $id, )+
        }

        /// Every command that can be called, at the index of its id.
        pub(super) static CALLABLE: &[Command] = &[ $( $row, )+ ];

        /// The ids, each at its index.
        pub(super) const IDS: &[CommandId] = &[ $( CommandId::$id, )+ ];
    };
}

/// Commands that exist only as the first word of others.
pub(super) static CONTAINERS: &[Command] = &[
    row(
        "config",
        -2,
        Group::Server,
        "A container for commands about parameters",
    ),
    row(
        "object",
        -2,
        Group::Generic,
        "A container for commands about what is known of a key",
    )
    .categories(&[]),
    row(
        "memory",
        -2,
        Group::Server,
        "A container for commands about the room that keys take",
    ),
    row(
        "client",
        -2,
        Group::Connection,
        "A container for commands about connections",
    )
    .categories(&[]),
    row(
        "namespace",
        -2,
        Group::Server,
        "A container for commands about namespaces",
    ),
    row(
        "stat",
        -2,
        Group::Server,
        "A container for commands about what the server does and has done",
    ),
];

commands! {
    Get => row("get", 2, Group::String, "Returns the value of a key")
        .flags(READ_FAST).keys(&[key(&["RO", "access"])]).args(&[KEY]);
    Set => row("set", -3, Group::String, "Sets a key to a value, with a condition if asked")
        .flags(GROW).keys(&[key(&["RW", "access", "update", "variable_flags"])])
        .args(&[
            KEY,
            text("value"),
            one_of("condition", &[token("nx", "NX"), token("xx", "XX")]).optional(),
            token("get", "GET").optional(),
            one_of("expiration", &[
                integer("seconds").after("EX"),
                integer("milliseconds").after("PX"),
                integer("unix-time-seconds").after("EXAT"),
                integer("unix-time-milliseconds").after("PXAT"),
                token("keepttl", "KEEPTTL"),
            ]).optional(),
        ]);
    Mget => row("mget", -2, Group::String, "Returns the values of several keys, of one moment")
        .flags(READ_FAST).keys(&[keys_from(1, 1, &["RO", "access"])]).args(&[KEY.multiple()])
        .complexity("O(N) in the number of keys").tips(&["request_policy:multi_shard"]);
    Mset => row("mset", -3, Group::String, "Sets several keys to their values, all or none")
        .flags(GROW).keys(&[keys_from(1, 2, &["OW", "update"])])
        .args(&[block("data", &[KEY, text("value")]).multiple()])
        .complexity("O(N) in the number of keys")
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]);
    Strlen => row("strlen", 2, Group::String, "Returns the length of a key's value in bytes")
        .flags(READ_FAST).keys(&[key(&["RO"])]).args(&[KEY]);
    Append => row("append", 3, Group::String, "Adds bytes to the end of a key's value")
        .flags(GROW_FAST).keys(&[key(&["RW", "insert"])]).args(&[KEY, text("value")])
        .complexity(OF_ITS_VALUE);
    Incr => row("incr", 2, Group::String, "Adds one to the number that a key holds")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])]).args(&[KEY]);
    Decr => row("decr", 2, Group::String, "Subtracts one from the number that a key holds")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])]).args(&[KEY]);
    Incrby => row("incrby", 3, Group::String, "Adds to the number that a key holds")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])])
        .args(&[KEY, integer("increment")]);
    Decrby => row("decrby", 3, Group::String, "Subtracts from the number that a key holds")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])])
        .args(&[KEY, integer("decrement")]);
    Getex => row("getex", -2, Group::String, "Returns a key's value, and sets when it ends")
        .flags(WRITE_FAST).keys(&[key(&["RW", "access", "update"])])
        .args(&[KEY, one_of("expiration", &[
            integer("seconds").after("EX"),
            integer("milliseconds").after("PX"),
            integer("unix-time-seconds").after("EXAT"),
            integer("unix-time-milliseconds").after("PXAT"),
            token("persist", "PERSIST"),
        ]).optional()]);
    Getdel => row("getdel", 2, Group::String, "Returns a key's value and removes the key")
        .flags(WRITE_FAST).keys(&[key(&["RW", "access", "delete"])]).args(&[KEY]);
    Getset => row("getset", 3, Group::String, "Sets a key and returns the value it had before")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])]).args(&[KEY, text("value")]);
    Setnx => row("setnx", 3, Group::String, "Sets a key that is not there")
        .flags(GROW_FAST).keys(&[key(&["OW", "insert"])]).args(&[KEY, text("value")]);
    Setex => row("setex", 4, Group::String, "Sets a key that ends in so many seconds")
        .flags(GROW).keys(&[key(&["OW", "update"])])
        .args(&[KEY, integer("seconds"), text("value")]);
    Psetex => row("psetex", 4, Group::String, "Sets a key that ends in so many milliseconds")
        .flags(GROW).keys(&[key(&["OW", "update"])])
        .args(&[KEY, integer("milliseconds"), text("value")]);
    Msetnx => row("msetnx", -3, Group::String, "Sets several keys if none of them is there")
        .flags(GROW).keys(&[keys_from(1, 2, &["OW", "insert"])])
        .args(&[block("data", &[KEY, text("value")]).multiple()])
        .complexity("O(N) in the number of keys")
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"]);
    Getrange => row("getrange", 4, Group::String, "Returns part of a key's value")
        .flags(Flags::READONLY).keys(&[key(&["RO", "access"])])
        .args(&[KEY, integer("start"), integer("end")])
        .complexity(OF_ITS_VALUE);
    Substr => row("substr", 4, Group::String, "Does what GETRANGE does")
        .flags(Flags::READONLY).keys(&[key(&["RO", "access"])])
        .args(&[KEY, integer("start"), integer("end")])
        .complexity(OF_ITS_VALUE);
    Setrange => row("setrange", 4, Group::String, "Overwrites part of a key's value")
        .flags(GROW).keys(&[key(&["RW", "update"])])
        .args(&[KEY, integer("offset"), text("value")])
        .complexity(OF_ITS_VALUE);
    Incrbyfloat => row("incrbyfloat", 3, Group::String, "Adds to the decimal that a key holds")
        .flags(GROW_FAST).keys(&[key(&["RW", "access", "update"])])
        .args(&[KEY, arg("increment", ArgKind::Double)]);
    Lcs => row("lcs", -3, Group::String, "Finds the longest common subsequence of two values")
        .flags(Flags::READONLY).keys(&[keys_between(1, 1, &["RO", "access"])])
        .args(&[
            arg("key1", ArgKind::Key), arg("key2", ArgKind::Key),
            token("len", "LEN").optional(), token("idx", "IDX").optional(),
            integer("min-match-len").after("MINMATCHLEN").optional(),
            token("withmatchlen", "WITHMATCHLEN").optional(),
        ])
        .complexity("O(N*M) in the lengths of the values");
    Setbit => row("setbit", 4, Group::Bitmap, "Sets a bit and returns what it was")
        .flags(GROW).keys(&[key(&["RW", "access", "update"])])
        .args(&[KEY, integer("offset"), integer("value")])
        .complexity(OF_ITS_VALUE);
    Getbit => row("getbit", 3, Group::Bitmap, "Returns a bit")
        .flags(READ_FAST).keys(&[key(&["RO", "access"])]).args(&[KEY, integer("offset")])
        .complexity(OF_ITS_VALUE);
    Bitcount => row("bitcount", -2, Group::Bitmap, "Counts the bits that are set")
        .flags(Flags::READONLY).keys(&[key(&["RO", "access"])])
        .args(&[KEY, block("range", &[
            integer("start"), integer("end"), BIT_UNIT,
        ]).optional()])
        .complexity(OF_ITS_VALUE);
    Bitpos => row("bitpos", -3, Group::Bitmap, "Finds the first bit that is set, or is not")
        .flags(Flags::READONLY).keys(&[key(&["RO", "access"])])
        .args(&[KEY, integer("bit"), block("range", &[
            integer("start"),
            block("end-unit-block", &[integer("end"), BIT_UNIT]).optional(),
        ]).optional()])
        .complexity(OF_ITS_VALUE);
    Bitop => row("bitop", -4, Group::Bitmap, "Combines the bits of strings into another")
        .flags(GROW)
        .keys(&[key_at(2, &["OW", "update"]), keys_from(3, 1, &["RO", "access"])])
        .args(&[
            one_of("operation", &[
                token("and", "AND"), token("or", "OR"), token("xor", "XOR"), token("not", "NOT"),
            ]),
            arg("destkey", ArgKind::Key),
            arg("key", ArgKind::Key).of_spec(1).multiple(),
        ])
        .complexity("O(N) in the length of all values");
    Bitfield => row("bitfield", -2, Group::Bitmap, "Reads and changes numbers of any width")
        .flags(GROW).keys(&[key(&["RW", "access", "update", "variable_flags"])])
        .args(&[KEY, one_of("operation", &[
            FIELD_GET,
            block("write", &[
                one_of("overflow-block", &[
                    token("wrap", "WRAP"), token("sat", "SAT"), token("fail", "FAIL"),
                ]).after("OVERFLOW").optional(),
                one_of("write-operation", &[
                    block("set-block", &[text("encoding"), integer("offset"), integer("value")])
                        .after("SET"),
                    block("incrby-block", &[
                        text("encoding"), integer("offset"), integer("increment"),
                    ]).after("INCRBY"),
                ]),
            ]),
        ]).optional().multiple()])
        .complexity(OF_ITS_VALUE);
    BitfieldRo => row("bitfield_ro", -2, Group::Bitmap, "Reads numbers of any width")
        .flags(READ_FAST).keys(&[key(&["RO", "access"])])
        .args(&[KEY, FIELD_GET.optional().multiple()])
        .complexity("O(N) in the number of fields and the length of the value");
    Del => row("del", -2, Group::Generic, "Removes keys, all or none, and counts those there")
        .flags(Flags::WRITE).keys(&[keys_from(1, 1, &["RM", "delete"])]).args(&[KEY.multiple()])
        .complexity("O(N) in the number of keys").tips(MULTI_SHARD_SUM);
    Unlink => row("unlink", -2, Group::Generic, "Does what DEL does")
        .flags(WRITE_FAST).keys(&[keys_from(1, 1, &["RM", "delete"])]).args(&[KEY.multiple()])
        .complexity("O(N) in the number of keys").tips(MULTI_SHARD_SUM);
    Exists => row("exists", -2, Group::Generic, "Counts the named keys that are there")
        .flags(READ_FAST).keys(&[keys_from(1, 1, &["RO"])]).args(&[KEY.multiple()])
        .complexity("O(N) in the number of keys").tips(MULTI_SHARD_SUM);
    Type => row("type", 2, Group::Generic, "Returns string for a key that is there, else none")
        .flags(READ_FAST).keys(&[key(&["RO"])]).args(&[KEY]);
    Touch => row("touch", -2, Group::Generic, "Counts the named keys that are there")
        .flags(READ_FAST).keys(&[keys_from(1, 1, &["RO"])]).args(&[KEY.multiple()])
        .complexity("O(N) in the number of keys").tips(MULTI_SHARD_SUM);
    Rename => row("rename", 3, Group::Generic, "Gives a key another name")
        .flags(Flags::WRITE)
        .keys(&[key(&["RW", "access", "delete"]), key_at(2, &["OW", "update"])])
        .args(&[KEY, arg("newkey", ArgKind::Key).of_spec(1)])
        .complexity(OF_ITS_VALUE);
    Renamenx => row("renamenx", 3, Group::Generic, "Gives a key a name that no other has")
        .flags(WRITE_FAST)
        .keys(&[key(&["RW", "access", "delete"]), key_at(2, &["OW", "insert"])])
        .args(&[KEY, arg("newkey", ArgKind::Key).of_spec(1)])
        .complexity(OF_ITS_VALUE);
    Copy => row("copy", -3, Group::Generic, "Copies value and expiry of a key to another")
        .flags(GROW)
        .keys(&[key(&["RO", "access"]), key_at(2, &["OW", "update"])])
        .args(&[
            arg("source", ArgKind::Key), arg("destination", ArgKind::Key).of_spec(1),
            integer("destination-db").after("DB").optional(),
            token("replace", "REPLACE").optional(),
        ])
        .complexity(OF_ITS_VALUE);
    Move => row("move", 3, Group::Generic, "Moves a key to another database")
        .flags(WRITE_FAST).keys(&[key(&["RW", "access", "update"])]).args(&[KEY, integer("db")])
        .complexity(OF_ITS_VALUE);
    Randomkey => row("randomkey", 1, Group::Generic, "Returns one of the keys, by chance")
        .flags(Flags::READONLY).complexity("O(log(N))")
        .tips(&["request_policy:all_shards", "nondeterministic_output"]);
    Keys => row("keys", 2, Group::Generic, "Returns all keys that fit a pattern, in order")
        .flags(Flags::READONLY).categories(&["keyspace", "dangerous"])
        .args(&[arg("pattern", ArgKind::Pattern)])
        .complexity("O(N) in the keys that begin as the pattern does")
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"]);
    Scan => row("scan", -2, Group::Generic, "Returns keys in order, some at a time")
        .flags(Flags::READONLY)
        .args(&[
            integer("cursor"),
            arg("pattern", ArgKind::Pattern).after("MATCH").optional(),
            integer("count").after("COUNT").optional(),
            text("type").after("TYPE").optional(),
        ])
        .complexity("O(log(N)+M) with N keys in all and M visited")
        .tips(&["nondeterministic_output", "request_policy:special"]);
    ObjectEncoding => row(
            "object|encoding", 3, Group::Generic,
            "Returns how Redis would keep a value that was SET",
        )
        .flags(Flags::READONLY).keys(&[key_at(2, &["RO"])]).args(&[KEY])
        .tips(&["nondeterministic_output"]);
    ObjectFreq => row("object|freq", 3, Group::Generic, "Says that reads are not counted")
        .flags(Flags::READONLY).keys(&[key_at(2, &["RO"])]).args(&[KEY])
        .tips(&["nondeterministic_output"]);
    ObjectIdletime => row("object|idletime", 3, Group::Generic, "Says that reads are not recorded")
        .flags(Flags::READONLY).keys(&[key_at(2, &["RO"])]).args(&[KEY])
        .tips(&["nondeterministic_output"]);
    ObjectRefcount => row("object|refcount", 3, Group::Generic, "Returns 1: values are not shared")
        .flags(Flags::READONLY).keys(&[key_at(2, &["RO"])]).args(&[KEY])
        .tips(&["nondeterministic_output"]);
    ObjectHelp => row("object|help", 2, Group::Generic, "Lists the subcommands of OBJECT")
        .flags(ANYTIME);
    Dump => row("dump", 2, Group::Generic, "Returns a value as Redis servers exchange it")
        .flags(Flags::READONLY).keys(&[key(&["RO", "access"])]).args(&[KEY])
        .complexity(OF_ITS_VALUE).tips(&["nondeterministic_output"]);
    Restore => row("restore", -4, Group::Generic, "Sets a key to what DUMP has returned")
        .flags(GROW).keys(&[key(&["OW", "update"])]).categories(&["keyspace", "dangerous"])
        .args(&[
            KEY, integer("ttl"), text("serialized-value"),
            token("replace", "REPLACE").optional(),
            token("absttl", "ABSTTL").optional(),
            integer("seconds").after("IDLETIME").optional(),
            integer("frequency").after("FREQ").optional(),
        ])
        .complexity(OF_ITS_VALUE);
    Wait => row("wait", 3, Group::Generic, "Returns 0: there are no replicas")
        .flags(Flags::NOSCRIPT).categories(&["connection"])
        .args(&[integer("numreplicas"), integer("timeout")])
        .tips(&["request_policy:all_shards", "response_policy:agg_min"]);
    Waitaof => row(
            "waitaof", 4, Group::Generic,
            "Waits until what the connection has written is durable here",
        )
        .flags(Flags::NOSCRIPT).categories(&["connection"])
        .args(&[integer("numlocal"), integer("numreplicas"), integer("timeout")])
        .tips(&["request_policy:all_shards", "response_policy:agg_min"]);
    Expire => row("expire", -3, Group::Generic, "Lets a key end in so many seconds")
        .flags(WRITE_FAST).keys(&[key(&["RW", "update"])])
        .args(&[KEY, integer("seconds"), EXPIRE_CONDITION]).complexity(OF_ITS_VALUE);
    Pexpire => row("pexpire", -3, Group::Generic, "Lets a key end in so many milliseconds")
        .flags(WRITE_FAST).keys(&[key(&["RW", "update"])])
        .args(&[KEY, integer("milliseconds"), EXPIRE_CONDITION]).complexity(OF_ITS_VALUE);
    Expireat => row(
            "expireat", -3, Group::Generic,
            "Lets a key end at a time in seconds since 1970",
        )
        .flags(WRITE_FAST).keys(&[key(&["RW", "update"])])
        .args(&[KEY, integer("unix-time-seconds"), EXPIRE_CONDITION]).complexity(OF_ITS_VALUE);
    Pexpireat => row(
            "pexpireat", -3, Group::Generic,
            "Lets a key end at a time in milliseconds since 1970",
        )
        .flags(WRITE_FAST).keys(&[key(&["RW", "update"])])
        .args(&[KEY, integer("unix-time-milliseconds"), EXPIRE_CONDITION]).complexity(OF_ITS_VALUE);
    Ttl => row("ttl", 2, Group::Generic, "Returns in how many seconds a key ends")
        .flags(READ_FAST).keys(&[key(&["RO", "access"])])
        .args(&[KEY]).tips(&["nondeterministic_output"]);
    Pttl => row("pttl", 2, Group::Generic, "Returns in how many milliseconds a key ends")
        .flags(READ_FAST).keys(&[key(&["RO", "access"])])
        .args(&[KEY]).tips(&["nondeterministic_output"]);
    Expiretime => row(
            "expiretime", 2, Group::Generic,
            "Returns when a key ends, in seconds since 1970",
        )
        .flags(READ_FAST).keys(&[key(&["RO", "access"])]).args(&[KEY]);
    Pexpiretime => row(
            "pexpiretime", 2, Group::Generic,
            "Returns when a key ends, in milliseconds since 1970",
        )
        .flags(READ_FAST).keys(&[key(&["RO", "access"])]).args(&[KEY]);
    Persist => row("persist", 2, Group::Generic, "Lets a key stay for good")
        .flags(WRITE_FAST).keys(&[key(&["RW", "update"])]).args(&[KEY]).complexity(OF_ITS_VALUE);
    Range => row(
            "range", -3, Group::Generic,
            "Returns keys and values in order, from start up to, not including, end; an empty \
             string leaves that side open. The word PREFIX, in capitals or not, asks for the keys \
             that begin with a prefix, so a range cannot start at a key of that very name",
        )
        .flags(Flags::READONLY).args(RANGE_ARGS)
        .complexity("O(log(N)+M) with N keys in all and M returned");
    Revrange => row(
            "revrange", -3, Group::Generic,
            "Returns what RANGE does with the same arguments, start included and end not, in \
             descending order; LIMIT counts from the greatest key",
        )
        .flags(Flags::READONLY).args(RANGE_ARGS)
        .complexity("O(log(N)+M) with N keys in all and M returned");
    Countrange => row(
            "countrange", 3, Group::Generic,
            "Counts the keys that RANGE would return with the same arguments",
        )
        .flags(Flags::READONLY).args(&[RANGE_BOUNDS])
        .complexity("O(log(N)+M) with N keys in all and M counted");
    Delrange => row(
            "delrange", 3, Group::Generic,
            "Removes the keys that RANGE would return with the same arguments, all or none, and \
             counts them",
        )
        .flags(Flags::WRITE).args(&[RANGE_BOUNDS])
        .complexity("O(log(N)+M) with N keys in all and M removed");
    Multi => row("multi", 1, Group::Transactions, "Begins to queue commands for EXEC")
        .flags(TRANSACTION.and(Flags::FAST));
    Exec => row(
            "exec", 1, Group::Transactions,
            "Carries the queued commands out as one, all or none",
        )
        .flags(Flags::NOSCRIPT.and(ANYTIME).and(Flags::SKIP_SLOWLOG))
        .complexity("That of the queued commands");
    Discard => row("discard", 1, Group::Transactions, "Drops the queued commands")
        .flags(TRANSACTION.and(Flags::FAST)).complexity("O(N) in the number of queued commands");
    Watch => row(
            "watch", -2, Group::Transactions,
            "Lets EXEC do nothing if one of the keys changes",
        )
        .flags(TRANSACTION.and(Flags::FAST)).keys(&[keys_from(1, 1, &["RO"])])
        .args(&[KEY.multiple()]).complexity("O(1) for every key");
    Unwatch => row("unwatch", 1, Group::Transactions, "Forgets the watched keys")
        .flags(TRANSACTION.and(Flags::FAST));
    Begin => row(
            "begin", -1, Group::Transactions,
            "Begins a transaction, whose commands are carried out at once and seen by nobody else \
             before COMMIT; if it is refused, so is what reads or writes keys before COMMIT or ROLLBACK",
        )
        .flags(Flags::NOSCRIPT.and(Flags::FAST).and(Flags::NO_MULTI))
        .args(&[
            one_of("isolation", &[
                token("snapshot", "SNAPSHOT"),
                token("serializable", "SERIALIZABLE"),
            ]).optional(),
            token("read-only", "READ ONLY").optional(),
        ]);
    Commit => row(
            "commit", -1, Group::Transactions,
            "Makes the transaction's writes there for everybody, all or none",
        )
        .flags(Flags::NOSCRIPT.and(Flags::NO_MULTI))
        .args(&[token("lsn", "RETURNING LSN").optional()])
        .complexity("O(N) in the number of keys written, and read if SERIALIZABLE");
    Rollback => row(
            "rollback", -1, Group::Transactions,
            "Ends the transaction, or goes back to a savepoint, and drops what was written",
        )
        .flags(Flags::NOSCRIPT.and(Flags::FAST).and(Flags::NO_MULTI))
        .args(&[text("savepoint").after("TO").optional()])
        .complexity("O(N) in the number of keys written");
    Savepoint => row("savepoint", 2, Group::Transactions, "Names a point to which to ROLLBACK TO")
        .flags(Flags::NOSCRIPT.and(Flags::FAST).and(Flags::NO_MULTI)).args(&[text("name")]);
    Release => row("release", 2, Group::Transactions, "Forgets a savepoint, not what was written")
        .flags(Flags::NOSCRIPT.and(Flags::FAST).and(Flags::NO_MULTI)).args(&[text("name")]);
    Ping => row("ping", -1, Group::Connection, "Answers PONG, or the message")
        .flags(Flags::FAST).args(&[text("message").optional()]).tips(ALL_SHARDS_OK);
    Echo => row("echo", 2, Group::Connection, "Answers the message")
        .flags(ANYTIME.and(Flags::FAST)).args(&[text("message")]);
    Quit => row("quit", -1, Group::Connection, "Answers OK and closes the connection")
        .flags(SESSION);
    Reset => row("reset", 1, Group::Connection, "Brings the connection back to its first state")
        .flags(SESSION);
    Hello => row("hello", -1, Group::Connection, "Chooses the protocol and describes the server")
        .flags(SESSION)
        .args(&[block("arguments", &[
            integer("protover"),
            block("auth", &[text("username"), text("password")]).after("AUTH").optional(),
            text("clientname").after("SETNAME").optional(),
        ]).optional()]);
    Auth => row("auth", -2, Group::Connection, "For clients that ask: there are no passwords")
        .flags(SESSION).args(&[text("username").optional(), text("password")]);
    Select => row("select", 2, Group::Connection, "Chooses the database, by its number")
        .flags(ANYTIME.and(Flags::FAST)).args(&[integer("index")]);
    ClientId => row("client|id", 2, Group::Connection, "Returns the connection's number")
        .flags(Flags::NOSCRIPT.and(ANYTIME));
    ClientGetname => row("client|getname", 2, Group::Connection, "Returns the connection's name")
        .flags(Flags::NOSCRIPT.and(ANYTIME));
    ClientSetname => row("client|setname", 3, Group::Connection, "Names the connection")
        .flags(Flags::NOSCRIPT.and(ANYTIME)).args(&[text("connection-name")]);
    ClientSetinfo => row(
            "client|setinfo", 4, Group::Connection,
            "Tells name or version of the client's library, for CLIENT LIST",
        )
        .flags(Flags::NOSCRIPT.and(ANYTIME))
        .args(&[one_of("attr", &[
            text("libname").after("LIB-NAME"),
            text("libver").after("LIB-VER"),
        ])])
        .tips(ALL_SHARDS_OK_NODES);
    ClientInfo => row("client|info", 2, Group::Connection, "Describes the connection")
        .flags(Flags::NOSCRIPT.and(ANYTIME)).tips(&["nondeterministic_output"]);
    ClientList => row("client|list", -2, Group::Connection, "Describes all connections")
        .flags(ADMIN).complexity("O(N) in the number of connections")
        .tips(&["nondeterministic_output"])
        .args(&[
            one_of("client-type", &[
                token("normal", "NORMAL"),
                token("master", "MASTER"),
                token("replica", "REPLICA"),
                token("pubsub", "PUBSUB"),
            ]).after("TYPE").optional(),
            integer("client-id").after("ID").optional().multiple(),
        ]);
    ClientKill => row("client|kill", -3, Group::Connection, "Closes connections")
        .flags(ADMIN).complexity("O(N) in the number of connections")
        .args(&[one_of("filter", &[
            text("ip:port"),
            block("new-format", &[
                integer("client-id").after("ID").optional(),
                one_of("client-type", &[
                    token("normal", "NORMAL"), token("master", "MASTER"),
                    token("replica", "REPLICA"), token("pubsub", "PUBSUB"),
                ]).after("TYPE").optional(),
                text("username").after("USER").optional(),
                text("ip:port").after("ADDR").optional(),
                text("ip:port").after("LADDR").optional(),
                one_of("skipme", &[token("yes", "YES"), token("no", "NO")])
                    .after("SKIPME").optional(),
            ]).multiple(),
        ])]);
    ClientPause => row("client|pause", -3, Group::Connection, "Holds commands back for a time")
        .flags(ADMIN)
        .args(&[
            integer("timeout"),
            one_of("mode", &[token("write", "WRITE"), token("all", "ALL")]).optional(),
        ]);
    ClientUnpause => row("client|unpause", 2, Group::Connection, "Ends what CLIENT PAUSE began")
        .flags(ADMIN);
    ClientNoEvict => row("client|no-evict", 3, Group::Connection, "Is noted; nobody is evicted")
        .flags(ADMIN).args(&[ON_OR_OFF]);
    ClientNoTouch => row(
            "client|no-touch", 3, Group::Connection,
            "Is noted; reads are not recorded",
        )
        .flags(Flags::NOSCRIPT.and(ANYTIME)).args(&[ON_OR_OFF]);
    ClientSynchronousCommit => row(
            "client|synchronous-commit", 3, Group::Connection,
            "Says whether replies to this connection's writes wait for the disk",
        )
        .flags(Flags::NOSCRIPT.and(ANYTIME))
        .args(&[one_of("setting", &[
            token("on", "ON"), token("off", "OFF"), token("default", "DEFAULT"),
        ])]);
    ClientReply => row("client|reply", 3, Group::Connection, "Says whether replies are sent")
        .flags(Flags::NOSCRIPT.and(ANYTIME))
        .args(&[one_of("action", &[
            token("on", "ON"), token("off", "OFF"), token("skip", "SKIP"),
        ])]);
    ClientTrackinginfo => row("client|trackinginfo", 2, Group::Connection, "Says that none is on")
        .flags(Flags::NOSCRIPT.and(ANYTIME));
    ClientGetredir => row("client|getredir", 2, Group::Connection, "Returns -1: nothing is tracked")
        .flags(Flags::NOSCRIPT.and(ANYTIME));
    ClientUnblock => row("client|unblock", -3, Group::Connection, "Returns 0: no command blocks")
        .flags(ADMIN)
        .args(&[
            integer("client-id"),
            one_of("unblock-type", &[token("timeout", "TIMEOUT"), token("error", "ERROR")])
                .optional(),
        ]);
    ClientHelp => row("client|help", 2, Group::Connection, "Lists the subcommands of CLIENT")
        .flags(ANYTIME);
    Dbsize => row("dbsize", 1, Group::Server, "Returns the number of keys")
        .flags(READ_FAST).complexity(OF_ALL_KEYS).categories(&["keyspace"])
        .tips(ALL_SHARDS_SUM);
    Flushdb => row("flushdb", -1, Group::Server, "Removes all keys of the database")
        .flags(Flags::WRITE).complexity(OF_ALL_KEYS).categories(&["keyspace", "dangerous"])
        .args(FLUSH_ARGS).tips(ALL_SHARDS_OK);
    Flushall => row("flushall", -1, Group::Server, "Removes all keys")
        .flags(Flags::WRITE).complexity(OF_ALL_KEYS).categories(&["keyspace", "dangerous"])
        .args(FLUSH_ARGS).tips(ALL_SHARDS_OK);
    Swapdb => row(
            "swapdb", 3, Group::Server,
            "Gives each of two databases the keys of the other; not within a transaction",
        )
        .flags(WRITE_FAST).categories(&["keyspace", "dangerous"])
        .args(&[integer("index1"), integer("index2")]);
    Use => row("use", 2, Group::Connection, "Chooses the namespace, by its name")
        .flags(ANYTIME.and(Flags::FAST)).args(&[text("name")]);
    NamespaceCreate => row("namespace|create", 3, Group::Server, "Creates an empty namespace")
        .flags(NAMESPACE).args(&[text("name")]);
    NamespaceDrop => row(
            "namespace|drop", 3, Group::Server,
            "Drops a namespace with all its keys, and gives their room on disk back",
        )
        .flags(NAMESPACE).categories(&["dangerous"]).args(&[text("name")]);
    NamespaceRename => row(
            "namespace|rename", 4, Group::Server,
            "Gives a namespace another name; who uses it goes on to",
        )
        .flags(NAMESPACE).args(&[text("name"), text("newname")]);
    NamespaceReadonly => row(
            "namespace|readonly", 3, Group::Server,
            "Refuses writes to a namespace, and closes its file when all of it is on disk",
        )
        .flags(NAMESPACE).args(&[text("name")]).complexity(OF_ITS_DIRTY_PAGES);
    NamespaceReadwrite => row(
            "namespace|readwrite", 3, Group::Server,
            "Lets writes to a namespace in again",
        )
        .flags(NAMESPACE).args(&[text("name")]);
    NamespaceOffline => row(
            "namespace|offline", 3, Group::Server,
            "Refuses reads and writes of a namespace, and closes its file, which may then be taken away",
        )
        .flags(NAMESPACE).args(&[text("name")]).complexity(OF_ITS_DIRTY_PAGES);
    NamespaceOnline => row(
            "namespace|online", 3, Group::Server,
            "Brings a namespace back, if its file is the one that was left there",
        )
        .flags(NAMESPACE).args(&[text("name")]);
    NamespaceList => row(
            "namespace|list", -2, Group::Server,
            "Lists the names of all namespaces, with ACCESS also what may be done with them",
        )
        .flags(ANYTIME).args(&[token("access", "ACCESS").optional()])
        .complexity("O(N) in the number of namespaces");
    NamespaceInfo => row(
            "namespace|info", -2, Group::Server,
            "Describes a namespace, or the one in use: keys, file, room on disk, access, checkpoint",
        )
        .flags(ANYTIME).args(&[text("name").optional()])
        .complexity("O(N) in the number of namespaces");
    NamespaceHelp => row(
            "namespace|help", 2, Group::Server,
            "Lists the subcommands of NAMESPACE",
        )
        .flags(ANYTIME);
    Info => row("info", -1, Group::Server, "Reports on the server, by sections")
        .flags(ANYTIME).categories(&["dangerous"]).args(&[text("section").optional().multiple()])
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]);
    MemoryUsage => row("memory|usage", -3, Group::Server, "Returns how much room a key takes")
        .flags(Flags::READONLY).keys(&[key_at(2, &["RO"])])
        .args(&[KEY, integer("count").after("SAMPLES").optional()]);
    MemoryHelp => row("memory|help", 2, Group::Server, "Lists the subcommands of MEMORY")
        .flags(ANYTIME);
    ConfigGet => row("config|get", -3, Group::Server, "Returns parameters that fit the patterns")
        .flags(ADMIN).complexity("O(N) in the number of parameters")
        .args(&[arg("parameter", ArgKind::Pattern).multiple()]);
    ConfigSet => row("config|set", -4, Group::Server, "Sets parameters, all or none")
        .flags(ADMIN).complexity("O(N) in the number of parameters given")
        .args(&[block("data", &[text("parameter"), text("value")]).multiple()])
        .tips(ALL_SHARDS_OK_NODES);
    ConfigRewrite => row(
            "config|rewrite", 2, Group::Server,
            "Writes what CONFIG SET has changed into the configuration file",
        )
        .flags(ADMIN);
    ConfigResetstat => row("config|resetstat", 2, Group::Server, "Sets counters of INFO to zero")
        .flags(ADMIN);
    ConfigHelp => row("config|help", 2, Group::Server, "Lists the subcommands of CONFIG")
        .flags(ANYTIME);
    Command => row("command", -1, Group::Server, "Returns the table of commands")
        .flags(ANYTIME).categories(&["connection"])
        .complexity("O(N) in the number of commands").tips(&["nondeterministic_output_order"]);
    CommandCount => row("command|count", 2, Group::Server, "Counts the commands")
        .flags(ANYTIME).categories(&["connection"]);
    CommandDocs => row("command|docs", -2, Group::Server, "Documents commands, or all")
        .flags(ANYTIME).categories(&["connection"]).args(NAMES)
        .complexity("O(N) in the number of commands").tips(&["nondeterministic_output_order"]);
    CommandInfo => row("command|info", -2, Group::Server, "Returns rows of the table, or all")
        .flags(ANYTIME).categories(&["connection"]).args(NAMES)
        .complexity("O(N) in the number of commands").tips(&["nondeterministic_output_order"]);
    CommandList => row("command|list", -2, Group::Server, "Lists the names of commands")
        .flags(ANYTIME).categories(&["connection"])
        .args(&[one_of("filterby", &[
            text("module-name").after("MODULE"),
            text("category").after("ACLCAT"),
            arg("pattern", ArgKind::Pattern).after("PATTERN"),
        ]).after("FILTERBY").optional()])
        .complexity("O(N) in the number of commands").tips(&["nondeterministic_output_order"]);
    CommandGetkeys => row("command|getkeys", -3, Group::Server, "Tells the keys of a command")
        .flags(ANYTIME).categories(&["connection"])
        .args(&[text("command"), text("arg").optional().multiple()])
        .complexity("O(N) in the number of arguments");
    CommandGetkeysandflags => row(
            "command|getkeysandflags", -3, Group::Server,
            "Tells the keys of a command and what it does to each",
        )
        .flags(ANYTIME).categories(&["connection"])
        .args(&[text("command"), text("arg").optional().multiple()])
        .complexity("O(N) in the number of arguments");
    CommandHelp => row("command|help", 2, Group::Server, "Lists the subcommands of COMMAND")
        .flags(ANYTIME).categories(&["connection"]);
    Checkpoint => row(
            "checkpoint", -1, Group::Server,
            "Makes a checkpoint, or tells what one would cost; waits for its end unless told otherwise; with \
             BACKUP just before a snapshot of the volume is taken, so that a server on it has little to redo; with \
             NAMESPACE puts all that was written to one namespace into its file, and leaves the others alone",
        )
        .flags(Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_MULTI))
        .complexity("O(N) in the number of dirty pages")
        .args(&[
            one_of("wait", &[token("wait", "WAIT"), token("nowait", "NOWAIT")]).optional(),
            one_of("pace", &[token("fast", "FAST"), token("spread", "SPREAD")]).optional(),
            token("backup", "BACKUP").optional(),
            token("explain", "EXPLAIN").optional(),
            text("name").after("NAMESPACE").optional(),
        ]);
    StatCheckpoints => row(
            "stat|checkpoints", -2, Group::Server,
            "Returns the last checkpoints with cause, requester and cost, newest first",
        )
        .flags(STAT).args(&[integer("count").optional()]).complexity("O(N) in their number");
    StatCheckpoint => row(
            "stat|checkpoint", 2, Group::Server,
            "Returns how far the checkpoint under way has come, and who waits for one",
        )
        .flags(STAT);
    StatRecovery => row(
            "stat|recovery", 2, Group::Server,
            "Returns how long recovery would take now, and what makes it so long",
        )
        .flags(STAT);
    StatIo => row(
            "stat|io", 2, Group::Server,
            "Returns reads, writes and syncs by kind of process, object and cause",
        )
        .flags(STAT);
    StatWal => row("stat|wal", 2, Group::Server, "Returns positions in the log and its counters")
        .flags(STAT);
    StatBuffers => row("stat|buffers", 2, Group::Server, "Returns the state of shared buffers")
        .flags(STAT).complexity("O(N) in the number of buffers");
    StatScrub => row(
            "stat|scrub", 2, Group::Server,
            "Returns how far the scrub of relation files has come, and what it found",
        )
        .flags(STAT);
    StatProcesses => row(
            "stat|processes", 2, Group::Server,
            "Returns the processes, with what each has done",
        )
        .flags(STAT);
    StatAdvice => row(
            "stat|advice", 2, Group::Server,
            "Returns what other settings would cost under the present load, and which to change",
        )
        .flags(STAT);
    StatRecoveries => row(
            "stat|recoveries", -2, Group::Server,
            "Returns the last recoveries, with the time expected and taken, newest first",
        )
        .flags(STAT).args(&[integer("count").optional()]).complexity("O(N) in their number");
    StatHelp => row("stat|help", 2, Group::Server, "Lists the subcommands of STAT")
        .flags(ANYTIME);
    Save => row("save", 1, Group::Server, "Makes a checkpoint and waits for its end")
        .flags(Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING).and(Flags::NO_MULTI))
        .complexity("O(N) in the number of dirty pages");
    Bgsave => row("bgsave", -1, Group::Server, "Asks for a checkpoint and does not wait")
        .flags(Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING))
        .args(&[token("schedule", "SCHEDULE").optional()]);
    Lastsave => row(
            "lastsave", 1, Group::Server,
            "Returns when the last checkpoint ended, in seconds since 1970",
        )
        .flags(ANYTIME.and(Flags::FAST)).categories(&["admin", "dangerous"])
        .tips(&["nondeterministic_output"]);
    Time => row("time", 1, Group::Server, "Returns the server's time, seconds and microseconds")
        .flags(ANYTIME.and(Flags::FAST)).tips(&["nondeterministic_output"]);
    Shutdown => row("shutdown", -1, Group::Server, "Stops the server, fast unless told otherwise")
        .flags(ADMIN.and(Flags::NO_MULTI).and(Flags::ALLOW_BUSY))
        .args(&[one_of("mode", &[
            token("smart", "SMART"),
            token("fast", "FAST"),
            token("immediate", "IMMEDIATE"),
        ]).optional()]);
}

const ALL_SHARDS_OK_NODES: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];

impl CommandId {
    /// Its row.
    #[inline]
    pub fn command(self) -> &'static Command {
        #[allow(clippy::indexing_slicing, reason = "rows and ids come from one list")]
        &CALLABLE[self as usize]
    }
}

/// The name of the command with this number, `id as u32`: for numbers that come out of shared
/// memory, which may be of no command.
pub fn name_of(number: u32) -> Option<&'static str> {
    CALLABLE.get(number as usize).map(|row| row.name)
}

/// Every row: commands, containers and subcommands.
pub fn all() -> impl Iterator<Item = &'static Command> + Clone {
    CALLABLE.iter().chain(CONTAINERS)
}

/// The rows that are no subcommands.
pub fn commands() -> impl Iterator<Item = &'static Command> + Clone {
    all().filter(|row| row.parts().is_none())
}

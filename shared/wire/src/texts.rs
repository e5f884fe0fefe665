//! Error replies that several commands share, code word included, as Redis words them.

/// A string of a reply for which there is no memory.
pub const NO_ROOM_FOR_REPLY: &str = "ERR there is no memory left for this part of the reply; what the \
     command has changed stands";
/// An option that the command does not know, or options that exclude each other.
pub const SYNTAX: &str = "ERR syntax error";
/// A number was expected (see [`crate::num::parse_i64`]).
pub const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// INCR and its kin would leave the range of an i64.
pub const OVERFLOW: &str = "ERR increment or decrement would overflow";
/// DECRBY by the one number that has no negative.
pub const DECREMENT_OVERFLOW: &str = "ERR decrement would overflow";
/// APPEND beyond the longest value.
pub const STRING_TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";
/// SELECT of a number that is no database.
pub const DB_OUT_OF_RANGE: &str = "ERR DB index is out of range";
/// SELECT of something that is no number.
pub const DB_NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";
/// SWAPDB with a first argument that is no number.
pub const BAD_FIRST_DB: &str = "ERR invalid first DB index";
/// SWAPDB with a second argument that is no number.
pub const BAD_SECOND_DB: &str = "ERR invalid second DB index";
/// A command that cannot be queued.
pub const NOT_IN_MULTI: &str = "ERR Command not allowed inside a transaction";
/// MULTI after MULTI.
pub const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";
/// WATCH after MULTI.
pub const WATCH_IN_MULTI: &str = "ERR WATCH inside MULTI is not allowed";
/// EXEC without MULTI.
pub const EXEC_WITHOUT_MULTI: &str = "ERR EXEC without MULTI";
/// DISCARD without MULTI.
pub const DISCARD_WITHOUT_MULTI: &str = "ERR DISCARD without MULTI";
/// EXEC after a command that could not be queued.
pub const EXEC_ABORT: &str = "EXECABORT Transaction discarded because of previous errors.";
/// MSET with a key that has no value. Redis names the command as the arity error does.
pub const MSET_ARITY: &str = "ERR wrong number of arguments for 'mset' command";
/// HELLO with a protocol other than 2 and 3.
pub const NO_PROTO: &str = "NOPROTO unsupported protocol version";
/// HELLO with a protocol that is no number.
pub const PROTO_NOT_A_NUMBER: &str = "ERR Protocol version is not an integer or out of range";
/// AUTH with one argument, and no password is set.
pub const AUTH_WITHOUT_PASSWORD: &str = "ERR AUTH <password> called without any password \
     configured for the default user. Are you sure your configuration is correct?";
/// AUTH with a user that does not exist, or with a wrong password.
pub const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
/// CLIENT SETNAME, HELLO SETNAME.
pub const BAD_CLIENT_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";
/// EXPIRE with NX and another condition.
pub const EXPIRE_NX: &str = "ERR NX and XX, GT or LT options at the same time are not compatible";
/// EXPIRE with both directions.
pub const EXPIRE_GT_LT: &str = "ERR GT and LT options at the same time are not compatible";
/// MSETNX with a key that has no value.
pub const MSETNX_ARITY: &str = "ERR wrong number of arguments for 'msetnx' command";
/// RENAME of what is not there.
pub const NO_SUCH_KEY: &str = "ERR no such key";
/// COPY onto itself.
pub const SAME_OBJECT: &str = "ERR source and destination objects are the same";
/// SETRANGE before the first byte.
pub const OFFSET_OUT_OF_RANGE: &str = "ERR offset is out of range";
/// INCRBYFLOAT of or by what is no number.
pub const NOT_A_FLOAT: &str = "ERR value is not a valid float";
/// INCRBYFLOAT beyond what can be counted.
pub const NAN_OR_INFINITY: &str = "ERR increment would produce NaN or Infinity";
/// LCS with words that exclude each other.
pub const LCS_LEN_AND_IDX: &str =
    "ERR If you want both the length and indexes, please just use IDX.";
/// LCS of strings whose table of lengths would be too large.
pub const LCS_TOO_LARGE: &str =
    "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
/// SCAN with what is no cursor.
pub const INVALID_CURSOR: &str = "ERR invalid cursor";
/// OBJECT FREQ, as Redis words it when it does not count either.
pub const NO_FREQUENCY: &str = "ERR An LFU maxmemory policy is not selected, access frequency not \
     tracked. Please note that when switching between policies at runtime LRU and LFU data will \
     take some time to adjust.";
/// OBJECT IDLETIME.
pub const NO_IDLE_TIME: &str = "ERR idle time not tracked: Redoubt does not record reads";
/// RESTORE with a negative time.
pub const INVALID_TTL: &str = "ERR Invalid TTL value, must be >= 0";
/// RESTORE with a negative IDLETIME.
pub const INVALID_IDLETIME: &str = "ERR Invalid IDLETIME value, must be >= 0";
/// RESTORE with a FREQ that is none.
pub const INVALID_FREQ: &str = "ERR Invalid FREQ value, must be >= 0 and <= 255";
/// RESTORE of what no server has dumped, or a newer one.
pub const DUMP_FOOTER: &str = "ERR DUMP payload version or checksum are wrong";
/// RESTORE of what cannot be made out.
pub const DUMP_FORMAT: &str = "ERR Bad data format";
/// RESTORE of a value of another type.
pub const STRINGS_ONLY: &str = "Redoubt stores strings only";
/// RESTORE onto a key that is there.
pub const BUSY_KEY: &str = "BUSYKEY Target key name already exists.";
/// WAIT, CLIENT PAUSE with a time that is none.
pub const NOT_A_TIMEOUT: &str = "ERR timeout is not an integer or out of range";
/// WAIT, CLIENT PAUSE with a time below zero.
pub const NEGATIVE_TIMEOUT: &str = "ERR timeout is negative";
/// CLIENT PAUSE with another word.
pub const PAUSE_MODE: &str = "ERR CLIENT PAUSE mode must be WRITE or ALL";
/// CLIENT KILL of one that is not there.
pub const NO_SUCH_CLIENT: &str = "ERR No such client";
/// CLIENT KILL ID of what is no number above zero.
pub const CLIENT_ID_ABOVE_ZERO: &str = "ERR client-id should be greater than 0";
/// CLIENT UNBLOCK with another word.
pub const UNBLOCK_REASON: &str = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
/// WAITAOF of more local copies than there are.
pub const OUT_OF_RANGE_01: &str = "ERR value is out of range, must be between 0 and 1";
/// WAITAOF of a number of replicas below zero.
pub const MUST_BE_POSITIVE: &str = "ERR value is out of range, must be positive";
/// A bit's place that is none.
pub const BIT_OFFSET: &str = "ERR bit offset is not an integer or out of range";
/// SETBIT to what is neither 0 nor 1.
pub const NOT_A_BIT: &str = "ERR bit is not an integer or out of range";
/// BITPOS of what is neither 0 nor 1.
pub const BIT_ARGUMENT: &str = "ERR The bit argument must be 1 or 0.";
/// BITOP NOT of several keys.
pub const BITOP_NOT: &str = "ERR BITOP NOT must be called with a single source key.";
/// BITFIELD with a type that is none.
pub const BITFIELD_TYPE: &str = "ERR Invalid bitfield type. Use something like i16 u8. Note that \
     u64 is not supported but i64 is.";
/// BITFIELD OVERFLOW with another word.
pub const BITFIELD_OVERFLOW: &str = "ERR Invalid OVERFLOW type specified";
/// BITFIELD_RO with a write.
pub const BITFIELD_RO: &str = "ERR BITFIELD_RO only supports the GET subcommand";

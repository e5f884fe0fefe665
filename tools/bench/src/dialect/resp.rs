//! Redoubt and Redis.
//!
//! Requests are put together by the encoder of `rd-wire`. Replies are not built up as the clients
//! do it that hand them to a program (its own decoder, or the crate redis): they are walked over in
//! the input buffer, and only what an operation looks at is taken out, since on a small machine
//! the load competes with the server for processors.

use super::{Data, Dialect, Piece, Sample, Server, Values, Watch};
use crate::address::{Address, Stream};
use crate::operation::{BALANCE, Kind, Operation, Outcome, Refusal, Step, Transfer};
use anyhow::{Context, Result, anyhow};
use rd_wire::client::encode;
use rd_wire::{Client, Reply};
use std::io::{Read, Write};
use std::time::Duration;

/// Requests sent together while data are made and counted.
const BATCH: u64 = 1000;
/// Digits of a key's number.
const DIGITS: usize = 12;
/// Digits of a length that is walked over without looking for the end of its line first.
const PLAIN_DIGITS_MAX: usize = 9;
/// Arrays within arrays, at most.
const DEPTH_MAX: u32 = 8;

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brand {
    /// With interactive transactions, ranges, and its own words.
    Redoubt,
    /// With optimistic locking by WATCH in place of transactions.
    Redis,
}

/// A key as bytes: a word and the number with leading zeros, so that order is that of numbers.
struct Key {
    bytes: [u8; 8 + DIGITS],
    len: usize,
}

impl Key {
    fn new(word: &[u8], mut number: u64) -> Key {
        let mut key = Key {
            bytes: [b'0'; 8 + DIGITS],
            len: word.len() + DIGITS,
        };
        key.bytes[..word.len()].copy_from_slice(word);
        for digit in key.bytes[word.len()..key.len].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        key
    }

    fn value(number: u64) -> Key {
        Key::new(b"key:", number)
    }

    fn account(number: u64) -> Key {
        Key::new(b"account:", number)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A Redoubt or a Redis.
#[derive(Debug)]
pub struct RespServer {
    brand: Brand,
    address: Address,
    password: Option<String>,
    is_serializable: bool,
    timeout: Duration,
}

impl RespServer {
    /// A server at an address; nothing is done yet.
    pub fn new(
        brand: Brand,
        address: Address,
        password: Option<String>,
        is_serializable: bool,
        timeout: Duration,
    ) -> RespServer {
        RespServer {
            brand,
            address,
            password,
            is_serializable,
            timeout,
        }
    }

    fn client(&self) -> Result<Client> {
        let mut client = match &self.address {
            Address::Tcp(host, port) => Client::connect((host.as_str(), *port))?,
            Address::Unix(path) => Client::connect_unix(path)?,
        };
        client.set_timeout(Some(self.timeout))?;
        if let Some(password) = &self.password {
            check(client.call(&["AUTH", password])?, "AUTH")?;
        }
        Ok(client)
    }

    fn info(client: &mut Client, sections: &[&str]) -> Result<String> {
        let mut words = vec!["INFO"];
        words.extend_from_slice(sections);
        match client.call(&words)? {
            Reply::Bulk(text) | Reply::Verbatim { text, .. } => {
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            reply => Err(check(reply, "INFO").err().unwrap_or_else(|| {
                anyhow!("the server answered INFO with something else than text")
            })),
        }
    }
}

/// An error reply as an error.
fn check(reply: Reply, command: &str) -> Result<Reply> {
    match reply.error() {
        Some(text) => Err(anyhow!("{command}: the server says: {text}")),
        None => Ok(reply),
    }
}

/// The value of a field of INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| {
        let (found, value) = line.trim_end().split_once(':')?;
        (found == name).then_some(value)
    })
}

fn number(info: &str, name: &str) -> Option<u64> {
    field(info, name)?.parse().ok()
}

/// An LSN in its usual form, high and low half in hexadecimal digits.
fn lsn(info: &str, name: &str) -> Option<u64> {
    let (high, low) = field(info, name)?.split_once('/')?;
    let half = |digits| u64::from_str_radix(digits, 16).ok();
    Some(half(high)?.checked_shl(32)? | half(low)?)
}

impl Server for RespServer {
    fn version(&self) -> Result<String> {
        let info = Self::info(&mut self.client()?, &["server"])?;
        let ours = field(&info, "redoubt_version").map(|version| format!("Redoubt {version}"));
        let theirs = || field(&info, "redis_version").map(|version| format!("Redis {version}"));
        let found = ours.or_else(theirs);
        let found = found.ok_or_else(|| anyhow!("the server does not say which version it is"))?;
        match self.brand {
            Brand::Redoubt if found.starts_with("Redis") => Err(rd_tools::cli::with_hint(
                format!("at {} is {found}, not Redoubt", self.address),
                "Say --server redis.",
            )),
            _ => Ok(found),
        }
    }

    fn load(&self, data: Data, count: u64, values: &Values, advance: &dyn Fn(u64)) -> Result<()> {
        let mut client = self.client()?;
        let balance = BALANCE.to_string();
        for from in (0..count).step_by(BATCH as usize) {
            let until = count.min(from + BATCH);
            for number in from..until {
                match data {
                    Data::Values => {
                        client.send(&[b"SET", Key::value(number).as_ref(), values.get(number)])
                    }
                    Data::Accounts => {
                        let key = Key::account(number);
                        client.send(&[b"SET", key.as_ref(), balance.as_bytes()]);
                    }
                }
            }
            for reply in client.receive_many((until - from) as usize)? {
                check(reply, "SET")?;
            }
            advance(until - from);
        }
        if self.brand == Brand::Redoubt {
            // The checkpoint may take longer than any single reply of the load.
            client.set_timeout(None)?;
            check(client.call(&["CHECKPOINT"])?, "CHECKPOINT")?;
        }
        Ok(())
    }

    fn total(&self, count: u64) -> Result<i64> {
        let mut client = self.client()?;
        let mut total = 0_i64;
        for from in (0..count).step_by(BATCH as usize) {
            let accounts = (from..count.min(from + BATCH)).map(Key::account);
            let mut words: Vec<Vec<u8>> = vec![b"MGET".to_vec()];
            words.extend(accounts.map(|key| key.as_ref().to_vec()));
            let Reply::Array(balances) = check(client.call(&words)?, "MGET")? else {
                return Err(anyhow!(
                    "the server answered MGET with something else than an array"
                ));
            };
            for (number, balance) in (from..).zip(balances) {
                let Reply::Bulk(digits) = balance else {
                    return Err(rd_tools::cli::with_hint(
                        format!("account {number} is missing"),
                        "Make the accounts with --load.",
                    ));
                };
                let balance = integer(&digits).ok_or_else(|| {
                    anyhow!("account {number} holds something else than a number")
                })?;
                total = total.wrapping_add(balance);
            }
        }
        Ok(total)
    }

    fn open(&self, is_asynchronous: bool) -> Result<Stream> {
        let mut stream = self.address.connect(self.timeout)?;
        let mut requests = Vec::new();
        let mut replies = 0;
        if let Some(password) = &self.password {
            encode(&mut requests, &["AUTH", password]);
            replies += 1;
        }
        if is_asynchronous {
            if self.brand == Brand::Redis {
                return Err(rd_tools::cli::with_hint(
                    "Redis cannot let one connection not wait for the disk",
                    "Start it with appendfsync everysec, and leave --asynchronous out.",
                ));
            }
            encode(&mut requests, &["CLIENT", "SYNCHRONOUS-COMMIT", "OFF"]);
            replies += 1;
        }
        // The server takes the connection up, or says why it does not.
        encode(&mut requests, &["PING"]);
        replies += 1;
        // A server that refuses may have closed before it could be asked: what it said is read.
        let sent = stream.write_all(&requests);
        let mut decoder = rd_wire::ReplyDecoder::new(Default::default());
        let mut chunk = [0; 1024];
        while replies > 0 {
            let Some(reply) = decoder.next_reply()? else {
                let count = stream.read(&mut chunk).context("no answer to PING")?;
                if count == 0 {
                    sent.context("the server did not take the connection")?;
                    return Err(anyhow!(
                        "the server closed the connection before it was used"
                    ));
                }
                decoder.feed(&chunk[..count]);
                continue;
            };
            check(reply, "connecting")?;
            replies -= 1;
        }
        Ok(stream)
    }

    fn dialect(&self) -> Box<dyn Dialect> {
        Box::new(RespDialect {
            brand: self.brand,
            is_serializable: self.is_serializable,
        })
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(Box::new(RespWatch {
            client: self.client()?,
        }))
    }
}

/// A connection on which INFO is asked.
struct RespWatch {
    client: Client,
}

impl Watch for RespWatch {
    fn sample(&mut self) -> Result<Sample> {
        let sections = ["persistence", "wal", "checkpoint", "storage", "recovery"];
        let info = RespServer::info(&mut self.client, &sections)?;
        let (insert, redo) = (lsn(&info, "insert_lsn"), lsn(&info, "redo_lsn"));
        let under_way = number(&info, "checkpoint_in_progress");
        // Redis has snapshots and rewrites of its log in the place of checkpoints.
        let of_redis = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress"];
        let redis_is_at_it = of_redis.iter().any(|name| number(&info, name) == Some(1));
        Ok(Sample {
            wal_bytes: insert.or_else(|| number(&info, "aof_current_size")),
            redo_bytes: insert.and_then(|insert| insert.checked_sub(redo?)),
            dirty_pages: number(&info, "recovery_dirty_pages"),
            recovery_estimate_ms: number(&info, "recovery_estimate_us").map(|us| us / 1000),
            checkpoints_started: number(&info, "checkpoints_started"),
            is_checkpoint_under_way: under_way.map_or(redis_is_at_it, |flag| flag == 1),
        })
    }
}

/// Trips as requests, replies walked over.
struct RespDialect {
    brand: Brand,
    is_serializable: bool,
}

impl RespDialect {
    fn begin(&self, transfer: &Transfer, out: &mut Vec<u8>) {
        match (self.brand, self.is_serializable) {
            (Brand::Redoubt, false) => encode(out, &[b"BEGIN".as_slice()]),
            (Brand::Redoubt, true) => encode(out, &["BEGIN", "SERIALIZABLE"]),
            (Brand::Redis, _) => {
                let (from, to) = (Key::account(transfer.from), Key::account(transfer.to));
                encode(out, &[b"WATCH", from.as_ref(), to.as_ref()]);
            }
        }
    }

    fn commit(&self, out: &mut Vec<u8>) {
        match self.brand {
            Brand::Redoubt => encode(out, &["COMMIT"]),
            Brand::Redis => encode(out, &["EXEC"]),
        }
    }

    /// A step of a transfer; returns its replies.
    fn transfer(&self, transfer: &Transfer, step: Step, out: &mut Vec<u8>) -> u32 {
        let (from, to) = (Key::account(transfer.from), Key::account(transfer.to));
        let get = |key: &Key, out: &mut Vec<u8>| encode(out, &[b"GET", key.as_ref()]);
        let set = |key: &Key, balance: i64, out: &mut Vec<u8>| {
            encode(out, &[b"SET", key.as_ref(), balance.to_string().as_bytes()]);
        };
        // What Redis does between MULTI and EXEC is sent with the first write.
        let multi = u32::from(self.brand == Brand::Redis);
        let [first, second] = transfer.result();
        let write_first = |out: &mut Vec<u8>| {
            if self.brand == Brand::Redis {
                encode(out, &["MULTI"]);
            }
            set(&from, first, out);
        };
        match step {
            Step::Begin => self.begin(transfer, out),
            Step::ReadFirst => get(&from, out),
            Step::ReadSecond => get(&to, out),
            Step::WriteFirst => {
                write_first(out);
                return 1 + multi;
            }
            Step::WriteSecond => set(&to, second, out),
            Step::Only | Step::Commit => self.commit(out),
            Step::Rollback if self.brand == Brand::Redis => encode(out, &["DISCARD"]),
            Step::Rollback => encode(out, &["ROLLBACK"]),
            Step::BeginAndRead => {
                self.begin(transfer, out);
                get(&from, out);
                get(&to, out);
                return 3;
            }
            Step::WriteAndCommit => {
                write_first(out);
                set(&to, second, out);
                self.commit(out);
                return 3 + multi;
            }
        }
        1
    }
}

impl Dialect for RespDialect {
    fn encode(&mut self, operation: &Operation, value: &[u8], out: &mut Vec<u8>) -> u32 {
        match &operation.kind {
            Kind::Get(key) => encode(out, &[b"GET", Key::value(*key).as_ref()]),
            Kind::Set(key) => encode(out, &[b"SET", Key::value(*key).as_ref(), value]),
            Kind::Range(key, limit) => {
                let (from, limit) = (Key::value(*key), limit.to_string());
                let words = [b"RANGE", from.as_ref(), b"", b"LIMIT", limit.as_bytes()];
                encode(out, &words);
            }
            Kind::Transfer(transfer) => return self.transfer(transfer, operation.step, out),
            Kind::Exec(transfer) => {
                let (from, to) = (Key::account(transfer.from), Key::account(transfer.to));
                let amount = transfer.amount.to_string();
                encode(out, &["MULTI"]);
                encode(out, &[b"GET", from.as_ref()]);
                encode(out, &[b"GET", to.as_ref()]);
                encode(out, &[b"DECRBY", from.as_ref(), amount.as_bytes()]);
                encode(out, &[b"INCRBY", to.as_ref(), amount.as_bytes()]);
                encode(out, &["EXEC"]);
                return 6;
            }
        }
        1
    }

    fn decode(
        &mut self,
        input: &[u8],
        operation: &Operation,
        outcome: &mut Outcome,
    ) -> Result<Option<Piece>> {
        let wants_numbers = operation.wants_numbers();
        let mut walk = Walk {
            input,
            at: 0,
            wants_numbers,
            found: std::mem::take(outcome),
        };
        let before = walk.found.clone();
        let Some(head) = walk.reply(0)? else {
            *outcome = before;
            return Ok(None);
        };
        let bytes = walk.at;
        *outcome = walk.found;
        let is_transfer = matches!(operation.kind, Kind::Transfer(_));
        if head == Head::NoArray && is_transfer && operation.step.commits() {
            // EXEC did nothing: a watched key has changed.
            outcome.refuse(Refusal::Conflict);
        }
        outcome.is_failed_open = outcome.refusal.is_some() && !operation.step.commits();
        Ok(Some(Piece {
            bytes,
            is_end: true,
        }))
    }
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    NoArray,
    Other,
}

/// A walk over one reply.
struct Walk<'a> {
    input: &'a [u8],
    at: usize,
    wants_numbers: bool,
    found: Outcome,
}

impl<'a> Walk<'a> {
    /// The rest of the line, and goes behind it.
    fn line(&mut self) -> Option<&'a [u8]> {
        let rest = self.input.get(self.at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        self.at += end + 1;
        rest.get(..end.saturating_sub(1))
    }

    /// Walks over a bulk string that has come whole, behind a plain length. Ranges are made of
    /// nothing else: the length is read on the way to the line's end.
    #[inline]
    fn plain_bulk(&mut self) -> Option<&'a [u8]> {
        let rest = self.input.get(self.at..)?.strip_prefix(b"$")?;
        let mut count = 0;
        for (at, byte) in rest.iter().enumerate().take(PLAIN_DIGITS_MAX + 1) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                let body = rest.get(at..).filter(|_| at > 0)?;
                let (value, end) = body.strip_prefix(b"\r\n")?.split_at_checked(count)?;
                end.get(..2)?;
                self.at += 1 + at + 2 + count + 2;
                return Some(value);
            }
            count = count * 10 + usize::from(digit);
        }
        None
    }

    /// Walks over a reply. `None`: it has not come whole.
    fn reply(&mut self, depth: u32) -> Result<Option<Head>> {
        let wants_numbers = self.wants_numbers;
        if let Some(value) = self.plain_bulk() {
            self.found
                .value(|| if wants_numbers { integer(value) } else { None });
            return Ok(Some(Head::Other));
        }
        let Some(line) = self.line() else {
            return Ok(None);
        };
        let Some((kind, rest)) = line.split_first() else {
            return Err(anyhow!(
                "the server sent an empty line where a reply should be"
            ));
        };
        let announced = || {
            let number = integer(rest).filter(|number| *number >= -1);
            number.ok_or_else(|| anyhow!("the server announced {:?}", text(line)))
        };
        match kind {
            b'+' | b'_' | b',' | b'#' | b'(' => {}
            b'-' => {
                let refusal = match text(rest) {
                    conflict if conflict.starts_with("CONFLICT") => Refusal::Conflict,
                    other => Refusal::Other(other),
                };
                self.found.refuse(refusal);
            }
            b':' => {
                let number = integer(rest);
                self.found.value(|| number);
            }
            b'$' | b'=' => match usize::try_from(announced()?) {
                Err(_) => self.found.missing += 1,
                Ok(count) => {
                    let Some(value) = self.input.get(self.at..).and_then(|rest| rest.get(..count))
                    else {
                        return Ok(None);
                    };
                    self.at += count + 2;
                    if self.at > self.input.len() {
                        return Ok(None);
                    }
                    self.found
                        .value(|| if wants_numbers { integer(value) } else { None });
                }
            },
            b'*' | b'~' | b'%' | b'>' => {
                let count = announced()?;
                if count < 0 {
                    return Ok(Some(Head::NoArray));
                }
                if depth >= DEPTH_MAX {
                    return Err(anyhow!(
                        "the server nests arrays more than {DEPTH_MAX} deep"
                    ));
                }
                let count = if *kind == b'%' {
                    count.saturating_mul(2)
                } else {
                    count
                };
                for _ in 0..count {
                    if self.reply(depth + 1)?.is_none() {
                        return Ok(None);
                    }
                }
            }
            _ => {
                return Err(anyhow!(
                    "the server sent {:?}, which is no reply",
                    text(line)
                ));
            }
        }
        Ok(Some(Head::Other))
    }
}

/// A decimal integer. Each element of a reply announces its length by one, so this is not left to
/// the standard library, which would look for UTF-8 first.
fn integer(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, digits),
    };
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let mut number = digit(first)?;
    for byte in rest {
        number = number.checked_mul(10)?.checked_add(digit(byte)?)?;
    }
    Some(if is_negative { -number } else { number })
}

/// Bytes for people, cut to what is readable.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..200).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(brand: Brand) -> RespDialect {
        RespDialect {
            brand,
            is_serializable: false,
        }
    }

    fn transfer(step: Step) -> Operation {
        let kind = Kind::Transfer(Transfer {
            from: 1,
            to: 2,
            amount: 3,
            balances: [10, 20],
        });
        Operation { kind, step }
    }

    fn decode(operation: &Operation, input: &[u8]) -> Result<Option<(Piece, Outcome)>> {
        let mut outcome = Outcome::default();
        let piece = dialect(Brand::Redoubt).decode(input, operation, &mut outcome)?;
        Ok(piece.map(|piece| (piece, outcome)))
    }

    #[test]
    fn integers_are_whole_or_none() {
        for (digits, number) in [
            ("0", Some(0)),
            ("-12", Some(-12)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("+1", None),
            ("1x", None),
        ] {
            assert_eq!(integer(digits.as_bytes()), number, "{digits}");
        }
    }

    #[test]
    fn a_reply_is_taken_whole_however_it_is_cut() {
        let get = Operation::new(Kind::Range(0, 2), false);
        let input = b"*5\r\n$3\r\nkey\r\n$-1\r\n:7\r\n*1\r\n$0\r\n\r\n=5\r\ntxt:x\r\n+next";
        let whole = input.len() - b"+next".len();
        for cut in 0..whole {
            assert_eq!(
                decode(&get, &input[..cut]).expect("no error"),
                None,
                "{cut}"
            );
        }
        let (piece, outcome) = decode(&get, input).expect("no error").expect("whole");
        assert_eq!((piece.bytes, piece.is_end), (whole, true));
        assert_eq!((outcome.values, outcome.missing), (4, 1));
    }

    #[test]
    fn a_partial_reply_leaves_no_trace() {
        let mut outcome = Outcome::default();
        let get = Operation::new(Kind::Get(0), false);
        let partial = dialect(Brand::Redoubt).decode(b"*2\r\n:1\r\n", &get, &mut outcome);
        assert_eq!(partial.expect("no error"), None);
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn conflicts_are_told_from_other_errors() {
        let conflict = b"-CONFLICT the key x has changed\r\n";
        let (_, outcome) = decode(&transfer(Step::Commit), conflict)
            .expect("read")
            .expect("whole");
        assert_eq!(outcome.refusal, Some(Refusal::Conflict));
        assert!(!outcome.is_failed_open, "COMMIT has ended it");
        let (_, outcome) = decode(&transfer(Step::ReadFirst), conflict)
            .expect("read")
            .expect("whole");
        assert!(outcome.is_failed_open);
        let (_, outcome) = decode(&transfer(Step::Commit), b"*-1\r\n")
            .expect("read")
            .expect("whole");
        assert_eq!(
            outcome.refusal,
            Some(Refusal::Conflict),
            "a watched key has changed"
        );
        let get = Operation::new(Kind::Get(0), false);
        let (_, outcome) = decode(&get, b"-ERR no\r\n").expect("read").expect("whole");
        assert_eq!(outcome.refusal, Some(Refusal::Other("ERR no".to_owned())));
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        let get = Operation::new(Kind::Get(0), false);
        let deep = b"*1\r\n".repeat(20);
        for input in [
            &b"HTTP/1.1 400\r\n"[..],
            b"$x\r\n",
            b"$\r\n\r\n",
            b"$1x\r\na\r\n",
            b"*-2\r\n",
            b"\r\n",
            &deep,
        ] {
            assert!(decode(&get, input).is_err(), "{:?}", text(input));
        }
        // Announced lengths take no room and do not overflow.
        let endless = format!("%{}\r\n", i64::MAX);
        assert_eq!(decode(&get, endless.as_bytes()).expect("no error"), None);
        let long = format!("${}\r\nx", i64::MAX);
        assert_eq!(decode(&get, long.as_bytes()).expect("no error"), None);
    }

    #[test]
    fn trips_are_the_requests_that_a_client_would_send() {
        let sent = |brand, step| {
            let mut out = Vec::new();
            let replies = dialect(brand).encode(&transfer(step), b"", &mut out);
            let words = String::from_utf8(out).expect("text");
            let lines = words.split("\r\n");
            let words: Vec<&str> = lines.filter(|line| !line.starts_with(['*', '$'])).collect();
            (words.join(" ").trim().to_owned(), replies)
        };
        let (redoubt, redis) = (Brand::Redoubt, Brand::Redis);
        for (brand, step, words, replies) in [
            (redoubt, Step::Begin, "BEGIN", 1),
            (redoubt, Step::WriteFirst, "SET account:000000000001 7", 1),
            (redoubt, Step::Commit, "COMMIT", 1),
            (
                redoubt,
                Step::BeginAndRead,
                "BEGIN GET account:000000000001 GET account:000000000002",
                3,
            ),
            (
                redis,
                Step::WriteAndCommit,
                "MULTI SET account:000000000001 7 SET account:000000000002 23 EXEC",
                4,
            ),
            (
                redis,
                Step::Begin,
                "WATCH account:000000000001 account:000000000002",
                1,
            ),
        ] {
            assert_eq!(sent(brand, step), (words.to_owned(), replies));
        }
    }

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Wal\r\nold_insert_lsn:0/1\r\ninsert_lsn:2/A0\r\nredo_lsn:x\r\n";
        assert_eq!(lsn(info, "insert_lsn"), Some((2 << 32) + 0xA0));
        assert_eq!(lsn(info, "redo_lsn"), None);
        assert_eq!(number(info, "insert_lsn"), None);
    }
}

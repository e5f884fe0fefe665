//! Keys without their values: SCAN, KEYS, RANDOMKEY.
//!
//! A SCAN goes through the keys in order. Its cursor names a row of the table in shared memory that
//! keeps where it goes on (`rd_store::cursors`); so what is there all the time is returned, once,
//! whatever else comes and goes. The bytes before a pattern's first special character bound the
//! walk: a pattern that begins with a prefix costs what that prefix holds.

use super::Call;
use crate::dispatch::{Failure, Flow, Outcome};
use crate::waiting::Waiting;
use rd_base::glob;
use rd_base::limits::KEY_BYTES_MAX;
use rd_engine::{Chunk, EngineError, RangeCursor};
use rd_store::cursors::Resume;
use rd_wire::num::{is_word, parse_i64};
use rd_wire::{ReplyWriter, texts};

/// Keys that a SCAN visits if it is not told how many.
const COUNT_DEFAULT: u64 = 10;
/// Keys that a SCAN visits at most, whatever it is told: others wait meanwhile.
const COUNT_MAX: u64 = 10_000;
/// Chunks of a SCAN, if there is little to be seen in them.
const CHUNKS_PER_SCAN: usize = 8;
/// Bytes of keys that are visited at once: what a pattern costs grows with the keys.
const PIECE_BYTES: usize = 256 << 10;
/// It grows with the pattern, too: a longer one than this is held against fewer keys at once.
const PATTERN_BYTES: usize = 16;
/// Longest pattern: every byte of the longest key may be escaped, or be one of two.
const PATTERN_BYTES_MAX: usize = 4 * KEY_BYTES_MAX;
/// Keys that KEYS visits in a turn of the loop.
const KEYS_PIECE: Chunk = Chunk {
    entries: 4096,
    bytes: PIECE_BYTES,
};
/// Turns that KEYS takes before it lets others have theirs.
const KEYS_TURNS_AT_ONCE: usize = 4;
/// Bytes of a reply to KEYS that are kept while the rest is counted.
const KEYS_KEPT_BYTES: usize = 1 << 20;

/// Refuses patterns, of so many bytes together, that are longer than any that means something: what
/// they cost grows with their length, for each text anew.
///
/// # Errors
/// The reply that says so.
pub(super) fn check_pattern(bytes: usize) -> Result<(), String> {
    if bytes > PATTERN_BYTES_MAX {
        return Err(format!(
            "ERR a pattern of {bytes} bytes is longer than the greatest, {PATTERN_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// So much of `chunk` is held at once against a pattern.
fn part_of(chunk: Chunk, pattern: &[u8]) -> Chunk {
    let parts = pattern.len().div_ceil(PATTERN_BYTES).max(1);
    Chunk {
        entries: (chunk.entries / parts as u64).max(1),
        bytes: (chunk.bytes / parts).max(1),
    }
}

/// The bytes that every text begins with that fits `pattern`.
fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let is_special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let length = pattern.iter().position(is_special);
    pattern
        .get(..length.unwrap_or(pattern.len()))
        .unwrap_or(&[])
}

/// The first key behind all that begin with `prefix`; none if there is no such key.
pub(super) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

/// What SCAN is asked for.
struct Scan<'a> {
    pattern: &'a [u8],
    count: u64,
    /// Whether the type asked for is the one there is.
    wants_strings: bool,
}

fn scan_options<'a>(call: &Call<'a>) -> Result<Scan<'a>, Failure> {
    let mut scan = Scan {
        pattern: b"*",
        count: COUNT_DEFAULT,
        wants_strings: true,
    };
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        let value = call.args.get(at + 1).ok_or(texts::SYNTAX)?;
        at += 2;
        if is_word(word, "COUNT") {
            let count = parse_i64(value).ok_or(texts::NOT_AN_INTEGER)?;
            let count = u64::try_from(count).ok().filter(|count| *count > 0);
            scan.count = count.ok_or(texts::SYNTAX)?.min(COUNT_MAX);
        } else if is_word(word, "MATCH") {
            check_pattern(value.len())?;
            scan.pattern = value;
        } else if is_word(word, "TYPE") {
            scan.wants_strings = is_word(value, "string");
        } else {
            return Err(texts::SYNTAX.into());
        }
    }
    Ok(scan)
}

/// A cursor as a client writes it.
fn parse_cursor(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// SCAN cursor [MATCH pattern] [COUNT n] [TYPE type].
pub fn scan(call: &mut Call<'_>) -> Outcome {
    let cursor = parse_cursor(call.arg(1)).ok_or(texts::INVALID_CURSOR)?;
    let scan = scan_options(call)?;
    let shared = std::sync::Arc::clone(&call.server.store.shared);
    let namespace = call.namespace();
    let prefix = literal_prefix(scan.pattern);
    let mut start = prefix.to_vec();
    if cursor != 0 {
        let resume = shared.cursors.resume(cursor);
        let resume = resume.filter(|resume| resume.namespace == namespace.number());
        let resume = resume.ok_or_else(|| {
            format!(
                "ERR cursor {cursor} is not known: its scan has ended, was dropped for newer ones, \
                 is of another database or of before a restart; begin again with SCAN 0"
            )
        })?;
        start = start.max(resume.key);
    }
    let end = behind(prefix);
    let view = call.server.view(call.session);
    let engine = &call.server.engine;
    let mut walk = engine.range(namespace, &start, end.as_deref(), u64::MAX, view)?;
    let (mut visited, mut last, mut found) = (0, Vec::new(), Vec::new());
    let mut chunks = 0;
    let most = Chunk {
        entries: COUNT_MAX,
        bytes: PIECE_BYTES,
    };
    let most = part_of(most, scan.pattern);
    while !walk.is_done() && visited < scan.count && chunks < CHUNKS_PER_SCAN {
        let chunk = Chunk {
            entries: most.entries.min(scan.count - visited),
            ..most
        };
        engine.range_next_keys(&mut walk, chunk, &mut |key, _| {
            visited += 1;
            last.clear();
            last.extend_from_slice(key);
            if scan.wants_strings && glob::matches(scan.pattern, key, false) {
                found.push(key.to_vec());
            }
        })?;
        chunks += 1;
    }
    call.depends_on(walk.depends_on());
    let next = if walk.is_done() {
        shared.cursors.end(cursor);
        0
    } else {
        let key = go_on_at(&walk, last, visited > 0);
        let resume = Resume {
            namespace: namespace.number(),
            key,
        };
        let (now_ns, wall_us) = (call.server.now_ns, call.server.wall_us());
        let connection = call.session.id;
        let cursors = &shared.cursors;
        cursors.advance(cursor, &resume, connection, now_ns, wall_us)
    };
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(Flow::Done)
}

/// Where a walk goes on that has visited `last`, or else says itself where it stands.
fn go_on_at(walk: &RangeCursor, mut last: Vec<u8>, has_visited: bool) -> Vec<u8> {
    match walk.resume_key() {
        Some(key) if !has_visited || key > &last[..] => key.to_vec(),
        _ => {
            last.push(0);
            last
        }
    }
}

/// KEYS on its way. The reply's length comes before its keys, so all are visited before the first
/// is sent; if they do not fit what is kept, they are visited once more, at the same snapshot.
pub struct KeysWalk {
    pattern: Vec<u8>,
    /// At the first key.
    start: RangeCursor,
    walk: RangeCursor,
    /// Keys that fit.
    count: usize,
    /// They, as they are to be sent; none if they are too many.
    kept: Option<Vec<u8>>,
    is_sending: bool,
}

/// KEYS pattern.
pub fn keys(call: &mut Call<'_>) -> Outcome {
    let pattern = call.arg(1);
    check_pattern(pattern.len())?;
    let prefix = literal_prefix(pattern);
    let end = behind(prefix);
    let view = call.server.view(call.session);
    let namespace = call.namespace();
    let engine = &call.server.engine;
    let start = engine.range(namespace, prefix, end.as_deref(), u64::MAX, view)?;
    let walk = Box::new(KeysWalk {
        pattern: pattern.to_vec(),
        walk: start.clone(),
        start,
        count: 0,
        kept: Some(Vec::new()),
        is_sending: false,
    });
    go_on(
        call,
        walk,
        KEYS_TURNS_AT_ONCE,
        KeysWalk::turn,
        Waiting::Keys,
    )
}

/// Takes up to so many turns of a walk; what is `left` then is done in turns of their own.
fn go_on<W>(
    call: &mut Call<'_>,
    mut walk: Box<W>,
    turns: usize,
    turn: fn(&mut W, &mut Call<'_>) -> Result<bool, EngineError>,
    left: fn(Box<W>) -> Waiting,
) -> Outcome {
    for _ in 0..turns {
        if turn(&mut walk, call)? {
            return Ok(Flow::Done);
        }
    }
    Ok(Flow::Wait(left(walk)))
}

/// Goes on with KEYS: one turn.
pub fn proceed(call: &mut Call<'_>, walk: Box<KeysWalk>) -> Outcome {
    go_on(call, walk, 1, KeysWalk::turn, Waiting::Keys)
}

impl KeysWalk {
    /// Whether its length is not known so far, so that nothing of it was sent.
    pub fn is_counting(&self) -> bool {
        !self.is_sending
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        self.pattern.capacity() + self.kept.as_ref().map_or(0, Vec::capacity)
    }

    /// Visits a piece; true if that was the last and the reply is complete.
    fn turn(&mut self, call: &mut Call<'_>) -> Result<bool, EngineError> {
        if self.is_sending {
            return self.send(call);
        }
        let proto = call.session.proto;
        let KeysWalk {
            pattern,
            walk,
            count,
            kept,
            ..
        } = self;
        let engine = &call.server.engine;
        engine.range_next_keys(walk, part_of(KEYS_PIECE, pattern), &mut |key, _| {
            if glob::matches(pattern, key, false) {
                *count += 1;
                if let Some(bytes) = kept {
                    ReplyWriter::new(bytes, proto).bulk(key);
                }
            }
        })?;
        if kept
            .as_ref()
            .is_some_and(|kept| kept.len() > KEYS_KEPT_BYTES)
        {
            *kept = None;
        }
        call.depends_on(walk.depends_on());
        if !walk.is_done() {
            return Ok(false);
        }
        call.reply().array(self.count);
        if let Some(kept) = self.kept.take() {
            call.output.bytes().extend_from_slice(&kept);
            return Ok(true);
        }
        self.walk = self.start.clone();
        self.is_sending = true;
        Ok(false)
    }

    /// Sends a piece, if there is room for it.
    fn send(&mut self, call: &mut Call<'_>) -> Result<bool, EngineError> {
        if call.output.unsent() > call.output_max {
            return Ok(false);
        }
        let mut piece = Vec::new();
        let mut writer = ReplyWriter::new(&mut piece, call.session.proto);
        let engine = &call.server.engine;
        engine.range_next_keys(
            &mut self.walk,
            part_of(KEYS_PIECE, &self.pattern),
            &mut |key, _| {
                if glob::matches(&self.pattern, key, false) {
                    writer.bulk(key);
                }
            },
        )?;
        call.output.bytes().extend_from_slice(&piece);
        Ok(self.walk.is_done())
    }
}

/// RANDOMKEY on its way: the first key at or behind a random place, or else the first of all. There
/// may be many before it whose time has come.
pub struct RandomWalk {
    walk: RangeCursor,
    /// Whether it has begun at the first key.
    is_from_first: bool,
}

/// RANDOMKEY.
pub fn randomkey(call: &mut Call<'_>) -> Outcome {
    let namespace = call.namespace();
    let random = rd_sys::random::u64();
    let place = call.server.engine.random_place(namespace, random)?;
    let view = call.server.view(call.session);
    let walk = call.server.engine.range(namespace, &place, None, 1, view)?;
    let walk = Box::new(RandomWalk {
        walk,
        is_from_first: false,
    });
    go_on(
        call,
        walk,
        KEYS_TURNS_AT_ONCE,
        RandomWalk::turn,
        Waiting::Random,
    )
}

/// Goes on with RANDOMKEY: one turn.
pub fn proceed_randomly(call: &mut Call<'_>, walk: Box<RandomWalk>) -> Outcome {
    go_on(call, walk, 1, RandomWalk::turn, Waiting::Random)
}

impl RandomWalk {
    /// Visits a piece; true if the reply is there.
    fn turn(&mut self, call: &mut Call<'_>) -> Result<bool, EngineError> {
        let mut found = None;
        let engine = &call.server.engine;
        engine.range_next_keys(&mut self.walk, KEYS_PIECE, &mut |key, _| {
            found = Some(key.to_vec());
        })?;
        call.depends_on(self.walk.depends_on());
        if found.is_none() && !self.walk.is_done() {
            return Ok(false);
        }
        if found.is_none() && !self.is_from_first {
            let view = call.server.view(call.session);
            let namespace = call.namespace();
            self.walk = call.server.engine.range(namespace, b"", None, 1, view)?;
            self.is_from_first = true;
            return Ok(false);
        }
        call.reply().bulk_or_null(found.as_deref());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_bounds_the_walk() {
        for (pattern, prefix, end) in [
            (&b"user:*"[..], &b"user:"[..], Some(&b"user;"[..])),
            (b"*", b"", None),
            (b"a\\*", b"a", Some(b"b")),
            (b"exact", b"exact", Some(b"exacu")),
            (b"a\xff\xff*", b"a\xff\xff", Some(b"b")),
            (b"\xff*", b"\xff", None),
            (b"[ab]", b"", None),
        ] {
            assert_eq!(literal_prefix(pattern), prefix);
            assert_eq!(behind(prefix).as_deref(), end);
        }
    }
}

//! Ordered access: RANGE, REVRANGE, COUNTRANGE, DELRANGE. A range of any size streams: the reply's
//! length must be known before its first element, so a range that does not fit one piece is counted
//! first, at the same snapshot, and then sent piece by piece as the client takes it.

use super::scan::behind;
use super::{Call, transactions};
use crate::dispatch::{Failure, Flow, Outcome};
use crate::waiting::Waiting;
use rd_base::limits::KEY_BYTES_MAX;
use rd_engine::{Chunk, Engine, EngineError, RangeCursor, Snapshot, View};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::{ReplyWriter, texts};
use std::borrow::Cow;

/// Entries and bytes of a piece: what a turn of the loop may take.
const PIECE: Chunk = Chunk {
    entries: 512,
    bytes: 256 << 10,
};
/// Entries counted in a turn.
const COUNT_PIECE: Chunk = Chunk {
    entries: 4096,
    bytes: usize::MAX,
};
/// Turns that a COUNTRANGE takes before it lets others have theirs.
const COUNT_TURNS_AT_ONCE: usize = 4;

/// In which order keys are visited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The smallest first.
    Ascending,
    /// The greatest first.
    Descending,
}

/// What of a range a reply has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Pairs,
    Keys,
    Values,
    /// How many there are.
    Count,
}

/// Keys from the first, included, to the second, which is not: none is an open end.
type Bounds<'a> = (&'a [u8], Option<Cow<'a, [u8]>>);

/// A range on its way to a client.
pub struct RangeStream {
    shape: Shape,
    /// What is left to send, behind the first piece.
    cursor: RangeCursor,
    /// Counting what comes behind the first piece; none when that is done.
    counter: Option<RangeCursor>,
    /// Entries of the first piece and those counted so far.
    counted: u64,
    /// The first piece, as it is to be sent, held back until the count is known.
    first: Vec<u8>,
    /// Keeps what both cursors will see.
    _snapshot: Snapshot,
}

impl RangeStream {
    /// Whether its length is not known so far, so that nothing of it was sent.
    pub fn is_counting(&self) -> bool {
        self.counter.is_some()
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        self.first.capacity()
    }
}

/// The range that the first two arguments name: `start end`, or `PREFIX p`.
fn bounds<'a>(call: &Call<'a>) -> Bounds<'a> {
    // What lies behind the longest key does not change which keys come before or after.
    let [first, second] = [1, 2].map(|index| cut(call.arg(index)));
    if is_word(first, "PREFIX") {
        return (second, behind(second).map(Cow::Owned));
    }
    let end = (!second.is_empty()).then_some(Cow::Borrowed(second));
    (first, end)
}

fn cut(bound: &[u8]) -> &[u8] {
    bound.get(..=KEY_BYTES_MAX).unwrap_or(bound)
}

/// What stands behind the range: LIMIT n, and KEYS or VALUES, in any order.
fn options(call: &Call<'_>) -> Result<(u64, Shape), Failure> {
    let (mut limit, mut shape) = (None, Shape::Pairs);
    let mut words = call.args.skip(3).iter();
    while let Some(word) = words.next() {
        if is_word(word, "LIMIT") && limit.is_none() {
            let count = parse_i64(words.next().ok_or(texts::SYNTAX)?);
            let count = u64::try_from(count.ok_or(texts::NOT_AN_INTEGER)?);
            limit = Some(count.map_err(|_| "ERR LIMIT must not be negative")?);
        } else if is_word(word, "KEYS") && shape == Shape::Pairs {
            shape = Shape::Keys;
        } else if is_word(word, "VALUES") && shape == Shape::Pairs {
            shape = Shape::Values;
        } else {
            return Err(texts::SYNTAX.into());
        }
    }
    Ok((limit.unwrap_or(u64::MAX), shape))
}

/// Begins a walk at a snapshot of its own.
fn begin(
    call: &Call<'_>,
    (start, end): &Bounds<'_>,
    limit: u64,
    order: Order,
) -> Result<(RangeCursor, Snapshot), EngineError> {
    let begin = match order {
        Order::Ascending => Engine::range,
        Order::Descending => Engine::range_descending,
    };
    let (engine, namespace) = (&call.server.engine, call.namespace());
    loop {
        let snapshot = call.snapshot()?;
        let view = View::At(&snapshot);
        match begin(engine, namespace, start, end.as_deref(), limit, view) {
            Ok(cursor) => return Ok((cursor, snapshot)),
            // Emptied twice since the snapshot was taken, a moment ago.
            Err(EngineError::Replaced) => {}
            Err(error) => return Err(error),
        }
    }
}

/// RANGE and REVRANGE start end | PREFIX p [LIMIT n] [KEYS|VALUES].
pub fn range(call: &mut Call<'_>, order: Order) -> Outcome {
    let (limit, shape) = options(call)?;
    let (mut cursor, snapshot) = begin(call, &bounds(call), limit, order)?;
    // Most ranges fit one piece: where their reply is to be, with its head put in front at last.
    let mark = call.output.mark();
    let mut out = std::mem::take(call.output.bytes());
    let counted = piece(call, shape, &mut cursor, &mut out);
    *call.output.bytes() = out;
    let counted = counted?;
    if cursor.is_done() {
        let end = call.output.mark();
        head(call, shape, counted);
        let entries_bytes = end - mark;
        let reply = call.output.bytes().get_mut(mark..).unwrap_or(&mut []);
        reply.rotate_left(entries_bytes);
        return Ok(Flow::Done);
    }
    let first = call.output.bytes().split_off(mark);
    let stream = RangeStream {
        shape,
        counter: Some(cursor.clone()),
        cursor,
        counted,
        first,
        _snapshot: snapshot,
    };
    Ok(Flow::Wait(Waiting::Range(Box::new(stream))))
}

/// COUNTRANGE start end | PREFIX p.
pub fn countrange(call: &mut Call<'_>) -> Outcome {
    count(call, &bounds(call))
}

/// Counts all keys, as COUNTRANGE does.
pub fn count_all(call: &mut Call<'_>) -> Outcome {
    count(call, &(b"", None))
}

fn count(call: &mut Call<'_>, bounds: &Bounds<'_>) -> Outcome {
    let (cursor, snapshot) = begin(call, bounds, u64::MAX, Order::Ascending)?;
    let mut stream = Box::new(RangeStream {
        shape: Shape::Count,
        counter: Some(cursor.clone()),
        cursor,
        counted: 0,
        first: Vec::new(),
        _snapshot: snapshot,
    });
    for _ in 0..COUNT_TURNS_AT_ONCE {
        match proceed(call, stream)? {
            Flow::Wait(Waiting::Range(rest)) => stream = rest,
            other => return Ok(other),
        }
    }
    Ok(Flow::Wait(Waiting::Range(stream)))
}

/// Goes on with a range: one piece.
pub fn proceed(call: &mut Call<'_>, mut stream: Box<RangeStream>) -> Outcome {
    if let Some(mut counter) = stream.counter.take() {
        let mut count = 0;
        call.server
            .engine
            .range_next_keys(&mut counter, COUNT_PIECE, &mut |_, _| count += 1)?;
        stream.counted += count;
        if !counter.is_done() {
            stream.counter = Some(counter);
            return Ok(Flow::Wait(Waiting::Range(stream)));
        }
        // The length shows what hides keys, too.
        call.depends_on(counter.depends_on());
        head(call, stream.shape, stream.counted);
        let first = std::mem::take(&mut stream.first);
        call.output.bytes().extend_from_slice(&first);
        return Ok(match stream.shape {
            Shape::Count => Flow::Done,
            _ => Flow::Wait(Waiting::Range(stream)),
        });
    }
    if call.output.unsent() <= call.output_max {
        let mut entries = Vec::new();
        piece(call, stream.shape, &mut stream.cursor, &mut entries)?;
        call.output.bytes().extend_from_slice(&entries);
        if stream.cursor.is_done() {
            return Ok(Flow::Done);
        }
    }
    Ok(Flow::Wait(Waiting::Range(stream)))
}

/// Reads the next entries, and writes them into `out` as the reply has them.
fn piece(
    call: &mut Call<'_>,
    shape: Shape,
    cursor: &mut RangeCursor,
    out: &mut Vec<u8>,
) -> Result<u64, EngineError> {
    let mut writer = ReplyWriter::new(out, call.session.proto);
    let mut entries = 0;
    let engine = &call.server.engine;
    if shape == Shape::Keys {
        engine.range_next_keys(cursor, PIECE, &mut |key, _| {
            entries += 1;
            writer.bulk(key);
        })?;
    } else {
        engine.range_next(cursor, PIECE, &mut |key, value| {
            entries += 1;
            if shape == Shape::Pairs {
                writer.bulk(key);
            }
            writer.bulk(value);
        })?;
    }
    call.depends_on(cursor.depends_on());
    Ok(entries)
}

/// Writes the head of the reply. Pairs are a map in RESP3, a flat array in RESP2.
fn head(call: &mut Call<'_>, shape: Shape, entries: u64) {
    match shape {
        Shape::Pairs => call.reply().map(entries as usize),
        Shape::Keys | Shape::Values => call.reply().array(entries as usize),
        Shape::Count => call.reply().integer(entries as i64),
    }
}

/// DELRANGE start end | PREFIX p: all of them as one record. By itself it is a transaction of one
/// command, run again if somebody has put a key into the range, or taken one, before it committed.
pub fn delrange(call: &mut Call<'_>) -> Outcome {
    let delete = |call: &mut Call<'_>| {
        let (start, end) = bounds(call);
        let namespace = call.namespace();
        let engine = &call.server.engine;
        let deleted = engine.delete_range(namespace, start, end.as_deref())?;
        let count = call.after(deleted);
        call.reply().integer(count as i64);
        Ok(true)
    };
    if call.server.engine.is_in_transaction() {
        return delete(call).map(|_| Flow::Done);
    }
    transactions::run_until_committed(call, &mut { delete })
}

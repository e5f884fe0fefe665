//! RANGE: ordered access. A range of any size streams: the reply's length must be known before its
//! first element, so a range that does not fit one piece is counted first, at the same snapshot,
//! and then sent piece by piece as the client takes it.

use super::Call;
use crate::dispatch::{Flow, Outcome};
use crate::waiting::Waiting;
use rd_engine::{Chunk, EngineError, RangeCursor, Snapshot, View};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::{ReplyWriter, texts};

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

/// A range on its way to a client.
pub struct RangeStream {
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

/// RANGE start end [LIMIT n].
pub fn range(call: &mut Call<'_>) -> Outcome {
    let limit = match call.args.len() {
        3 => u64::MAX,
        5 if is_word(call.arg(3), "LIMIT") => {
            let limit = parse_i64(call.arg(4)).ok_or(texts::NOT_AN_INTEGER)?;
            u64::try_from(limit).map_err(|_| "ERR LIMIT must not be negative")?
        }
        _ => return Err(texts::SYNTAX.into()),
    };
    let (start, end) = (call.arg(1), call.arg(2));
    let end = if end.is_empty() { None } else { Some(end) };
    let snapshot = call.snapshot()?;
    let view = View::At(&snapshot);
    let mut cursor = call
        .server
        .engine
        .range(call.namespace(), start, end, limit, view)?;
    let mut first = Vec::new();
    let counted = piece(call, &mut cursor, &mut first)?;
    if cursor.is_done() {
        finish(call, counted, &first);
        return Ok(Flow::Done);
    }
    let stream = RangeStream {
        counter: Some(cursor.clone()),
        cursor,
        counted,
        first,
        _snapshot: snapshot,
    };
    Ok(Flow::Wait(Waiting::Range(Box::new(stream))))
}

/// Goes on with a range: one piece.
pub fn proceed(call: &mut Call<'_>, mut stream: Box<RangeStream>) -> Outcome {
    if let Some(mut counter) = stream.counter.take() {
        let mut count = 0;
        call.server
            .engine
            .range_next_keys(&mut counter, COUNT_PIECE, &mut |_, _| count += 1)?;
        stream.counted += count;
        if counter.is_done() {
            // The length shows what hides keys, too.
            call.depends_on(counter.depends_on());
            let first = std::mem::take(&mut stream.first);
            finish(call, stream.counted, &first);
        } else {
            stream.counter = Some(counter);
        }
        return Ok(Flow::Wait(Waiting::Range(stream)));
    }
    if call.output.unsent() <= call.output_max {
        let mut entries = Vec::new();
        piece(call, &mut stream.cursor, &mut entries)?;
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
    cursor: &mut RangeCursor,
    out: &mut Vec<u8>,
) -> Result<u64, EngineError> {
    let mut writer = ReplyWriter::new(out, call.session.proto);
    let mut entries = 0;
    call.server
        .engine
        .range_next(cursor, PIECE, &mut |key, value| {
            entries += 1;
            writer.bulk(key);
            writer.bulk(value);
        })?;
    call.depends_on(cursor.depends_on());
    Ok(entries)
}

/// Writes the head of the reply, and its first entries. A map in RESP3, a flat array in RESP2.
fn finish(call: &mut Call<'_>, entries: u64, first: &[u8]) {
    call.reply().map(entries as usize);
    call.output.bytes().extend_from_slice(first);
}

//! Reads of several keys: MGET, EXISTS. All keys are seen as of one moment. A reply of any size
//! streams: a piece of it per turn, as the client takes it, so that a short request cannot make
//! the server hold a long reply.

use super::Call;
use crate::dispatch::{Flow, Outcome};
use crate::waiting::Waiting;
use rd_base::counters::Counter;
use rd_engine::{EngineError, Snapshot, View};
use rd_wire::{Args, ReplyWriter, RequestBuf};

/// Keys and bytes of a piece: what a turn of the loop may take.
const PIECE_KEYS: usize = 1024;
const PIECE_BYTES: usize = 256 << 10;

/// A reply about several keys on its way to a client.
pub struct SeveralStream {
    keys: RequestBuf,
    reader: Reader,
    snapshot: Snapshot,
}

impl SeveralStream {
    /// Whether a part of the reply has been written.
    pub fn has_begun(&self) -> bool {
        self.reader.what == What::Values
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }
}

/// What a reply says of its keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Their values.
    Values,
    /// How many of them are there.
    Count,
}

/// How far a reply has come.
#[derive(Clone, Copy)]
struct Reader {
    what: What,
    /// The time by which keys end, in milliseconds since 1970: what is read is of one moment.
    now_ms: u64,
    /// Keys that were read.
    done: usize,
    /// Those of them that are there.
    found: u64,
}

/// MGET key [key …].
pub fn mget(call: &mut Call<'_>) -> Outcome {
    begin(call, What::Values)
}

/// EXISTS key [key …], TOUCH key [key …]: counts, one named twice twice.
pub fn exists(call: &mut Call<'_>) -> Outcome {
    if call.args.len() > 2 {
        return begin(call, What::Count);
    }
    let (view, namespace) = (call.server.view(call.session), call.namespace());
    let read = call.server.engine.meta(namespace, call.arg(1), view)?;
    call.depends_on(read.depends_on);
    call.reply().integer(i64::from(read.result.is_some()));
    Ok(Flow::Done)
}

fn begin(call: &mut Call<'_>, what: What) -> Outcome {
    let keys = call.args.skip(1);
    let mark = call.output.mark();
    let (reader, snapshot) = loop {
        let snapshot = call.snapshot()?;
        let mut reader = Reader::new(what, call.now_ms());
        if what == What::Values {
            call.reply().array(keys.len());
        }
        match reader.piece(call, keys, &snapshot) {
            Ok(()) => break (reader, snapshot),
            // Emptied twice in between; nothing has been sent, so begin anew.
            Err(EngineError::Replaced) => call.output.bytes().truncate(mark),
            Err(error) => return Err(error.into()),
        }
    };
    if reader.done == keys.len() {
        reader.end(call);
        return Ok(Flow::Done);
    }
    let rest = keys.skip(reader.done);
    let Some(keys) = RequestBuf::new(rest.iter()) else {
        let what = "could not make room for the keys of a reply in several parts";
        return Err(call.server.no_memory(what.to_owned()).into());
    };
    let stream = SeveralStream {
        keys,
        reader: Reader { done: 0, ..reader },
        snapshot,
    };
    Ok(Flow::Wait(Waiting::Several(Box::new(stream))))
}

/// Goes on with a reply: one piece.
pub fn proceed(call: &mut Call<'_>, mut stream: Box<SeveralStream>) -> Outcome {
    if call.output.unsent() <= call.output_max {
        let keys = stream.keys.args();
        stream.reader.piece(call, keys, &stream.snapshot)?;
        if stream.reader.done == keys.len() {
            stream.reader.end(call);
            return Ok(Flow::Done);
        }
    }
    Ok(Flow::Wait(Waiting::Several(stream)))
}

impl Reader {
    fn new(what: What, now_ms: u64) -> Reader {
        Reader {
            what,
            now_ms,
            done: 0,
            found: 0,
        }
    }

    /// Writes what comes behind the last key.
    fn end(&self, call: &mut Call<'_>) {
        if self.what == What::Count {
            call.reply().integer(self.found as i64);
        }
    }

    /// Reads the next keys, and writes their values if these are asked for.
    fn piece(
        &mut self,
        call: &mut Call<'_>,
        keys: Args<'_>,
        snapshot: &Snapshot,
    ) -> Result<(), EngineError> {
        let (namespace, mark) = (call.namespace(), call.output.mark());
        let (before, view) = (*self, View::AtTime(snapshot, self.now_ms));
        for key in keys.skip(self.done).iter().take(PIECE_KEYS) {
            let engine = &call.server.engine;
            let (is_there, depends_on) = match self.what {
                What::Values => {
                    let mut reply = ReplyWriter::new(call.output.bytes(), call.session.proto);
                    let read = engine.get(namespace, key, view, |value| {
                        reply.bulk_or_null(value.map(|value| value.bytes));
                        value.is_some()
                    })?;
                    (read.result, read.depends_on)
                }
                What::Count => {
                    let read = engine.meta(namespace, key, view)?;
                    (read.result.is_some(), read.depends_on)
                }
            };
            call.depends_on(depends_on);
            self.done += 1;
            self.found += u64::from(is_there);
            let written = call.output.mark() - mark;
            if written >= PIECE_BYTES || call.output.unsent() > call.output_max {
                break;
            }
        }
        if self.what == What::Count {
            return Ok(());
        }
        let hits = self.found - before.found;
        let misses = (self.done - before.done) as u64 - hits;
        call.server.add(Counter::KeyspaceHits, hits);
        call.server.add(Counter::KeyspaceMisses, misses);
        Ok(())
    }
}

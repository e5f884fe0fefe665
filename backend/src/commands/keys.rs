//! Keys, whatever their values: DEL, TYPE, DBSIZE, FLUSHDB.

use super::{Call, ranges};
use crate::dispatch::{Flow, Outcome};
use rd_wire::num::is_word;
use rd_wire::texts;

/// DEL key [key …]: all of them as one record.
pub fn del(call: &mut Call<'_>) -> Outcome {
    let namespace = call.namespace();
    let keys: Vec<&[u8]> = call.args.skip(1).iter().collect();
    let committed = call.server.engine.write(namespace, &keys, &mut |access| {
        let mut removed = 0;
        for index in 0..keys.len() {
            // A key that is named twice is there the first time only.
            if access.meta(index)?.is_some() {
                access.delete(index)?;
                removed += 1;
            }
        }
        Ok(removed)
    })?;
    let removed = call.after(committed);
    call.reply().integer(removed);
    Ok(Flow::Done)
}

/// TYPE key: of what there is, all are strings.
pub fn kind(call: &mut Call<'_>) -> Outcome {
    let is_there = call.meta(call.arg(1))?.is_some();
    call.reply()
        .simple(if is_there { "string" } else { "none" });
    Ok(Flow::Done)
}

/// DBSIZE. What a transaction sees is not counted by anybody else.
pub fn dbsize(call: &mut Call<'_>) -> Outcome {
    if call.server.engine.is_in_transaction() {
        return ranges::count_all(call);
    }
    let count = call.server.engine.count(call.namespace())?;
    call.depends_on(count.depends_on);
    call.reply().integer(count.result as i64);
    Ok(Flow::Done)
}

/// FLUSHDB, FLUSHALL [ASYNC|SYNC]: both words mean the same here, for it is instant.
pub fn flush(call: &mut Call<'_>, all: bool) -> Outcome {
    let is_known = |word: &[u8]| is_word(word, "ASYNC") || is_word(word, "SYNC");
    if call.args.len() > 2 || call.args.skip(1).iter().any(|word| !is_known(word)) {
        return Err(texts::SYNTAX.into());
    }
    let namespace = call.namespace();
    let engine = &mut call.server.engine;
    let committed = match all {
        true => engine.flush_all()?,
        false => engine.flush_namespace(namespace)?,
    };
    call.after(committed);
    call.reply().ok();
    Ok(Flow::Done)
}

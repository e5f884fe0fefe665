//! WAIT and WAITAOF: how many others have what the connection has written. There are no replicas,
//! and none can come, so nobody is kept waiting for one; the log here is what can be waited for.

use super::Call;
use super::clients::timeout_ms;
use crate::dispatch::{Flow, Outcome};
use crate::waiting::Waiting;
use rd_base::Lsn;
use rd_engine::ParkReason;
use rd_wire::num::parse_i64;
use rd_wire::texts;

/// WAIT numreplicas timeout: none has it. Redis would wait for the time given before it says so.
pub fn wait(call: &mut Call<'_>) -> Outcome {
    parse_i64(call.arg(1)).ok_or(texts::NOT_AN_INTEGER)?;
    timeout_ms(call.arg(2))?;
    call.reply().integer(0);
    Ok(Flow::Done)
}

/// WAITAOF numlocal numreplicas timeout: waits until the log here is durable up to what the
/// connection has written or seen, which takes no longer than a flush.
pub fn waitaof(call: &mut Call<'_>) -> Outcome {
    let local = parse_i64(call.arg(1)).ok_or(texts::NOT_AN_INTEGER)?;
    if !(0..=1).contains(&local) {
        return Err(texts::OUT_OF_RANGE_01.into());
    }
    let replicas = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    if replicas < 0 {
        return Err(texts::MUST_BE_POSITIVE.into());
    }
    timeout_ms(call.arg(3))?;
    let lsn = call.session.newest_seen;
    // Within a transaction there is nothing of its own in the log to wait for yet; and EXEC, which
    // runs each of its commands to its end, would wait for what is only asked for after its turn.
    let is_within = call.server.engine.is_in_transaction() || !call.session.transactions.is_none();
    if local == 0 || is_within {
        answer(call, lsn);
        return Ok(Flow::Done);
    }
    proceed(call, lsn)
}

/// Looks whether the log is durable up to `lsn`.
pub fn proceed(call: &mut Call<'_>, lsn: Lsn) -> Outcome {
    if call.server.store.shared.wal.durable_lsn() < lsn {
        call.server.park(ParkReason::Durable(lsn));
        return Ok(Flow::Wait(Waiting::Durable(lsn)));
    }
    answer(call, lsn);
    Ok(Flow::Done)
}

/// How many logs have it: the one here, or none yet; and those of replicas.
fn answer(call: &mut Call<'_>, lsn: Lsn) {
    let is_durable = call.server.store.shared.wal.durable_lsn() >= lsn;
    let mut reply = call.reply();
    reply.array(2);
    reply.integer(i64::from(is_durable));
    reply.integer(0);
}

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
/// connection has written or seen, for so many milliseconds at most, unless that is 0.
pub fn waitaof(call: &mut Call<'_>) -> Outcome {
    let local = parse_i64(call.arg(1)).ok_or(texts::NOT_AN_INTEGER)?;
    if !(0..=1).contains(&local) {
        return Err(texts::OUT_OF_RANGE_01.into());
    }
    let replicas = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    if replicas < 0 {
        return Err(texts::MUST_BE_POSITIVE.into());
    }
    let millis = timeout_ms(call.arg(3))?;
    let lsn = call.session.newest_seen;
    // Within a transaction there is nothing of its own in the log to wait for yet; and EXEC, which
    // runs each of its commands to its end, would wait for what is only asked for after its turn.
    let is_within = call.server.engine.is_in_transaction() || !call.session.transactions.is_none();
    if local == 0 || is_within {
        answer(call, lsn);
        return Ok(Flow::Done);
    }
    let until_ns = call
        .server
        .now_ns
        .saturating_add(millis.saturating_mul(1_000_000));
    proceed(call, lsn, (millis != 0).then_some(until_ns))
}

/// Looks whether the log is durable up to `lsn`, or it is `until_ns` by the monotonic clock.
pub fn proceed(call: &mut Call<'_>, lsn: Lsn, until_ns: Option<u64>) -> Outcome {
    let is_over = until_ns.is_some_and(|until| until <= call.server.now_ns);
    if call.server.store.shared.wal.durable_lsn() < lsn && !is_over {
        call.server.park(ParkReason::Durable(lsn));
        call.server.look_again_at(until_ns);
        return Ok(Flow::Wait(Waiting::Durable(lsn, until_ns)));
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

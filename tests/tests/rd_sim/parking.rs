//! How a logical backend sleeps while replies wait for the disk, or commands are parked: on its event,
//! as in the server, so that only a wake-up lets it go on.

use rd_base::Lsn;
use rd_engine::{Engine, EngineError, ParkReason};
use rd_store::Store;

/// Times that an operation is parked after which it hangs.
const PARKS_MAX: u32 = 20_000;

/// Asks that `lsn` be made durable, and sleeps until it is.
pub fn wait_until_durable(store: &Store, lsn: Lsn) {
    let (wal, procs) = (&store.shared.wal, &store.shared.procs);
    let event = procs.event(store.slot);
    wal.request_flush(lsn);
    loop {
        event.take();
        procs.set_wait_lsn(store.slot, lsn);
        if wal.durable_lsn() >= lsn {
            break;
        }
        event.wait(None);
    }
    procs.set_wait_lsn(store.slot, Lsn::ZERO);
}

/// Runs an operation until it is not parked any more, and sleeps in between.
///
/// # Errors
/// Those of the operation, but for that it is to wait.
///
/// # Panics
/// When it is parked for ever.
pub fn unpark<R>(
    engine: &mut Engine,
    mut operation: impl FnMut(&mut Engine) -> Result<R, EngineError>,
) -> Result<R, EngineError> {
    let store = engine.store().clone();
    let procs = &store.shared.procs;
    let event = procs.event(store.slot);
    let mut is_told = false;
    for _ in 0..PARKS_MAX {
        event.take();
        let reason = match operation(engine) {
            Err(EngineError::Park(reason)) => reason,
            done => {
                procs.set_parked(store.slot, false);
                return done;
            }
        };
        engine.rest();
        match reason {
            ParkReason::Durable(lsn) => wait_until_durable(&store, lsn),
            // Who is to be woken says so, and tries once more before he sleeps.
            _ if !is_told => {
                procs.set_parked(store.slot, true);
                is_told = true;
            }
            _ => drop(event.wait(None)),
        }
    }
    panic!("an operation is parked for ever");
}

//! CLIENT, as far as it is about other connections and about replies: KILL, PAUSE, REPLY, and what
//! is noted only because clients of Redis ask for it.

use super::Call;
use crate::dispatch::{Flow, Outcome};
use crate::session::Replies;
use rd_store::clients::{ClientRow, Pause};
use rd_store::procs::SlotNo;
use rd_wire::num::{is_word, parse_i64};
use rd_wire::texts;

/// Which connections CLIENT KILL is to close.
struct Filter<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    /// Of the wanted kind there are none.
    fits_none: bool,
    spares_own: bool,
}

impl Filter<'_> {
    fn fits(&self, row: &ClientRow, own: u64) -> bool {
        let is_spared = self.fits_none || self.spares_own && row.id == own;
        !is_spared
            && self.id.is_none_or(|id| row.id == id)
            && self
                .address
                .is_none_or(|address| row.address.as_bytes() == address)
            && self
                .local_address
                .is_none_or(|address| row.local_address.as_bytes() == address)
    }
}

/// Reads the filters of CLIENT KILL's new form.
fn filter<'a>(call: &Call<'a>) -> Result<Filter<'a>, String> {
    let mut filter = Filter {
        id: None,
        address: None,
        local_address: None,
        fits_none: false,
        spares_own: true,
    };
    if !call.args.len().is_multiple_of(2) {
        return Err(texts::SYNTAX.to_owned());
    }
    for (word, value) in call.args.skip(2).pairs() {
        if is_word(word, "ID") {
            let id = parse_i64(value).and_then(|id| u64::try_from(id).ok());
            let id = id.filter(|id| *id > 0);
            filter.id = Some(id.ok_or(texts::CLIENT_ID_ABOVE_ZERO)?);
        } else if is_word(word, "TYPE") {
            let is = |kind| is_word(value, kind);
            if !["NORMAL", "MASTER", "REPLICA", "SLAVE", "PUBSUB"]
                .into_iter()
                .any(is)
            {
                let kind = String::from_utf8_lossy(value);
                return Err(format!("ERR Unknown client type '{kind}'"));
            }
            filter.fits_none |= !is("NORMAL");
        } else if is_word(word, "ADDR") {
            filter.address = Some(value);
        } else if is_word(word, "LADDR") {
            filter.local_address = Some(value);
        } else if is_word(word, "USER") {
            if value != b"default" {
                let user = String::from_utf8_lossy(value);
                return Err(format!("ERR No such user '{user}'"));
            }
        } else if is_word(word, "SKIPME") && is_word(value, "YES") {
            filter.spares_own = true;
        } else if is_word(word, "SKIPME") && is_word(value, "NO") {
            filter.spares_own = false;
        } else {
            return Err(texts::SYNTAX.to_owned());
        }
    }
    Ok(filter)
}

/// CLIENT KILL ip:port, or filters: closes connections of all backends, the own one behind its
/// reply.
pub fn kill(call: &mut Call<'_>) -> Outcome {
    let is_old_form = call.args.len() == 3;
    let filter = if is_old_form {
        Filter {
            id: None,
            address: Some(call.arg(2)),
            local_address: None,
            fits_none: false,
            spares_own: false,
        }
    } else {
        filter(call)?
    };
    let own = call.session.id;
    let shared = std::sync::Arc::clone(&call.server.store.shared);
    let mut rows = shared.clients.list();
    rows.retain(|row| filter.fits(row, own));
    if is_old_form {
        // It names one.
        rows.truncate(1);
    }
    let mut flow = Flow::Done;
    for row in &rows {
        if row.id == own {
            flow = Flow::Close;
        } else if let Some(slot) = shared.clients.kill(row.id) {
            shared.procs.event(slot).notify();
        }
    }
    match (is_old_form, rows.len()) {
        (true, 0) => return Err(texts::NO_SUCH_CLIENT.into()),
        (true, _) => call.reply().ok(),
        (false, count) => call.reply().integer(count as i64),
    }
    Ok(flow)
}

/// Wakes all backends, so that they look at what is paused.
fn wake_backends(call: &Call<'_>) {
    let shared = &call.server.store.shared;
    let mut slots: Vec<u32> = shared
        .clients
        .list()
        .iter()
        .map(|row| row.backend)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    for slot in slots {
        shared.procs.event(SlotNo::new(slot as usize)).notify();
    }
}

/// A time in milliseconds, as a client gives it.
pub fn timeout_ms(text: &[u8]) -> Result<u64, &'static str> {
    let millis = parse_i64(text).ok_or(texts::NOT_A_TIMEOUT)?;
    u64::try_from(millis).map_err(|_| texts::NEGATIVE_TIMEOUT)
}

/// CLIENT PAUSE timeout [WRITE|ALL]: commands are held back, on all connections; only CLIENT PAUSE
/// and CLIENT UNPAUSE are not. A second pause makes the first longer and stronger, never less.
pub fn pause(call: &mut Call<'_>) -> Outcome {
    let writes_only = match call.args.get(3) {
        None => false,
        Some(word) if is_word(word, "ALL") => false,
        Some(word) if is_word(word, "WRITE") => true,
        Some(_) => return Err(texts::PAUSE_MODE.into()),
    };
    if call.args.len() > 4 {
        return Err(texts::SYNTAX.into());
    }
    let millis = timeout_ms(call.arg(2))?;
    let now_ns = call.server.store.clock.monotonic_ns();
    let until_ns = now_ns.saturating_add(millis.saturating_mul(1_000_000));
    let clients = &call.server.store.shared.clients;
    let before = clients.pause().filter(|pause| pause.until_ns > now_ns);
    clients.set_pause(Some(Pause {
        until_ns: before.map_or(until_ns, |pause| pause.until_ns.max(until_ns)),
        writes_only: writes_only && before.is_none_or(|pause| pause.writes_only),
    }));
    wake_backends(call);
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT UNPAUSE.
pub fn unpause(call: &mut Call<'_>) -> Outcome {
    call.server.store.shared.clients.set_pause(None);
    wake_backends(call);
    call.reply().ok();
    Ok(Flow::Done)
}

fn on_or_off(call: &Call<'_>) -> Result<bool, &'static str> {
    let word = call.arg(2);
    match (is_word(word, "ON"), is_word(word, "OFF")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(texts::SYNTAX),
    }
}

/// CLIENT NO-EVICT ON|OFF.
pub fn no_evict(call: &mut Call<'_>) -> Outcome {
    call.session.no_evict = on_or_off(call)?;
    call.publish();
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT NO-TOUCH ON|OFF.
pub fn no_touch(call: &mut Call<'_>) -> Outcome {
    call.session.no_touch = on_or_off(call)?;
    call.publish();
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT REPLY ON|OFF|SKIP: only ON is answered.
pub fn reply(call: &mut Call<'_>) -> Outcome {
    let word = call.arg(2);
    if is_word(word, "ON") {
        call.session.replies = Replies::On;
        call.reply().ok();
    } else if is_word(word, "OFF") {
        call.session.replies = Replies::Off;
    } else if is_word(word, "SKIP") {
        if call.session.replies != Replies::Off {
            call.session.replies = Replies::SkipNext;
        }
    } else {
        return Err(texts::SYNTAX.into());
    }
    Ok(Flow::Done)
}

/// CLIENT TRACKINGINFO: there is no tracking.
pub fn trackinginfo(call: &mut Call<'_>) -> Outcome {
    let mut reply = call.reply();
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.integer(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Ok(Flow::Done)
}

/// CLIENT GETREDIR: nothing is tracked, so nothing is redirected.
pub fn getredir(call: &mut Call<'_>) -> Outcome {
    call.reply().integer(-1);
    Ok(Flow::Done)
}

/// CLIENT UNBLOCK client-id [TIMEOUT|ERROR]: no command of ours blocks.
pub fn unblock(call: &mut Call<'_>) -> Outcome {
    let is_known = |word: &[u8]| is_word(word, "TIMEOUT") || is_word(word, "ERROR");
    if call.args.get(3).is_some_and(|word| !is_known(word)) {
        return Err(texts::UNBLOCK_REASON.into());
    }
    parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    call.reply().integer(0);
    Ok(Flow::Done)
}

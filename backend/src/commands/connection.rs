//! The connection itself: PING, HELLO, CLIENT and the like.

use super::{Call, namespaces};
use crate::dispatch::{Flow, Outcome};
use crate::session::Session;
use rd_base::REDIS_COMPAT;
use rd_store::clients::ClientRow;
use rd_wire::num::{is_word, parse_i64};
use rd_wire::{Proto, texts};
use std::fmt::Write;

/// Longest name that a connection, or its client's library, can give itself, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// PING [message].
pub fn ping(call: &mut Call<'_>) -> Outcome {
    match call.args.len() {
        1 => call.reply().simple("PONG"),
        2 => {
            let message = call.arg(1);
            call.reply().bulk(message);
        }
        _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
    }
    Ok(Flow::Done)
}

/// ECHO message.
pub fn echo(call: &mut Call<'_>) -> Outcome {
    let message = call.arg(1);
    call.reply().bulk(message);
    Ok(Flow::Done)
}

/// QUIT.
pub fn quit(call: &mut Call<'_>) -> Outcome {
    call.reply().ok();
    Ok(Flow::Close)
}

/// RESET.
pub fn reset(call: &mut Call<'_>) -> Outcome {
    call.session.reset();
    call.publish();
    call.reply().simple("RESET");
    Ok(Flow::Done)
}

/// AUTH [username] password: no password can be set.
pub fn auth(call: &mut Call<'_>) -> Outcome {
    match call.args.len() {
        2 => Err(texts::AUTH_WITHOUT_PASSWORD.into()),
        3 if call.arg(1) == b"default" => {
            // As Redis does: without a password the default user takes any.
            call.reply().ok();
            Ok(Flow::Done)
        }
        3 => Err(texts::WRONG_PASSWORD.into()),
        _ => Err(texts::SYNTAX.into()),
    }
}

/// A name may hold what can be seen, and no space; `unclean` is the error if it does not.
fn checked_name<'a>(name: &'a [u8], unclean: &str) -> Result<&'a str, String> {
    if name.len() > NAME_BYTES_MAX {
        let bytes = name.len();
        return Err(format!(
            "ERR a name of {bytes} bytes is longer than the greatest, {NAME_BYTES_MAX} bytes"
        ));
    }
    let is_clean = name.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let text = std::str::from_utf8(name).ok().filter(|_| is_clean);
    text.ok_or_else(|| unclean.to_owned())
}

/// HELLO [protover [AUTH username password] [SETNAME name]].
pub fn hello(call: &mut Call<'_>) -> Outcome {
    let mut proto = call.session.proto;
    if let Some(version) = call.args.get(1) {
        proto = match parse_i64(version).ok_or(texts::PROTO_NOT_A_NUMBER)? {
            2 => Proto::Resp2,
            3 => Proto::Resp3,
            _ => return Err(texts::NO_PROTO.into()),
        };
    }
    let mut name = None;
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        if is_word(word, "AUTH") && call.args.len() > at + 2 {
            if call.arg(at + 1) != b"default" {
                return Err(texts::WRONG_PASSWORD.into());
            }
            at += 3;
        } else if is_word(word, "SETNAME") && call.args.len() > at + 1 {
            name = Some(checked_name(call.arg(at + 1), texts::BAD_CLIENT_NAME)?);
            at += 2;
        } else {
            let word = String::from_utf8_lossy(word);
            return Err(format!("ERR Syntax error in HELLO option '{word}'").into());
        }
    }
    if let Some(name) = name {
        call.session.name = name.to_owned();
    }
    call.session.proto = proto;
    call.publish();
    let id = call.session.id;
    let mut reply = call.reply();
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_COMPAT.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if proto == Proto::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(Flow::Done)
}

/// CLIENT ID.
pub fn client_id(call: &mut Call<'_>) -> Outcome {
    let id = call.session.id;
    call.reply().integer(id as i64);
    Ok(Flow::Done)
}

/// CLIENT GETNAME.
pub fn client_getname(call: &mut Call<'_>) -> Outcome {
    let name = call.session.name.clone();
    if name.is_empty() {
        call.reply().null();
    } else {
        call.reply().bulk(name.as_bytes());
    }
    Ok(Flow::Done)
}

/// CLIENT SETNAME name.
pub fn client_setname(call: &mut Call<'_>) -> Outcome {
    let name = checked_name(call.arg(2), texts::BAD_CLIENT_NAME)?;
    call.session.name = name.to_owned();
    call.publish();
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT SETINFO LIB-NAME|LIB-VER text.
pub fn client_setinfo(call: &mut Call<'_>) -> Outcome {
    let (attribute, text) = (call.arg(2), call.arg(3));
    let is_name = is_word(attribute, "LIB-NAME");
    if !is_name && !is_word(attribute, "LIB-VER") {
        let attribute = String::from_utf8_lossy(attribute);
        return Err(format!("ERR Unrecognized option '{attribute}'").into());
    }
    let which = String::from_utf8_lossy(attribute);
    let unclean = format!("ERR {which} cannot contain spaces, newlines or special characters.");
    let text = checked_name(text, &unclean)?;
    if is_name {
        call.session.library_name = text.to_owned();
    } else {
        call.session.library_version = text.to_owned();
    }
    call.publish();
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT SYNCHRONOUS-COMMIT ON|OFF|DEFAULT: whether replies to this connection's writes wait for
/// the disk; by default as the parameter says.
pub fn client_synchronous_commit(call: &mut Call<'_>) -> Outcome {
    let setting = call.arg(2);
    call.session.synchronous_commit = if is_word(setting, "ON") {
        Some(true)
    } else if is_word(setting, "OFF") {
        Some(false)
    } else if is_word(setting, "DEFAULT") {
        None
    } else {
        return Err(texts::SYNTAX.into());
    };
    call.reply().ok();
    Ok(Flow::Done)
}

/// CLIENT INFO.
pub fn client_info(call: &mut Call<'_>) -> Outcome {
    let id = call.session.id;
    list_clients(call, &|row| row.id == id)
}

/// CLIENT LIST [TYPE NORMAL|MASTER|REPLICA|PUBSUB] [ID id …].
pub fn client_list(call: &mut Call<'_>) -> Outcome {
    match call.args.get(2) {
        None => list_clients(call, &|_| true),
        Some(word) if is_word(word, "TYPE") && call.args.len() == 4 => {
            let kind = call.arg(3);
            let is = |word| is_word(kind, word);
            if !["NORMAL", "MASTER", "REPLICA", "SLAVE", "PUBSUB"]
                .into_iter()
                .any(is)
            {
                let kind = String::from_utf8_lossy(kind);
                return Err(format!("ERR Unknown client type '{kind}'").into());
            }
            let is_normal = is_word(kind, "NORMAL");
            list_clients(call, &|_| is_normal)
        }
        Some(word) if is_word(word, "ID") && call.args.len() > 3 => {
            let id = |text| parse_i64(text).filter(|id| *id > 0).map(|id| id as u64);
            let ids: Option<Vec<u64>> = call.args.skip(3).iter().map(id).collect();
            let mut ids = ids.ok_or("ERR Invalid client ID")?;
            ids.sort_unstable();
            list_clients(call, &|row| ids.binary_search(&row.id).is_ok())
        }
        Some(_) => Err(texts::SYNTAX.into()),
    }
}

fn list_clients(call: &mut Call<'_>, wanted: &dyn Fn(&ClientRow) -> bool) -> Outcome {
    let (now_us, now_ns) = (call.server.wall_us(), call.server.now_ns);
    call.server.note_session(call.session);
    let mut text = String::new();
    let mut rows = call.server.store.shared.clients.list();
    rows.sort_by_key(|row| row.id);
    for row in rows.iter().filter(|row| wanted(row)) {
        let command = row
            .turn
            .command
            .checked_sub(1)
            .and_then(rd_wire::command::name_of);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "id={} addr={} laddr={} name={} age={} idle={} flags={} db={} sub=0 psub=0 multi={} \
             watch={} cmd={} user=default resp={} lib-name={} lib-ver={} backend={}",
            row.id,
            row.address,
            row.local_address,
            row.name,
            now_us.saturating_sub(row.connected_at_us) / 1_000_000,
            now_ns.saturating_sub(row.turn.active_at_ns) / 1_000_000_000,
            Session::letters(row.marks, row.turn.queued.is_some()),
            namespaces::name_for_list(call, row.namespace),
            row.turn.queued.map_or(-1, i64::from),
            row.turn.watched,
            command.unwrap_or("NULL"),
            if row.proto == Proto::Resp3 as u8 {
                3
            } else {
                2
            },
            row.library_name,
            row.library_version,
            row.backend,
        );
    }
    call.reply().verbatim(*b"txt", text.as_bytes());
    Ok(Flow::Done)
}

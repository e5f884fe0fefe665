//! Administration: COMMAND, CHECKPOINT and Redis's words for it, SHUTDOWN, TIME.

use super::scan::check_pattern;
use super::{Call, advice, namespaces};
use crate::dispatch::{Flow, Outcome};
use crate::waiting::Waiting;
use rd_store::checkpoint::{Flags, Request, Requester, Ticket, TicketState};
use rd_sys::fork::tell_parent;
use rd_sys::process::Signal;
use rd_wire::num::is_word;
use rd_wire::{Args, command as table, texts};

/// HELP of a container.
pub fn help(call: &mut Call<'_>, container: &str) -> Outcome {
    if let Some(row) = table::lookup(container.as_bytes()) {
        table::write_help(&mut call.reply(), row);
    }
    Ok(Flow::Done)
}

/// COMMAND: the whole table.
pub fn command(call: &mut Call<'_>) -> Outcome {
    let none = call.args.skip(call.args.len());
    table::write_command_info(&mut call.reply(), none);
    Ok(Flow::Done)
}

/// COMMAND COUNT.
pub fn command_count(call: &mut Call<'_>) -> Outcome {
    table::write_command_count(&mut call.reply());
    Ok(Flow::Done)
}

/// The names in a request about commands. Each takes kilobytes of reply, so there may be no more of
/// them than there are commands.
fn command_names<'a>(call: &Call<'a>) -> Result<Args<'a>, String> {
    let names = call.args.skip(2);
    let names_max = table::all().count();
    if names.len() > names_max {
        return Err(format!("ERR more than {names_max} names of commands"));
    }
    Ok(names)
}

/// COMMAND DOCS [name …].
pub fn command_docs(call: &mut Call<'_>) -> Outcome {
    let names = command_names(call)?;
    table::write_command_docs(&mut call.reply(), names);
    Ok(Flow::Done)
}

/// COMMAND INFO [name …].
pub fn command_info(call: &mut Call<'_>) -> Outcome {
    let names = command_names(call)?;
    table::write_command_info(&mut call.reply(), names);
    Ok(Flow::Done)
}

/// COMMAND LIST [FILTERBY …].
pub fn command_list(call: &mut Call<'_>) -> Outcome {
    let options = call.args.skip(2);
    check_pattern(options.get(2).map_or(0, <[u8]>::len))?;
    table::write_command_list(&mut call.reply(), options);
    Ok(Flow::Done)
}

/// COMMAND GETKEYS command [argument …].
pub fn command_getkeys(call: &mut Call<'_>) -> Outcome {
    let request = call.args.skip(2);
    table::write_command_getkeys(&mut call.reply(), request);
    Ok(Flow::Done)
}

/// COMMAND GETKEYSANDFLAGS command [argument …].
pub fn command_getkeysandflags(call: &mut Call<'_>) -> Outcome {
    let request = call.args.skip(2);
    table::write_command_getkeysandflags(&mut call.reply(), request);
    Ok(Flow::Done)
}

/// How a checkpoint is asked for.
struct Manner {
    cause: Flags,
    fast: bool,
    wait: bool,
    /// The command that asks.
    command: &'static str,
    reply: &'static str,
}

/// Asks the checkpointer, and waits or not.
fn ask(call: &mut Call<'_>, manner: &Manner) -> Outcome {
    let mut flags = Flags::FORCE | manner.cause;
    if manner.fast {
        flags |= Flags::IMMEDIATE;
    }
    if manner.wait {
        flags |= Flags::WAIT;
    }
    let shared = &call.server.store.shared;
    let role = call.server.role;
    let request = Request {
        flags,
        target: shared.wal.insert_lsn(),
        requester: Requester::connection(role, call.session.id, manner.command),
    };
    let ticket = shared.checkpoint.request(&shared.procs, &request);
    let reply = manner.reply;
    if manner.wait {
        return Ok(Flow::Wait(Waiting::Checkpoint { ticket, reply }));
    }
    call.reply().simple(reply);
    Ok(Flow::Done)
}

/// CHECKPOINT [WAIT|NOWAIT] [FAST|SPREAD] [BACKUP]: WAIT FAST unless told otherwise. CHECKPOINT EXPLAIN
/// makes none, and CHECKPOINT NAMESPACE one of a single namespace.
pub fn checkpoint(call: &mut Call<'_>) -> Outcome {
    if call.args.len() == 2 && is_word(call.arg(1), "EXPLAIN") {
        return advice::explain(call);
    }
    if call.args.len() == 3 && is_word(call.arg(1), "NAMESPACE") {
        return namespaces::checkpoint(call);
    }
    let (mut wait, mut fast) = (None, None);
    let mut cause = Flags::CAUSE_MANUAL;
    for word in call.args.skip(1).iter() {
        let (option, value) = if is_word(word, "WAIT") {
            (&mut wait, true)
        } else if is_word(word, "NOWAIT") {
            (&mut wait, false)
        } else if is_word(word, "FAST") {
            (&mut fast, true)
        } else if is_word(word, "SPREAD") {
            (&mut fast, false)
        } else if is_word(word, "BACKUP") {
            cause = Flags::CAUSE_BACKUP;
            continue;
        } else {
            return Err(texts::SYNTAX.into());
        };
        if option.replace(value).is_some_and(|before| before != value) {
            return Err(texts::SYNTAX.into());
        }
    }
    let manner = Manner {
        cause,
        fast: fast.unwrap_or(true),
        wait: wait.unwrap_or(true),
        command: "CHECKPOINT",
        reply: "OK",
    };
    ask(call, &manner)
}

/// SAVE: CHECKPOINT WAIT FAST.
pub fn save(call: &mut Call<'_>) -> Outcome {
    let manner = Manner {
        cause: Flags::CAUSE_MANUAL,
        fast: true,
        wait: true,
        command: "SAVE",
        reply: "OK",
    };
    ask(call, &manner)
}

/// BGSAVE [SCHEDULE]: CHECKPOINT NOWAIT SPREAD.
pub fn bgsave(call: &mut Call<'_>) -> Outcome {
    match call.args.len() {
        1 => {}
        2 if is_word(call.arg(1), "SCHEDULE") => {}
        _ => return Err(texts::SYNTAX.into()),
    }
    let manner = Manner {
        cause: Flags::CAUSE_MANUAL,
        fast: false,
        wait: false,
        command: "BGSAVE",
        reply: "Background saving started",
    };
    ask(call, &manner)
}

/// Looks whether a checkpoint that was asked for is done.
pub fn proceed(call: &mut Call<'_>, ticket: Ticket, reply: &'static str) -> Outcome {
    match call.server.store.shared.checkpoint.state(&ticket) {
        TicketState::Pending => Ok(Flow::Wait(Waiting::Checkpoint { ticket, reply })),
        TicketState::Done => {
            call.reply().simple(reply);
            Ok(Flow::Done)
        }
        TicketState::Failed(reason) => Err(format!(
            "ERR the checkpoint failed: {reason}; it is tried again, the server's log says more"
        )
        .into()),
    }
}

/// LASTSAVE: Unix time of the last checkpoint's end.
pub fn lastsave(call: &mut Call<'_>) -> Outcome {
    let at_s = call.server.store.shared.checkpoint.last_done_us() / 1_000_000;
    call.reply().integer(at_s as i64);
    Ok(Flow::Done)
}

/// TIME.
pub fn time(call: &mut Call<'_>) -> Outcome {
    let now_us = call.server.wall_us();
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk_integer((now_us / 1_000_000) as i64);
    reply.bulk_integer((now_us % 1_000_000) as i64);
    Ok(Flow::Done)
}

/// SHUTDOWN [SMART|FAST|IMMEDIATE]; Redis's words are taken, and mean fast: every stop but an
/// immediate one writes a checkpoint, and an immediate one loses nothing either.
pub fn shutdown(call: &mut Call<'_>) -> Outcome {
    let mut signal = Signal::Int;
    for word in call.args.skip(1).iter() {
        if is_word(word, "SMART") {
            signal = Signal::Term;
        } else if is_word(word, "IMMEDIATE") {
            signal = Signal::Quit;
        } else if is_word(word, "ABORT") {
            return Err("ERR No shutdown in progress.".into());
        } else if !["FAST", "SAVE", "NOSAVE", "NOW", "FORCE"]
            .iter()
            .any(|known| is_word(word, known))
        {
            return Err(texts::SYNTAX.into());
        }
    }
    log::info!("shutdown asked for by connection {}", call.session.id);
    signal_postmaster(signal)?;
    // As in Redis, success shows as the end of the connection.
    Ok(Flow::Close)
}

/// Sends a signal to the postmaster.
pub fn signal_postmaster(signal: Signal) -> Result<(), String> {
    match tell_parent(signal) {
        Ok(true) => Ok(()),
        Ok(false) => Err("ERR the postmaster is gone".to_owned()),
        Err(error) => Err(format!("ERR could not signal the postmaster: {error}")),
    }
}

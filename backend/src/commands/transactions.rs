//! Several commands as one: MULTI and EXEC as in Redis, and BEGIN to COMMIT.
//!
//! # BEGIN
//!
//! While a transaction is open its data commands run with it attached to the engine, so handlers
//! need not know of it. A command that fails has done nothing, and the transaction goes on; only a
//! conflict ends it, or its having been forgotten. What comes after that, or after a BEGIN that was
//! refused, up to COMMIT or ROLLBACK, is refused: it must not be carried out by itself.
//!
//! # EXEC
//!
//! The queued commands run in a transaction of their own at the newest there is, and are committed
//! at once. If somebody else has changed what they have read, the replies are dropped and it all
//! runs again; after a few times with the entries of its namespaces held exclusively, so that
//! nobody else can commit there: then it runs again only if a key has ended that it has read and
//! written, for ten runs at most. Watched keys are looked at in each of these
//! runs, as something that was read. After a WATCH that was refused the next EXEC does nothing.

use super::Call;
use crate::dispatch::{self, Failure, Flow, Outcome};
use crate::session::{Session, Settings};
use crate::transaction::{Open, Queue, Queued, State, Watches};
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_engine::{EngineError, Isolation, Runs, View};
use rd_wire::command::{Flags, Group};
use rd_wire::num::is_word;
use rd_wire::{Args, CommandId, RequestBuf, texts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a queued command takes beside its bytes.
const QUEUED_BYTES: usize = 128;
/// What a watched key takes beside its bytes.
const WATCHED_BYTES: usize = 128;
/// Greatest number of keys that a connection watches.
const WATCHES_MAX: usize = 1 << 16;

/// Carries out a command on a connection that is in a transaction of some kind.
pub fn handle_within(id: CommandId, call: &mut Call<'_>) -> Outcome {
    let flags = id.command().flags;
    let group = id.command().group;
    let is_control = group == Group::Transactions;
    match &call.session.transactions.state {
        State::None => dispatch::handle(id, call),
        State::Queueing(_) => match id {
            CommandId::Multi
            | CommandId::Exec
            | CommandId::Discard
            | CommandId::Watch
            | CommandId::Quit
            | CommandId::Reset => dispatch::handle(id, call),
            _ => queue(id, call),
        },
        // These end it.
        State::Open(_) if matches!(id, CommandId::Reset | CommandId::Quit) => {
            dispatch::handle(id, call)
        }
        State::Open(_) if is_control => dispatch::handle(id, call),
        State::Open(_) => handle_attached(call, |call| dispatch::handle(id, call)),
        State::Ended(why) => {
            let is_data = flags.contains(Flags::WRITE) || flags.contains(Flags::READONLY);
            match id {
                CommandId::Commit | CommandId::Rollback => dispatch::handle(id, call),
                _ if is_data || is_control => Err(why.clone().into()),
                _ => dispatch::handle(id, call),
            }
        }
    }
}

/// Runs `command` with the open transaction attached to the engine.
pub fn handle_attached(
    call: &mut Call<'_>,
    command: impl FnOnce(&mut Call<'_>) -> Outcome,
) -> Outcome {
    let open = match std::mem::take(&mut call.session.transactions.state) {
        State::Open(open) => open,
        other => {
            call.session.transactions.state = other;
            return command(call);
        }
    };
    call.server.engine.attach(open.transaction);
    let outcome = command(call);
    let transaction = call.server.engine.detach();
    call.session.transactions.state = match (&outcome, transaction) {
        (Err(Failure::Engine(error @ EngineError::Conflict { stamp, .. })), _) => {
            call.server.count(Counter::Conflicts);
            call.depends_on(not_durable(call, *stamp));
            State::Ended(call.server.error_reply(error))
        }
        (_, Some(transaction)) => State::Open(Open {
            transaction,
            ..open
        }),
        (_, None) => State::None,
    };
    outcome
}

/// What is replied to a request that no handler was called for: `error`, but for an EXEC outside
/// BEGIN. The transaction that is being queued will not be carried out.
pub fn refuse(session: &mut Session, args: Args<'_>, error: Vec<u8>) -> Vec<u8> {
    if !is_word(args.name(), "EXEC") {
        session.transactions.spoil();
        return error;
    }
    match session.transactions.state {
        // Redis says so, too, where there is nothing to discard.
        State::None => {}
        State::Queueing(_) => session.transactions.clear(),
        // What BEGIN has begun goes on.
        State::Open(_) | State::Ended(_) => return error,
    }
    let why = error.strip_prefix(b"ERR ").unwrap_or(&error);
    [&b"EXECABORT Transaction discarded because of: "[..], why].concat()
}

/// `lsn` if it is not durable yet, else zero.
fn not_durable(call: &Call<'_>, lsn: Lsn) -> Lsn {
    match lsn > call.server.store.shared.wal.durable_lsn() {
        true => lsn,
        false => Lsn::ZERO,
    }
}

/// Puts a command behind the others.
fn queue(id: CommandId, call: &mut Call<'_>) -> Outcome {
    let flags = id.command().flags;
    // Redis allows SWAPDB; here it cannot be part of what is written with one record.
    let is_swap = matches!(id, CommandId::Swapdb);
    if flags.contains(Flags::NO_MULTI) || flags.contains(Flags::ADMIN) || is_swap {
        call.session.transactions.spoil();
        return Err(texts::NOT_IN_MULTI.into());
    }
    let limit = call.server.config.max_transaction_size_bytes() as usize;
    let bytes: usize = call.args.iter().map(|arg| arg.len() + 8).sum();
    if let State::Queueing(queue) = &mut call.session.transactions.state {
        let sum = queue.bytes + bytes + QUEUED_BYTES;
        if sum > limit {
            queue.is_spoiled = true;
            return Err(format!(
                "ERR the queued commands of {sum} bytes are larger than max_transaction_size, \
                 {limit} bytes"
            )
            .into());
        }
        let Some(request) = RequestBuf::new(call.args.iter()) else {
            queue.is_spoiled = true;
            let what = format!("could not make room for a queued command of {bytes} bytes");
            return Err(call.server.no_memory(what).into());
        };
        if !queue.is_spoiled {
            queue.bytes = sum;
            queue.commands.push(Queued { id, request });
        }
    }
    call.reply().simple("QUEUED");
    Ok(Flow::Done)
}

/// MULTI.
pub fn multi(call: &mut Call<'_>) -> Outcome {
    match call.session.transactions.state {
        State::None => {}
        State::Queueing(_) => return Err(texts::NESTED_MULTI.into()),
        State::Open(_) | State::Ended(_) => return Err(in_begin("MULTI")),
    }
    call.session.transactions.state = State::Queueing(Queue::default());
    call.output.join();
    call.reply().ok();
    Ok(Flow::Done)
}

fn in_begin(what: &str) -> Failure {
    format!("ERR {what} inside a transaction that was begun by BEGIN is not allowed").into()
}

/// DISCARD.
pub fn discard(call: &mut Call<'_>) -> Outcome {
    if !matches!(call.session.transactions.state, State::Queueing(_)) {
        return Err(texts::DISCARD_WITHOUT_MULTI.into());
    }
    call.session.transactions.clear();
    call.reply().ok();
    Ok(Flow::Done)
}

/// WATCH key [key …].
pub fn watch(call: &mut Call<'_>) -> Outcome {
    match call.session.transactions.state {
        State::None => {}
        State::Queueing(_) => return Err(texts::WATCH_IN_MULTI.into()),
        State::Open(_) | State::Ended(_) => return Err(in_begin("WATCH")),
    }
    let watched = watch_keys(call);
    match &watched {
        Ok(_) | Err(Failure::Engine(EngineError::Park(_))) => {}
        // The EXEC that was sent behind it counts on these keys being watched.
        Err(_) => call.session.transactions.watches.lose(),
    }
    watched
}

fn watch_keys(call: &mut Call<'_>) -> Outcome {
    let namespace = call.namespace();
    let watches = &call.session.transactions.watches;
    if watches.keys.len() + call.args.len() > WATCHES_MAX {
        return Err(format!("ERR a connection can watch {WATCHES_MAX} keys at most").into());
    }
    let mut seen = BTreeMap::new();
    let mut depends_on = Lsn::ZERO;
    if watches.snapshot.is_none() {
        call.server.may_keep_snapshot()?;
    }
    // The first is kept: what changes from before the first look on must stay to be seen.
    let first = call.server.engine.snapshot_newest()?;
    let mut later = None;
    for key in call.args.skip(1).iter() {
        let place: (_, Box<[u8]>) = (namespace, key.into());
        let watched = &call.session.transactions.watches.keys;
        if watched.contains_key(&place) || seen.contains_key(&place) {
            continue;
        }
        let engine = &call.server.engine;
        let mut watched = loop {
            let snapshot = later.as_ref().unwrap_or(&first);
            match engine.watch(namespace, key, snapshot) {
                // A newer one from here on. What was looked at before stands, and EXEC will see that
                // it was replaced: to look at all again might never end.
                Err(EngineError::Replaced) => later = Some(engine.snapshot_newest()?),
                seen => break seen?,
            }
        };
        // While the clock may be wrong it stays, and is watched as one that has ended: that it is
        // removed later, or there again, will be a change.
        if watched.has_expired() && call.server.trusts_clock() {
            // It goes for good now, so that whatever comes later is a change.
            let remove = &mut |access: &mut rd_engine::Access<'_>| match access.meta(0)? {
                Some(_) => Ok(()),
                None => access.delete(0).map(drop),
            };
            match call.server.engine.write(namespace, &[key], remove) {
                // It stays, and nothing comes later.
                Err(EngineError::NamespaceReadOnly(_)) => {}
                removed => drop(removed?),
            }
            let engine = &call.server.engine;
            watched = loop {
                let snapshot = later.insert(engine.snapshot_newest()?);
                match engine.watch(namespace, key, snapshot) {
                    Err(EngineError::Replaced) => {}
                    seen => break seen?,
                }
            };
        }
        depends_on = depends_on.max(watched.stamp());
        seen.insert(place, watched);
    }
    // What the client reads from now on is no older than what it watches.
    call.depends_on(not_durable(call, depends_on));
    let now_ns = call.server.now_ns;
    let watches = &mut call.session.transactions.watches;
    let bytes = |(_, key): &(_, Box<[u8]>)| WATCHED_BYTES + key.len();
    watches.bytes += seen.keys().map(bytes).sum::<usize>();
    watches.keys.append(&mut seen);
    if watches.snapshot.is_none() {
        watches.snapshot = Some(first);
        watches.began_ns = now_ns;
    }
    call.reply().ok();
    Ok(Flow::Done)
}

/// UNWATCH.
pub fn unwatch(call: &mut Call<'_>) -> Outcome {
    call.session.transactions.watches = Watches::default();
    call.reply().ok();
    Ok(Flow::Done)
}

/// EXEC.
pub fn exec(call: &mut Call<'_>) -> Outcome {
    let queue = match std::mem::take(&mut call.session.transactions.state) {
        State::Queueing(queue) => queue,
        other => {
            call.session.transactions.state = other;
            return Err(texts::EXEC_WITHOUT_MULTI.into());
        }
    };
    let watches = std::mem::take(&mut call.session.transactions.watches);
    if queue.is_spoiled {
        return Err(texts::EXEC_ABORT.into());
    }
    if watches.is_lost {
        call.reply().null_array();
        return Ok(Flow::Done);
    }
    let run = &mut |call: &mut Call<'_>| run_all(call, &queue, &watches);
    let outcome = run_until_committed(call, run);
    if matches!(&outcome, Err(Failure::Engine(EngineError::Park(_)))) {
        call.session.transactions.state = State::Queueing(queue);
        call.session.transactions.watches = watches;
    }
    outcome
}

/// Runs `run_once` in a transaction and commits it, again and again until nobody was first. If
/// `run_once` returns false, nothing is committed. On an error, nothing of it has happened.
pub fn run_until_committed(
    call: &mut Call<'_>,
    run_once: &mut dyn FnMut(&mut Call<'_>) -> Result<bool, Failure>,
) -> Outcome {
    let (mark, wait) = (call.output.mark(), call.wait);
    let settings = call.session.settings();
    let shared = Arc::clone(&call.server.store.shared);
    let mut runs = Runs::default();
    loop {
        let held = runs.hold(&shared)?;
        let begun = call
            .server
            .engine
            .begin(Isolation::Exec, false, View::Newest)?;
        call.server.engine.attach(Box::new(begun));
        let outcome = run_once(call);
        let transaction = call.server.engine.detach().expect("it was attached");
        let outcome = outcome.and_then(|commits| {
            if commits {
                let committed = call.server.engine.commit(&transaction, runs.alone())?;
                call.after(committed);
            }
            Ok(Flow::Done)
        });
        drop(held);
        if outcome.is_err() {
            set_back(call, &settings);
        }
        match outcome {
            Err(Failure::Engine(error)) if runs.goes_on(&error, &transaction.namespaces()) => {
                call.server.count(Counter::CommitRetries);
                call.output.bytes().truncate(mark);
                call.wait = wait;
            }
            ended => return ended,
        }
    }
}

/// Takes back what commands have set for the connection.
fn set_back(call: &mut Call<'_>, settings: &Settings) {
    if call.session.settings() != *settings {
        call.session.set_back(settings);
        call.publish();
    }
}

/// Runs all queued commands in the transaction that is attached, if no watched key has changed.
/// False if one has: the reply says so.
fn run_all(call: &mut Call<'_>, queue: &Queue, watches: &Watches) -> Result<bool, Failure> {
    for ((namespace, key), seen) in &watches.keys {
        if let Some(change) = call.server.engine.changed_since(*namespace, key, seen)? {
            call.depends_on(not_durable(call, change));
            call.reply().null_array();
            return Ok(false);
        }
    }
    call.reply().array(queue.commands.len());
    let bytes_max = call.server.memory_bytes_max();
    for queued in &queue.commands {
        let mark = call.output.mark();
        let mut one = Call {
            server: &mut *call.server,
            session: &mut *call.session,
            output: &mut *call.output,
            args: queued.request.args(),
            wait: call.wait,
            output_max: usize::MAX,
        };
        let outcome = run_to_end(queued.id, &mut one);
        call.wait = one.wait;
        let text = match outcome {
            Ok(()) => None,
            Err(Failure::Engine(error)) if error.is_of_command() => {
                // How long a value is that was found, or that there was one.
                call.depends_on_all();
                Some(call.server.error_reply(&error))
            }
            // Redis goes on behind a command that was wrong, and has no other errors. To go on without
            // one that the server could not carry out would leave half a transaction.
            Err(Failure::Engine(error)) => return Err(error.into()),
            Err(Failure::Reply(text)) => Some(text),
        };
        if let Some(text) = text {
            call.server.count(Counter::ErrorReplies);
            call.output.bytes().truncate(mark);
            call.reply().error(&text);
        }
        if call.output.unsent() > bytes_max {
            let what = "ERR the replies of these commands together are larger than \
                        backend_memory_max; nothing was changed";
            return Err(what.into());
        }
    }
    Ok(true)
}

/// Runs a command, also one that takes several turns, to its end. One that others must bring on
/// cannot have its end here: they are not asked to before the turn's end.
fn run_to_end(id: CommandId, call: &mut Call<'_>) -> Result<(), Failure> {
    let bytes_max = call.server.memory_bytes_max();
    let mut flow = dispatch::handle(id, call)?;
    while let Flow::Wait(waiting) = flow {
        if !waiting.is_stream() {
            return Err(texts::NOT_IN_MULTI.into());
        }
        if call.output.unsent() > bytes_max {
            return Ok(());
        }
        flow = dispatch::go_on(call, waiting)?;
    }
    Ok(())
}

/// BEGIN [SNAPSHOT|SERIALIZABLE] [READ ONLY].
pub fn begin(call: &mut Call<'_>) -> Outcome {
    if !call.session.transactions.is_none() {
        return Err("ERR BEGIN inside a transaction: COMMIT or ROLLBACK it first".into());
    }
    let begun = open(call);
    let why = match &begun {
        Ok(_) | Err(Failure::Engine(EngineError::Park(_))) => return begun,
        Err(Failure::Reply(text)) => text.clone(),
        Err(Failure::Engine(error)) => error.to_string(),
    };
    // What was sent behind it is meant for the transaction.
    let why = why.strip_prefix("ERR ").unwrap_or(&why);
    call.session.transactions.state = State::Ended(format!(
        "ERR BEGIN was refused: {why}; nothing is done before COMMIT or ROLLBACK"
    ));
    begun
}

fn open(call: &mut Call<'_>) -> Outcome {
    let mut isolation = None;
    let mut is_read_only = false;
    let mut words = call.args.skip(1).iter();
    while let Some(word) = words.next() {
        if is_word(word, "SNAPSHOT") && isolation.is_none() {
            isolation = Some(Isolation::Snapshot);
        } else if is_word(word, "SERIALIZABLE") && isolation.is_none() {
            isolation = Some(Isolation::Serializable);
        } else if is_word(word, "READ") && !is_read_only {
            is_read_only = words.next().is_some_and(|word| is_word(word, "ONLY"));
            if !is_read_only {
                return Err(texts::SYNTAX.into());
            }
        } else {
            return Err(texts::SYNTAX.into());
        }
    }
    // One that writes nothing need not check what it reads: its snapshot is of one moment.
    let isolation = match is_read_only {
        true => Isolation::Snapshot,
        false => isolation.unwrap_or(Isolation::Snapshot),
    };
    call.server.may_keep_snapshot()?;
    let view = call.server.view(call.session);
    let transaction = call.server.engine.begin(isolation, is_read_only, view)?;
    call.session.transactions.state = State::Open(Open {
        transaction: Box::new(transaction),
        began_ns: call.server.now_ns,
    });
    call.reply().ok();
    Ok(Flow::Done)
}

/// COMMIT [RETURNING LSN].
pub fn commit(call: &mut Call<'_>) -> Outcome {
    let returns_lsn = match call.args.len() {
        1 => false,
        3 if is_word(call.arg(1), "RETURNING") && is_word(call.arg(2), "LSN") => true,
        _ => return Err(texts::SYNTAX.into()),
    };
    let open = match std::mem::take(&mut call.session.transactions.state) {
        State::Open(open) => open,
        State::Ended(why) => return Err(why.into()),
        other => {
            call.session.transactions.state = other;
            return Err("ERR COMMIT without BEGIN".into());
        }
    };
    match call.server.engine.commit(&open.transaction, &[]) {
        Ok(committed) => {
            let lsn = committed.lsn;
            call.after(committed);
            if returns_lsn {
                let shown = if lsn == Lsn::ZERO {
                    open.transaction.lsn()
                } else {
                    lsn
                };
                call.reply().bulk(shown.to_string().as_bytes());
            } else {
                call.reply().ok();
            }
            Ok(Flow::Done)
        }
        Err(error @ EngineError::Park(_)) => {
            call.session.transactions.state = State::Open(open);
            Err(error.into())
        }
        Err(error) => {
            if let EngineError::Conflict { stamp, .. } = &error {
                call.server.count(Counter::Conflicts);
                call.depends_on(not_durable(call, *stamp));
            }
            Err(error.into())
        }
    }
}

/// ROLLBACK [TO name].
pub fn rollback(call: &mut Call<'_>) -> Outcome {
    let savepoint = match call.args.len() {
        1 => None,
        3 if is_word(call.arg(1), "TO") => Some(call.arg(2)),
        _ => return Err(texts::SYNTAX.into()),
    };
    let transactions = &mut call.session.transactions;
    match (&mut transactions.state, savepoint) {
        (State::Open(_) | State::Ended(_), None) => transactions.state = State::None,
        (State::Open(open), Some(name)) => {
            if !open.transaction.rollback_to(name) {
                return Err(no_savepoint(name));
            }
        }
        (State::Ended(why), Some(_)) => return Err(why.clone().into()),
        _ => return Err("ERR ROLLBACK without BEGIN".into()),
    }
    call.reply().ok();
    Ok(Flow::Done)
}

fn no_savepoint(name: &[u8]) -> Failure {
    let shown = name.get(..64).unwrap_or(name);
    format!("ERR there is no savepoint '{}'", shown.escape_ascii()).into()
}

/// SAVEPOINT name.
pub fn savepoint(call: &mut Call<'_>) -> Outcome {
    let limit = call.server.config.max_transaction_size_bytes() as usize;
    let name = call.arg(1);
    let State::Open(open) = &mut call.session.transactions.state else {
        return Err("ERR SAVEPOINT without BEGIN".into());
    };
    open.transaction.savepoint(name, limit)?;
    call.reply().ok();
    Ok(Flow::Done)
}

/// RELEASE name.
pub fn release(call: &mut Call<'_>) -> Outcome {
    let name = call.arg(1);
    let State::Open(open) = &mut call.session.transactions.state else {
        return Err("ERR RELEASE without BEGIN".into());
    };
    if !open.transaction.release(name) {
        return Err(no_savepoint(name));
    }
    call.reply().ok();
    Ok(Flow::Done)
}

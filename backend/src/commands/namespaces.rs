//! Namespaces: NAMESPACE …, CHECKPOINT NAMESPACE, USE; and what Redis has of them: SELECT, SWAPDB, MOVE, COPY … DB.

use super::Call;
use crate::dispatch::{Failure, Flow, Outcome};
use crate::waiting::{NewAccess, Waiting};
use rd_base::FileNo;
use rd_engine::{EngineError, NamespaceId, NamespaceInfo};
use rd_store::checkpoint::{FileRequest, FileTicket, Requester, TicketState};
use rd_store::namespaces::{Access, AccessChange};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::texts;
use std::sync::Arc;

/// The database that SELECT calls `index`.
fn database(call: &Call<'_>, index: i64) -> Option<NamespaceId> {
    let number = usize::try_from(index).ok()?;
    NamespaceId::database(number).filter(|_| index < i64::from(call.server.config.databases()))
}

/// The database that an argument of a command names.
pub fn database_of(call: &Call<'_>, number: &[u8]) -> Result<NamespaceId, &'static str> {
    let index = parse_i64(number).ok_or(texts::DB_NOT_A_NUMBER)?;
    database(call, index).ok_or(texts::DB_OUT_OF_RANGE)
}

/// SELECT index.
pub fn select(call: &mut Call<'_>) -> Outcome {
    let namespace = database_of(call, call.arg(1))?;
    turn_to(call, namespace)
}

/// From now on the session uses `namespace`.
fn turn_to(call: &mut Call<'_>, namespace: NamespaceId) -> Outcome {
    call.session.namespace = namespace;
    call.publish();
    call.reply().ok();
    Ok(Flow::Done)
}

/// SWAPDB index index.
pub fn swapdb(call: &mut Call<'_>) -> Outcome {
    let first = parse_i64(call.arg(1)).ok_or(texts::BAD_FIRST_DB)?;
    let second = parse_i64(call.arg(2)).ok_or(texts::BAD_SECOND_DB)?;
    let find = |index| database(call, index).ok_or(texts::DB_OUT_OF_RANGE);
    let (first, second) = (find(first)?, find(second)?);
    let swapped = call.server.engine.swap_namespaces(first, second)?;
    call.after(swapped);
    call.reply().ok();
    Ok(Flow::Done)
}

/// A key, and where it is.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: &'a [u8],
}

/// Gives `to` value and expiry of `from`, which goes if it is `moved`, by one commit; false if
/// `from` is not there, or `to` is and may not be `replaced`.
///
/// # Errors
/// Nothing has happened then.
pub fn transfer(
    call: &mut Call<'_>,
    from: Place<'_>,
    to: Place<'_>,
    replaced: bool,
    moved: bool,
) -> Result<bool, EngineError> {
    let done = call.server.engine.write_across(&mut |engine| {
        let found = engine.write(from.namespace, &[from.key], &mut |access| {
            let value = access.newest_copy(0)?;
            let expiry_ms = access.meta(0)?.and_then(|meta| meta.expiry_ms);
            Ok(value.map(|value| (value, expiry_ms)))
        })?;
        let Some((value, expiry_ms)) = found.result else {
            return Ok((false, found.depends_on));
        };
        let put = engine.write(to.namespace, &[to.key], &mut |access| {
            let is_free = replaced || access.meta(0)?.is_none();
            if is_free {
                access.put_again(0, &value, expiry_ms)?;
            }
            Ok(is_free)
        })?;
        if put.result && moved {
            engine.write(from.namespace, &[from.key], &mut |access| access.delete(0))?;
        }
        Ok((put.result, found.depends_on.max(put.depends_on)))
    })?;
    Ok(call.after(done))
}

/// MOVE key index.
pub fn move_key(call: &mut Call<'_>) -> Outcome {
    let key = call.arg(1);
    let target = database_of(call, call.arg(2))?;
    let source = call.namespace();
    if source == target {
        return Err(texts::SAME_OBJECT.into());
    }
    let place = |namespace| Place { namespace, key };
    let done = transfer(call, place(source), place(target), false, true)?;
    call.reply().integer(i64::from(done));
    Ok(Flow::Done)
}

/// An error about the namespace called `name`, which may have been dropped by a commit that is not
/// durable yet.
fn about(call: &mut Call<'_>, name: &[u8], error: EngineError) -> Failure {
    match error {
        EngineError::NoNamespace => {
            call.depends_on_all();
            let shown = name.get(..64).unwrap_or(name);
            let shown = shown.escape_ascii();
            format!("ERR there is no namespace '{shown}'").into()
        }
        other => other.into(),
    }
}

/// The namespace called `name`.
fn find(call: &mut Call<'_>, name: &[u8]) -> Result<NamespaceId, Failure> {
    let found = call.server.engine.find_namespace(name)?;
    call.depends_on(found.depends_on);
    found
        .result
        .ok_or_else(|| about(call, name, EngineError::NoNamespace))
}

/// USE name.
pub fn use_namespace(call: &mut Call<'_>) -> Outcome {
    let namespace = find(call, call.arg(1))?;
    turn_to(call, namespace)
}

/// NAMESPACE CREATE name.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let created = call.server.engine.create_namespace(call.arg(2))?;
    call.after(created);
    call.reply().ok();
    Ok(Flow::Done)
}

/// NAMESPACE DROP name.
pub fn drop_namespace(call: &mut Call<'_>) -> Outcome {
    let name = call.arg(2);
    let dropped = call.server.engine.drop_namespace(name);
    let dropped = dropped.map_err(|error| about(call, name, error))?;
    call.after(dropped);
    call.reply().ok();
    Ok(Flow::Done)
}

/// NAMESPACE RENAME name newname.
pub fn rename(call: &mut Call<'_>) -> Outcome {
    let (old, new) = (call.arg(2), call.arg(3));
    let renamed = call.server.engine.rename_namespace(old, new);
    let renamed = renamed.map_err(|error| about(call, old, error))?;
    call.after(renamed);
    call.reply().ok();
    Ok(Flow::Done)
}

/// All namespaces.
fn listed(call: &mut Call<'_>) -> Vec<NamespaceInfo> {
    let all = call.server.engine.namespaces();
    call.depends_on(all.depends_on);
    all.result
}

/// NAMESPACE LIST [ACCESS]: the names, or a map from these to what may be done with the namespaces.
pub fn list(call: &mut Call<'_>) -> Outcome {
    let shows_access = match call.args.len() {
        2 => false,
        3 if is_word(call.arg(2), "ACCESS") => true,
        _ => return Err(texts::SYNTAX.into()),
    };
    let all = listed(call);
    if shows_access {
        call.depends_on_all();
        let mut reply = call.reply();
        reply.map(all.len());
        for info in all {
            reply.bulk(&info.name);
            reply.bulk(info.access.to_string().as_bytes());
        }
        return Ok(Flow::Done);
    }
    let mut reply = call.reply();
    reply.array(all.len());
    for info in all {
        reply.bulk(&info.name);
    }
    Ok(Flow::Done)
}

/// NAMESPACE INFO [name]: of the one in use without a name.
pub fn info(call: &mut Call<'_>) -> Outcome {
    let namespace = match call.args.get(2) {
        Some(name) => find(call, name)?,
        None => call.namespace(),
    };
    let all = listed(call);
    let info = all.into_iter().find(|info| info.id == namespace);
    let info = info.ok_or(EngineError::NoNamespace)?;
    call.depends_on_all();
    let mut reply = call.reply();
    reply.map(9);
    reply.bulk(b"name");
    reply.bulk(&info.name);
    reply.bulk(b"database");
    match info.id.database_number() {
        Some(number) => reply.integer(number as i64),
        None => reply.null(),
    }
    reply.bulk(b"keys");
    reply.integer(info.keys as i64);
    reply.bulk(b"file");
    match info.file {
        Some(file) => reply.integer(i64::from(file.get())),
        None => reply.null(),
    }
    reply.bulk(b"disk_bytes");
    reply.integer(info.disk_bytes as i64);
    reply.bulk(b"access");
    reply.bulk(info.access.to_string().as_bytes());
    let (count, scn, stop_scn) = info.covered.unwrap_or_default();
    reply.bulk(b"checkpoint_count");
    reply.integer(count as i64);
    for (name, lsn) in [("scn", scn), ("stop_scn", stop_scn)] {
        reply.bulk(name.as_bytes());
        reply.bulk(lsn.to_string().as_bytes());
    }
    Ok(Flow::Done)
}

/// CHECKPOINT NAMESPACE name: done when all that was written there before is in the namespace's file.
pub fn checkpoint(call: &mut Call<'_>) -> Outcome {
    let namespace = find(call, call.arg(2))?;
    let entry = call.server.store.shared.namespaces.entry(namespace);
    let place = entry.place().ok_or(EngineError::NoNamespace)?;
    match place.lies.file() {
        Some(file) => {
            let ticket = request(call, file, None, "CHECKPOINT")?;
            Ok(Flow::Wait(Waiting::Namespace(ticket, None)))
        }
        None => {
            // Without a file there is nothing to be written but the log that says so.
            call.depends_on(place.since);
            call.reply().ok();
            Ok(Flow::Done)
        }
    }
}

/// Asks the checkpointer for a checkpoint of `file`, or that it closes or opens it.
fn request(
    call: &Call<'_>,
    file: FileNo,
    access: Option<Access>,
    command: &str,
) -> Result<FileTicket, Failure> {
    let shared = &call.server.store.shared;
    let request = FileRequest {
        file,
        access,
        requester: Requester::connection(call.server.role, call.session.id, command),
    };
    let ticket = shared.checkpoint.request_file(&shared.procs, &request);
    ticket.map_err(|error| format!("ERR {error}").into())
}

/// Asks that the file is closed or opened, as part of a change of `namespace` from `before`.
fn change_file(
    call: &Call<'_>,
    change: AccessChange,
    (file, access): (FileNo, Access),
    to_be_set: Option<(NamespaceId, Access)>,
    before: Access,
    command: &str,
) -> Outcome {
    let ticket = request(call, file, Some(access), command)?;
    let new = NewAccess {
        _change: change,
        to_be_set,
        back: FileRequest {
            file,
            access: Some(before),
            requester: Requester::connection(call.server.role, call.session.id, command),
        },
        shared: Arc::clone(&call.server.store.shared),
    };
    Ok(Flow::Wait(Waiting::Namespace(ticket, Some(Box::new(new)))))
}

/// NAMESPACE READONLY name.
pub fn readonly(call: &mut Call<'_>) -> Outcome {
    close(call, Access::READ_ONLY, "READONLY")
}

/// NAMESPACE OFFLINE name.
pub fn offline(call: &mut Call<'_>) -> Outcome {
    close(call, Access::OFFLINE, "OFFLINE")
}

/// NAMESPACE READWRITE name.
pub fn readwrite(call: &mut Call<'_>) -> Outcome {
    open(call, Access::READ_ONLY, "READWRITE")
}

/// NAMESPACE ONLINE name.
pub fn online(call: &mut Call<'_>) -> Outcome {
    open(call, Access::OFFLINE, "ONLINE")
}

/// What is about to be changed: the namespace, what may be done with it so far, and its file.
type Before = (NamespaceId, Access, Option<FileNo>);

/// Begins a change of `restriction`.
fn begin_change(
    call: &mut Call<'_>,
    restriction: Access,
) -> Result<(Before, AccessChange), Failure> {
    let name = call.arg(2);
    let namespace = find(call, name)?;
    let change = call.server.engine.begin_access_change(namespace)?;
    let (access, file) = call
        .server
        .engine
        .access(namespace)
        .map_err(|error| about(call, name, error))?;
    if access.is_offline() && !restriction.is_offline() {
        let shown = String::from_utf8_lossy(name).into_owned();
        return Err(EngineError::NamespaceOffline(shown).into());
    }
    Ok(((namespace, access, file), change))
}

/// First nobody is let in any more, then the file is brought to disk and closed.
fn close(call: &mut Call<'_>, restriction: Access, command: &str) -> Outcome {
    let ((namespace, before, _), change) = begin_change(call, restriction)?;
    let access = before.with(restriction);
    let set = call.server.engine.set_access(namespace, access)?;
    let Some(file) = call.after(set) else {
        call.reply().ok();
        return Ok(Flow::Done);
    };
    change_file(call, change, (file, access), None, before, command)
}

/// First the file is looked at and opened, then whoever it is for is let in.
fn open(call: &mut Call<'_>, restriction: Access, command: &str) -> Outcome {
    let ((namespace, before, file), change) = begin_change(call, restriction)?;
    let access = before.without(restriction);
    let Some(file) = file else {
        let set = call.server.engine.set_access(namespace, access)?;
        call.after(set);
        call.reply().ok();
        return Ok(Flow::Done);
    };
    let to_be_set = Some((namespace, access));
    change_file(call, change, (file, access), to_be_set, before, command)
}

/// Looks whether what was asked of a namespace's file is done.
pub fn proceed(call: &mut Call<'_>, ticket: FileTicket, access: Option<Box<NewAccess>>) -> Outcome {
    match call.server.store.shared.checkpoint.file_state(&ticket) {
        TicketState::Pending => Ok(Flow::Wait(Waiting::Namespace(ticket, access))),
        TicketState::Done => finish(call, ticket, access),
        TicketState::Failed(reason) => {
            let what = match access.as_deref().map(|new| new.to_be_set) {
                None => "the checkpoint of the namespace failed",
                Some(None) => {
                    "the namespace is as it was asked for, but its file could not be closed"
                }
                Some(Some(_)) => "the namespace stays as it is",
            };
            Err(
                format!("ERR {what}: {reason}; run the command again when that is put right")
                    .into(),
            )
        }
    }
}

/// The file is closed or open.
fn finish(call: &mut Call<'_>, ticket: FileTicket, mut access: Option<Box<NewAccess>>) -> Outcome {
    if let Some(new) = &mut access
        && let Some((namespace, to)) = new.to_be_set
    {
        match call.server.engine.set_access(namespace, to) {
            Ok(set) => {
                new.to_be_set = None;
                call.after(set);
            }
            Err(EngineError::Park(reason)) => {
                call.server.park(reason);
                return Ok(Flow::Wait(Waiting::Namespace(ticket, access)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    call.reply().ok();
    Ok(Flow::Done)
}

/// What CLIENT LIST shows of the namespace at `index`: the number by which SELECT names it, else
/// its name.
pub fn name_for_list(call: &Call<'_>, index: u32) -> String {
    let engine = &call.server.engine;
    let namespace = engine.namespace(index as usize);
    match namespace.and_then(NamespaceId::database_number) {
        Some(number) => number.to_string(),
        None => {
            let name = namespace.and_then(|namespace| engine.namespace_name(namespace));
            String::from_utf8_lossy(&name.unwrap_or_default()).into_owned()
        }
    }
}

//! From a request to its handler, and from the handler's outcome to the reply and what it waits
//! for.

use crate::commands::expiry::{self, Base, Unit};
use crate::commands::ranges::Order;
use crate::commands::{
    Call, admin, advice, config, connection, exchange, info, keys, ranges, strings,
};
use crate::commands::{
    bitfield, bits, clients, dump, namespaces, object, replication, scan, several, stat,
    substrings, transactions,
};
use crate::output::Output;
use crate::server::Server;
use crate::session::{Replies, Session};
use crate::transaction::State;
use crate::waiting::Waiting;
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_engine::EngineError;
use rd_wire::{Args, CommandId, ReplyWriter, resolve, texts};

/// What becomes of a connection after a request.
pub enum Flow {
    /// The reply is in the output.
    Done,
    /// Nothing has happened; to be carried out again when the process's event fires.
    Park,
    /// The command goes on.
    Wait(Waiting),
    /// The reply is in the output; no more requests are taken.
    Close,
}

/// Why a handler wrote no reply.
pub enum Failure {
    /// An error reply, code word included.
    Reply(String),
    /// The engine could not do it.
    Engine(EngineError),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        Failure::Engine(error)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        Failure::Reply(text.to_owned())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Reply(text)
    }
}

/// What a handler comes to.
pub type Outcome = Result<Flow, Failure>;

/// Carries out one request.
pub fn execute(
    server: &mut Server,
    session: &mut Session,
    output: &mut Output,
    args: Args<'_>,
) -> Flow {
    session.begin_command();
    let resolved = match resolve(args) {
        Ok(resolved) if server.is_paused(resolved.id) => return Flow::Park,
        Ok(resolved) => resolved,
        Err(error) => {
            server.count(Counter::ErrorReplies);
            session.was_ungated = true;
            let text = transactions::refuse(session, args, error.reply());
            if session.transactions.is_none() {
                output.part();
            }
            if session.replies == Replies::On {
                ReplyWriter::new(output.bytes(), session.proto).error_bytes(&text);
            }
            session.end_command();
            return Flow::Done;
        }
    };
    session.last_command = Some(resolved.id);
    session.active_at_ns = server.now_ns;
    let mark = output.mark();
    let output_max = server.output_max();
    let mut call = Call {
        server,
        session,
        output,
        args,
        wait: Lsn::ZERO,
        output_max,
    };
    let is_in_none = call.session.transactions.is_none();
    let outcome = if is_in_none {
        handle(resolved.id, &mut call)
    } else {
        transactions::handle_within(resolved.id, &mut call)
    };
    let wait = call.wait;
    let begins_stream = matches!(&outcome, Ok(Flow::Wait(waiting)) if waiting.is_stream());
    if begins_stream && !server.may_stream() {
        // It gives its snapshot back, and begins anew when another stream has ended.
        output.bytes().truncate(mark);
        return Flow::Park;
    }
    let flow = conclude(server, session, output, mark, wait, outcome);
    if !is_in_none && session.transactions.is_none() {
        output.part();
    }
    if !matches!(flow, Flow::Park) {
        // One that is parked is counted when it has been carried out.
        server.count(Counter::CommandsProcessed);
    }
    flow
}

/// Goes on with a command that takes several turns.
pub fn proceed(
    server: &mut Server,
    session: &mut Session,
    output: &mut Output,
    waiting: Waiting,
) -> Flow {
    let mark = output.mark();
    let no_args = rd_wire::RequestBuf::default();
    let output_max = server.output_max();
    let mut call = Call {
        server,
        session,
        output,
        args: no_args.args(),
        wait: Lsn::ZERO,
        output_max,
    };
    let has_begun = waiting.has_begun();
    let outcome = transactions::handle_attached(&mut call, |call| go_on(call, waiting));
    let wait = call.wait;
    let is_cut_off = has_begun && outcome.is_err();
    let flow = conclude(server, session, output, mark, wait, outcome);
    if is_cut_off {
        // The client counts elements: it would take the next replies for those that are missing.
        return Flow::Close;
    }
    flow
}

/// Goes on with a command under way, whoever runs it.
pub fn go_on(call: &mut Call<'_>, waiting: Waiting) -> Outcome {
    match waiting {
        Waiting::Checkpoint { ticket, reply } => admin::proceed(call, ticket, reply),
        Waiting::Namespace(ticket, access) => namespaces::proceed(call, ticket, access),
        Waiting::Durable(lsn, until_ns) => replication::proceed(call, lsn, until_ns),
        Waiting::Range(stream) => ranges::proceed(call, stream),
        Waiting::Keys(walk) => scan::proceed(call, walk),
        Waiting::Random(walk) => scan::proceed_randomly(call, walk),
        Waiting::Several(stream) => several::proceed(call, stream),
    }
}

/// Puts the reply, or the error in its place, behind what it waits for: a refusal shows what was
/// found as much as a value does.
fn conclude(
    server: &mut Server,
    session: &mut Session,
    output: &mut Output,
    mark: usize,
    mut wait: Lsn,
    outcome: Outcome,
) -> Flow {
    let (flow, text) = match outcome {
        Ok(flow) => (flow, None),
        Err(Failure::Engine(EngineError::Park(reason))) => {
            output.bytes().truncate(mark);
            server.park(reason);
            server.count(Counter::ParkedCommits);
            return Flow::Park;
        }
        Err(Failure::Engine(error)) => {
            if error.shows_what_was_found() {
                wait = wait.max(server.store.shared.wal.insert_lsn());
            }
            (Flow::Done, Some(server.error_reply(&error)))
        }
        Err(Failure::Reply(text)) => (Flow::Done, Some(text)),
    };
    if let Some(text) = text {
        server.count(Counter::ErrorReplies);
        output.bytes().truncate(mark);
        ReplyWriter::new(output.bytes(), session.proto).error(&text);
    }
    let wait = server.gate(session, wait);
    let is_silent = session.replies != Replies::On;
    if !matches!(flow, Flow::Wait(_)) {
        session.end_command();
        session.active_at_ns = match session.transactions.state {
            // It is ended if it is idle: what this command took, be it all in one turn, is not
            // its client's time.
            State::Open(_) => server.store.clock.monotonic_ns(),
            _ => server.now_ns,
        };
    }
    session.was_ungated = wait <= server.store.shared.wal.durable_lsn();
    if is_silent {
        // There is no reply to wait, but the commit is not to wait for another's flush.
        output.bytes().truncate(mark);
        server.store.shared.wal.request_lazy_flush(wait);
    } else if !session.was_ungated {
        output.hold(mark, wait);
    }
    flow
}

/// Calls the handler of a command.
pub fn handle(id: CommandId, call: &mut Call<'_>) -> Outcome {
    match id {
        CommandId::Get => strings::get(call),
        CommandId::Set => strings::set(call),
        CommandId::Mget => several::mget(call),
        CommandId::Mset => strings::mset(call),
        CommandId::Strlen => strings::strlen(call),
        CommandId::Append => strings::append(call),
        CommandId::Incr => strings::add_constant(call, 1),
        CommandId::Decr => strings::add_constant(call, -1),
        CommandId::Incrby => strings::incrby(call),
        CommandId::Decrby => strings::decrby(call),
        CommandId::Getex => exchange::getex(call),
        CommandId::Getdel => exchange::getdel(call),
        CommandId::Getset => exchange::getset(call),
        CommandId::Setnx => exchange::setnx(call),
        CommandId::Setex => exchange::setex(call, Unit::Seconds, "setex"),
        CommandId::Psetex => exchange::setex(call, Unit::Millis, "psetex"),
        CommandId::Msetnx => exchange::msetnx(call),
        CommandId::Getrange | CommandId::Substr => substrings::getrange(call),
        CommandId::Setrange => substrings::setrange(call),
        CommandId::Incrbyfloat => strings::incrbyfloat(call),
        CommandId::Lcs => substrings::lcs(call),
        CommandId::Del | CommandId::Unlink => keys::del(call),
        CommandId::Exists | CommandId::Touch => several::exists(call),
        CommandId::Type => keys::kind(call),
        CommandId::Rename => exchange::rename(call),
        CommandId::Renamenx => exchange::renamenx(call),
        CommandId::Copy => exchange::copy(call),
        CommandId::Randomkey => scan::randomkey(call),
        CommandId::Keys => scan::keys(call),
        CommandId::Scan => scan::scan(call),
        CommandId::ObjectEncoding => object::encoding(call),
        CommandId::ObjectRefcount => object::refcount(call),
        CommandId::ObjectFreq => object::not_tracked(call, texts::NO_FREQUENCY),
        CommandId::ObjectIdletime => object::not_tracked(call, texts::NO_IDLE_TIME),
        CommandId::ObjectHelp => admin::help(call, "object"),
        CommandId::MemoryUsage => object::memory_usage(call),
        CommandId::MemoryHelp => admin::help(call, "memory"),
        CommandId::Setbit => bits::setbit(call),
        CommandId::Getbit => bits::getbit(call),
        CommandId::Bitcount => bits::bitcount(call),
        CommandId::Bitpos => bits::bitpos(call),
        CommandId::Bitop => bits::bitop(call),
        CommandId::Bitfield => bitfield::bitfield(call, false),
        CommandId::BitfieldRo => bitfield::bitfield(call, true),
        CommandId::Dump => dump::dump(call),
        CommandId::Restore => dump::restore(call),
        CommandId::Expire => expiry::expire(call, Unit::Seconds, Base::Now, "expire"),
        CommandId::Pexpire => expiry::expire(call, Unit::Millis, Base::Now, "pexpire"),
        CommandId::Expireat => expiry::expire(call, Unit::Seconds, Base::Epoch, "expireat"),
        CommandId::Pexpireat => expiry::expire(call, Unit::Millis, Base::Epoch, "pexpireat"),
        CommandId::Ttl => expiry::ttl(call, Unit::Seconds, Base::Now),
        CommandId::Pttl => expiry::ttl(call, Unit::Millis, Base::Now),
        CommandId::Expiretime => expiry::ttl(call, Unit::Seconds, Base::Epoch),
        CommandId::Pexpiretime => expiry::ttl(call, Unit::Millis, Base::Epoch),
        CommandId::Persist => expiry::persist(call),
        CommandId::Range => ranges::range(call, Order::Ascending),
        CommandId::Revrange => ranges::range(call, Order::Descending),
        CommandId::Countrange => ranges::countrange(call),
        CommandId::Delrange => ranges::delrange(call),
        CommandId::Dbsize => keys::dbsize(call),
        CommandId::Flushdb => keys::flush(call, false),
        CommandId::Flushall => keys::flush(call, true),
        CommandId::Swapdb => namespaces::swapdb(call),
        CommandId::Move => namespaces::move_key(call),
        CommandId::Use => namespaces::use_namespace(call),
        CommandId::NamespaceCreate => namespaces::create(call),
        CommandId::NamespaceDrop => namespaces::drop_namespace(call),
        CommandId::NamespaceRename => namespaces::rename(call),
        CommandId::NamespaceList => namespaces::list(call),
        CommandId::NamespaceInfo => namespaces::info(call),
        CommandId::NamespaceReadonly => namespaces::readonly(call),
        CommandId::NamespaceReadwrite => namespaces::readwrite(call),
        CommandId::NamespaceOffline => namespaces::offline(call),
        CommandId::NamespaceOnline => namespaces::online(call),
        CommandId::NamespaceHelp => admin::help(call, "namespace"),
        CommandId::Multi => transactions::multi(call),
        CommandId::Exec => transactions::exec(call),
        CommandId::Discard => transactions::discard(call),
        CommandId::Watch => transactions::watch(call),
        CommandId::Unwatch => transactions::unwatch(call),
        CommandId::Begin => transactions::begin(call),
        CommandId::Commit => transactions::commit(call),
        CommandId::Rollback => transactions::rollback(call),
        CommandId::Savepoint => transactions::savepoint(call),
        CommandId::Release => transactions::release(call),
        CommandId::Ping => connection::ping(call),
        CommandId::Echo => connection::echo(call),
        CommandId::Quit => connection::quit(call),
        CommandId::Reset => connection::reset(call),
        CommandId::Hello => connection::hello(call),
        CommandId::Auth => connection::auth(call),
        CommandId::Select => namespaces::select(call),
        CommandId::ClientId => connection::client_id(call),
        CommandId::ClientGetname => connection::client_getname(call),
        CommandId::ClientSetname => connection::client_setname(call),
        CommandId::ClientSetinfo => connection::client_setinfo(call),
        CommandId::ClientInfo => connection::client_info(call),
        CommandId::ClientList => connection::client_list(call),
        CommandId::ClientHelp => admin::help(call, "client"),
        CommandId::ClientKill => clients::kill(call),
        CommandId::ClientPause => clients::pause(call),
        CommandId::ClientUnpause => clients::unpause(call),
        CommandId::ClientNoEvict => clients::no_evict(call),
        CommandId::ClientNoTouch => clients::no_touch(call),
        CommandId::ClientSynchronousCommit => connection::client_synchronous_commit(call),
        CommandId::ClientReply => clients::reply(call),
        CommandId::ClientTrackinginfo => clients::trackinginfo(call),
        CommandId::ClientGetredir => clients::getredir(call),
        CommandId::ClientUnblock => clients::unblock(call),
        CommandId::Wait => replication::wait(call),
        CommandId::Waitaof => replication::waitaof(call),
        CommandId::Info => info::info(call),
        CommandId::ConfigGet => config::get(call),
        CommandId::ConfigSet => config::set(call),
        CommandId::ConfigRewrite => config::rewrite(call),
        CommandId::ConfigResetstat => config::resetstat(call),
        CommandId::ConfigHelp => admin::help(call, "config"),
        CommandId::Command => admin::command(call),
        CommandId::CommandCount => admin::command_count(call),
        CommandId::CommandDocs => admin::command_docs(call),
        CommandId::CommandInfo => admin::command_info(call),
        CommandId::CommandList => admin::command_list(call),
        CommandId::CommandGetkeys => admin::command_getkeys(call),
        CommandId::CommandGetkeysandflags => admin::command_getkeysandflags(call),
        CommandId::CommandHelp => admin::help(call, "command"),
        CommandId::Checkpoint => admin::checkpoint(call),
        CommandId::StatCheckpoints => stat::checkpoints(call),
        CommandId::StatCheckpoint => stat::checkpoint(call),
        CommandId::StatRecovery => stat::recovery(call),
        CommandId::StatIo => stat::io(call),
        CommandId::StatWal => stat::wal(call),
        CommandId::StatScrub => stat::scrub(call),
        CommandId::StatBuffers => stat::buffers(call),
        CommandId::StatProcesses => stat::processes(call),
        CommandId::StatAdvice => advice::advice(call),
        CommandId::StatRecoveries => stat::recoveries(call),
        CommandId::StatHelp => admin::help(call, "stat"),
        CommandId::Save => admin::save(call),
        CommandId::Bgsave => admin::bgsave(call),
        CommandId::Lastsave => admin::lastsave(call),
        CommandId::Time => admin::time(call),
        CommandId::Shutdown => admin::shutdown(call),
    }
}

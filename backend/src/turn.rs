//! What a connection's turn is made of: the requests in its input are carried out one after the
//! other, until one of them holds the connection up, or its replies are to be sent first.

use crate::brake;
use crate::connection::{Connection, Hold};
use crate::dispatch::{self, Flow};
use crate::server::Server;
use crate::session::Session;
use crate::waiting::Waiting;
use rd_base::counters::Counter;
use rd_wire::command::lookup;
use rd_wire::{Ahead, Parsed, ReplyWriter};

/// How many requests are looked at before they are carried out.
const REQUESTS_AHEAD_MAX: usize = 16;

/// Carries out what is in the connection's own buffer.
pub fn run_buffered(server: &mut Server, connection: &mut Connection) {
    let mut input = std::mem::take(&mut connection.input);
    let done = run(server, connection, &input);
    input.drain(..done);
    connection.input = input;
}

/// Carries out the requests at the front of `input` and returns how many bytes they took.
pub fn run(server: &mut Server, connection: &mut Connection, input: &[u8]) -> usize {
    let mut done = 0;
    // Requests behind `done` that were looked at.
    let mut ahead = 0;
    connection.is_partial = false;
    while server.may_run(connection) {
        let rest = input.get(done..).unwrap_or(&[]);
        if rest.is_empty() {
            connection.need = 1;
            break;
        }
        if ahead == 0 {
            ahead = look_ahead(server, &connection.session, rest);
        }
        ahead = ahead.saturating_sub(1);
        let Connection {
            parser,
            session,
            output,
            ..
        } = connection;
        match parser.parse(rest) {
            Parsed::Request { args, consumed } => {
                let mark = brake::mark(server);
                match dispatch::execute(server, session, output, args) {
                    Flow::Done => done += consumed,
                    Flow::Park => {
                        connection.hold = Hold::Parked;
                        break;
                    }
                    Flow::Wait(waiting) => {
                        done += consumed;
                        connection.stream = waiting.is_stream().then(|| server.streams.begin());
                        connection.hold = Hold::Waiting(waiting);
                        connection.progress_at_ns = server.now_ns;
                    }
                    Flow::Close => {
                        done += consumed;
                        connection.hold = Hold::Closing;
                    }
                }
                brake::charge(server, connection, mark);
            }
            Parsed::Empty { consumed } => done += consumed,
            Parsed::Incomplete { need } => {
                connection.need = need;
                connection.is_partial = true;
                break;
            }
            Parsed::Error(error) => {
                server.count(Counter::ErrorReplies);
                ReplyWriter::new(output.bytes(), session.proto).error(&error.reply());
                connection.hold = Hold::Closing;
                return input.len();
            }
            Parsed::HttpAttack => {
                log::warn!(
                    "possible SECURITY ATTACK: connection {} from {} speaks HTTP; closed. A web \
                     page may have been made to send commands to this server",
                    session.id,
                    session.address,
                );
                connection.hold = Hold::Closing;
                return input.len();
            }
        }
    }
    done
}

/// Looks at the requests of a pipeline together, before they are carried out one by one; says at
/// how many.
fn look_ahead(server: &mut Server, session: &Session, input: &[u8]) -> usize {
    if !session.transactions.is_none() {
        return REQUESTS_AHEAD_MAX;
    }
    let requests = || Ahead::new(input).take(REQUESTS_AHEAD_MAX);
    if requests().nth(1).is_none() {
        // One alone gains nothing. What is behind an odd one is looked at after it.
        return 1;
    }
    let mut seen = 0;
    let keys = requests()
        .inspect(|_| seen += 1)
        .filter_map(|(name, first)| {
            let keys = lookup(name)?.keys.first()?;
            first.filter(|_| keys.first == 1)
        });
    server.engine.look_ahead(session.namespace, keys);
    seen
}

/// Goes on with a command under way.
pub fn proceed(server: &mut Server, connection: &mut Connection, waiting: Waiting) -> Hold {
    let Connection {
        session, output, ..
    } = connection;
    let flow = dispatch::proceed(server, session, output, waiting);
    if !matches!(flow, Flow::Wait(_)) {
        connection.stream = None;
    }
    match flow {
        Flow::Wait(waiting) => Hold::Waiting(waiting),
        Flow::Close => Hold::Closing,
        Flow::Done | Flow::Park => Hold::Free,
    }
}

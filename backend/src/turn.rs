//! What a connection's turn is made of: the requests in its input are carried out one after the
//! other, until one of them holds the connection up, its replies are to be sent first, or its time is
//! over: the others have theirs, too, however long its requests take.

use crate::brake;
use crate::connection::{Connection, Hold};
use crate::dispatch::{self, Flow};
use crate::server::Server;
use crate::session::Session;
use crate::waiting::Waiting;
use rd_base::counters::Counter;
use rd_sys::clock::Clock;
use rd_wire::command::lookup;
use rd_wire::{Ahead, Parsed, ReplyWriter};

/// How many requests are looked at before they are carried out.
const REQUESTS_AHEAD_MAX: usize = 16;
/// For how long requests are carried out in a turn, from the first look at the clock on.
const TURN_NS: u64 = 5_000_000;
/// Requests between two looks at the clock, at most.
const PACE_MAX: u32 = 16;
/// If those between two looks took longer, the clock is looked at after each.
const PACE_NS: u64 = 500_000;

/// Says when a turn is over. A look at the clock is not free beside a short request, so there are
/// few: none in a turn of one request, and the fewer the shorter the connection's requests have been.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Requests between two looks.
    requests: u32,
    /// Of these, how many are left.
    left: u32,
    /// When the clock was looked at first in this turn.
    began_ns: Option<u64>,
    /// When it was looked at last.
    looked_ns: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            requests: 1,
            left: 1,
            began_ns: None,
            looked_ns: 0,
        }
    }
}

impl Pace {
    /// A turn begins.
    fn begin(&mut self) {
        self.left = self.requests;
        self.began_ns = None;
    }

    /// A request was carried out.
    fn note(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// Whether the turn is over, with more requests there.
    fn is_over(&mut self, clock: &Clock) -> bool {
        self.left == 0 && self.look(clock.monotonic_ns())
    }

    fn look(&mut self, now_ns: u64) -> bool {
        let began_ns = *self.began_ns.get_or_insert(now_ns);
        if began_ns != now_ns {
            let is_slow = now_ns.saturating_sub(self.looked_ns) > PACE_NS;
            self.requests = if is_slow {
                1
            } else {
                (self.requests * 2).min(PACE_MAX)
            };
        }
        (self.left, self.looked_ns) = (self.requests, now_ns);
        now_ns.saturating_sub(began_ns) >= TURN_NS
    }
}

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
    connection.yields = false;
    connection.pace.begin();
    while server.may_run(connection) {
        let rest = input.get(done..).unwrap_or(&[]);
        if rest.is_empty() {
            connection.need = 1;
            break;
        }
        if connection.pace.is_over(&server.store.clock) {
            connection.yields = true;
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
            pace,
            ..
        } = connection;
        match parser.parse(rest) {
            Parsed::Request { args, consumed } => {
                pace.note();
                let mark = brake::mark(server);
                match dispatch::execute(server, session, output, args) {
                    Flow::Done => done += consumed,
                    Flow::Park => {
                        connection.hold = Hold::Parked;
                        break;
                    }
                    Flow::Wait(waiting) => {
                        done += consumed;
                        let now_ns = server.now_ns;
                        connection.stream =
                            waiting.is_stream().then(|| server.streams.begin(now_ns));
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

/// Refuses the request at the front of the input, for the rest of which there is no memory. Nobody can
/// tell what is still to come of it from what comes behind it, so nothing more is read.
pub fn refuse_rest(server: &mut Server, connection: &mut Connection) {
    let bytes = connection.input.len().saturating_add(connection.need);
    connection.input = Vec::new();
    let error = server.no_memory(format!(
        "could not make room for a request of at least {bytes} bytes"
    ));
    server.count(Counter::ErrorReplies);
    let proto = connection.session.proto;
    ReplyWriter::new(connection.output.bytes(), proto).error(&error);
    connection.hold = Hold::Closing;
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

//! One client's connection: its socket, what has come in, what is to go out.
//!
//! Invariants:
//! * `input` begins where a request begins, and holds only what has not been carried out.
//! * Nothing here blocks: the socket is non-blocking, and a full one simply ends the turn.

use crate::output::Output;
use crate::session::Session;
use crate::turn::Pace;
use crate::waiting::{StreamCount, Waiting};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, SockaddrStorage, getsockname, send};
use nix::unistd::read;
use rd_base::handover::{Handover, MOVED_BYTES_MAX, Peer};
use rd_base::room::make_room;
use rd_sys::fdpass::Channel;
use rd_wire::{Limits, RequestParser};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Least room that is made in a connection's own buffer before a read.
const READ_BYTES_MIN: usize = 16 << 10;
/// Most room made at a time, however much a client has announced.
const READ_BYTES_MAX: usize = 1 << 20;

/// Most that is sent in a turn: a client that reads as fast as it is sent to is not served alone.
const SEND_BYTES_MAX: u64 = 4 << 20;

/// What keeps a connection from its next command.
pub enum Hold {
    /// Nothing does.
    Free,
    /// The last command could not be carried out yet; its bytes are still in `input`.
    Parked,
    /// The last command is under way.
    Waiting(Waiting),
    /// The client is to be left when its output is sent; no further command is read.
    Closing,
}

/// What a read from the socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing is there now.
    Nothing,
    /// There is no memory for more.
    NoRoom,
    /// The client has closed, or the connection is broken.
    Closed,
}

/// One client.
pub struct Connection {
    socket: OwnedFd,
    /// What the client has set.
    pub session: Session,
    /// The parser of its requests.
    pub parser: RequestParser,
    /// Bytes that have come and are not yet carried out.
    pub input: Vec<u8>,
    /// How many more bytes the request at the front of `input` needs, as far as is known.
    pub need: usize,
    /// Replies to be sent.
    pub output: Output,
    /// What keeps it from its next command.
    pub hold: Hold,
    /// Whether the last read left nothing in the socket.
    pub drained: bool,
    /// Whether the client will send no more.
    pub ended: bool,
    /// Whether what `input` holds is the beginning of a request whose end has not come.
    pub is_partial: bool,
    /// Says when its turn is over.
    pub pace: Pace,
    /// Whether its last turn was over before all requests in `input` were carried out.
    pub yields: bool,
    /// Whether the loop has it on its list of those that have such requests.
    pub is_again: bool,
    /// Counts its command under way among the streams, if it is one.
    pub stream: Option<StreamCount>,
    /// When bytes last came, by the monotonic clock.
    pub received_at_ns: u64,
    /// When bytes were last sent, or a stream began, by the monotonic clock.
    pub progress_at_ns: u64,
    /// Whether the socket took no more at the last attempt, or enough for a turn.
    pub blocked: bool,
    /// Memory counted for it in the backend's sum.
    pub accounted_bytes: usize,
    /// What epoll watches it for.
    pub interest: EpollFlags,
    /// Whether the loop has it on its list of those whose replies wait for an LSN.
    pub is_gated: bool,
    /// Whether the loop has it on its list of those whose command is parked or under way.
    pub is_held: bool,
    /// No further command is carried out before, monotonic nanoseconds (see `brake`).
    pub braked_until_ns: u64,
    /// Whether the loop has it on its list of those.
    pub is_braked: bool,
    /// Whether the client has hung up.
    pub is_gone: bool,
}

impl Connection {
    /// A fresh connection over a non-blocking socket.
    pub fn new(socket: OwnedFd, limits: Limits, session: Session) -> Connection {
        Connection {
            socket,
            session,
            parser: RequestParser::new(limits),
            input: Vec::new(),
            need: 1,
            output: Output::default(),
            hold: Hold::Free,
            drained: true,
            ended: false,
            is_partial: false,
            pace: Pace::default(),
            yields: false,
            is_again: false,
            stream: None,
            received_at_ns: 0,
            progress_at_ns: 0,
            blocked: false,
            accounted_bytes: 0,
            interest: EpollFlags::EPOLLIN,
            is_gated: false,
            is_held: false,
            braked_until_ns: 0,
            is_braked: false,
            is_gone: false,
        }
    }

    /// For the backend's epoll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads into `scratch`, which stands for the input while that is empty.
    pub fn receive_into(&mut self, scratch: &mut [u8]) -> Received {
        let received = receive(&self.socket, scratch);
        self.drained = !matches!(received, Received::Bytes(count) if count == scratch.len());
        received
    }

    /// Reads behind what `input` holds, as much as the request at its front needs.
    pub fn receive(&mut self) -> Received {
        let old = self.input.len();
        let room = self.need.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        if make_room(&mut self.input, room).is_err() {
            return Received::NoRoom;
        }
        self.input.resize(old + room, 0);
        let received = match self.input.get_mut(old..) {
            Some(free) => receive(&self.socket, free),
            None => Received::Nothing,
        };
        let count = if let Received::Bytes(count) = received {
            count
        } else {
            0
        };
        self.drained = count < room;
        self.input.truncate(old + count);
        received
    }

    /// Sends what may be sent. `false`: the connection is broken, and there is nothing more to be done.
    pub fn send(&mut self, sent_bytes: &mut u64) -> bool {
        self.blocked = false;
        let alive = self.is_gone || self.try_send(sent_bytes);
        // What it had sent is carried out, though nobody is there to read the replies.
        self.is_gone |= !alive && self.yields;
        if self.is_gone {
            self.output.advance(self.output.sendable().len());
        }
        alive || self.is_gone
    }

    fn try_send(&mut self, sent_bytes: &mut u64) -> bool {
        let most = *sent_bytes + SEND_BYTES_MAX;
        while !self.output.sendable().is_empty() {
            if *sent_bytes >= most {
                // Epoll says at once that there is room.
                self.blocked = true;
                return true;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), self.output.sendable(), flags) {
                Ok(count) => {
                    *sent_bytes += count as u64;
                    self.output.advance(count);
                }
                Err(Errno::EAGAIN) => {
                    self.blocked = true;
                    return true;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Heap bytes that the connection holds.
    pub fn heap_bytes(&self) -> usize {
        let io = self.input.capacity() + self.output.heap_bytes() + self.parser.heap_bytes();
        let waiting = match &self.hold {
            Hold::Waiting(waiting) => waiting.heap_bytes(),
            Hold::Free | Hold::Parked | Hold::Closing => 0,
        };
        io + waiting + self.session.heap_bytes()
    }

    /// Gives back what an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
            self.parser.shrink();
        }
        self.output.shrink();
    }

    /// Whether its command under way is a stream that goes on by itself.
    pub fn has_ready_stream(&self, output_max: usize) -> bool {
        match &self.hold {
            Hold::Waiting(waiting) => waiting.is_ready(self.output.unsent(), output_max),
            Hold::Free | Hold::Parked | Hold::Closing => false,
        }
    }

    /// Whether its client has taken nothing of a stream for longer than `limit_ns`.
    pub fn is_stalled(&self, now_ns: u64, limit_ns: u64) -> bool {
        let stalled_ns = now_ns.saturating_sub(self.progress_at_ns);
        self.stream.is_some() && self.blocked && stalled_ns > limit_ns
    }

    /// For how long the snapshot has been held that its stream under way is made from; none if there
    /// is no stream. Within a transaction that is the transaction's.
    pub fn stream_age_ns(&self, now_ns: u64) -> Option<u64> {
        let began_ns = self.stream.as_ref()?.began_ns;
        let transaction_ns = self.session.transactions.began_ns();
        Some(now_ns.saturating_sub(transaction_ns.unwrap_or(began_ns)))
    }

    /// What another backend has to know to serve it from here on; none if this one must go on: only
    /// between commands, with nothing half received, owed, or begun, can a client not tell.
    pub fn to_hand_over(&self) -> Option<Vec<u8>> {
        let is_busy = self.ended
            || self.is_gone
            || self.blocked
            || self.is_gated
            || self.is_held
            || self.is_braked
            || !self.is_idle();
        if is_busy {
            return None;
        }
        self.session.to_hand_over()?.encode()
    }

    /// For how long its client has neither sent nor taken anything, nor had a command carried out;
    /// none if it is the server that it waits for.
    pub fn quiet_ns(&self, now_ns: u64) -> Option<u64> {
        let waits = self.is_held || self.is_gated || self.is_braked || self.is_again;
        let last_ns = self
            .received_at_ns
            .max(self.progress_at_ns)
            .max(self.session.active_at_ns);
        (!waits).then(|| now_ns.saturating_sub(last_ns))
    }

    /// Whether it waits for nothing, holds nothing and is owed nothing.
    pub fn is_idle(&self) -> bool {
        matches!(self.hold, Hold::Free) && self.input.is_empty() && self.output.is_empty()
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Received {
    loop {
        return match read(socket, buffer) {
            Ok(0) => Received::Closed,
            Ok(count) => Received::Bytes(count),
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => Received::Nothing,
            Err(_) => Received::Closed,
        };
    }
}

/// The server's address that a client came by, as Redis shows it; empty if the kernel does not say.
pub fn local_address(socket: &OwnedFd, peer: &Peer) -> String {
    match peer {
        Peer::Unix { path, .. } => path.clone(),
        Peer::Tcp(_) => getsockname::<SockaddrStorage>(socket.as_raw_fd())
            .map_or_else(|_| String::new(), |address| address.to_string()),
    }
}

/// Receives a connection from the postmaster: `None` if none is there now. It has no socket if this
/// process had no descriptor left for it: the client sees that it is closed.
///
/// # Errors
/// When the postmaster's socket is broken or what came is no handover.
pub fn take_over(postmaster: &Channel) -> io::Result<Option<(Option<OwnedFd>, Handover)>> {
    let mut message = [0; MOVED_BYTES_MAX];
    let received = match postmaster.receive(&mut message) {
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error),
    };
    let handover = message.get(..received.len).and_then(Handover::decode);
    match (handover, received.fd) {
        (Some(handover), Some(descriptor)) => Ok(Some((Some(descriptor), handover))),
        (Some(handover), None) if received.fd_is_lost => Ok(Some((None, handover))),
        _ if received.len == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::other(
            "the message from the postmaster is no handover",
        )),
    }
}

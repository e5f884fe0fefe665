//! Connections come in: what the postmaster hands over, or why it is not served.
//!
//! A connection takes a descriptor, and so do the files that its commands need. Connections leave
//! some of them alone, or a backend full of connections could not read a page, nor flush the log,
//! without which nobody is served.

use super::EventLoop;
use crate::connection::{Connection, Hold, local_address, take_over};
use crate::session::Session;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit};
use rd_base::counters::Counter;
use rd_base::handover::{Handover, NO_DESCRIPTOR};
use rd_wire::ReplyWriter;
use std::os::fd::{AsRawFd, OwnedFd};

/// Descriptors that are kept for files where there are few: two segments of the log, twice each, a
/// relation file, and what is opened for a moment.
const KEPT_MIN: u64 = 8;
/// The same where there are many: as many relation files as are kept open, too.
const KEPT_MAX: u64 = 80;

/// Which descriptors connections may have.
pub(super) struct Room {
    /// The least that they may not: the system always gives the least that is free.
    first_kept: u64,
    /// Whether it has been said that there are none left for connections.
    is_told: bool,
}

impl Room {
    /// The room that this process has.
    pub fn of_process() -> Room {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        Room {
            first_kept: limit - (limit / 4).clamp(KEPT_MIN, KEPT_MAX).min(limit),
            is_told: false,
        }
    }

    /// Whether a new connection may stay.
    fn takes(&mut self, socket: &OwnedFd) -> bool {
        let takes = u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number < self.first_kept);
        self.is_told &= !takes;
        takes
    }

    /// Says in the log, once until there is room again, that somebody is not served.
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.is_told, true) {
            log::warn!(
                "no file descriptor is left for a connection; refusing further ones: raise the \
                 limit of open files (ulimit -n), or lower max_connections"
            );
        }
    }
}

impl EventLoop {
    /// Takes in what the postmaster has handed over.
    pub(super) fn accept(&mut self) {
        loop {
            match take_over(&self.postmaster) {
                Ok(Some((Some(socket), handover))) => self.take_in(socket, handover),
                Ok(Some((None, handover))) => self.lose(&handover),
                Ok(None) => return,
                // The postmaster is gone or insane; either way nobody needs this backend.
                Err(error) => {
                    log::error!("lost the socket to the postmaster: {error}");
                    rd_sys::fork::exit_process(1);
                }
            }
        }
    }

    fn take_in(&mut self, socket: OwnedFd, handover: Handover) {
        // One that another backend has served so far is not sent away.
        let has_room = handover.settings.is_some() || self.room.takes(&socket);
        let Some((session, stays)) = self.begin_session(&socket, handover) else {
            log::error!("a connection was handed over with settings that mean nothing");
            rd_sys::fork::exit_process(1);
        };
        let limits = self.server.request_limits();
        let token = self
            .connections
            .insert(Connection::new(socket, limits, session));
        if !stays {
            return self.close(token);
        }
        if !has_room {
            return self.turn_away(token);
        }
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        let interest = EpollEvent::new(EpollFlags::EPOLLIN, token);
        if let Err(error) = self.epoll.add(connection.fd(), interest) {
            log::warn!("could not watch a new connection: {error}");
            self.close(token);
        } else if self.leave_by_ns != 0 {
            self.dismiss(token);
        }
    }

    /// A connection came, and there was no descriptor for it: its client sees it closed.
    fn lose(&mut self, handover: &Handover) {
        self.room.tell();
        let row = handover.settings.as_ref().and_then(|moved| moved.row);
        if let Some(row) = row {
            self.context.shared.clients.give_back(row as usize);
        }
        self.unreported += 1;
    }

    /// Answers a connection that cannot stay, and closes it. Never waits: whoever does not take a
    /// line at once does without.
    fn turn_away(&mut self, token: u64) {
        self.room.tell();
        if let Some(connection) = self.connections.get_mut(token) {
            // Unread bytes would turn the close into a reset, which takes the reply back.
            let _ = connection.receive_into(&mut self.scratch);
            let proto = connection.session.proto;
            ReplyWriter::new(connection.output.bytes(), proto).error(NO_DESCRIPTOR);
            connection.hold = Hold::Closing;
            let _ = connection.send(&mut 0);
        }
        self.close(token);
    }

    /// The session of a connection that was handed over, and whether its client is to stay.
    fn begin_session(&self, socket: &OwnedFd, handover: Handover) -> Option<(Session, bool)> {
        let local = local_address(socket, &handover.peer);
        let now_ns = self.server.now_ns;
        if handover.settings.is_some() {
            let session = Session::handed_over(handover, local, now_ns)?;
            let stays = self.server.take_over(&session);
            return Some((session, stays));
        }
        let mut session = Session::new(handover, local, self.server.wall_us(), now_ns);
        self.server.enlist(&mut session);
        self.server.count(Counter::ConnectionsReceived);
        Some((session, true))
    }
}

//! The children: which process plays which role, and the socket to each backend.
//!
//! Invariants: a role is played by one process at a time; the postmaster's end of a backend's
//! socket is open in no child; a signal is sent only to a child that was not reaped, so never to
//! a stranger that was given its process id.

use crate::place::HERE;
use rd_base::handover::CLOSED_MAX;
use rd_base::{Config, Role};
use rd_store::{ChildContext, Shared};
use rd_sys::deathwatch::DeathWatch;
use rd_sys::fdpass::{Channel, Received};
use rd_sys::fork;
use rd_sys::process::{Pid, Signal, kill};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What every child gets.
pub struct Inherited<'a> {
    /// The configuration as it is now.
    pub config: &'a Arc<Config>,
    /// Shared memory.
    pub shared: &'a Arc<Shared>,
}

/// A connection that a backend has sent back, for another to serve.
pub struct SentBack {
    /// The backend.
    pub from: u16,
    /// What the next one is to be told; it is for backends to understand.
    pub message: Vec<u8>,
    /// The connection.
    pub socket: OwnedFd,
}

/// The children that were forked and not yet reaped.
pub struct Children {
    pids: BTreeMap<Role, Pid>,
    /// The postmaster's ends of the sockets to the backends.
    links: BTreeMap<u16, Channel>,
    death_watch: DeathWatch,
}

impl Children {
    /// None yet.
    ///
    /// # Errors
    /// When the pipe that the children watch cannot be made.
    pub fn new() -> io::Result<Children> {
        Ok(Children {
            pids: BTreeMap::new(),
            links: BTreeMap::new(),
            death_watch: DeathWatch::create()?,
        })
    }

    /// Forks the process for `role`; `forget` runs in the child, and closes what is the
    /// postmaster's alone.
    ///
    /// # Errors
    /// When there is no process or no descriptor to be had; nothing has happened then.
    pub fn fork(
        &mut self,
        role: Role,
        inherited: &Inherited<'_>,
        forget: impl FnOnce(),
    ) -> io::Result<Pid> {
        let (mut ours, theirs) = match role {
            Role::Backend(_) => {
                let (ours, theirs) = Channel::pair()?;
                (Some(ours), Some(theirs))
            }
            _ => (None, None),
        };
        let context = ChildContext {
            role,
            data_dir: HERE.into(),
            config: Arc::clone(inherited.config),
            file_reads: inherited.shared.file_reads(),
            shared: Arc::clone(inherited.shared),
            connections: theirs,
            death_watch: self.death_watch.clone(),
        };
        let links = &mut self.links;
        let pid = fork::spawn(role, || {
            ours = None;
            links.clear();
            forget();
            live(context)
        })?;
        self.pids.insert(role, pid);
        if let (Role::Backend(number), Some(link)) = (role, ours) {
            self.links.insert(number, link);
        }
        Ok(pid)
    }

    /// Sends a signal to the child that plays `role`, if it lives.
    pub fn signal(&self, role: Role, signal: Signal) {
        if let Some(&pid) = self.pids.get(&role)
            && let Err(error) = kill(pid, signal)
        {
            log::warn!("could not send {signal} to {role}, process {pid}: {error}");
        }
    }

    /// Forgets a child that was reaped, and its socket; gives its role.
    pub fn remove(&mut self, pid: Pid) -> Option<Role> {
        let role = self
            .pids
            .iter()
            .find_map(|(&role, &known)| (known == pid).then_some(role))?;
        self.pids.remove(&role);
        if let Role::Backend(number) = role {
            self.links.remove(&number);
        }
        Some(role)
    }

    /// The sockets to the backends.
    pub fn links(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.links.iter().map(|(&number, link)| (number, link.fd()))
    }

    /// Sends bytes and a descriptor to a backend, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when its socket is full; `BrokenPipe` and the like when the backend is gone.
    pub fn send(&self, number: u16, bytes: &[u8], passed: BorrowedFd<'_>) -> io::Result<()> {
        let link = self.links.get(&number).ok_or(io::ErrorKind::BrokenPipe)?;
        link.send(bytes, Some(passed))
    }

    /// What the backend says, all its messages together: how many connections are closed, which is
    /// returned, and which are sent back; nothing if it has no socket any more.
    ///
    /// # Errors
    /// When the socket has ended, or says what no backend says.
    pub fn take_reports(&self, number: u16, sent_back: &mut Vec<SentBack>) -> io::Result<usize> {
        let Some(link) = self.links.get(&number) else {
            return Ok(0);
        };
        let mut buffer = [0; CLOSED_MAX];
        let mut closed = 0;
        loop {
            match link.receive(&mut buffer) {
                Ok(received) if received.len == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Received {
                    len,
                    fd: Some(socket),
                    ..
                }) => sent_back.push(SentBack {
                    from: number,
                    message: buffer.get(..len).unwrap_or(&[]).to_vec(),
                    socket,
                }),
                Ok(received) if received.fd_is_lost => {
                    log::warn!(
                        "a connection of backend {number} is lost: there is no descriptor left \
                         with which to take it back; raise the limit of open files (ulimit -n)"
                    );
                    closed += 1;
                }
                Ok(received) => closed += received.len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(closed),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives up the socket to a backend.
    pub fn close_link(&mut self, number: u16) {
        self.links.remove(&number);
    }
}

/// What a child does with its life.
fn live(context: ChildContext) -> ! {
    match context.role {
        Role::Startup => rd_startup::main(context),
        Role::Checkpointer => rd_checkpointer::main(context),
        Role::Walwriter => rd_walwriter::main(context),
        Role::Backend(_) => rd_backend::main(context),
        Role::Postmaster => unreachable!("the postmaster is not forked"),
    }
}

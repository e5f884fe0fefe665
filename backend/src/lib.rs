//! A backend: serves its share of the connections.
//!
//! * **Job**: takes connections over from the postmaster, carries out their commands on pages in
//!   memory, inserts one WAL record for each transaction, and sends replies when they may be seen.
//! * **Who wakes it**: its sockets; its event, which the flusher notifies when an LSN it waits for
//!   is durable, and the checkpointer when a page, room in a file or a checkpoint is ready; the
//!   postmaster's socket.
//! * **Signals**: SIGTERM from the postmaster: answer what is owed, close, exit 0. SIGHUP: read the
//!   configuration again. SIGQUIT: leave at once.
//! * **What it may write**: pages in shared buffers and the WAL ring; WAL files only while it holds
//!   the flush latch; no data file, and not `pg_control`.
//! * **What its death means**: by a signal or a non-zero exit, that shared memory may be half
//!   changed: the server goes through crash recovery.

mod brake;
mod clock_guard;
mod commands;
mod connection;
mod dispatch;
mod event_loop;
mod expirer;
mod flushing;
mod load;
mod output;
#[cfg(test)]
mod rig;
mod server;
mod session;
mod slab;
#[cfg(test)]
mod tests;
mod transaction;
mod turn;
mod waiting;

use event_loop::EventLoop;
use rd_base::error::exit;
use rd_engine::Engine;
use rd_store::ChildContext;
use rd_sys::Shortage;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use server::Server;

/// Runs a backend in a freshly forked process.
pub fn main(mut context: ChildContext) -> ! {
    let signals = match Signals::install(&[Signal::Term, Signal::Hup]) {
        Ok(signals) => signals,
        Err(error) => give_up(
            "could not install its signal handlers",
            &error,
            Shortage::of(&error),
        ),
    };
    let Some(postmaster) = context.connections.take() else {
        give_up(
            "was given no socket to the postmaster",
            &"the fork's context has none",
            None,
        );
    };
    let store = context.store();
    let server = Server::new(Engine::open(store.clone()), store, context.role);
    match EventLoop::new(context, server, signals, postmaster) {
        Ok(event_loop) => event_loop.run(),
        Err(error) => {
            let error = error.into();
            give_up("could not set up its loop", &error, Shortage::of(&error))
        }
    }
}

fn give_up(what: &str, why: &dyn std::fmt::Display, short: Option<Shortage>) -> ! {
    rd_base::fatal!("backend {what}: {why}");
    rd_sys::fork::exit_process(exit::for_want(short.is_some()))
}

//! `rd_ctl stop --deadline`: a server that is gone by a given time, with as much written as can be
//! until then, and as little left as can be for the next start to redo.
//!
//! 1. The server is asked how much is dirty and how fast it writes; the plan is printed.
//! 2. A fast stop is asked for. The server writes what is dirty, the oldest pages first, while it
//!    still serves, so that the redo point follows, and then stops in order.
//! 3. If that comes too near to the deadline, a second request ends the clients: the log is synced.
//! 4. If there is no time for the rest of the shutdown checkpoint either, an immediate stop ends it.
//!    Nothing acknowledged is lost; the next start redoes what was not written.

use crate::ctl::{self, Waiting};
use crate::pidfile::PidFile;
use crate::{cli, control, probe};
use anyhow::{Result, bail};
use rd_base::error::with_causes;
use rd_base::limits::PAGE_BYTES;
use rd_format::control::{ControlFile, DbState};
use rd_store::recovery_time::{RedoWork, Speeds};
use rd_sys::process::Signal;
use rd_wire::Client;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// What stopping takes beside the writing of pages, an immediate stop after it included.
const ENDING: Duration = Duration::from_millis(1500);
/// What an immediate stop takes at most: a process that waits for a sync cannot end before the
/// kernel has done it.
const QUITTING: Duration = Duration::from_secs(1);
/// Pages written in a second where the server has not measured it: a slow disk's.
const PAGES_PER_S: u64 = 5_000;
/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the server may take at most to say how it is.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// What the server says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Present {
    dirty_pages: u64,
    /// 0: not measured yet.
    pages_per_s: u64,
    redo_bytes: u64,
    /// How long recovery would take now, and the part that there always is, milliseconds.
    estimate_ms: u64,
    fixed_ms: u64,
}

impl Present {
    fn parse(info: &str) -> Present {
        let field = |name: &str| {
            let value = info.lines().find_map(|line| {
                let (field, value) = line.split_once(':')?;
                (field == name).then(|| value.trim().parse().ok())?
            });
            value.unwrap_or(0)
        };
        Present {
            dirty_pages: field("recovery_dirty_pages"),
            pages_per_s: field("checkpoint_pages_per_s"),
            redo_bytes: field("recovery_redo_bytes"),
            estimate_ms: field("recovery_estimate_us") / 1000,
            fixed_ms: field("recovery_fixed_us") / 1000,
        }
    }

    /// Asks a server that listens on a unix socket; nothing, if it does not answer in time.
    fn ask(server: &PidFile, answer_max: Duration) -> Option<Present> {
        let socket = server.socket()?;
        probe::within(answer_max, move || {
            let mut client = Client::connect_unix(socket).ok()?;
            client.set_timeout(Some(answer_max)).ok()?;
            let reply = client.call(&["INFO", "checkpoint", "recovery"]).ok()?;
            reply.as_str().map(Present::parse)
        })?
    }
}

/// How much is to be written, and what is left.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    deadline: Duration,
    present: Present,
    /// Pages that there is time to write.
    pages: u64,
    /// What writing them takes.
    takes: Duration,
}

impl Plan {
    fn new(deadline: Duration, present: Present) -> Plan {
        let speed = match present.pages_per_s {
            0 => PAGES_PER_S,
            known => known,
        };
        let time = Schedule::new(deadline).end_clients;
        let possible = (time.as_secs_f64() * speed as f64) as u64;
        let pages = present.dirty_pages.min(possible);
        Plan {
            deadline,
            present,
            pages,
            takes: Duration::from_secs_f64(pages as f64 / speed as f64),
        }
    }

    /// What is left of the log and of the time to redo it, if the pages that are not written are
    /// the youngest.
    fn left(&self) -> (u64, Duration) {
        let Present {
            dirty_pages,
            redo_bytes,
            estimate_ms,
            fixed_ms,
            ..
        } = self.present;
        let part = (dirty_pages - self.pages) as f64 / dirty_pages.max(1) as f64;
        let redo_ms = estimate_ms.saturating_sub(fixed_ms) as f64 * part;
        let takes = Duration::from_millis(fixed_ms + redo_ms as u64);
        ((redo_bytes as f64 * part) as u64, takes)
    }

    fn text(&self) -> String {
        let mb = |pages: u64| (pages * PAGE_BYTES as u64) >> 20;
        let dirty = self.present.dirty_pages;
        let measured = match self.present.pages_per_s {
            0 => " (a guess: no checkpoint was measured yet)",
            _ => "",
        };
        let writes = format!(
            "plan for {:.0} s: {} of {dirty} dirty pages ({} of {} MB) are written in about {:.1} s\
             {measured}",
            self.deadline.as_secs_f64(),
            self.pages,
            mb(self.pages),
            mb(dirty),
            self.takes.as_secs_f64(),
        );
        if self.pages == dirty {
            return format!("{writes}; the next start has nothing to redo");
        }
        let (bytes, takes) = self.left();
        format!(
            "{writes}; the next start redoes about {} MB of log, in about {:.1} s",
            bytes >> 20,
            takes.as_secs_f64()
        )
    }
}

/// When what is done, from the beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    /// How long the server may take to say how it is. Then it is asked to stop.
    answer_max: Duration,
    /// Its clients are ended by all means.
    end_clients: Duration,
    /// Nothing more is waited for.
    quit: Duration,
}

impl Schedule {
    fn new(deadline: Duration) -> Schedule {
        Schedule {
            answer_max: ANSWER_MAX.min(deadline / 4),
            end_clients: deadline.saturating_sub(ENDING.min(deadline / 2)),
            quit: deadline.saturating_sub(QUITTING.min(deadline / 3)),
        }
    }
}

/// What the next start will have to do, as `control` shows it.
fn forecast(control: &ControlFile) -> String {
    if control.state == DbState::ShutDown {
        return "the next start has nothing to redo".to_owned();
    }
    let bytes = control
        .durable_lsn
        .get()
        .saturating_sub(control.redo_lsn.get());
    let work = RedoWork::expected(control, bytes);
    let us = Speeds::of(control).estimate_us(work);
    format!(
        "the next start redoes about {} MB of log, in about {:.1} s",
        bytes >> 20,
        us as f64 / 1e6
    )
}

/// Stops the server so that it is gone within `deadline`.
///
/// # Errors
/// When it cannot be signaled, or is not gone by then, nor [`QUITTING`] after it was told to leave
/// all as it is.
pub fn stop(dir: &Path, server: &PidFile, deadline: Duration, waiting: Waiting) -> Result<()> {
    let began = Instant::now();
    let schedule = Schedule::new(deadline);
    match Present::ask(server, schedule.answer_max) {
        Some(present) => ctl::say(waiting, &Plan::new(deadline, present).text()),
        None => ctl::say(
            waiting,
            "no plan: the server does not say how much is dirty; it writes what it can",
        ),
    }
    let is_gone_by = |by: Instant| {
        loop {
            if !server.is_alive(dir) {
                return true;
            }
            let now = Instant::now();
            if now >= by {
                return false;
            }
            thread::sleep(LOOK_EVERY.min(by - now));
        }
    };
    ctl::send(server.pid, Signal::Int)?;
    let mut how = "in order";
    if !is_gone_by(began + schedule.end_clients) {
        how = "in order, with its clients ended before all was written";
        ctl::send_if_there(server.pid, Signal::Int)?;
    }
    if !is_gone_by(began + schedule.quit) {
        how = "without a shutdown checkpoint, all acknowledged writes synced";
        ctl::send_if_there(server.pid, Signal::Quit)?;
    }
    // A short deadline has not the time that leaving takes: nothing is gained by not looking.
    if !is_gone_by((began + deadline).max(Instant::now() + QUITTING)) {
        bail!(
            "server (PID: {}) is not gone after {:.1} s\n\
             HINT: A process may hang in the kernel; see the server's log.",
            server.pid,
            began.elapsed().as_secs_f64()
        );
    }
    let took_s = began.elapsed().as_secs_f64();
    let then = match control::read(dir).and_then(control::Reading::chosen) {
        Ok(chosen) => forecast(&chosen.control),
        Err(error) => {
            cli::print_warning("rd_ctl", &with_causes(&*error));
            "what the next start has to do is not known".to_owned()
        }
    };
    ctl::say(
        waiting,
        &format!("server stopped after {took_s:.1} s, {how}; {then}"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfile::PID_FILE;
    use nix::sys::socket::Backlog;
    use std::os::unix::net::{UnixListener, UnixStream};

    const INFO: &str = "# Checkpoint\r\ncheckpoint_pages_per_s:10000\r\nrecovery_dirty_pages:131072\r\n\
                        recovery_redo_bytes:1073741824\r\nrecovery_estimate_us:8300000\r\n\
                        recovery_fixed_us:300000\r\n";

    #[test]
    fn what_can_be_written_is_and_the_rest_is_forecast() {
        let present = Present::parse(INFO);
        assert_eq!(present.dirty_pages, 131_072);
        let plan = |seconds| Plan::new(Duration::from_secs(seconds), present).text();
        assert_eq!(
            plan(20),
            "plan for 20 s: 131072 of 131072 dirty pages (1024 of 1024 MB) are written in about \
             13.1 s; the next start has nothing to redo"
        );
        assert_eq!(
            plan(5),
            "plan for 5 s: 35000 of 131072 dirty pages (273 of 1024 MB) are written in about \
             3.5 s; the next start redoes about 750 MB of log, in about 6.2 s"
        );
    }

    #[test]
    fn a_server_that_says_little_gets_a_plan_too() {
        let present = Present::parse("recovery_dirty_pages:10\n");
        let text = Plan::new(Duration::from_secs(1), present).text();
        assert!(
            text.contains("10 of 10 dirty pages") && text.contains("a guess"),
            "{text}"
        );
    }

    #[test]
    fn each_step_has_its_time_however_short_the_deadline() {
        for ms in [1, 100, 1000, 1500, 2000, 3000, 20_000, 600_000] {
            let deadline = Duration::from_millis(ms);
            let schedule = Schedule::new(deadline);
            let Schedule {
                answer_max,
                end_clients,
                quit,
            } = schedule;
            assert!(answer_max * 2 <= end_clients, "{ms} ms: {schedule:?}");
            assert!(
                end_clients < quit && quit < deadline,
                "{ms} ms: {schedule:?}"
            );
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = format!(
            "1\n/srv\n1\n7432\n{}\n\n/none\nready\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join(PID_FILE), text).expect("written");
        let server = PidFile::read(dir.path()).expect("readable").expect("there");
        let socket = server.socket().expect("it has one");
        let listener = UnixListener::bind(&socket).expect("bound");
        // Nobody accepts, and in the end nobody can even connect.
        nix::sys::socket::listen(&listener, Backlog::new(0).expect("small")).expect("it listens");
        let _first = UnixStream::connect(&socket).expect("there is room for one");
        assert_eq!(Present::ask(&server, Duration::from_millis(1)), None);
    }
}

//! Who may come in, and to which backend: decided here, done in `server`.
//!
//! A backend is filled before the next one gets a connection: together they cost fewer turns and
//! share their flushes. A backend that has not the time for all of them, while processors have
//! nothing to do, sends some back to be given to others.
//!
//! The counts are the postmaster's own: a connection counts from its handing over until the
//! backend says that it is closed. Nothing in shared memory is asked, and a backend that says
//! nonsense can only make its own count wrong, never negative.

use crate::state::Admission;
use nix::sys::resource::{Resource, getrlimit};
use rd_base::Config;
use rd_base::handover::NO_DESCRIPTOR;
use std::fmt;

/// Connections of each backend, and what becomes of the next one.
#[derive(Debug)]
pub struct Gate {
    /// What the state machine said last.
    pub admission: Admission,
    /// Most connections at a time (`max_connections`).
    pub connections_max: u32,
    /// Connections that a backend gets before the next one gets any (`backend_fill`).
    pub fill: u32,
    /// Connections that have left a backend and not reached the next.
    moving: u32,
    /// Per backend, by its number; none while it does not live.
    counts: Vec<Option<u32>>,
}

/// Why a connection is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Starting or recovering; with the progress, if any is known.
    Loading(Option<String>),
    /// On the way down.
    ShuttingDown,
    /// `max_connections` are there.
    Full,
    /// There is no descriptor left.
    NoDescriptor,
}

impl fmt::Display for Refusal {
    /// The reply, without its line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Loading(None) => f.write_str("-LOADING Redoubt is starting up"),
            Refusal::Loading(Some(progress)) => {
                write!(f, "-LOADING Redoubt is starting up ({progress})")
            }
            Refusal::ShuttingDown => f.write_str("-ERR Redoubt is shutting down"),
            Refusal::Full => f.write_str("-ERR max number of clients reached (max_connections)"),
            Refusal::NoDescriptor => write!(f, "-{NO_DESCRIPTOR}"),
        }
    }
}

/// `backend_fill`, or less where descriptors are few: a backend keeps some of its own for files.
pub fn fill_of(config: &Config) -> u32 {
    let fill = config.backend_fill();
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) => fill.min(u32::try_from(limit / 3).unwrap_or(u32::MAX).max(1)),
        Err(_) => fill,
    }
}

impl Gate {
    /// A gate before any backend.
    pub fn new(connections_max: u32, fill: u32) -> Gate {
        Gate {
            admission: Admission::Loading,
            connections_max,
            fill,
            moving: 0,
            counts: Vec::new(),
        }
    }

    /// A backend has been born.
    pub fn add_backend(&mut self, number: u16) {
        let index = usize::from(number);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, None);
        }
        self.counts[index] = Some(0);
    }

    /// A backend is gone, and with it its connections.
    pub fn remove_backend(&mut self, number: u16) {
        if let Some(count) = self.counts.get_mut(usize::from(number)) {
            *count = None;
        }
    }

    /// Connections there are.
    pub fn connections(&self) -> u64 {
        let served = self.counts.iter().flatten().map(|&count| u64::from(count));
        served.sum::<u64>() + u64::from(self.moving)
    }

    /// Connections and numbers of the living backends, but for those in `full`, whose sockets take
    /// no more at the moment.
    fn open(&self, full: &[u16]) -> impl Iterator<Item = (u32, u16)> {
        let living = self.counts.iter().zip(0_u16..);
        let open = living.filter_map(|(count, number)| Some(((*count)?, number)));
        open.filter(|(_, number)| !full.contains(number))
    }

    /// The backend that the next connection goes to: the first that is not filled, or else the one
    /// with the fewest.
    ///
    /// # Errors
    /// Why it is to be refused. `Ok(None)`: no backend can take it now; try again later.
    pub fn choose(&self, full: &[u16]) -> Result<Option<u16>, Refusal> {
        match self.admission {
            Admission::Loading => return Err(Refusal::Loading(None)),
            Admission::ShuttingDown => return Err(Refusal::ShuttingDown),
            Admission::Open => {}
        }
        if self.connections() >= u64::from(self.connections_max) {
            return Err(Refusal::Full);
        }
        let first = self.open(full).find(|(count, _)| *count < self.fill);
        let chosen = first.or_else(|| self.open(full).min());
        Ok(chosen.map(|(_, number)| number))
    }

    /// The backend for a connection that the backend `from` has sent back: the one with the fewest,
    /// `from` itself only if no other takes it. `None`: try again later.
    pub fn choose_next(&self, from: u16, full: &[u16]) -> Option<u16> {
        let by_preference = |&(count, number): &(u32, u16)| (number == from, count, number);
        let chosen = self.open(full).min_by_key(by_preference);
        chosen.map(|(_, number)| number)
    }

    /// The backend has sent a connection back.
    pub fn sent_back(&mut self, number: u16) {
        self.closed(number, 1);
        self.moving = self.moving.saturating_add(1);
    }

    /// So many connections that were between two backends are no longer.
    pub fn settled(&mut self, connections: usize) {
        let settled = u32::try_from(connections).unwrap_or(u32::MAX);
        self.moving = self.moving.saturating_sub(settled);
    }

    /// A connection was handed to this backend.
    pub fn handed_over(&mut self, number: u16) {
        if let Some(Some(count)) = self.counts.get_mut(usize::from(number)) {
            *count = count.saturating_add(1);
        }
    }

    /// The backend says that so many of its connections are closed.
    pub fn closed(&mut self, number: u16, connections: usize) {
        if let Some(Some(count)) = self.counts.get_mut(usize::from(number)) {
            let closed = u32::try_from(connections).unwrap_or(u32::MAX);
            *count = count.saturating_sub(closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_gate(backends: u16, connections_max: u32) -> Gate {
        let mut gate = Gate::new(connections_max, 1);
        gate.admission = Admission::Open;
        (0..backends).for_each(|number| gate.add_backend(number));
        gate
    }

    #[test]
    fn the_fewest_first_and_evenly() {
        let mut gate = open_gate(3, 100);
        for expected in [0, 1, 2, 0, 1, 2] {
            assert_eq!(gate.choose(&[]), Ok(Some(expected)));
            gate.handed_over(expected);
        }
        gate.closed(1, 1);
        assert_eq!(gate.choose(&[]), Ok(Some(1)));
        assert_eq!(gate.choose(&[1]), Ok(Some(0)));
        assert_eq!(gate.choose(&[0, 1, 2]), Ok(None));
        gate.remove_backend(0);
        assert_eq!(gate.choose(&[1]), Ok(Some(2)));
        assert_eq!(gate.connections(), 3);
    }

    #[test]
    fn one_is_filled_before_the_next() {
        let mut gate = open_gate(3, 100);
        gate.fill = 2;
        for expected in [0, 0, 1, 1, 2, 2, 0, 1, 2, 0] {
            assert_eq!(gate.choose(&[]), Ok(Some(expected)));
            gate.handed_over(expected);
        }
        gate.closed(1, 2);
        assert_eq!(gate.choose(&[]), Ok(Some(1)));
        assert_eq!(gate.choose(&[1]), Ok(Some(2)));
    }

    #[test]
    fn what_a_backend_sends_back_goes_to_another_and_counts_all_the_while() {
        let mut gate = open_gate(3, 4);
        gate.fill = 10;
        for number in [0, 0, 0, 2] {
            gate.handed_over(number);
        }
        gate.sent_back(0);
        assert_eq!(gate.connections(), 4);
        assert_eq!(gate.choose(&[]), Err(Refusal::Full));
        assert_eq!(gate.choose_next(0, &[]), Some(1));
        assert_eq!(gate.choose_next(0, &[1]), Some(2));
        assert_eq!(gate.choose_next(0, &[1, 2]), Some(0));
        assert_eq!(gate.choose_next(0, &[0, 1, 2]), None);
        gate.settled(1);
        gate.handed_over(1);
        assert_eq!(gate.connections(), 4);
        gate.settled(usize::MAX);
        assert_eq!(gate.connections(), 4);
    }

    #[test]
    fn refuses_by_mode_before_it_counts() {
        let mut gate = open_gate(1, 1);
        gate.handed_over(0);
        assert_eq!(gate.choose(&[]), Err(Refusal::Full));
        gate.admission = Admission::ShuttingDown;
        assert_eq!(gate.choose(&[]), Err(Refusal::ShuttingDown));
        gate.admission = Admission::Loading;
        assert_eq!(gate.choose(&[]), Err(Refusal::Loading(None)));
    }

    #[test]
    fn max_connections_can_be_lowered_below_what_is_there() {
        let mut gate = open_gate(2, 10);
        (0..4).for_each(|connection| gate.handed_over(connection % 2));
        gate.connections_max = 2;
        assert_eq!(gate.choose(&[]), Err(Refusal::Full));
        gate.closed(0, 2);
        assert_eq!(gate.choose(&[]), Err(Refusal::Full));
        gate.closed(1, 1);
        assert_eq!(gate.choose(&[]), Ok(Some(0)));
    }

    #[test]
    fn nonsense_from_a_backend_spoils_only_its_own_count() {
        let mut gate = open_gate(2, 10);
        gate.handed_over(0);
        gate.handed_over(1);
        gate.closed(0, usize::MAX);
        gate.closed(7, 3);
        assert_eq!(gate.connections(), 1);
        assert_eq!(gate.choose(&[]), Ok(Some(0)));
    }

    #[test]
    fn replies_are_one_line_each() {
        let loading = Refusal::Loading(Some("redo 42%, about 3 s left".to_owned()));
        for (refusal, line) in [
            (Refusal::Loading(None), "-LOADING Redoubt is starting up"),
            (
                loading,
                "-LOADING Redoubt is starting up (redo 42%, about 3 s left)",
            ),
            (Refusal::ShuttingDown, "-ERR Redoubt is shutting down"),
            (
                Refusal::Full,
                "-ERR max number of clients reached (max_connections)",
            ),
        ] {
            assert_eq!(refusal.to_string(), line);
        }
    }
}

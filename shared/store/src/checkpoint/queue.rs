//! The queue of requests for checkpoints, in shared memory.
//!
//! Invariants:
//! - Targets rise from the oldest request to the newest, so those that a redo point has passed are
//!   the first ones, and requests are done in the order in which they came.
//! - Requests are numbered from 0, without gaps; request n lies in entry n modulo their number.
//! - If the entries are all taken, a further request is joined with the newest: whoever made that
//!   one waits a little longer than he would have had to.

use super::{Begun, Flags, Request};
use rd_base::Lsn;
use rd_format::history::{Requester, Word, role_numbers, role_of};
use rd_sys::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::{FromBytes, KnownLayout};

/// Requests outstanding at once, before they are joined.
const ENTRIES: u64 = 64;

/// One request. guard: the latch of the queue's owner.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Entry {
    target: AtomicU64,
    flags: AtomicU64,
    /// How many requests are joined in it.
    requests: AtomicU64,
    requester: RequesterWords,
    reserved: AtomicU64,
}

/// Who asks. guard: that of the entry it is in.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(super) struct RequesterWords {
    /// Role and its number, see [`role_numbers`].
    role: AtomicU64,
    connection: AtomicU64,
    command: [AtomicU64; 2],
}

impl RequesterWords {
    pub fn write(&self, requester: &Requester) {
        let (role, number) = role_numbers(requester.role);
        let command = requester.command.bytes();
        self.role
            .store(u64::from(role) << 16 | u64::from(number), Relaxed);
        self.connection.store(requester.connection, Relaxed);
        for (word, bytes) in self.command.iter().zip(command.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
    }

    pub fn read(&self) -> Requester {
        let role = self.role.load(Relaxed);
        let mut command = [0; 16];
        for (bytes, word) in command.as_chunks_mut::<8>().0.iter_mut().zip(&self.command) {
            *bytes = word.load(Relaxed).to_le_bytes();
        }
        Requester {
            role: role_of((role >> 16) as u16, role as u16).expect("as it was written"),
            connection: self.connection.load(Relaxed),
            command: Word::from_bytes(command),
        }
    }
}

/// The queue. guard: all of it the latch of its owner.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Queue {
    /// Number of the oldest request that is not done.
    first: AtomicU64,
    /// Number of the next request.
    next: AtomicU64,
    /// Requests with a number below were taken up by an attempt.
    taken: AtomicU64,
    reserved: [AtomicU64; 13],
    entries: [Entry; ENTRIES as usize],
}

impl Entry {
    fn write(&self, request: &Request) {
        self.target.store(request.target.get(), Relaxed);
        self.flags.store(u64::from(request.flags.bits()), Relaxed);
        self.requests.store(1, Relaxed);
        self.requester.write(&request.requester);
    }

    fn read(&self) -> Request {
        Request {
            flags: self.flags(),
            target: self.target(),
            requester: self.requester.read(),
        }
    }

    fn flags(&self) -> Flags {
        Flags::from_bits(self.flags.load(Relaxed) as u32)
    }

    fn target(&self) -> Lsn {
        Lsn::new(self.target.load(Relaxed))
    }
}

impl Queue {
    /// Number of the oldest request that is not done.
    pub fn first(&self) -> u64 {
        self.first.load(Relaxed)
    }

    fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    fn entry(&self, number: u64) -> &Entry {
        &self.entries[(number % ENTRIES) as usize]
    }

    fn entries(&self, from: u64) -> impl Iterator<Item = &Entry> {
        (from..self.next()).map(|number| self.entry(number))
    }

    /// Puts a request behind the others; gives its number.
    pub fn push(&self, request: &Request) -> u64 {
        let next = self.next();
        let newest = (next > self.first()).then(|| self.entry(next - 1));
        // Processes read the insert position before they come by the latch.
        let target = newest.map_or(Lsn::ZERO, Entry::target).max(request.target);
        if next - self.first() < ENTRIES {
            self.entry(next).write(&Request { target, ..*request });
            self.next.store(next + 1, Relaxed);
            return next;
        }
        let newest = newest.expect("a full queue has a newest");
        newest.target.store(target.get(), Relaxed);
        newest
            .flags
            .fetch_or(u64::from(request.flags.bits()), Relaxed);
        newest.requests.fetch_add(1, Relaxed);
        // An attempt under way knows nothing of this one.
        self.taken.fetch_min(next - 1, Relaxed);
        next - 1
    }

    /// The flags of all requests that no attempt has taken up.
    pub fn wanted(&self) -> Flags {
        let from = self.taken.load(Relaxed).max(self.first());
        let all = self.entries(from).map(Entry::flags);
        all.fold(Flags::NONE, |all, one| all | one)
    }

    /// All requests, oldest first.
    pub fn all(&self) -> Vec<Request> {
        self.entries(self.first()).map(Entry::read).collect()
    }

    /// Takes all requests up, for an attempt that is made for `own` reasons too.
    pub fn take_up(&self, own: Flags) -> Begun {
        let flags = own | self.wanted();
        self.taken.store(self.next(), Relaxed);
        let entries = || self.entries(self.first());
        Begun {
            flags,
            requester: entries().next().map(|entry| entry.read().requester),
            requests: entries()
                .map(|entry| entry.requests.load(Relaxed) as u32)
                .fold(0, u32::saturating_add),
        }
    }

    /// Takes the requests that `redo` has passed out, up to the first with one of the flags in
    /// `but`; whether there were any.
    pub fn pass(&self, redo: Lsn, but: Flags) -> bool {
        let passed = self.entries(self.first()).take_while(|entry| {
            let is_held = entry.flags().bits() & but.bits() != 0;
            entry.target() <= redo && !is_held
        });
        self.leave(self.first() + passed.count() as u64)
    }

    /// Takes all requests out that the last attempt has taken up.
    pub fn pass_taken(&self) -> bool {
        self.leave(self.taken.load(Relaxed))
    }

    fn leave(&self, first: u64) -> bool {
        let any = first > self.first();
        if any {
            self.first.store(first, Relaxed);
        }
        any
    }
}

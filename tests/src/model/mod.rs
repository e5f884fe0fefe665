//! A model of the server in memory: all data commands, expiry, transactions of both kinds, watched
//! keys and namespaces, for several connections whose transactions are open at the same time.
//!
//! Commands are carried out one at a time, so each has one right answer, but for what the server
//! is free in: whether a command that leaves a key as it was counts as a change of it for others
//! ([`view::Changed`]), and how much more than its result a command of ranges has read. There the
//! model takes either answer, and goes on from the one that was given.

mod commands;
pub mod view;

use rd_wire::Reply;
use std::collections::{BTreeMap, BTreeSet};
use view::{Changed, Key, Place, Reads, Spaces, View, Writes};

/// Databases that programs use; further namespaces have greater numbers.
pub const DATABASES: usize = 3;
/// Changes of a namespace as a whole beside an open snapshot; one that has seen more is told that
/// it is too old.
const CHANGES_MAX: usize = 6;

/// Commands that never write.
const READS: &[&[u8]] = &[
    b"GET",
    b"MGET",
    b"STRLEN",
    b"GETRANGE",
    b"SUBSTR",
    b"LCS",
    b"GETBIT",
    b"BITCOUNT",
    b"BITPOS",
    b"RANGE",
    b"REVRANGE",
    b"COUNTRANGE",
    b"TTL",
    b"EXPIRETIME",
    b"PEXPIRETIME",
    b"EXISTS",
    b"TOUCH",
    b"TYPE",
    b"KEYS",
    b"SCAN",
    b"RANDOMKEY",
];

/// What a command is to be answered.
pub enum Expected {
    /// This.
    Is(Reply),
    /// What passes; and what that is, in words.
    Matches(&'static str, Box<dyn Fn(&Reply) -> bool>),
}

impl Expected {
    fn check(&self, found: &Reply) -> Result<(), String> {
        match self {
            Expected::Is(reply) if reply == found => Ok(()),
            Expected::Is(reply) => Err(format!("expected {reply:?}, found {found:?}")),
            Expected::Matches(_, passes) if passes(found) => Ok(()),
            Expected::Matches(what, _) => Err(format!("expected {what}, found {found:?}")),
        }
    }

    fn is_error(&self) -> bool {
        matches!(self, Expected::Is(Reply::Error(_)))
    }
}

/// A transaction, from BEGIN on.
struct Open {
    is_serializable: bool,
    is_read_only: bool,
    spaces: Spaces,
    at: u64,
    began_ms: u64,
    writes: Writes,
    touched: BTreeSet<Place>,
    reads: Reads,
    savepoints: Vec<(Key, Writes)>,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    Queueing(Vec<Vec<Key>>),
    Open(Box<Open>),
    Ended,
}

/// A watched key, as it was.
struct Watched {
    is_live: bool,
    at: u64,
}

#[derive(Default)]
struct Session {
    space: usize,
    state: State,
    watches: BTreeMap<Place, Watched>,
}

/// The server, as it should be.
#[derive(Default)]
pub struct Model {
    spaces: Spaces,
    names: BTreeMap<Key, usize>,
    names_made: usize,
    sessions: BTreeMap<usize, Session>,
    /// Counts changes.
    clock: u64,
    changes_since_quiet: usize,
}

/// How a command is sent, and what comes back.
type Send<'a> = &'a mut dyn FnMut() -> Reply;

fn is_ok(reply: &Reply) -> Result<(), String> {
    Expected::Is(Reply::Simple("OK".to_owned())).check(reply)
}

impl Model {
    /// The server and everybody's connection are gone; what was committed is there again.
    pub fn crash(&mut self) {
        self.sessions.clear();
        self.changes_since_quiet = 0;
    }

    /// Looks at everything that is there, in all namespaces, on a connection of its own to which `send`
    /// leads.
    ///
    /// # Errors
    /// What is there, and should not be, or the other way round.
    pub fn look(&self, clock_ms: u64, send: &mut dyn FnMut(&[Key]) -> Reply) -> Result<(), String> {
        let request = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let databases = (0..DATABASES).map(|id| {
            let number = id.to_string();
            (id, request(&[b"SELECT", number.as_bytes()]))
        });
        let named = self.names.iter();
        let named = named.map(|(name, id)| (*id, request(&[b"USE", name])));
        for (id, goes_there) in databases.chain(named) {
            is_ok(&send(&goes_there))
                .map_err(|wrong| format!("{}: {wrong}", shown(&goes_there)))?;
            let mut requests = vec![
                request(&[b"RANGE", b"", b""]),
                request(&[b"COUNTRANGE", b"", b""]),
            ];
            let entries = self.spaces.get(&id).into_iter();
            let keys = entries.flat_map(|space| space.entries.keys());
            requests.extend(keys.map(|key| request(&[b"PEXPIRETIME", key])));
            for words in requests {
                let mut view = View::of(&self.spaces, id, clock_ms);
                let done = commands::run(&mut view, &words).check(&send(&words));
                done.map_err(|wrong| {
                    format!("{}, then {}: {wrong}", shown(&goes_there), shown(&words))
                })?;
            }
        }
        Ok(())
    }

    fn session(&mut self, who: usize) -> &mut Session {
        self.sessions.entry(who).or_default()
    }

    fn state(&mut self, who: usize) -> &mut State {
        &mut self.session(who).state
    }

    /// Whether somebody holds a snapshot.
    fn is_quiet(&self) -> bool {
        let holds = |session: &Session| {
            matches!(session.state, State::Open(_)) || !session.watches.is_empty()
        };
        !self.sessions.values().any(holds)
    }

    /// One command of one connection. It is not sent at all where it would be out of place.
    ///
    /// # Errors
    /// What was wrong with the answer.
    pub fn step(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        let name = std::str::from_utf8(&words[0]).expect("names are text");
        match name {
            "BEGIN" | "COMMIT" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => {
                self.control(who, words, clock_ms, send)
            }
            "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "UNWATCH" => {
                self.queue_control(who, words, clock_ms, send)
            }
            "SELECT" | "USE" | "NAMESPACE" | "FLUSHDB" | "SWAPDB" | "DBSIZE" => {
                self.administer(who, words, clock_ms, send)
            }
            _ => self.data(who, words, clock_ms, send),
        }
    }

    fn control(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        let (at, spaces) = (self.clock, self.spaces.clone());
        let state = self.state(who);
        match (&words[0][..], &mut *state) {
            (b"BEGIN", State::None) => {
                let has = |word: &[u8]| words.iter().any(|each| each == word);
                *state = State::Open(Box::new(Open {
                    is_serializable: has(b"SERIALIZABLE"),
                    is_read_only: has(b"READ"),
                    spaces,
                    at,
                    began_ms: clock_ms,
                    writes: Writes::new(),
                    touched: BTreeSet::new(),
                    reads: Reads::default(),
                    savepoints: Vec::new(),
                }));
                is_ok(&send())
            }
            (b"ROLLBACK", State::Open(_) | State::Ended) if words.len() == 1 => {
                *state = State::None;
                is_ok(&send())
            }
            (b"COMMIT", State::Ended) => {
                *state = State::None;
                refused("CONFLICT", &send())
            }
            (b"COMMIT", State::Open(_)) => {
                let State::Open(open) = std::mem::take(state) else {
                    unreachable!("it was just open");
                };
                self.commit(*open, clock_ms, &send())
            }
            (b"SAVEPOINT", State::Open(open)) => {
                open.savepoints
                    .push((words[1].clone(), open.writes.clone()));
                is_ok(&send())
            }
            (b"ROLLBACK" | b"RELEASE", State::Open(open)) => {
                let is_rollback = words[0] == b"ROLLBACK";
                let name = words.last().expect("a name");
                let found = open.savepoints.iter().rposition(|(each, _)| each == name);
                let Some(found) = found else {
                    return refused("ERR there is no savepoint", &send());
                };
                if is_rollback {
                    open.writes = open.savepoints[found].1.clone();
                }
                open.savepoints.truncate(found + usize::from(is_rollback));
                is_ok(&send())
            }
            _ => Ok(()),
        }
    }

    /// Whether a place was changed after `at`: surely, maybe.
    fn changed(&self, (space, key): &Place, at: u64) -> (bool, bool) {
        let Some(space) = self.spaces.get(space) else {
            return (false, false);
        };
        let of_key = space.changes.get(key).copied().unwrap_or_default();
        let surely = of_key.surely.max(space.since.surely) > at;
        (surely, of_key.maybe.max(space.since.maybe) > at)
    }

    /// Whether a place holds what has ended since `began_ms`.
    fn has_ended(&self, (space, key): &Place, began_ms: u64, clock_ms: u64) -> bool {
        let space = self.spaces.get(space);
        let entry = space.and_then(|space| space.entries.get(key));
        entry.is_some_and(|entry| entry.is_live(began_ms) && !entry.is_live(clock_ms))
    }

    fn commit(&mut self, open: Open, clock_ms: u64, reply: &Reply) -> Result<(), String> {
        let is_sure = |place: &&Place| {
            let was_there = |(space, key): &Place| {
                let space = open.spaces.get(space);
                space.is_some_and(|space| space.entries.contains_key(key))
            };
            let goes = open.writes.get(*place) == Some(&None);
            let is_idle = open.touched.contains(*place) || goes && !was_there(place);
            !is_idle
        };
        let sure: Vec<&Place> = open.writes.keys().filter(is_sure).collect();
        let mut checked: BTreeSet<&Place> = open.writes.keys().chain(&open.touched).collect();
        let mut surely = sure.iter().any(|place| self.changed(place, open.at).0);
        let has_ended = |place: &Place| self.has_ended(place, open.began_ms, clock_ms);
        let puts = |place: &&&Place| open.writes.get(**place).is_some_and(Option::is_some);
        surely |= sure.iter().filter(puts).any(|place| has_ended(place));
        let mut maybe = open.touched.iter().any(has_ended);
        if open.is_serializable {
            let read = |place: &Place| self.changed(place, open.at).0;
            surely |= !sure.is_empty() && open.reads.keys.iter().any(read);
            // One that was read as part of a range is not held against the time.
            let is_by_itself = |place: &&Place| !open.reads.spaces.contains(&place.0);
            let mut by_themselves = open.reads.keys.iter().filter(is_by_itself);
            surely |= !sure.is_empty() && by_themselves.any(has_ended);
            maybe |= open.reads.keys.iter().any(has_ended);
            checked.extend(&open.reads.keys);
            for space in open
                .reads
                .spaces
                .iter()
                .filter_map(|id| self.spaces.get(id))
            {
                let keys = space.changes.values();
                maybe |= space.since.maybe > open.at || keys.clone().any(|c| c.maybe > open.at);
            }
        }
        maybe |= checked.iter().any(|place| self.changed(place, open.at).1);
        let has_written = !open.writes.is_empty() || !open.touched.is_empty();
        if has_written && maybe && !surely && reply.error().is_some() {
            return refused("CONFLICT", reply);
        }
        if surely {
            return refused("CONFLICT", reply);
        }
        is_ok(reply)?;
        self.apply(open.writes, open.touched);
        Ok(())
    }

    /// What a commit leaves behind.
    fn apply(&mut self, writes: Writes, touched: BTreeSet<Place>) {
        if writes.is_empty() && touched.is_empty() {
            return;
        }
        self.clock += 1;
        let at = self.clock;
        for place in &touched {
            let space = self.spaces.entry(place.0).or_default();
            space.changes.entry(place.1.clone()).or_default().maybe = at;
        }
        for (place, entry) in writes {
            let space = self.spaces.entry(place.0).or_default();
            let changes = space.changes.entry(place.1.clone()).or_default();
            let was_there = space.entries.contains_key(&place.1);
            changes.maybe = at;
            if !touched.contains(&place) && (entry.is_some() || was_there) {
                changes.surely = at;
            }
            match entry {
                Some(entry) => drop(space.entries.insert(place.1, entry)),
                None => drop(space.entries.remove(&place.1)),
            }
        }
    }

    fn queue_control(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        let space = self.session(who).space;
        match (&words[0][..], self.state(who)) {
            (b"MULTI", state @ State::None) => {
                *state = State::Queueing(Vec::new());
                is_ok(&send())
            }
            (b"DISCARD", State::Queueing(_)) => {
                let session = self.session(who);
                session.state = State::None;
                session.watches.clear();
                is_ok(&send())
            }
            (b"UNWATCH", State::None) => {
                self.session(who).watches.clear();
                is_ok(&send())
            }
            (b"WATCH", State::None) => {
                for key in &words[1..] {
                    self.watch(who, (space, key.clone()), clock_ms);
                }
                is_ok(&send())
            }
            (b"EXEC", State::Queueing(queue)) => {
                let queue = std::mem::take(queue);
                let session = self.session(who);
                session.state = State::None;
                let watches = std::mem::take(&mut session.watches);
                self.exec(space, &queue, &watches, clock_ms, &send())
            }
            _ => Ok(()),
        }
    }

    fn watch(&mut self, who: usize, place: Place, clock_ms: u64) {
        if self.session(who).watches.contains_key(&place) {
            return;
        }
        let space = self.spaces.entry(place.0).or_default();
        let entry = space.entries.get(&place.1);
        let is_live = entry.is_some_and(|entry| entry.is_live(clock_ms));
        if entry.is_some() && !is_live {
            // Its time had come: it goes now.
            self.clock += 1;
            space.changes.entry(place.1.clone()).or_default().maybe = self.clock;
            space.entries.remove(&place.1);
        }
        let at = self.clock;
        let watched = Watched { is_live, at };
        self.session(who).watches.insert(place, watched);
    }

    fn exec(
        &mut self,
        space: usize,
        queue: &[Vec<Key>],
        watches: &BTreeMap<Place, Watched>,
        clock_ms: u64,
        reply: &Reply,
    ) -> Result<(), String> {
        let (mut surely, mut maybe) = (false, false);
        for (place, watched) in watches {
            let there = self.spaces.get(&place.0);
            let entry = there.and_then(|space| space.entries.get(&place.1));
            let is_live = entry.is_some_and(|entry| entry.is_live(clock_ms));
            let was_emptied = there.is_some_and(|space| space.since.maybe > watched.at);
            let (changed, may_have) = self.changed(place, watched.at);
            // What was not there, and is not, may have come and gone with all the others.
            let counts = changed && (watched.is_live || !was_emptied);
            surely |= is_live != watched.is_live || counts;
            maybe |= may_have;
        }
        if surely || maybe && reply.is_null() {
            return Expected::Is(Reply::Null).check(reply);
        }
        let Reply::Array(found) = reply else {
            return Err(format!("expected an array, found {reply:?}"));
        };
        if found.len() != queue.len() {
            return Err(format!("expected {} replies, found {reply:?}", queue.len()));
        }
        let (mut writes, mut touched) = (Writes::new(), BTreeSet::new());
        for (words, found) in queue.iter().zip(found) {
            let mut view = View {
                spaces: &self.spaces,
                space,
                writes: writes.clone(),
                touched: touched.clone(),
                reads: Reads::default(),
                now_ms: clock_ms,
                clock_ms,
            };
            let expected = commands::run(&mut view, words);
            expected
                .check(found)
                .map_err(|wrong| format!("{}: {wrong}", shown(words)))?;
            if !expected.is_error() {
                (writes, touched) = (view.writes, view.touched);
            }
        }
        self.apply(writes, touched);
        Ok(())
    }

    fn administer(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        if !matches!(self.state(who), State::None) {
            return Ok(());
        }
        let number = |at: usize| -> usize {
            let text = words
                .get(at)
                .and_then(|word| std::str::from_utf8(word).ok());
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let space = self.session(who).space;
        match &words[0][..] {
            b"SELECT" => {
                self.session(who).space = number(1);
                is_ok(&send())
            }
            b"USE" => match self.names.get(&words[1]).copied() {
                Some(id) => {
                    self.session(who).space = id;
                    is_ok(&send())
                }
                None => refused("ERR there is no namespace", &send()),
            },
            b"NAMESPACE" => self.namespace(words, send),
            b"DBSIZE" => {
                let entries = self.spaces.entry(space).or_default().entries.values();
                let live = entries
                    .clone()
                    .filter(|entry| entry.is_live(clock_ms))
                    .count();
                let all = live as i64..=entries.count() as i64;
                let passes = move |reply: &Reply| reply.as_int().is_some_and(|n| all.contains(&n));
                Expected::Matches("the number of keys", Box::new(passes)).check(&send())
            }
            _ if !self.may_change() => Ok(()),
            b"FLUSHDB" => {
                self.clock += 1;
                self.emptied(space);
                self.spaces.entry(space).or_default().entries.clear();
                is_ok(&send())
            }
            _ => {
                let (one, other) = (number(1), number(2));
                if one != other {
                    self.clock += 1;
                    self.emptied(one);
                    self.emptied(other);
                    let mut taken = self.spaces.remove(&one).unwrap_or_default();
                    let there = self.spaces.entry(other).or_default();
                    std::mem::swap(&mut taken.entries, &mut there.entries);
                    self.spaces.insert(one, taken);
                }
                is_ok(&send())
            }
        }
    }

    /// Whether a namespace as a whole may change beside the snapshots that are held.
    fn may_change(&mut self) -> bool {
        if self.is_quiet() {
            self.changes_since_quiet = 0;
        }
        self.changes_since_quiet += 1;
        self.changes_since_quiet <= CHANGES_MAX
    }

    /// What was in the namespace is not there any more.
    fn emptied(&mut self, space: usize) {
        let at = self.clock;
        let space = self.spaces.entry(space).or_default();
        let was_empty = space.entries.is_empty();
        let surely = if was_empty { space.since.surely } else { at };
        space.since = Changed { surely, maybe: at };
    }

    fn namespace(&mut self, words: &[Key], send: Send<'_>) -> Result<(), String> {
        let found = self.names.get(&words[2]).copied();
        match (&words[1][..], found) {
            (b"CREATE", None) => {
                self.names_made += 1;
                self.names
                    .insert(words[2].clone(), DATABASES + self.names_made);
                is_ok(&send())
            }
            (b"CREATE", Some(_)) => refused("", &send()),
            (_, None) => refused("", &send()),
            (b"DROP", Some(id)) => {
                let is_used = self.sessions.values().any(|session| session.space == id);
                if is_used || !self.is_quiet() {
                    return Ok(());
                }
                self.names.remove(&words[2]);
                self.spaces.remove(&id);
                is_ok(&send())
            }
            (_, Some(id)) if self.is_quiet() && !self.names.contains_key(&words[3]) => {
                self.names.remove(&words[2]);
                self.names.insert(words[3].clone(), id);
                is_ok(&send())
            }
            _ => Ok(()),
        }
    }

    fn data(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        let space = self.session(who).space;
        match self.state(who) {
            State::Queueing(queue) => {
                queue.push(words.to_vec());
                return Expected::Is(Reply::Simple("QUEUED".to_owned())).check(&send());
            }
            State::Ended => return refused("CONFLICT", &send()),
            State::Open(_) => return self.data_within(who, words, clock_ms, send),
            State::None => {}
        }
        let mut view = View::of(&self.spaces, space, clock_ms);
        let expected = commands::run(&mut view, words);
        let (writes, touched) = (view.writes, view.touched);
        expected.check(&send())?;
        if !expected.is_error() {
            self.apply(writes, touched);
        }
        Ok(())
    }

    fn data_within(
        &mut self,
        who: usize,
        words: &[Key],
        clock_ms: u64,
        send: Send<'_>,
    ) -> Result<(), String> {
        let session = self.session(who);
        let space = session.space;
        let State::Open(mut open) = std::mem::take(&mut session.state) else {
            unreachable!("its caller has looked");
        };
        let mut view = View {
            spaces: &open.spaces,
            space,
            writes: open.writes.clone(),
            touched: open.touched.clone(),
            reads: open.reads.clone(),
            now_ms: open.began_ms,
            clock_ms,
        };
        let expected = commands::run(&mut view, words);
        let (writes, touched, reads) = (view.writes, view.touched, view.reads);
        let reply = send();
        let is_conflict = reply
            .error()
            .is_some_and(|text| text.starts_with("CONFLICT"));
        if is_conflict {
            // A namespace that it reads has changed as a whole.
            let is_newer = |space: &view::Space| space.since.maybe > open.at;
            if !self.spaces.values().any(is_newer) {
                return Err(format!("nothing conflicts, and found {reply:?}"));
            }
            self.session(who).state = State::Ended;
            return Ok(());
        }
        let mut outcome = Ok(());
        let is_refused = reply.error().is_some_and(|text| text.contains("READ ONLY"));
        if open.is_read_only && is_refused {
            // A command that writes may be refused even if it would change nothing.
            if READS.contains(&&words[0][..]) {
                outcome = Err(format!("a command that reads was refused: {reply:?}"));
            }
        } else if open.is_read_only && writes != open.writes && touched == open.touched {
            outcome = Err(format!(
                "a transaction that only reads has written: {reply:?}"
            ));
        } else {
            outcome = expected.check(&reply);
            if !expected.is_error() {
                (open.writes, open.touched) = (writes, touched);
            }
        }
        open.reads = reads;
        self.session(who).state = State::Open(open);
        outcome
    }
}

fn refused(start: &str, reply: &Reply) -> Result<(), String> {
    match reply.error() {
        Some(text) if text.starts_with(start) => Ok(()),
        _ => Err(format!("expected an error {start:?}, found {reply:?}")),
    }
}

/// A request as a line.
pub fn shown(words: &[Key]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| match word.is_empty() {
            true => "\"\"".to_owned(),
            false if word.len() > 100 => format!("<{} bytes>", word.len()),
            false => word.escape_ascii().to_string(),
        })
        .collect();
    words.join(" ")
}

//! Two databases of a writer's own, and the commands that concern two keys, two databases, or all keys of one:
//! RENAME, RENAMENX, COPY, MOVE, SWAPDB, FLUSHDB.
//!
//! What such a command takes away it must have put elsewhere. So both databases are known whole: what they were
//! when the last reply came, and what was sent since. After a fall they must be what the first so many of the
//! commands without a reply make of that, every key with its value and its end, and nothing else: a key
//! that is in neither place, or in both, or a database that was swapped for nothing, fits none of these.

use super::Random;
use super::workload::{DATABASES, Look, Writer, ask_within};
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Keys that a database of a pair may have.
const NAMES: u64 = 4;
/// One command of so many empties a database. The file that is dropped for it, of a mebibyte at least, takes room until
/// the next checkpoint, and the disk is a small one.
const FLUSH_ONE_IN: u64 = 200;

/// A database: the number of the value of each key.
type Keys = BTreeMap<u64, u64>;

/// What both databases hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State([Keys; 2]);

/// One command. A side is a database of the pair, a name a key in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Set {
        side: usize,
        name: u64,
        number: u64,
    },
    Rename {
        side: usize,
        from: u64,
        to: u64,
        replaces: bool,
    },
    Copy {
        side: usize,
        from: u64,
        to: u64,
        /// To the other database.
        crosses: bool,
        replaces: bool,
    },
    Move {
        side: usize,
        name: u64,
    },
    Swap,
    Flush {
        side: usize,
    },
}

/// What a command is answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Int(i64),
    NoSuchKey,
}

impl Answer {
    fn is(self, reply: &Reply) -> bool {
        match self {
            Answer::Ok => reply.is_ok(),
            Answer::Int(number) => reply.as_int() == Some(number),
            Answer::NoSuchKey => reply.error() == Some("ERR no such key"),
        }
    }
}

impl State {
    /// Does what the command does, and says what it is answered by.
    fn apply(&mut self, op: Op) -> Answer {
        let State(sides) = self;
        match op {
            Op::Set { side, name, number } => {
                sides[side].insert(name, number);
                Answer::Ok
            }
            Op::Rename {
                side,
                from,
                to,
                replaces,
            } => {
                let Some(number) = sides[side].get(&from).copied() else {
                    return Answer::NoSuchKey;
                };
                let is_done = replaces || !sides[side].contains_key(&to);
                if is_done {
                    sides[side].remove(&from);
                    sides[side].insert(to, number);
                }
                match replaces {
                    true => Answer::Ok,
                    false => Answer::Int(i64::from(is_done)),
                }
            }
            Op::Copy {
                side,
                from,
                to,
                crosses,
                replaces,
            } => {
                let target = if crosses { 1 - side } else { side };
                match sides[side].get(&from).copied() {
                    Some(number) if replaces || !sides[target].contains_key(&to) => {
                        sides[target].insert(to, number);
                        Answer::Int(1)
                    }
                    _ => Answer::Int(0),
                }
            }
            Op::Move { side, name } => match sides[side].get(&name).copied() {
                Some(number) if !sides[1 - side].contains_key(&name) => {
                    sides[side].remove(&name);
                    sides[1 - side].insert(name, number);
                    Answer::Int(1)
                }
                _ => Answer::Int(0),
            },
            Op::Swap => {
                sides.swap(0, 1);
                Answer::Ok
            }
            Op::Flush { side } => {
                sides[side].clear();
                Answer::Ok
            }
        }
    }
}

/// The two databases, and what is known of them.
pub(super) struct Pair {
    writer: usize,
    /// What they held when the last reply came.
    state: State,
    /// Commands without a reply, in the order in which they were sent.
    sent: VecDeque<Op>,
    /// Whether one of these may have been refused, and the next one not.
    has_gaps: bool,
    /// Of the last value.
    number: u64,
}

impl Pair {
    /// That of this writer; nothing is there yet.
    pub(super) fn new(writer: usize) -> Pair {
        Pair {
            writer,
            state: State::default(),
            sent: VecDeque::new(),
            has_gaps: false,
            number: 0,
        }
    }

    /// The index of each database.
    fn databases(&self) -> [usize; 2] {
        let first = DATABASES + 2 * self.writer;
        [first, first + 1]
    }

    /// Each database with the number of keys that it has, after a [`Pair::look`].
    pub(super) fn counts(&self) -> [(usize, u64); 2] {
        let State(sides) = &self.state;
        let [first, second] = self.databases();
        [
            (first, sides[0].len() as u64),
            (second, sides[1].len() as u64),
        ]
    }

    fn key(&self, name: u64) -> String {
        // Far apart from each other, if there is a lot of anything else.
        format!("{name}:w{}:pair", self.writer)
    }

    /// Sends some command over a connection that uses the database of this side.
    pub(super) fn send(&mut self, client: &mut Client, random: &mut Random, side: usize) {
        let op = self.draw(random, side);
        let [first, second] = self.databases().map(|index| index.to_string());
        let databases = [&first, &second];
        match op {
            Op::Set { name, number, .. } => {
                let (key, value) = (self.key(name), Writer::value(number));
                let end = Writer::end_s(number).map(|end| end.to_string());
                let mut words: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &value];
                if let Some(end) = &end {
                    words.extend([&b"EXAT"[..], end.as_bytes()]);
                }
                client.send(&words);
            }
            Op::Rename {
                from, to, replaces, ..
            } => {
                let word = if replaces { "RENAME" } else { "RENAMENX" };
                client.send(&[word, &self.key(from), &self.key(to)]);
            }
            Op::Copy {
                side,
                from,
                to,
                crosses,
                replaces,
            } => {
                let (from, to) = (self.key(from), self.key(to));
                let mut words = vec!["COPY", &from, &to];
                if crosses {
                    words.extend(["DB", databases[1 - side]]);
                }
                if replaces {
                    words.push("REPLACE");
                }
                client.send(&words);
            }
            Op::Move { side, name } => {
                client.send(&["MOVE", &self.key(name), databases[1 - side]]);
            }
            Op::Swap => client.send(&["SWAPDB", databases[0], databases[1]]),
            Op::Flush { .. } => client.send(&["FLUSHDB"]),
        }
        self.sent.push_back(op);
    }

    /// Has the connection use one of the two databases.
    pub(super) fn select(&self, client: &mut Client, side: usize) {
        client.send(&["SELECT", &self.databases()[side].to_string()]);
    }

    fn draw(&mut self, random: &mut Random, side: usize) -> Op {
        let from = random.below(NAMES);
        // Another one.
        let to = (from + 1 + random.below(NAMES - 1)) % NAMES;
        let replaces = random.below(2) == 0;
        if random.below(FLUSH_ONE_IN) == 0 {
            return Op::Flush { side };
        }
        match random.below(8) {
            0..=2 => {
                self.number += 1;
                Op::Set {
                    side,
                    name: from,
                    number: self.number,
                }
            }
            3 => Op::Rename {
                side,
                from,
                to,
                replaces,
            },
            4 => Op::Copy {
                side,
                from,
                to,
                crosses: random.below(2) == 0,
                replaces,
            },
            5..=6 => Op::Move { side, name: from },
            _ => Op::Swap,
        }
    }

    /// Takes the reply of the first command that has none yet. `Err` if it cannot be right; a refusal is for the
    /// caller to judge, and to be told of by [`Pair::refuse`].
    pub(super) fn take_in(&mut self, reply: &Reply) -> Result<(), String> {
        let op = self.sent.front().copied().expect("it was sent");
        let before = self.state.clone();
        let answer = self.state.apply(op);
        self.sent.pop_front();
        match answer.is(reply) {
            true => Ok(()),
            false => Err(format!(
                "{}: {op:?} gave {reply:?}, not {answer:?}, when there was {before:?}",
                self.place()
            )),
        }
    }

    /// Whether this is an error that the next command has to expect: there is no such key.
    pub(super) fn expects(&self, error: &str) -> bool {
        let op = self.sent.front().copied().expect("it was sent");
        self.state
            .clone()
            .apply(op)
            .is(&Reply::Error(error.to_owned()))
    }

    /// The first command that has no reply yet was refused: it has not been done.
    pub(super) fn refuse(&mut self) {
        self.sent.pop_front();
    }

    /// The connection is broken. Of what was sent something may have been done: the first so many, unless the
    /// server could refuse single ones.
    pub(super) fn note_broken(&mut self, has_gaps: bool) {
        self.has_gaps |= has_gaps;
    }

    fn place(&self) -> String {
        format!("databases {:?} of writer {}", self.databases(), self.writer)
    }

    /// What there may be now.
    fn possible(&self) -> Vec<State> {
        let mut possible = vec![self.state.clone()];
        for op in &self.sent {
            // Those that end with the command before this one, or with any earlier one.
            let from = match self.has_gaps {
                true => 0,
                false => possible.len() - 1,
            };
            for index in from..possible.len() {
                let mut next = possible[index].clone();
                next.apply(*op);
                if !self.has_gaps || !possible.contains(&next) {
                    possible.push(next);
                }
            }
        }
        possible
    }

    /// Looks at both databases, and goes on from what it finds.
    ///
    /// # Errors
    /// What is there that cannot be.
    pub(super) fn look(&mut self, client: &mut Client, permitted: &[&str]) -> Result<(), Look> {
        let mut asked = vec![vec!["BEGIN".to_owned()]];
        for database in self.databases() {
            asked.push(vec!["SELECT".to_owned(), database.to_string()]);
            let range = ["RANGE", "", ""].map(str::to_owned);
            asked.push(range.to_vec());
            for name in 0..NAMES {
                asked.push(vec!["EXPIRETIME".to_owned(), self.key(name)]);
            }
        }
        asked.push(vec!["SELECT".to_owned(), "0".to_owned()]);
        asked.push(vec!["COMMIT".to_owned()]);
        let replies = ask_within(client, &asked, permitted)?;
        let mut found = State::default();
        for (side, keys) in found.0.iter_mut().enumerate() {
            let first = 2 + side * (NAMES as usize + 2);
            let ends = &replies[first + 1..=first + NAMES as usize];
            *keys = self.keys(side, &replies[first], ends).map_err(Look::Lost)?;
        }
        let possible = self.possible();
        if !possible.contains(&found) {
            return Err(Look::Lost(format!(
                "{}: there is {found:?}; there was {:?}, and sent was {:?}",
                self.place(),
                self.state,
                self.sent
            )));
        }
        self.state = found;
        self.sent.clear();
        self.has_gaps = false;
        Ok(())
    }

    /// What RANGE, and EXPIRETIME of each name, have found in a database.
    fn keys(&self, side: usize, range: &Reply, ends: &[Reply]) -> Result<Keys, String> {
        let place = || format!("database {}", self.databases()[side]);
        let pairs = range.as_slice().unwrap_or_default();
        let mut keys = Keys::new();
        for pair in pairs.chunks(2) {
            let key = pair.first().and_then(Reply::as_str).unwrap_or_default();
            let name = (0..NAMES).find(|name| self.key(*name) == key);
            let name = name.ok_or_else(|| format!("{}: a key {key:?}", place()))?;
            let value = pair.get(1).and_then(Reply::as_bytes);
            let number = value
                .and_then(Writer::number_of)
                .ok_or_else(|| format!("{}: {key} has a value that was never written", place()))?;
            keys.insert(name, number);
        }
        for (name, end) in (0..).zip(ends) {
            let expected = match keys.get(&name).map(|number| Writer::end_s(*number)) {
                None => Some(-2),
                Some(None) => Some(-1),
                Some(Some(end)) => i64::try_from(end).ok(),
            };
            if end.as_int() != expected {
                return Err(format!(
                    "{}: key {name} of {keys:?} has EXPIRETIME {end:?}, not {expected:?}",
                    place()
                ));
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(sides: [&[(u64, u64)]; 2]) -> State {
        State(sides.map(|keys| keys.iter().copied().collect()))
    }

    #[test]
    fn commands_do_what_redis_says_they_do() {
        let rename = |from, to, replaces| Op::Rename {
            side: 0,
            from,
            to,
            replaces,
        };
        let copy = |to, crosses, replaces| Op::Copy {
            side: 0,
            from: 0,
            to,
            crosses,
            replaces,
        };
        let move_0 = Op::Move { side: 0, name: 0 };
        let before: [&[(u64, u64)]; 2] = [&[(0, 5), (1, 6)], &[(2, 7)]];
        for (op, answer, after) in [
            (
                rename(0, 1, true),
                Answer::Ok,
                state([&[(1, 5)], &[(2, 7)]]),
            ),
            (rename(0, 1, false), Answer::Int(0), state(before)),
            (rename(3, 1, true), Answer::NoSuchKey, state(before)),
            (copy(1, false, false), Answer::Int(0), state(before)),
            (
                copy(2, true, true),
                Answer::Int(1),
                state([before[0], &[(2, 5)]]),
            ),
            (
                move_0,
                Answer::Int(1),
                state([&[(1, 6)], &[(0, 5), (2, 7)]]),
            ),
            (Op::Swap, Answer::Ok, state([before[1], before[0]])),
            (Op::Flush { side: 0 }, Answer::Ok, state([&[], before[1]])),
        ] {
            let mut now = state(before);
            assert_eq!((now.apply(op), now), (answer, after), "{op:?}");
        }
    }

    #[test]
    fn what_has_no_reply_is_done_from_the_first_on_or_not_at_all() {
        let mut pair = Pair::new(0);
        pair.state = state([&[(0, 5)], &[]]);
        pair.sent = [
            Op::Move { side: 0, name: 0 },
            Op::Set {
                side: 0,
                name: 1,
                number: 6,
            },
        ]
        .into();
        let first = state([&[], &[(0, 5)]]);
        let both = state([&[(1, 6)], &[(0, 5)]]);
        assert_eq!(pair.possible(), [pair.state.clone(), first, both.clone()]);
        // Half a move, either half, is none of them; nor is the second command alone.
        let second = state([&[(0, 5), (1, 6)], &[]]);
        for wrong in [
            state([&[], &[]]),
            state([&[(0, 5)], &[(0, 5)]]),
            second.clone(),
        ] {
            assert!(!pair.possible().contains(&wrong), "{wrong:?}");
        }
        pair.note_broken(true);
        assert!(pair.possible().contains(&second), "the first was refused");
        assert!(pair.possible().contains(&both));
    }
}

//! Looks for the moment of each command (Wing and Gong, "Testing and verifying concurrent
//! objects", 1993), one key at a time, as linearizability allows (Herlihy and Wing, 1990).
//!
//! The search goes through the history in the order of time, as Lowe's just-in-time linearization
//! does ("Testing for linearizability", 2017). It keeps all *configurations* that explain what has
//! happened so far: what the key holds, and which of the commands under way have had their moment.
//! A command is given its moment only when its end demands it, together with whatever commands
//! under way must come before it; only those that changed nothing have it as soon as they can. Two
//! configurations that are the same are one, so the work of a key grows with the number of its
//! commands, times what those under way at once can be mixed to.
//!
//! When no configuration is left, the history up to here is the shortest beginning of it that
//! nothing explains; what was known just before is printed.

use super::{Action, Answer, History, Op, State};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;

/// Commands of one key that can be under way at once.
const UNDER_WAY_MAX: usize = 64;
/// Commands that have ended, shown before the one that nothing explains.
const SHOWN: usize = 16;

/// The number of a state among those that were met.
type StateNo = u32;

/// What may be the case at some moment of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    state: StateNo,
    /// By place among those under way: whether it has had its moment.
    done: u64,
}

/// The states that were met, and what commands do to them.
#[derive(Default)]
struct States {
    all: Vec<State>,
    numbers: HashMap<State, StateNo>,
    /// By command and state: what the state becomes, if the command answers as it did.
    steps: HashMap<(usize, StateNo), Option<StateNo>>,
}

impl States {
    fn number(&mut self, state: State) -> StateNo {
        if let Some(number) = self.numbers.get(&state) {
            return *number;
        }
        let number = self.all.len() as StateNo;
        self.all.push(state.clone());
        self.numbers.insert(state, number);
        number
    }

    fn step(&mut self, index: usize, op: &Op, from: StateNo) -> Option<StateNo> {
        if let Some(to) = self.steps.get(&(index, from)) {
            return *to;
        }
        let (answer, state) = op.action.apply(&self.all[from as usize]);
        let is_right = op.answer.as_ref().is_none_or(|known| *known == answer);
        let to = is_right.then(|| self.number(state));
        self.steps.insert((index, from), to);
        to
    }
}

/// The search through the commands of one key.
struct Search<'a> {
    ops: &'a [Op],
    states: States,
    /// What is under way, by place.
    places: Vec<Option<usize>>,
    configurations: HashSet<Configuration>,
    /// What has ended, in that order.
    ended: Vec<usize>,
}

/// What is wrong with a history, key by key; empty if nothing is.
///
/// # Panics
/// When more commands of a key were under way at once than can be searched.
pub fn check(history: &History) -> Vec<String> {
    let keys = history.iter().enumerate();
    keys.filter_map(|(key, ops)| Some(format!("key {key}: {}", unexplained(ops)?)))
        .collect()
}

/// Why the commands of one key cannot be explained, if they cannot.
fn unexplained(ops: &[Op]) -> Option<String> {
    let mut times: Vec<(u64, bool, Reverse<usize>)> = Vec::with_capacity(2 * ops.len());
    for (index, op) in ops.iter().enumerate() {
        times.push((op.sent, false, Reverse(index)));
        times.push((op.ended, true, Reverse(index)));
    }
    // What is sent and what ends in the same moment overlaps: nothing is known of their order. Of
    // what ends with its connection the last sent goes first, while those that it follows are
    // still there to be given moments before its own.
    times.sort_unstable();
    let mut states = States::default();
    let state = states.number(None);
    let mut search = Search {
        ops,
        states,
        places: Vec::new(),
        configurations: HashSet::from([Configuration { state, done: 0 }]),
        ended: Vec::new(),
    };
    for (_, is_end, Reverse(index)) in times {
        if !is_end {
            search.begin(index);
        } else if let Err(before) = search.end(index) {
            return Some(search.describe(index, &before));
        }
    }
    None
}

impl Search<'_> {
    fn begin(&mut self, index: usize) {
        match self.places.iter().position(Option::is_none) {
            Some(place) => self.places[place] = Some(index),
            None => {
                assert!(
                    self.places.len() < UNDER_WAY_MAX,
                    "more than {UNDER_WAY_MAX} commands of a key were under way at once"
                );
                self.places.push(Some(index));
            }
        }
        let before = std::mem::take(&mut self.configurations);
        self.configurations = before.into_iter().map(|one| self.eager(one)).collect();
    }

    /// Goes past the end of a command. If no configuration allows that, gives those before.
    fn end(&mut self, index: usize) -> Result<(), HashSet<Configuration>> {
        let place = self.places.iter().position(|at| *at == Some(index));
        let place = place.expect("what ends has begun");
        let bit = 1u64 << place;
        let is_known = self.ops[index].answer.is_some();
        let before = std::mem::take(&mut self.configurations);
        let mut seen = before.clone();
        let mut left: Vec<Configuration> = before.iter().copied().collect();
        while let Some(configuration) = left.pop() {
            let is_done = configuration.done & bit != 0;
            if is_done || !is_known {
                self.configurations.insert(Configuration {
                    done: configuration.done & !bit,
                    ..configuration
                });
            }
            if is_done {
                continue;
            }
            for place in self.open(&configuration) {
                let Some(next) = self.after(&configuration, place) else {
                    continue;
                };
                let next = self.eager(next);
                if seen.insert(next) {
                    left.push(next);
                }
            }
        }
        if self.configurations.is_empty() {
            return Err(before);
        }
        self.places[place] = None;
        self.ended.push(index);
        Ok(())
    }

    /// The places of what is under way, has had no moment, and follows nothing of that kind on its
    /// connection: a connection's commands are carried out one after the other.
    fn open(&self, configuration: &Configuration) -> Vec<usize> {
        let is_open = |place: &usize| configuration.done & (1 << place) == 0;
        let op = |place: usize| self.places[place].map(|index| &self.ops[index]);
        let all: Vec<(usize, &Op)> = (0..self.places.len())
            .filter(is_open)
            .filter_map(|place| Some((place, op(place)?)))
            .collect();
        let is_first = |one: &Op| {
            let precedes = |other: &Op| other.session == one.session && other.sent < one.sent;
            !all.iter().any(|(_, other)| precedes(other))
        };
        let first = all.iter().filter(|(_, one)| is_first(one));
        first.map(|(place, _)| *place).collect()
    }

    /// What `configuration` becomes when the command at `place` has its moment now, if it can.
    fn after(&mut self, configuration: &Configuration, place: usize) -> Option<Configuration> {
        let index = self.places[place].expect("it is under way");
        let state = &mut self.states;
        let state = state.step(index, &self.ops[index], configuration.state)?;
        Some(Configuration {
            state,
            done: configuration.done | 1 << place,
        })
    }

    /// Gives those their moment that have changed nothing, whenever it was, and would answer now
    /// as they did: whatever is possible without that is possible with it.
    fn eager(&mut self, mut configuration: Configuration) -> Configuration {
        loop {
            let open = self.open(&configuration);
            let is_idle = |place: &usize| {
                let index = self.places[*place];
                index.is_some_and(|index| self.ops[index].changed_nothing())
            };
            let idle: Vec<usize> = open.into_iter().filter(is_idle).collect();
            let mut next = idle
                .into_iter()
                .filter_map(|place| self.after(&configuration, place));
            match next.next() {
                Some(next) => configuration = next,
                None => return configuration,
            }
        }
    }

    fn describe(&self, index: usize, before: &HashSet<Configuration>) -> String {
        let mut text = format!("nothing explains {}\n", line(&self.ops[index]));
        text.push_str("the key could have held:\n");
        let states: BTreeSet<String> = before
            .iter()
            .map(|one| shown(&self.states.all[one.state as usize]))
            .collect();
        for state in states {
            writeln!(text, "  {state}").expect("a string takes all");
        }
        text.push_str("under way were:\n");
        for other in self.places.iter().flatten().filter(|at| **at != index) {
            writeln!(text, "  {}", line(&self.ops[*other])).expect("a string takes all");
        }
        text.push_str("before that ended, the latest last:\n");
        let skip = self.ended.len().saturating_sub(SHOWN);
        for other in &self.ended[skip..] {
            writeln!(text, "  {}", line(&self.ops[*other])).expect("a string takes all");
        }
        text
    }
}

fn bytes(value: &[u8]) -> String {
    let start = &value[..value.len().min(40)];
    let more = if start.len() < value.len() { "…" } else { "" };
    format!(
        "{:?}{more} ({} bytes)",
        String::from_utf8_lossy(start),
        value.len()
    )
}

fn shown(state: &State) -> String {
    state
        .as_ref()
        .map_or_else(|| "nothing".to_owned(), |value| bytes(value))
}

fn line(op: &Op) -> String {
    let action = match &op.action {
        Action::Set(value) => format!("SET {}", bytes(value)),
        Action::Swap(value) => format!("SET GET {}", bytes(value)),
        Action::SetNx(value) => format!("SETNX {}", bytes(value)),
        Action::SwapIfThere(value) => format!("SET XX GET {}", bytes(value)),
        Action::Append(value) => format!("APPEND {}", bytes(value)),
        Action::Replace(seen, value) => {
            let seen = seen.as_ref().map_or_else(|| "nothing".into(), |v| bytes(v));
            format!("replace {seen} by {}", bytes(value))
        }
        other => format!("{other:?}").to_uppercase(),
    };
    let answer = match &op.answer {
        None => "no answer".to_owned(),
        Some(Answer::Value(Some(value))) => bytes(value),
        Some(Answer::Value(None)) => "nothing".to_owned(),
        Some(other) => format!("{other:?}"),
    };
    let (from, to) = (op.sent / 1000, op.ended / 1000);
    format!(
        "{from}..{to} us, session {}: {action} -> {answer}",
        op.session
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(session: usize, sent: u64, ended: u64, action: Action, answer: Option<Answer>) -> Op {
        Op {
            session,
            sent,
            ended,
            action,
            answer,
        }
    }

    fn get(session: usize, sent: u64, ended: u64, value: Option<&[u8]>) -> Op {
        let answer = Answer::Value(value.map(<[u8]>::to_vec));
        op(session, sent, ended, Action::Get, Some(answer))
    }

    fn set(session: usize, sent: u64, ended: u64, value: &[u8]) -> Op {
        let action = Action::Set(value.to_vec());
        op(session, sent, ended, action, Some(Answer::Done))
    }

    fn lost_set(session: usize, sent: u64, ended: u64, value: &[u8]) -> Op {
        op(session, sent, ended, Action::Set(value.to_vec()), None)
    }

    fn is_right(ops: &[Op]) -> bool {
        unexplained(ops).is_none()
    }

    #[test]
    fn what_overlaps_may_come_in_any_order() {
        assert!(is_right(&[set(1, 0, 10, b"a"), get(2, 5, 6, None)]));
        assert!(is_right(&[set(1, 0, 10, b"a"), get(2, 5, 6, Some(b"a"))]));
        let both = [set(1, 0, 10, b"a"), set(2, 0, 10, b"b")];
        for last in [b"a", b"b"] {
            assert!(is_right(
                &[&both[..], &[get(3, 11, 12, Some(last))]].concat()
            ));
        }
        assert!(!is_right(&[&both[..], &[get(3, 11, 12, None)]].concat()));
    }

    #[test]
    fn a_read_never_goes_back() {
        let stale = [set(1, 0, 1, b"a"), get(2, 2, 3, None)];
        assert!(!is_right(&stale));
        // Two reads beside a write: the second cannot see less than the first.
        let write = set(1, 0, 10, b"a");
        let seen = |first, second| [write.clone(), get(2, 1, 2, first), get(3, 3, 4, second)];
        assert!(is_right(&seen(None, Some(b"a"))));
        assert!(!is_right(&seen(Some(b"a"), None)));
    }

    #[test]
    fn what_was_not_answered_happens_before_its_end_or_never() {
        let lost = lost_set(1, 0, 10, b"a");
        for seen in [None, Some(&b"a"[..])] {
            assert!(is_right(&[lost.clone(), get(2, 11, 12, seen)]));
        }
        // Not seen once its connection was gone, and then all the same.
        let late = [
            lost.clone(),
            get(2, 11, 12, None),
            get(2, 13, 14, Some(b"a")),
        ];
        assert!(!is_right(&late));
        // Seen by somebody, and taken back by the crash.
        let taken_back = [lost, get(2, 5, 6, Some(b"a")), get(2, 11, 12, None)];
        assert!(!is_right(&taken_back));
    }

    #[test]
    fn a_connection_keeps_its_order() {
        let pipeline = [set(1, 0, 10, b"a"), set(1, 1, 10, b"b")];
        assert!(is_right(
            &[&pipeline[..], &[get(2, 11, 12, Some(b"b"))]].concat()
        ));
        assert!(!is_right(
            &[&pipeline[..], &[get(2, 11, 12, Some(b"a"))]].concat()
        ));
        // Also where both were cut off: the second did not happen without the first.
        let append = |sent, value: &[u8]| op(1, sent, 10, Action::Append(value.to_vec()), None);
        let cut = [append(0, b"a"), append(1, b"b")];
        for (seen, is_possible) in [(&b"ab"[..], true), (b"a", true), (b"b", false)] {
            let history = [&cut[..], &[get(2, 11, 12, Some(seen))]].concat();
            assert_eq!(is_right(&history), is_possible, "{seen:?}");
        }
    }

    #[test]
    fn a_lost_update_is_found() {
        let incr = |session, found| op(session, 0, 10, Action::Incr, Some(Answer::Number(found)));
        assert!(is_right(&[incr(1, 1), incr(2, 2)]));
        assert!(!is_right(&[incr(1, 1), incr(2, 1)]));
    }
}

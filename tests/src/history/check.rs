//! What a history may not contain.
//!
//! | found | what it is |
//! | --- | --- |
//! | lost write | a committed append is not in the list at the end |
//! | aborted read (G1a) | somebody saw an append of a transaction that did not happen |
//! | intermediate read (G1b) | somebody saw a list in the midst of another's appends |
//! | incompatible orders | two reads of a list of which neither begins with the other |
//! | fuzzy read | a transaction saw a list change that it did not change itself |
//! | write cycle (G0), information cycle (G1c) | a cycle of ww, and of ww, wr and time edges |
//! | read skew (G-single) | a cycle with exactly one rw edge |
//! | anti-dependency cycle (G2) | any other cycle; snapshot isolation allows it: write skew |
//!
//! A snapshot that was taken before what was acknowledged by then is a read skew, because of the time
//! edge: nobody goes back in time.

use super::{Op, Outcome, Transaction};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What a history is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Snapshot isolation, of snapshots that have all that was acknowledged before them.
    Snapshot,
    /// There is an order in which it could have happened one by one, and it keeps to the time.
    Serializable,
}

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Ww,
    Wr,
    Rw,
    Time,
}

struct Graph {
    /// By transaction, where it leads.
    out: Vec<Vec<(usize, Edge)>>,
}

/// Everything that is wrong with `history`; empty if nothing is. `last` is what the lists held in
/// the end, with all clients gone.
pub fn check(history: &[Transaction], last: &BTreeMap<u64, Vec<u64>>, level: Level) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut writers: HashMap<u64, usize> = HashMap::new();
    for (index, transaction) in history.iter().enumerate() {
        for op in &transaction.ops {
            if let Op::Append { id, .. } = op {
                assert!(
                    writers.insert(*id, index).is_none(),
                    "ids are appended once"
                );
            }
        }
    }
    let happened = happened(history, last, &mut wrong);
    for (list, elements) in last {
        for id in elements {
            match writers.get(id) {
                Some(writer) if happened[*writer] => {}
                _ => wrong.push(format!("list {list} has {id}, which nobody appended")),
            }
        }
    }
    for (index, transaction) in history.iter().enumerate() {
        // What WATCH guards is read one by one; only that EXEC goes through says that it belongs
        // together. Without the reply, the elements say whether it did.
        let is_one = happened[index] || transaction.is_of_one_moment;
        check_reads(
            index,
            transaction,
            is_one,
            history,
            &writers,
            last,
            &mut wrong,
        );
    }
    if !wrong.is_empty() {
        // The graph would only repeat it.
        return wrong;
    }
    let graph = Graph::of(history, &happened, &writers, last);
    graph.find_cycles(history, level, &mut wrong);
    wrong
}

/// Which transactions have happened: those of which that is not known have if the lists say so.
fn happened(
    history: &[Transaction],
    last: &BTreeMap<u64, Vec<u64>>,
    wrong: &mut Vec<String>,
) -> Vec<bool> {
    let is_there = |op: &Op| match op {
        Op::Append { list, id } => last.get(list).is_some_and(|elements| elements.contains(id)),
        Op::Read { .. } => true,
    };
    let mut happened = Vec::with_capacity(history.len());
    for (index, transaction) in history.iter().enumerate() {
        let appends = || {
            transaction
                .ops
                .iter()
                .filter(|op| matches!(op, Op::Append { .. }))
        };
        let (all, any) = (appends().all(is_there), appends().any(is_there));
        match transaction.outcome {
            Outcome::Committed if !all => {
                wrong.push(format!("lost write of {index}: {transaction:?}"));
            }
            Outcome::Aborted if any => {
                wrong.push(format!(
                    "{index} was aborted and has written: {transaction:?}"
                ));
            }
            Outcome::Unknown if any && !all => {
                wrong.push(format!("half of {index} has happened: {transaction:?}"));
            }
            _ => {}
        }
        happened.push(match transaction.outcome {
            Outcome::Committed => true,
            Outcome::Aborted => false,
            // One that only read makes no difference to others.
            Outcome::Unknown => any,
        });
    }
    happened
}

/// Holds what a transaction has read against its own appends, and against what the lists became; if it
/// `is_one`, against what it has read before, too.
fn check_reads(
    index: usize,
    transaction: &Transaction,
    is_one: bool,
    history: &[Transaction],
    writers: &HashMap<u64, usize>,
    last: &BTreeMap<u64, Vec<u64>>,
    wrong: &mut Vec<String>,
) {
    // By list, the elements of others that it has seen, and its own appends so far.
    let mut foreign: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut own: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for op in &transaction.ops {
        let (list, seen) = match op {
            Op::Append { list, id } => {
                own.entry(*list).or_default().push(*id);
                continue;
            }
            Op::Read { list, seen } => (list, seen),
        };
        let mine = own.get(list).map_or(&[][..], Vec::as_slice);
        let Some(others) = seen.strip_suffix(mine) else {
            wrong.push(format!(
                "{index} does not see its own appends: {transaction:?}"
            ));
            return;
        };
        if is_one && foreign.get(list).is_some_and(|before| before != others) {
            wrong.push(format!(
                "fuzzy read of list {list} by {index}: {transaction:?}"
            ));
            return;
        }
        foreign.insert(*list, others.to_vec());
        let at_last = last.get(list).map_or(&[][..], Vec::as_slice);
        let aborted = |id: &&u64| {
            let writer = writers.get(id).map(|writer| &history[*writer]);
            writer.is_none_or(|writer| writer.outcome == Outcome::Aborted)
        };
        if let Some(id) = others.iter().find(aborted) {
            wrong.push(format!(
                "aborted read (G1a) of {id} by {index}: {transaction:?}"
            ));
        } else if !at_last.starts_with(others) {
            wrong.push(format!(
                "incompatible orders: {index} saw list {list} as {others:?}, in the end it is \
                 {at_last:?}"
            ));
        } else if let [.., id] = others
            && at_last.get(others.len()).map(|next| writers.get(next)) == Some(writers.get(id))
            && writers.get(id) != Some(&index)
        {
            wrong.push(format!("intermediate read (G1b) of {id} by {index}"));
        }
    }
}

impl Graph {
    fn of(
        history: &[Transaction],
        happened: &[bool],
        writers: &HashMap<u64, usize>,
        last: &BTreeMap<u64, Vec<u64>>,
    ) -> Graph {
        let mut graph = Graph {
            out: vec![Vec::new(); history.len()],
        };
        for elements in last.values() {
            for pair in elements.windows(2) {
                graph.add(writers[&pair[0]], writers[&pair[1]], Edge::Ww);
            }
        }
        // Of one that has not happened, but has read, it matters what it saw.
        let counts = |index: usize| happened[index] || history[index].is_of_one_moment;
        let counting: Vec<usize> = (0..history.len()).filter(|index| counts(*index)).collect();
        for index in counting.iter().copied() {
            let transaction = &history[index];
            let is_before = |other: &usize| history[*other].ended < transaction.began;
            let all_before = || counting.iter().copied().filter(is_before);
            // Behind whatever one of them waited for it comes by way of that one.
            let last_began = all_before().map(|other| history[other].began).max();
            for before in all_before().filter(|other| Some(history[*other].ended) > last_began) {
                graph.add(before, index, Edge::Time);
            }
            for op in &transaction.ops {
                let Op::Read { list, seen } = op else {
                    continue;
                };
                let is_own = |id: &u64| writers[id] == index;
                let others = seen.iter().take_while(|id| !is_own(id)).count();
                if let Some(id) = others.checked_sub(1).map(|at| &seen[at]) {
                    graph.add(writers[id], index, Edge::Wr);
                }
                let next = last.get(list).and_then(|elements| elements.get(others));
                if let Some(next) = next {
                    graph.add(index, writers[next], Edge::Rw);
                }
            }
        }
        graph
    }

    fn add(&mut self, from: usize, to: usize, edge: Edge) {
        if from != to && !self.out[from].contains(&(to, edge)) {
            self.out[from].push((to, edge));
        }
    }

    /// The shortest way from `from` to `to` along edges that `may` be taken.
    fn path(&self, from: usize, to: usize, may: impl Fn(Edge) -> bool) -> Option<Vec<usize>> {
        let mut came_from: HashMap<usize, usize> = HashMap::new();
        let mut next = VecDeque::from([from]);
        while let Some(at) = next.pop_front() {
            if at == to {
                let mut path = vec![to];
                while let Some(before) = path.last().filter(|last| **last != from) {
                    path.push(came_from[before]);
                }
                path.reverse();
                return Some(path);
            }
            for (there, edge) in &self.out[at] {
                if may(*edge) && *there != from && !came_from.contains_key(there) {
                    came_from.insert(*there, at);
                    next.push_back(*there);
                }
            }
        }
        None
    }

    /// Components in which each can be reached from each, of more than one transaction: as numbers
    /// by transaction.
    fn components(&self, may: impl Fn(Edge) -> bool) -> Vec<usize> {
        // Kosaraju: the order in which searches end, then searches backwards in that order.
        let count = self.out.len();
        let mut back = vec![Vec::new(); count];
        for (from, edges) in self.out.iter().enumerate() {
            for (to, edge) in edges.iter().filter(|(_, edge)| may(*edge)) {
                back[*to].push((from, *edge));
            }
        }
        let mut ended = Vec::with_capacity(count);
        let mut is_seen = vec![false; count];
        for root in 0..count {
            let mut stack = vec![(root, 0)];
            if std::mem::replace(&mut is_seen[root], true) {
                continue;
            }
            while let Some((at, tried)) = stack.pop() {
                let mut rest = self.out[at].iter().enumerate().skip(tried);
                let next = rest.find(|(_, (to, edge))| may(*edge) && !is_seen[*to]);
                match next {
                    Some((tried, (to, _))) => {
                        is_seen[*to] = true;
                        stack.push((at, tried + 1));
                        stack.push((*to, 0));
                    }
                    None => ended.push(at),
                }
            }
        }
        let mut component = vec![usize::MAX; count];
        for root in ended.into_iter().rev() {
            if component[root] != usize::MAX {
                continue;
            }
            component[root] = root;
            let mut stack = vec![root];
            while let Some(at) = stack.pop() {
                for (before, _) in &back[at] {
                    if component[*before] == usize::MAX {
                        component[*before] = root;
                        stack.push(*before);
                    }
                }
            }
        }
        component
    }

    fn find_cycles(&self, history: &[Transaction], level: Level, wrong: &mut Vec<String>) {
        let is_write = |edge| edge == Edge::Ww;
        let is_information = |edge| edge != Edge::Rw;
        let kinds: [(&str, &dyn Fn(Edge) -> bool); 2] = [
            ("write cycle (G0)", &is_write),
            ("information cycle (G1c)", &is_information),
        ];
        for (name, may) in kinds {
            if let Some(cycle) = self.cycle(may) {
                wrong.push(self.describe(name, &cycle, history));
                return;
            }
        }
        for (from, edges) in self.out.iter().enumerate() {
            for (to, _) in edges.iter().filter(|(_, edge)| *edge == Edge::Rw) {
                if let Some(path) = self.path(*to, from, is_information) {
                    wrong.push(self.describe("read skew (G-single)", &path, history));
                    return;
                }
            }
        }
        if level == Level::Serializable
            && let Some(cycle) = self.cycle(&|_| true)
        {
            wrong.push(self.describe("anti-dependency cycle (G2)", &cycle, history));
        }
    }

    /// A cycle of edges that `may` be in it.
    fn cycle(&self, may: &dyn Fn(Edge) -> bool) -> Option<Vec<usize>> {
        let component = self.components(may);
        for (from, edges) in self.out.iter().enumerate() {
            for (to, edge) in edges {
                if may(*edge) && component[from] == component[*to] {
                    return self.path(*to, from, may);
                }
            }
        }
        None
    }

    fn describe(&self, name: &str, cycle: &[usize], history: &[Transaction]) -> String {
        let mut text = format!("{name}:");
        for (at, from) in cycle.iter().enumerate() {
            let to = cycle[(at + 1) % cycle.len()];
            let edges = self.out[*from].iter().filter(|(there, _)| *there == to);
            let edges: Vec<Edge> = edges.map(|(_, edge)| *edge).collect();
            text.push_str(&format!(
                "\n  {from} -{edges:?}-> {to}; {from} is {:?}",
                history[*from]
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::NEVER;
    use super::*;

    fn read(list: u64, seen: &[u64]) -> Op {
        let seen = seen.to_vec();
        Op::Read { list, seen }
    }

    fn append(list: u64, id: u64) -> Op {
        Op::Append { list, id }
    }

    /// Committed, all at the same time, each on a connection of its own.
    fn history(all: &[&[Op]]) -> Vec<Transaction> {
        let committed = |(session, ops): (usize, &&[Op])| Transaction {
            session,
            began: 0,
            ended: NEVER,
            ops: ops.to_vec(),
            is_of_one_moment: false,
            outcome: Outcome::Committed,
        };
        all.iter().enumerate().map(committed).collect()
    }

    fn lists(all: &[(u64, &[u64])]) -> BTreeMap<u64, Vec<u64>> {
        all.iter()
            .map(|(list, ids)| (*list, ids.to_vec()))
            .collect()
    }

    /// The names of what is found at each level.
    fn found(history: &[Transaction], last: &[(u64, &[u64])]) -> [String; 2] {
        [Level::Snapshot, Level::Serializable].map(|level| {
            let wrong = check(history, &lists(last), level);
            wrong
                .iter()
                .map(|text| text.split([' ', ':']).take(2).collect::<Vec<_>>().join(" ") + ";")
                .collect()
        })
    }

    #[test]
    fn one_after_the_other_is_right() {
        let right = history(&[
            &[read(1, &[]), append(1, 10), read(1, &[10])],
            &[read(1, &[10]), append(1, 11), append(2, 12)],
            &[read(2, &[12]), read(1, &[10, 11])],
        ]);
        assert_eq!(found(&right, &[(1, &[10, 11]), (2, &[12])]), ["", ""]);
    }

    #[test]
    fn write_skew_is_wrong_only_where_it_must_be_serializable() {
        let skew = history(&[
            &[read(1, &[]), read(2, &[]), append(1, 10)],
            &[read(1, &[]), read(2, &[]), append(2, 20)],
        ]);
        let found = found(&skew, &[(1, &[10]), (2, &[20])]);
        assert_eq!(found, ["", "anti-dependency cycle;"]);
    }

    #[test]
    fn a_lost_update_is_wrong() {
        // Both read nothing, and the second overwrote the first.
        let lost = history(&[
            &[read(1, &[]), append(1, 10)],
            &[read(1, &[]), append(1, 11)],
        ]);
        assert_eq!(found(&lost, &[(1, &[11])]), ["lost write;", "lost write;"]);
        // The appends are both there, but the second did not see the first.
        let found = found(&lost, &[(1, &[10, 11])]);
        assert_eq!(found, ["read skew;", "read skew;"]);
    }

    #[test]
    fn cycles_of_each_kind_are_found() {
        let g0 = history(&[
            &[append(1, 10), append(2, 20)],
            &[append(1, 11), append(2, 21)],
        ]);
        let last: &[(u64, &[u64])] = &[(1, &[10, 11]), (2, &[21, 20])];
        assert_eq!(found(&g0, last), ["write cycle;", "write cycle;"]);
        let g1c = history(&[
            &[append(1, 10), read(2, &[20])],
            &[append(2, 20), read(1, &[10])],
        ]);
        let last: &[(u64, &[u64])] = &[(1, &[10]), (2, &[20])];
        assert_eq!(
            found(&g1c, last),
            ["information cycle;", "information cycle;"]
        );
        let skewed = history(&[
            &[append(1, 10), append(2, 20)],
            &[read(1, &[10]), read(2, &[])],
        ]);
        assert_eq!(found(&skewed, last), ["read skew;", "read skew;"]);
    }

    #[test]
    fn nobody_goes_back_in_time() {
        let mut back = history(&[&[append(1, 10)], &[read(1, &[])], &[read(2, &[])]]);
        let last: &[(u64, &[u64])] = &[(1, &[10])];
        assert_eq!(found(&back, last), ["", ""]);
        (back[0].began, back[0].ended) = (1, 4);
        // As long as the one that was told and the one that reads are under way at the same time.
        (back[1].began, back[1].ended) = (3, 10);
        assert_eq!(found(&back, last), ["", ""]);
        (back[1].began, back[1].ended) = (5, 10);
        assert_eq!(found(&back, last), ["read skew;", "read skew;"]);
        // Nor by way of a third one.
        (back[2].began, back[2].ended) = (6, 7);
        (back[1].began, back[1].ended) = (8, 9);
        assert_eq!(found(&back, last), ["read skew;", "read skew;"]);
        // Nor if nothing came of it but what it saw.
        back[1].outcome = Outcome::Aborted;
        assert_eq!(found(&back, last), ["", ""]);
        back[1].is_of_one_moment = true;
        assert_eq!(found(&back, last), ["read skew;", "read skew;"]);
    }

    #[test]
    fn what_was_seen_must_be_right_whatever_became_of_who_saw_it() {
        for outcome in [Outcome::Aborted, Outcome::Unknown] {
            let of = |appends: &[Op], reads: &[Op]| {
                let mut history = history(&[appends, reads]);
                history[1].outcome = outcome;
                history[1].is_of_one_moment = true;
                history
            };
            let both = [append(1, 10), append(2, 20)];
            let last: &[(u64, &[u64])] = &[(1, &[10]), (2, &[20])];
            let fuzzy = of(&both, &[read(1, &[]), read(1, &[10])]);
            assert_eq!(found(&fuzzy, last)[0], "fuzzy read;");
            let skewed = of(&both, &[read(1, &[]), read(2, &[20])]);
            assert_eq!(found(&skewed, last)[0], "read skew;");
            let right = of(&both, &[read(1, &[10]), read(2, &[20]), append(1, 11)]);
            assert_eq!(found(&right, last), ["", ""]);
            // What WATCH guards need not be of one moment, and each read of it must be right.
            let mut watched = of(&both, &[read(1, &[]), read(1, &[10]), read(2, &[9])]);
            watched[1].is_of_one_moment = false;
            assert_eq!(found(&watched, last)[0], "aborted read;");
        }
    }

    #[test]
    fn reads_of_what_is_not_there_are_wrong() {
        let mut dirty = history(&[&[append(1, 10)], &[read(1, &[10])]]);
        dirty[0].outcome = Outcome::Aborted;
        assert!(found(&dirty, &[])[0].contains("aborted read;"));
        let between = history(&[&[append(1, 10), append(1, 11)], &[read(1, &[10])]]);
        assert_eq!(found(&between, &[(1, &[10, 11])])[0], "intermediate read;");
        let fuzzy = history(&[&[append(1, 10)], &[read(1, &[]), read(1, &[10])]]);
        assert_eq!(found(&fuzzy, &[(1, &[10])])[0], "fuzzy read;");
        let blind = history(&[&[append(1, 10), read(1, &[])]]);
        assert_eq!(found(&blind, &[(1, &[10])])[0], "0 does;");
        let orders = history(&[&[append(1, 10)], &[append(1, 11)], &[read(1, &[11])]]);
        assert_eq!(found(&orders, &[(1, &[10, 11])])[0], "incompatible orders;");
        let mut unknown = history(&[&[append(1, 10), append(2, 20)]]);
        unknown[0].outcome = Outcome::Unknown;
        assert_eq!(found(&unknown, &[(1, &[10])])[0], "half of;");
        assert_eq!(found(&unknown, &[]), ["", ""]);
    }

    #[test]
    fn what_was_read_under_watch_belongs_together_if_exec_went_through() {
        let watched: &[Op] = &[read(1, &[]), read(1, &[10]), append(1, 11)];
        let mut unknown = history(&[&[append(1, 10)], watched]);
        unknown[1].outcome = Outcome::Unknown;
        assert_eq!(found(&unknown, &[(1, &[10])]), ["", ""]);
        assert_eq!(found(&unknown, &[(1, &[10, 11])])[0], "fuzzy read;");
    }
}

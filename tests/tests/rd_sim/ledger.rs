//! What the server should hold: every commit, by the LSN that it was given, and what each of them
//! changes of what is in which namespace (`content`).
//!
//! Invariants:
//! * Everything up to `promised` must be there after any crash.
//! * Of what lies behind, a crash may take a tail: what is there is what the commits up to some LSN
//!   make of it, and that LSN is where the recovered log ends.
//! * A commit that was begun and has not returned is `under_way`: it has an LSN at or above the one
//!   at which it began, or none; nobody knows which.

use crate::content::{Change, Commit, Content, Space, apply, name_of};
use crate::doubt::Doubt;
use crate::history::Memory;
use rd_base::{FileNo, Lsn};
use rd_engine::NamespaceId;
use rd_format::control::ControlFile;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct UnderWay {
    backend: usize,
    from: Lsn,
    commit: Commit,
}

/// Changes of what may be done with namespaces.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct AccessChanges {
    pub begun: u64,
    pub ended: u64,
}

impl AccessChanges {
    /// Whether none is under way.
    pub fn are_over(self) -> bool {
        self.begun == self.ended
    }
}

/// All that was committed.
#[derive(Clone, Default)]
pub struct Ledger {
    /// What the commits make that are not listed any more.
    settled: Content,
    settled_lsn: Lsn,
    /// The others, in the order of their LSNs.
    changes: Vec<(Lsn, Commit)>,
    under_way: Vec<UnderWay>,
    promised: Lsn,
    /// Up to where files are on disk by checkpoints of single namespaces.
    files: BTreeMap<FileNo, Lsn>,
    /// In this life.
    pub access_changes: AccessChanges,
    /// What is remembered of checkpoints and recoveries.
    pub memory: Memory,
    pub counts: Counts,
    /// What the disk has lied about.
    pub doubt: Option<Doubt>,
    /// No change is settled: a lie may take back what was promised.
    pub settles_nothing: bool,
}

/// What was done of some kinds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Ends of keys that were given, with a value or to one, or taken away.
    pub ends: u64,
    /// Keys that were removed because they had ended.
    pub removed: u64,
    /// Namespaces that were renamed.
    pub renamed: u64,
}

impl Counts {
    /// This was done.
    fn note(&mut self, change: &Change) {
        self.ends += change.ends_given();
        self.renamed += u64::from(matches!(change, Change::Rename(..)));
    }

    /// Both.
    pub fn and(&self, other: Counts) -> Counts {
        Counts {
            ends: self.ends + other.ends,
            removed: self.removed + other.removed,
            renamed: self.renamed + other.renamed,
        }
    }
}

impl Ledger {
    /// A commit is about to be tried, at or above this LSN.
    pub fn begin(&mut self, backend: usize, from: Lsn, change: Change) {
        self.give_up(backend);
        let under_way = UnderWay {
            backend,
            from,
            commit: Commit {
                change,
                found: Vec::new(),
            },
        };
        self.under_way.push(under_way);
    }

    /// Where the first of the commits began that are under way.
    pub fn oldest_under_way(&self) -> Option<Lsn> {
        self.under_way.iter().map(|one| one.from).min()
    }

    fn under_way(&mut self, backend: usize) -> Option<&mut UnderWay> {
        let mut all = self.under_way.iter_mut();
        all.find(|other| other.backend == backend)
    }

    /// What the commit that this backend tries has found the namespace with this number to be, if it has
    /// looked.
    pub fn found(&mut self, backend: usize, number: usize) -> Option<NamespaceId> {
        self.under_way(backend)?.commit.found(number)
    }

    /// The commit that this backend tries has found, or made, it to be this one.
    pub fn note_found(&mut self, backend: usize, number: usize, id: NamespaceId) {
        if let Some(under_way) = self.under_way(backend) {
            under_way.commit.found.push((number, id));
        }
    }

    /// The commit that this backend has tried has not happened.
    pub fn give_up(&mut self, backend: usize) {
        self.under_way.retain(|other| other.backend != backend);
    }

    /// The commit that this backend has tried is done, at `end`; zero if it changed nothing.
    pub fn done(&mut self, backend: usize, end: Lsn) {
        let at = self
            .under_way
            .iter()
            .position(|other| other.backend == backend);
        let Some(at) = at else { return };
        let commit = self.under_way.remove(at).commit;
        if end > Lsn::ZERO {
            self.counts.note(&commit.change);
            let place = self.changes.partition_point(|(lsn, _)| *lsn < end);
            self.changes.insert(place, (end, commit));
        }
    }

    /// Everything up to `lsn` is durable, as the server says.
    pub fn promise(&mut self, lsn: Lsn) {
        self.promised = self.promised.max(lsn);
        // What may still be put between others stays.
        let oldest = self.under_way.iter().map(|under_way| under_way.from).min();
        let until = oldest.map_or(self.promised, |oldest| self.promised.min(oldest));
        let count = self.changes.partition_point(|(lsn, _)| *lsn <= until);
        if count > 16 && !self.settles_nothing {
            for (lsn, commit) in self.changes.drain(..count) {
                apply(&mut self.settled, &commit);
                self.settled_lsn = lsn;
            }
        }
    }

    /// All that was written to the file up to `lsn` is in it.
    pub fn promise_file(&mut self, file: FileNo, lsn: Lsn) {
        let promised = self.files.entry(file).or_default();
        *promised = (*promised).max(lsn);
    }

    /// A file of which `control` does not say that it has what was promised to be in it, if there is one.
    /// It need not say anything of one that is dropped.
    pub fn find_stale_file(&self, control: &ControlFile) -> Option<String> {
        let mut rows = control.files.iter();
        let stale = rows.find(|row| self.files.get(&row.file).is_some_and(|lsn| row.scn < *lsn));
        stale.map(|row| format!("{:?} was promised for {row:?}", self.files[&row.file]))
    }

    pub fn promised(&self) -> Lsn {
        self.promised
    }

    /// What was promised behind `end` is lost, as nothing on the disk tells of it.
    pub fn take_back(&mut self, end: Lsn) {
        self.promised = self.promised.min(end);
    }

    /// Whether a commit ended behind `from`, and at or before `until`.
    pub fn has_commits(&self, from: Lsn, until: Lsn) -> bool {
        let mut ends = self.changes.iter().map(|(lsn, _)| *lsn);
        ends.any(|end| end > from && end <= until)
    }

    /// Whether what was there at `lsn` can still be told.
    pub fn reaches_back_to(&self, lsn: Lsn) -> bool {
        lsn >= self.settled_lsn
    }

    /// A start has found that the log ends at `end`, and may put other records behind that.
    pub fn truncate(&mut self, end: Lsn) {
        self.cut_off(end);
        self.promised = self.promised.max(end);
    }

    /// As [`Ledger::truncate`], by a start that came to nothing: what it has found may not be durable.
    pub fn cut_off(&mut self, end: Lsn) {
        self.changes.retain(|(lsn, _)| *lsn <= end);
    }

    /// The server goes on behind `end`: what was behind that has not happened.
    pub fn cut(&mut self, end: Lsn, content: Content) {
        self.changes.clear();
        self.under_way.clear();
        self.settled = content;
        self.settled_lsn = end;
        self.promised = end;
        self.access_changes = AccessChanges::default();
    }

    /// Whether it is known what was there at `place`, and each namespace had the file then that it has at
    /// `end`.
    pub fn can_tell_files_since(&self, place: Lsn, end: Lsn) -> bool {
        let since = self.changes.iter();
        let mut since = since.filter(|(lsn, _)| *lsn > place && *lsn <= end);
        let is_later = |other: &UnderWay| other.from >= place && other.commit.change.keeps_files();
        self.reaches_back_to(place)
            && self.under_way.iter().all(is_later)
            && since.all(|(_, commit)| commit.change.keeps_files())
    }

    /// What the commits up to `end` make, without those that are under way.
    pub fn at(&self, end: Lsn) -> Content {
        let count = self.changes.partition_point(|(lsn, _)| *lsn <= end);
        let mut made = self.settled.clone();
        let changes = &self.changes[..count];
        changes
            .iter()
            .for_each(|(_, commit)| apply(&mut made, commit));
        made
    }

    /// Whether `content` is what the commits up to `end` make, with or without those that are under
    /// way.
    pub fn allows(&self, content: &Content, end: Lsn) -> bool {
        self.may_be(end, &|made| {
            let mut both = content.iter().zip(made.iter());
            both.all(|(seen, made)| seen.shows(made))
        })
    }

    /// As [`Ledger::allows`], for one namespace, found by the name with that number, as who has a clock that
    /// shows `now_ms` sees it.
    pub fn allows_one(&self, number: usize, space: &Space, end: Lsn, now_ms: u64) -> bool {
        self.may_be(end, &|made| {
            let Some(at) = made.place(number, space.id) else {
                return !space.is_there;
            };
            let there = made[at].keys.iter();
            made[at].is_there == space.is_there
                && there
                    .filter(|(_, value)| value.is_there(now_ms))
                    .eq(&space.keys)
        })
    }

    /// Whether `is_it` may have held of a namespace at some moment since `from`, as far as others than
    /// `backend` have made it so.
    pub fn may_have_been(
        &self,
        number: usize,
        from: Lsn,
        backend: usize,
        is_it: &dyn Fn(&Space) -> bool,
    ) -> bool {
        let mut others = self.under_way.iter().filter(|one| one.backend != backend);
        if others.any(|one| one.commit.change.makes_or_ends(number)) || !self.reaches_back_to(from)
        {
            return true;
        }
        let before = self.changes.partition_point(|(lsn, _)| *lsn <= from);
        let mut made = self.settled.clone();
        let mut changes = self.changes.iter().enumerate();
        let was_it = changes.any(|(at, (_, commit))| {
            let was_it = at >= before && is_it(&made[number]);
            apply(&mut made, commit);
            was_it
        });
        was_it || is_it(&made[number])
    }

    /// Whether `is_it` holds of what the commits up to `end` make, with or without those that are under
    /// way.
    pub fn may_be(&self, end: Lsn, is_it: &dyn Fn(&Content) -> bool) -> bool {
        if is_it(&self.at(end)) {
            return true;
        }
        let count = self.changes.partition_point(|(lsn, _)| *lsn <= end);
        let others: Vec<&UnderWay> = self.under_way.iter().collect();
        self.may_be_with(is_it, &self.changes[..count], &mut Vec::new(), &others)
    }

    /// Tries every place that those of `others` can have, and none.
    fn may_be_with<'l>(
        &'l self,
        is_it: &dyn Fn(&Content) -> bool,
        changes: &'l [(Lsn, Commit)],
        placed: &mut Vec<(usize, &'l Commit)>,
        others: &[&'l UnderWay],
    ) -> bool {
        let Some((next, rest)) = others.split_first() else {
            return !placed.is_empty() && is_it(&self.made_with(changes, placed));
        };
        if self.may_be_with(is_it, changes, placed, rest) {
            return true;
        }
        let first = changes.partition_point(|(lsn, _)| *lsn <= next.from);
        for place in first..=changes.len() {
            // Of several at one place either may come first.
            for index in 0..=placed.len() {
                placed.insert(index, (place, &next.commit));
                let allowed = self.may_be_with(is_it, changes, placed, rest);
                placed.remove(index);
                if allowed {
                    return true;
                }
            }
        }
        false
    }

    fn made_with(&self, changes: &[(Lsn, Commit)], placed: &[(usize, &Commit)]) -> Content {
        let mut made = self.settled.clone();
        for place in 0..=changes.len() {
            for (_, commit) in placed.iter().filter(|(at, _)| *at == place) {
                apply(&mut made, commit);
            }
            if let Some((_, commit)) = changes.get(place) {
                apply(&mut made, commit);
            }
        }
        made
    }

    /// What differs from what the commits up to `end` make, for people.
    pub fn explain(&self, content: &Content, end: Lsn) -> String {
        let count = self.changes.partition_point(|(lsn, _)| *lsn <= end);
        let (made, changes) = (self.at(end), &self.changes[..count]);
        let mut lines = vec![format!(
            "at {end}, {} commits listed of {}, {} under way:",
            count,
            self.changes.len(),
            self.under_way.len()
        )];
        for (number, (made, content)) in made.iter().zip(content.iter()).enumerate() {
            let name = name_of(number);
            let state = |space: &Space| (space.is_there, space.access);
            if state(made) != state(content) {
                let (should, is) = (state(made), state(content));
                lines.push(format!(
                    "  namespace {name} is {is:?} in place of {should:?}"
                ));
            }
            if content.is_unread {
                continue;
            }
            let keys = made.keys.keys().chain(content.keys.keys());
            let keys: std::collections::BTreeSet<_> = keys.collect();
            for key in keys {
                let (should, is) = (made.keys.get(key), content.keys.get(key));
                if should != is {
                    lines.push(format!(
                        "  namespace {name}, key {key}: {is:?} in place of {should:?}"
                    ));
                }
            }
        }
        lines.truncate(12);
        for (lsn, commit) in changes.iter().rev().take(6) {
            let text = format!("  commit {lsn}: {:?}", commit.change);
            lines.push(text.chars().take(300).collect());
        }
        lines.join("\n")
    }
}

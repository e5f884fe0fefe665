//! What the writers write, and what they then know.

use super::Random;
use super::pair::Pair;
use crate::support::DEADLINE;
use rd_wire::{Client, Reply, client};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Databases that all write to, from 0 on. Behind them each writer has two of its own.
pub const DATABASES: usize = 2;
/// Keys of a writer that hold numbers of their own.
const SINGLES: usize = 64;
/// Groups of keys that are written together, a third of them in each [`Way`].
const GROUPS: usize = 6;
/// Keys of a group.
const GROUP_KEYS: usize = 5;
/// Counters.
const COUNTERS: usize = 2;
/// Most commands on their way at a time.
const PIPELINE_MAX: u64 = 16;
/// Most commands for a pair of databases on their way at a time.
const PAIR_PIPELINE_MAX: u64 = 8;
/// One single of so many ends.
const ENDING: u64 = 4;
/// When the single of number 0 would end, in Unix seconds, the next one second later: in the year 2096, to
/// which no jump of the clock comes near.
const END_S: u64 = 4_000_000_000;
/// Longest filling of a value; beyond what stays in a leaf.
const FILL_MAX: u64 = 20_000;

/// Why a server that is sound may refuse anything, for a while: it starts, stops, or is full.
const PASSING: [&str; 3] = ["LOADING", "shutting down", "max number of clients"];
/// Words that no refusal may have, for whatever else it may be: nobody damages anything.
pub const DAMAGE: [&str; 3] = ["damaged", "checksum", "corrupt"];
/// What a server says that has no room on its disk.
pub const NO_ROOM: &str = "the disk is full";
/// What a server says that lacks memory or descriptors.
pub const SHORTAGE: &str = "which is no damage";

/// Writers for whom there are databases.
pub const WRITERS_MAX: usize = 100;

/// The setting that gives each of so many writers the databases of its own.
pub fn databases(writers: usize) -> (&'static str, String) {
    assert!(writers <= WRITERS_MAX, "{writers} writers");
    ("databases", (DATABASES + 2 * writers).to_string())
}

/// What is known of something that only grows: it is at least `acknowledged`, at most `sent`.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    sent: u64,
}

impl Known {
    fn allows(self, found: u64) -> bool {
        (self.acknowledged..=self.sent).contains(&found)
    }

    fn exactly(found: u64) -> Known {
        Known {
            acknowledged: found,
            sent: found,
        }
    }
}

/// How the keys of a group are written together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By a command for several keys, all in database 0.
    Command,
    /// Between MULTI and EXEC, over all databases.
    Exec,
    /// Between BEGIN and COMMIT, over all databases.
    Commit,
}

impl Way {
    fn of(index: usize) -> Way {
        [Way::Command, Way::Exec, Way::Commit][index % 3]
    }
}

/// Something that is written, and the number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Write {
    Single(usize, u64),
    Group(usize, u64),
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Write(Write),
    Counter(usize),
    Look(usize, Known),
}

/// Why a look at a writer's keys did not find what must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The server did not answer.
    Broken(String),
    /// Something is lost, or was never written.
    Lost(String),
}

impl Look {
    /// What it means that no reply came.
    pub(super) fn unanswered(error: client::Error) -> Look {
        match error {
            client::Error::Timeout => Look::Lost(LATE.to_owned()),
            error => Look::Broken(error.to_string()),
        }
    }

    /// What an error reply means while the server may refuse for reasons that pass, and with `permitted`.
    pub(super) fn refused(what: &str, error: &str, permitted: &[&str]) -> Look {
        let text = format!("{what} was answered by: {error}");
        match is_permitted(error, permitted) {
            true => Look::Broken(text),
            false => Look::Lost(text),
        }
    }
}

/// What is wrong when a reply does not come in time.
const LATE: &str = "the connection is there, and no reply comes";

/// Whether a server may refuse like that, for a reason that passes or one of those given.
pub(crate) fn is_permitted(error: &str, permitted: &[&str]) -> bool {
    let has = |texts: &[&str]| texts.iter().any(|text| error.contains(text));
    (has(&PASSING) || has(permitted)) && !has(&DAMAGE)
}

/// Sends all of these and takes as many replies, while no harm is done.
pub(crate) fn ask(client: &mut Client, requests: &[Vec<String>]) -> Result<Vec<Reply>, Look> {
    ask_within(client, requests, &[])
}

/// The same while the server may refuse with `permitted`.
pub(super) fn ask_within(
    client: &mut Client,
    requests: &[Vec<String>],
    permitted: &[&str],
) -> Result<Vec<Reply>, Look> {
    for words in requests {
        client.send(words);
    }
    client.flush().map_err(Look::unanswered)?;
    let answer = |words: &Vec<String>| match client.receive() {
        Ok(Reply::Error(error)) => Err(Look::refused(&words.join(" "), &error, permitted)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(Look::unanswered(error)),
    };
    requests.iter().map(answer).collect()
}

/// A request.
pub(crate) fn words<const COUNT: usize>(words: [&str; COUNT]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The numbers of what a look has found.
#[derive(Default)]
struct Found {
    singles: Vec<u64>,
    groups: Vec<u64>,
    counters: Vec<u64>,
}

/// One connection's worth of load.
pub struct Writer {
    number: usize,
    random: Random,
    singles: Vec<Known>,
    /// Bit 0 of a group's number says whether its keys are there: even ones were deleted.
    groups: Vec<Known>,
    counters: Vec<Known>,
    /// Two databases of its own.
    pair: Pair,
    /// Writes since the last look that were refused: nothing may be there of them.
    refused: BTreeSet<Write>,
    acknowledged: u64,
    /// A reply that could not be right, found while writing.
    wrong: Option<String>,
}

impl Writer {
    /// A writer with keys of its own.
    pub fn new(number: usize, seed: u64) -> Writer {
        Writer {
            number,
            random: Random::new(seed),
            singles: vec![Known::default(); SINGLES],
            groups: vec![Known::default(); GROUPS],
            counters: vec![Known::default(); COUNTERS],
            pair: Pair::new(number),
            refused: BTreeSet::new(),
            acknowledged: 0,
            wrong: None,
        }
    }

    /// Writes that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn single_key(&self, index: usize) -> String {
        format!("w{}:single:{index}", self.number)
    }

    /// The keys of a group in a database.
    fn group_keys(&self, index: usize, database: usize) -> Vec<String> {
        let is_here = |key: &usize| match Way::of(index) {
            Way::Command => database == 0,
            Way::Exec | Way::Commit => key % DATABASES == database,
        };
        // Far apart, so that they lie on different leaves.
        (0..GROUP_KEYS)
            .filter(is_here)
            .map(|key| format!("{key}:w{}:group:{index}", self.number))
            .collect()
    }

    fn counter_key(&self, index: usize) -> String {
        format!("w{}:counter:{index}", self.number)
    }

    /// A value that says which it is, and whose every byte can be checked.
    pub(super) fn value(number: u64) -> Vec<u8> {
        let mut value = format!("{number}:").into_bytes();
        let mut fill = Random::new(number);
        let length = if fill.below(16) == 0 {
            fill.below(FILL_MAX)
        } else {
            fill.below(120)
        };
        value.extend((0..length).map(|_| fill.draw() as u8));
        value
    }

    /// The number of a value; `None` if it is not one that [`Writer::value`] makes.
    pub(super) fn number_of(value: &[u8]) -> Option<u64> {
        let digits = value.split(|byte| *byte == b':').next()?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (Writer::value(number) == value).then_some(number)
    }

    /// When the single of this number ends, in Unix seconds.
    pub(super) fn end_s(number: u64) -> Option<u64> {
        number.is_multiple_of(ENDING).then_some(END_S + number)
    }

    /// The databases of its own, and how many keys each has, after a [`Writer::check`].
    pub fn own_databases(&self) -> [(usize, u64); 2] {
        self.pair.counts()
    }

    /// Keys of this writer that are there in a database of all, after a [`Writer::check`].
    pub fn keys(&self, database: usize) -> u64 {
        let there = |known: &&Known| known.acknowledged > 0;
        let is_set = |index: &usize| self.groups[*index].acknowledged % 2 == 1;
        let set = (0..GROUPS).filter(is_set);
        let groups: usize = set
            .map(|index| self.group_keys(index, database).len())
            .sum();
        if database > 0 {
            return groups as u64;
        }
        let singles = self.singles.iter().filter(there).count();
        let counters = self.counters.iter().filter(there).count();
        (singles + groups + counters) as u64
    }

    /// Connects, and writes until told to stop or the connection breaks. `permitted` are texts of errors
    /// with which the server may refuse now, beside those that pass with its start and its stop.
    pub fn write_until_broken(&mut self, socket: &Path, stop: &AtomicBool, permitted: &[&str]) {
        let Ok(mut client) = Client::connect_unix(socket) else {
            // The server is away; a moment later it may be back.
            std::thread::sleep(Duration::from_millis(1));
            return;
        };
        if client.set_timeout(Some(DEADLINE)).is_err() {
            return;
        }
        // What was lost with the last connection is not to be written anew before somebody has looked.
        let looked = self.look(&mut client, permitted);
        match looked.and_then(|_| self.pair.look(&mut client, permitted)) {
            Ok(()) => {}
            Err(Look::Broken(_)) => return,
            Err(Look::Lost(wrong)) => self.wrong = Some(wrong),
        }
        while !stop.load(Ordering::Relaxed) && self.wrong.is_none() {
            let is_done = match self.random.below(8) {
                0..=1 => self.transact(&mut client, permitted),
                2 => self.shuffle(&mut client, permitted),
                _ => self.pipeline(&mut client, permitted),
            };
            if !is_done {
                return;
            }
        }
    }

    /// Sends commands without waiting for replies, and takes those in; false when the connection is of no
    /// more use.
    fn pipeline(&mut self, client: &mut Client, permitted: &[&str]) -> bool {
        let count = 1 + self.random.below(PIPELINE_MAX);
        let batch: Vec<Sent> = (0..count).map(|_| self.send_one(client)).collect();
        if let Err(error) = client.flush() {
            self.note_unanswered("a pipeline", &error);
            return false;
        }
        let mut is_done = true;
        // To the last one, also after a refusal: what is still under way when the next connection writes
        // could come after it.
        for sent in batch {
            match client.receive() {
                Ok(Reply::Error(error)) => {
                    self.note_refused(&format!("{sent:?}"), &error, permitted);
                    if let Sent::Write(write) = sent {
                        self.refused.insert(write);
                    }
                    is_done = false;
                }
                Ok(reply) => self.take_in(sent, &reply),
                Err(error) => {
                    self.note_unanswered(&format!("{sent:?}"), &error);
                    return false;
                }
            }
        }
        is_done
    }

    /// Sends commands for the two databases of its own, and takes the replies in; false when the connection is
    /// of no more use.
    fn shuffle(&mut self, client: &mut Client, permitted: &[&str]) -> bool {
        let count = 1 + self.random.below(PAIR_PIPELINE_MAX);
        for _ in 0..count {
            let side = self.random.below(2) as usize;
            self.pair.select(client, side);
            self.pair.send(client, &mut self.random, side);
        }
        client.send(&["SELECT", "0"]);
        let mut is_done = true;
        for index in 0..=2 * count {
            let is_select = index % 2 == 0;
            match client.receive() {
                Ok(Reply::Error(error)) if is_select || !self.pair.expects(&error) => {
                    self.note_refused("a command for two databases", &error, permitted);
                    if !is_select {
                        self.pair.refuse();
                    }
                    is_done = false;
                }
                Ok(reply) if is_select && reply.is_ok() => {}
                Ok(reply) if is_select => {
                    self.wrong = Some(format!("SELECT gave {reply:?}"));
                }
                Ok(reply) => match self.pair.take_in(&reply) {
                    Ok(()) => self.acknowledged += 1,
                    Err(wrong) => self.wrong = Some(wrong),
                },
                Err(error) => {
                    self.note_unanswered("a command for two databases", &error);
                    self.pair.note_broken(!permitted.is_empty());
                    return false;
                }
            }
        }
        is_done
    }

    fn send_one(&mut self, client: &mut Client) -> Sent {
        match self.random.below(16) {
            0..=9 => {
                let index = self.random.below(SINGLES as u64) as usize;
                self.singles[index].sent += 1;
                let number = self.singles[index].sent;
                let key = self.single_key(index);
                let value = Writer::value(number);
                let end = Writer::end_s(number).map(|end| end.to_string());
                let mut words: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &value];
                if let Some(end) = &end {
                    words.extend([&b"EXAT"[..], end.as_bytes()]);
                }
                client.send(&words);
                Sent::Write(Write::Single(index, number))
            }
            10..=11 => {
                let index = self.group(&[Way::Command]);
                self.groups[index].sent += 1;
                let number = self.groups[index].sent;
                self.send_group(client, index, 0, number);
                Sent::Write(Write::Group(index, number))
            }
            12..=13 => {
                let index = self.random.below(COUNTERS as u64) as usize;
                self.counters[index].sent += 1;
                client.send(&["INCR".to_owned(), self.counter_key(index)]);
                Sent::Counter(index)
            }
            _ => {
                let index = self.group(&[Way::Command]);
                client.send(&self.look_at_group(index, 0));
                Sent::Look(index, self.groups[index])
            }
        }
    }

    /// Draws a group that is written in one of these ways.
    fn group(&mut self, ways: &[Way]) -> usize {
        let groups: Vec<usize> = (0..GROUPS)
            .filter(|index| ways.contains(&Way::of(*index)))
            .collect();
        groups[self.random.below(groups.len() as u64) as usize]
    }

    /// Writes the keys of a group in one database: all set to one value, or all deleted.
    fn send_group(&self, client: &mut Client, index: usize, database: usize, number: u64) {
        let keys = self.group_keys(index, database);
        if number % 2 == 1 {
            let value = Writer::value(number);
            let mut words: Vec<&[u8]> = vec![b"MSET"];
            for key in &keys {
                words.push(key.as_bytes());
                words.push(&value);
            }
            client.send(&words);
        } else {
            let mut words = vec!["DEL".to_owned()];
            words.extend(keys);
            client.send(&words);
        }
    }

    fn look_at_group(&self, index: usize, database: usize) -> Vec<String> {
        let mut words = vec!["MGET".to_owned()];
        words.extend(self.group_keys(index, database));
        words
    }

    /// Writes a group over all databases, or looks at it, as one transaction; false when the connection is
    /// of no more use.
    fn transact(&mut self, client: &mut Client, permitted: &[&str]) -> bool {
        let index = self.group(&[Way::Exec, Way::Commit]);
        let (begin, end) = match Way::of(index) {
            Way::Exec => ("MULTI", "EXEC"),
            Way::Command | Way::Commit => ("BEGIN", "COMMIT"),
        };
        // Alone, to be told first whether it was refused.
        client.send(&[begin]);
        if self.replies(client, begin, 1, permitted).is_none() {
            return false;
        }
        let known = self.groups[index];
        let is_look = self.random.below(4) == 0;
        let number = known.sent + 1;
        for database in 0..DATABASES {
            client.send(&["SELECT", &database.to_string()]);
            if is_look {
                client.send(&self.look_at_group(index, database));
            } else {
                self.send_group(client, index, database, number);
            }
        }
        client.send(&["SELECT", "0"]);
        let Some(within) = self.replies(client, begin, 2 * DATABASES + 1, permitted) else {
            // What is broken off is not carried out.
            return false;
        };
        if !is_look {
            self.groups[index].sent = number;
        }
        client.send(&[end]);
        let replies = match client.flush().and_then(|()| client.receive()) {
            Err(error) => {
                self.note_unanswered(end, &error);
                return false;
            }
            Ok(Reply::Error(error)) => {
                self.note_refused(end, &error, permitted);
                if !is_look {
                    self.refused.insert(Write::Group(index, number));
                }
                return false;
            }
            Ok(Reply::Array(replies)) if end == "EXEC" => replies,
            Ok(reply) if end == "COMMIT" && reply.is_ok() => within,
            Ok(reply) => {
                self.wrong = Some(format!("group {index}: {end} gave {reply:?}"));
                return false;
            }
        };
        let has_failed = replies.iter().any(|reply| reply.error().is_some());
        if replies.len() != 2 * DATABASES + 1 || has_failed {
            self.wrong = Some(format!("group {index}: {end} gave {replies:?}"));
        } else if is_look {
            let looks = replies.iter().skip(1).step_by(2).take(DATABASES);
            if let Err(wrong) = self.check_group(index, known, looks) {
                self.wrong = Some(wrong);
            }
        } else {
            self.groups[index].acknowledged = number;
            self.acknowledged += 1;
        }
        true
    }

    /// Takes so many replies of a transaction, none of them an error.
    fn replies(
        &mut self,
        client: &mut Client,
        what: &str,
        count: usize,
        permitted: &[&str],
    ) -> Option<Vec<Reply>> {
        let replies = client.flush().and_then(|()| client.receive_many(count));
        match replies {
            Err(error) => {
                self.note_unanswered(what, &error);
                None
            }
            Ok(replies) => match replies.iter().find_map(Reply::error) {
                Some(error) => {
                    self.note_refused(what, error, permitted);
                    None
                }
                None => Some(replies),
            },
        }
    }

    /// A connection that breaks is no wonder. One that stays, and says nothing, is.
    fn note_unanswered(&mut self, what: &str, error: &client::Error) {
        if matches!(error, client::Error::Timeout) {
            self.wrong = Some(format!("{what}: {LATE}"));
        }
    }

    /// Refused: the reason must be one there is.
    fn note_refused(&mut self, what: &str, error: &str, permitted: &[&str]) {
        if !is_permitted(error, permitted) {
            self.wrong = Some(format!("{what} was answered by: {error}"));
        }
    }

    fn take_in(&mut self, sent: Sent, reply: &Reply) {
        match sent {
            Sent::Write(Write::Single(index, number)) if reply.is_ok() => {
                self.singles[index].acknowledged = number;
            }
            Sent::Write(Write::Group(index, number)) => self.groups[index].acknowledged = number,
            Sent::Counter(index) => {
                let known = self.counters[index];
                let found = reply.as_int().and_then(|count| u64::try_from(count).ok());
                match found.filter(|count| known.acknowledged < *count && *count <= known.sent) {
                    Some(count) => self.counters[index].acknowledged = count,
                    None => self.wrong = Some(format!("INCR gave {reply:?}, known: {known:?}")),
                }
            }
            Sent::Look(index, known) => {
                if let Err(wrong) = self.check_group(index, known, [reply]) {
                    self.wrong = Some(wrong);
                }
                return;
            }
            Sent::Write(Write::Single(..)) => {
                self.wrong = Some(format!("{sent:?} was answered by {reply:?}"));
            }
        }
        self.acknowledged += 1;
    }

    /// What MGET gave in each database: all keys of one number, or none there.
    fn check_group<'a>(
        &self,
        index: usize,
        known: Known,
        replies: impl IntoIterator<Item = &'a Reply>,
    ) -> Result<u64, String> {
        let place = || format!("group {index} of writer {} ({known:?})", self.number);
        let mut numbers = Vec::new();
        for reply in replies {
            let values = reply
                .as_slice()
                .ok_or_else(|| format!("{}: {reply:?}", place()))?;
            for value in values {
                numbers.push(match value.as_bytes() {
                    Some(bytes) => match Writer::number_of(bytes) {
                        Some(number) => Some(number),
                        None => return Err(format!("{}: a value that was never written", place())),
                    },
                    None => None,
                });
            }
        }
        let first = numbers.first().copied().flatten();
        if numbers.len() != GROUP_KEYS || numbers.iter().any(|number| *number != first) {
            return Err(format!("{}: half a transaction: {numbers:?}", place()));
        }
        let was_refused = |number| self.refused.contains(&Write::Group(index, number));
        let allows = |number: &u64| known.allows(*number) && !was_refused(*number);
        match first {
            Some(number) if allows(&number) && number % 2 == 1 => Ok(number),
            Some(number) => Err(format!("{}: found {number}", place())),
            // Deleted, by any even number that may be the last, the least of which is taken.
            None => {
                let mut even = (known.acknowledged.next_multiple_of(2)..=known.sent).step_by(2);
                let gone = || format!("{}: the keys are gone", place());
                even.find(allows).ok_or_else(gone)
            }
        }
    }

    /// Looks at every key over a connection to a server that has recovered, and goes on from what
    /// it finds.
    ///
    /// # Errors
    /// What is lost, or was never written.
    pub fn check(&mut self, client: &mut Client) -> Result<u64, Look> {
        if let Some(wrong) = self.wrong.take() {
            return Err(Look::Lost(wrong));
        }
        let found = self.look(client, &[])?;
        self.pair.look(client, &[])?;
        let exactly = |numbers: Vec<u64>| numbers.into_iter().map(Known::exactly).collect();
        self.singles = exactly(found.singles);
        self.groups = exactly(found.groups);
        self.counters = exactly(found.counters);
        // Numbers go on from what was found.
        self.refused.clear();
        Ok((SINGLES + GROUPS + COUNTERS) as u64)
    }

    /// Looks at every key: whether what is there can be. Something that nobody was told of may come yet.
    fn look(&self, client: &mut Client, permitted: &[&str]) -> Result<Found, Look> {
        let mut found = Found::default();
        for index in 0..SINGLES {
            let key = self.single_key(index);
            let asked = [words(["GET", &key]), words(["EXPIRETIME", &key])];
            let replies = ask_within(client, &asked, permitted)?;
            let number = self.check_single(index, &replies).map_err(Look::Lost)?;
            found.singles.push(number);
        }
        for index in 0..GROUPS {
            // As one transaction: a commit that nobody was told of may come between two looks.
            let mut asked = vec![words(["BEGIN"]), self.look_at_group(index, 0)];
            if Way::of(index) != Way::Command {
                for database in 1..DATABASES {
                    asked.push(words(["SELECT", &database.to_string()]));
                    asked.push(self.look_at_group(index, database));
                }
                asked.push(words(["SELECT", "0"]));
            }
            asked.push(words(["COMMIT"]));
            let replies = ask_within(client, &asked, permitted)?;
            let databases = match Way::of(index) {
                Way::Command => 1,
                Way::Exec | Way::Commit => DATABASES,
            };
            let looks = replies.iter().skip(1).step_by(2).take(databases);
            let number = self.check_group(index, self.groups[index], looks);
            found.groups.push(number.map_err(Look::Lost)?);
        }
        for index in 0..COUNTERS {
            let key = self.counter_key(index);
            let replies = ask_within(client, &[words(["GET", &key])], permitted)?;
            let text = replies.first().and_then(Reply::as_str);
            let number = text.and_then(|text| text.parse().ok()).unwrap_or(0);
            let known = self.counters[index];
            if !known.allows(number) {
                return Err(Look::Lost(format!("{key}: found {number}, {known:?}")));
            }
            found.counters.push(number);
        }
        Ok(found)
    }

    /// The number that GET and EXPIRETIME have found, if it can be that one and ends when it is to.
    fn check_single(&self, index: usize, replies: &[Reply]) -> Result<u64, String> {
        let (key, known) = (self.single_key(index), self.singles[index]);
        let [value, end] = replies else {
            return Err(format!("{key}: {replies:?}"));
        };
        let found = match value.as_bytes() {
            Some(bytes) => Writer::number_of(bytes)
                .ok_or_else(|| format!("{key}: a value that was never written"))?,
            None => 0,
        };
        if !known.allows(found) || self.refused.contains(&Write::Single(index, found)) {
            return Err(format!("{key}: found {found}, {known:?}"));
        }
        let expected = match (found, Writer::end_s(found)) {
            (0, _) => Some(-2),
            (_, None) => Some(-1),
            (_, Some(end)) => i64::try_from(end).ok(),
        };
        match end.as_int() == expected {
            true => Ok(found),
            false => Err(format!(
                "{key}: number {found} has EXPIRETIME {end:?}, not {expected:?}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_say_their_number_and_nothing_else_does() {
        for number in [0, 1, 15, 16, 1000] {
            let mut value = Writer::value(number);
            assert_eq!(Writer::number_of(&value), Some(number));
            value.push(0);
            assert_eq!(Writer::number_of(&value), None);
        }
    }

    #[test]
    fn a_refused_write_that_is_there_is_seen() {
        let mut writer = Writer::new(0, 1);
        let known = Known {
            acknowledged: 3,
            sent: 6,
        };
        writer.groups[0] = known;
        writer.singles[0] = known;
        let gone = Reply::Array(vec![Reply::Null; GROUP_KEYS]);
        let single = |number| [Reply::Bulk(Writer::value(number)), Reply::Int(-1)];
        writer.refused.insert(Write::Group(0, 4));
        assert_eq!(writer.check_group(0, known, [&gone]), Ok(6));
        assert_eq!(writer.check_single(0, &single(5)), Ok(5));
        writer.refused.insert(Write::Group(0, 6));
        writer.refused.insert(Write::Single(0, 5));
        assert!(writer.check_group(0, known, [&gone]).is_err());
        assert!(writer.check_single(0, &single(5)).is_err());
        assert_eq!(writer.check_single(0, &single(3)), Ok(3));
    }

    #[test]
    fn a_loss_and_half_a_transaction_are_seen() {
        let mut writer = Writer::new(0, 1);
        writer.groups[0] = Known {
            acknowledged: 3,
            sent: 5,
        };
        let known = writer.groups[0];
        let values = |numbers: &[u64]| {
            Reply::Array(
                numbers
                    .iter()
                    .map(|n| Reply::Bulk(Writer::value(*n)))
                    .collect(),
            )
        };
        let gone = Reply::Array(vec![Reply::Null; GROUP_KEYS]);
        assert_eq!(writer.check_group(0, known, [&values(&[3; 5])]), Ok(3));
        assert_eq!(writer.check_group(0, known, [&values(&[5; 5])]), Ok(5));
        assert_eq!(writer.check_group(0, known, [&gone]), Ok(4));
        assert!(
            writer.check_group(0, known, [&values(&[1; 5])]).is_err(),
            "3 is lost"
        );
        assert!(
            writer.check_group(0, known, [&values(&[7; 5])]).is_err(),
            "7 was never sent"
        );
        assert!(
            writer
                .check_group(0, known, [&values(&[3, 3, 3, 3, 5])])
                .is_err()
        );
        let known = Known {
            acknowledged: 3,
            sent: 3,
        };
        assert!(
            writer.check_group(0, known, [&gone]).is_err(),
            "nobody deleted them"
        );
    }

    #[test]
    fn an_end_that_is_lost_or_gained_is_seen() {
        let mut writer = Writer::new(0, 1);
        let end = |seconds: i64| Reply::Int(seconds);
        let mut found = |number: u64, end: Reply| {
            writer.singles[0] = Known::exactly(number);
            writer.check_single(0, &[Reply::Bulk(Writer::value(number)), end])
        };
        assert_eq!(found(8, end(4_000_000_008)), Ok(8));
        assert!(found(8, end(-1)).is_err(), "lost");
        assert!(found(8, end(4_000_000_004)).is_err(), "of another value");
        assert_eq!(found(9, end(-1)), Ok(9));
        assert!(found(9, end(4_000_000_008)).is_err(), "gained");
    }

    #[test]
    fn a_refusal_has_a_reason_that_there_is() {
        assert!(is_permitted("LOADING Redoubt is starting up", &[]));
        assert!(is_permitted("ERR the disk is full: wal", &[NO_ROOM]));
        assert!(!is_permitted("ERR the disk is full: wal", &[SHORTAGE]));
        assert!(!is_permitted(
            "ERR page 7 is damaged, the disk is full",
            &[NO_ROOM]
        ));
    }
}

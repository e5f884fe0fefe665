//! What the writers write, and what they then know.

use super::Random;
use rd_wire::{Client, Reply};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Keys of a writer that hold numbers of their own.
const SINGLES: usize = 64;
/// Groups of keys that are written together.
const GROUPS: usize = 4;
/// Keys of a group.
const GROUP_KEYS: usize = 5;
/// Counters.
const COUNTERS: usize = 2;
/// Most commands on their way at a time.
const PIPELINE_MAX: u64 = 16;
/// How long keys live that end at all: ten years, to which no jump of the clock comes near.
const FAR_OFF_S: &[u8] = b"315360000";
/// Longest filling of a value; beyond what stays in a leaf.
const FILL_MAX: u64 = 20_000;

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
}

/// A command on its way.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Single(usize, u64),
    Group(usize, u64),
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

/// One connection's worth of load.
pub struct Writer {
    number: usize,
    random: Random,
    singles: Vec<Known>,
    /// Bit 0 of a group's number says whether its keys are there: odd ones were deleted.
    groups: Vec<Known>,
    counters: Vec<Known>,
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

    fn group_keys(&self, index: usize) -> Vec<String> {
        // Far apart, so that they lie on different leaves.
        (0..GROUP_KEYS)
            .map(|key| format!("{key}:w{}:group:{index}", self.number))
            .collect()
    }

    fn counter_key(&self, index: usize) -> String {
        format!("w{}:counter:{index}", self.number)
    }

    /// A value that says which it is, and whose every byte can be checked.
    fn value(number: u64) -> Vec<u8> {
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
    fn number_of(value: &[u8]) -> Option<u64> {
        let digits = value.split(|byte| *byte == b':').next()?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        (Writer::value(number) == value).then_some(number)
    }

    /// Keys of this writer that are there, after a [`Writer::check`].
    pub fn keys(&self) -> u64 {
        let there = |known: &&Known| known.acknowledged > 0;
        let singles = self.singles.iter().filter(there).count();
        let is_set = |known: &&Known| known.acknowledged % 2 == 1;
        let groups = self.groups.iter().filter(is_set).count();
        let counters = self.counters.iter().filter(there).count();
        (singles + groups * GROUP_KEYS + counters) as u64
    }

    /// Connects, and writes until told to stop or the connection breaks.
    pub fn write_until_broken(&mut self, socket: &Path, stop: &AtomicBool) {
        let Ok(mut client) = Client::connect_unix(socket) else {
            // The server is away; a moment later it may be back.
            std::thread::sleep(Duration::from_millis(1));
            return;
        };
        if client.set_timeout(Some(crate::support::DEADLINE)).is_err() {
            return;
        }
        while !stop.load(Ordering::Relaxed) && self.wrong.is_none() {
            let batch = self.send_batch(&mut client);
            if client.flush().is_err() || !self.receive_batch(&mut client, &batch) {
                return;
            }
        }
    }

    fn send_batch(&mut self, client: &mut Client) -> Vec<Sent> {
        let count = 1 + self.random.below(PIPELINE_MAX);
        (0..count).map(|_| self.send_one(client)).collect()
    }

    fn send_one(&mut self, client: &mut Client) -> Sent {
        match self.random.below(16) {
            0..=9 => {
                let index = self.random.below(SINGLES as u64) as usize;
                self.singles[index].sent += 1;
                let number = self.singles[index].sent;
                let key = self.single_key(index);
                let value = Writer::value(number);
                let mut words: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &value];
                if number.is_multiple_of(4) {
                    words.extend([&b"EX"[..], FAR_OFF_S]);
                }
                client.send(&words);
                Sent::Single(index, number)
            }
            10..=11 => {
                let index = self.random.below(GROUPS as u64) as usize;
                self.groups[index].sent += 1;
                let number = self.groups[index].sent;
                self.send_group(client, index, number);
                Sent::Group(index, number)
            }
            12..=13 => {
                let index = self.random.below(COUNTERS as u64) as usize;
                self.counters[index].sent += 1;
                client.send(&["INCR".to_owned(), self.counter_key(index)]);
                Sent::Counter(index)
            }
            _ => {
                let index = self.random.below(GROUPS as u64) as usize;
                let mut words = vec!["MGET".to_owned()];
                words.extend(self.group_keys(index));
                client.send(&words);
                Sent::Look(index, self.groups[index])
            }
        }
    }

    fn send_group(&self, client: &mut Client, index: usize, number: u64) {
        let keys = self.group_keys(index);
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

    /// Takes the replies in; false when the connection is broken.
    fn receive_batch(&mut self, client: &mut Client, batch: &[Sent]) -> bool {
        for sent in batch {
            let Ok(reply) = client.receive() else {
                return false;
            };
            if let Some(error) = reply.error() {
                // Refused: nothing has happened, which the ranges allow. What says so while
                // the server stops or starts, or lacks descriptors, is no loss; that it lacks them
                // must not be told as anything else.
                let expected = [
                    "LOADING",
                    "shutting down",
                    "max number",
                    "the disk is full",
                    "which is no damage",
                ];
                if !expected.iter().any(|text| error.contains(text)) {
                    self.wrong = Some(format!("{sent:?} was answered by: {error}"));
                }
                return false;
            }
            self.take_in(*sent, &reply);
        }
        true
    }

    fn take_in(&mut self, sent: Sent, reply: &Reply) {
        match sent {
            Sent::Single(index, number) if reply.is_ok() => {
                self.singles[index].acknowledged = number;
            }
            Sent::Group(index, number) => self.groups[index].acknowledged = number,
            Sent::Counter(index) => {
                let known = self.counters[index];
                let found = reply.as_int().and_then(|count| u64::try_from(count).ok());
                match found.filter(|count| known.acknowledged < *count && *count <= known.sent) {
                    Some(count) => self.counters[index].acknowledged = count,
                    None => self.wrong = Some(format!("INCR gave {reply:?}, known: {known:?}")),
                }
            }
            Sent::Look(index, known) => {
                if let Err(wrong) = self.check_group(index, known, reply) {
                    self.wrong = Some(wrong);
                }
                return;
            }
            Sent::Single(..) => self.wrong = Some(format!("{sent:?} was answered by {reply:?}")),
        }
        self.acknowledged += 1;
    }

    /// What MGET gave: all keys of one number, or none there.
    fn check_group(&self, index: usize, known: Known, reply: &Reply) -> Result<u64, String> {
        let place = || format!("group {index} of writer {} ({known:?})", self.number);
        let values = reply
            .as_slice()
            .ok_or_else(|| format!("{}: {reply:?}", place()))?;
        let numbers: Vec<Option<u64>> = values
            .iter()
            .map(|value| match value.as_bytes() {
                Some(bytes) => match Writer::number_of(bytes) {
                    Some(number) => Ok(Some(number)),
                    None => Err(format!("{}: a value that was never written", place())),
                },
                None => Ok(None),
            })
            .collect::<Result<_, _>>()?;
        let first = numbers.first().copied().flatten();
        if numbers.len() != GROUP_KEYS || numbers.iter().any(|number| *number != first) {
            return Err(format!("{}: half a transaction: {numbers:?}", place()));
        }
        match first {
            Some(number) if known.allows(number) && number % 2 == 1 => Ok(number),
            Some(number) => Err(format!("{}: found {number}", place())),
            // Deleted, by any even number that may be the last, the least of which is taken.
            None => {
                let least = known.acknowledged.next_multiple_of(2);
                match known.allows(least) {
                    true => Ok(least),
                    false => Err(format!("{}: the keys are gone", place())),
                }
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
        let call = |client: &mut Client, words: &[String]| match client.call(words) {
            Ok(Reply::Error(error)) => Err(Look::Broken(error)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Look::Broken(error.to_string())),
        };
        let lost = |text: String| Look::Lost(text);
        let mut checks = 0;
        for index in 0..SINGLES {
            let reply = call(client, &["GET".to_owned(), self.single_key(index)])?;
            let found = match reply.as_bytes() {
                Some(bytes) => Writer::number_of(bytes).ok_or_else(|| {
                    lost(format!(
                        "{}: a value that was never written",
                        self.single_key(index)
                    ))
                })?,
                None => 0,
            };
            let known = self.singles[index];
            if !known.allows(found) {
                let key = self.single_key(index);
                return Err(lost(format!("{key}: found {found}, {known:?}")));
            }
            self.singles[index] = Known {
                acknowledged: found,
                sent: found,
            };
            checks += 1;
        }
        for index in 0..GROUPS {
            let mut words = vec!["MGET".to_owned()];
            words.extend(self.group_keys(index));
            let reply = call(client, &words)?;
            let found = self
                .check_group(index, self.groups[index], &reply)
                .map_err(lost)?;
            self.groups[index] = Known {
                acknowledged: found,
                sent: found,
            };
            checks += 1;
        }
        for index in 0..COUNTERS {
            let reply = call(client, &["GET".to_owned(), self.counter_key(index)])?;
            let found = reply
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            let known = self.counters[index];
            if !known.allows(found) {
                let key = self.counter_key(index);
                return Err(lost(format!("{key}: found {found}, {known:?}")));
            }
            self.counters[index] = Known {
                acknowledged: found,
                sent: found,
            };
            checks += 1;
        }
        Ok(checks)
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
        assert_eq!(writer.check_group(0, known, &values(&[3; 5])), Ok(3));
        assert_eq!(writer.check_group(0, known, &values(&[5; 5])), Ok(5));
        assert_eq!(writer.check_group(0, known, &gone), Ok(4));
        assert!(
            writer.check_group(0, known, &values(&[1; 5])).is_err(),
            "3 is lost"
        );
        assert!(
            writer.check_group(0, known, &values(&[7; 5])).is_err(),
            "7 was never sent"
        );
        assert!(
            writer
                .check_group(0, known, &values(&[3, 3, 3, 3, 5]))
                .is_err()
        );
        let known = Known {
            acknowledged: 3,
            sent: 3,
        };
        assert!(
            writer.check_group(0, known, &gone).is_err(),
            "nobody deleted them"
        );
    }
}

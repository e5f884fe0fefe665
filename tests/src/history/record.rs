//! Clients that run transactions on lists, and note what they saw.
//!
//! A list is the value of a key, `,1,2,3`; a key that is not there is an empty one. Transactions
//! append by GET and SET, or by APPEND; they read by GET, MGET and RANGE.

use super::{NEVER, Op, Outcome, Transaction};
use crate::support::{DEADLINE, wait_for};
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// How a client makes several commands one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// BEGIN SNAPSHOT to COMMIT.
    Snapshot,
    /// BEGIN SERIALIZABLE to COMMIT.
    Serializable,
    /// MULTI to EXEC, appending by APPEND.
    Exec,
    /// WATCH, reads, then MULTI to EXEC, appending by SET.
    Watch,
    /// As `Watch`, but without WATCH: to show that the checker finds what comes of it.
    Unwatched,
    /// As `Snapshot`, but without BEGIN and COMMIT: likewise.
    Nothing,
}

/// Lists that there are.
const LISTS: u64 = 6;

fn key(list: u64) -> Vec<u8> {
    format!("list:{list}").into_bytes()
}

fn elements(value: Option<&[u8]>) -> Vec<u64> {
    let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let numbers = text.split(',').filter(|number| !number.is_empty());
    numbers
        .map(|number| number.parse().expect("an id"))
        .collect()
}

fn value(elements: &[u64]) -> Vec<u8> {
    elements
        .iter()
        .map(|id| format!(",{id}"))
        .collect::<String>()
        .into_bytes()
}

/// Why a transaction did not come to its end.
enum Broken {
    /// An error reply: nothing of it has happened.
    Refused(String),
    /// The server is gone.
    Gone,
}

type Step<T> = Result<T, Broken>;

/// One connection.
struct Session {
    client: Client,
    number: usize,
    random: u64,
    ids: Arc<AtomicU64>,
    /// The next moment, which all sessions share.
    moments: Arc<AtomicU64>,
    /// Whether COMMIT or EXEC was sent: then only the reply says what became of the transaction.
    is_decided: bool,
    ops: Vec<Op>,
}

impl Session {
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % bound
    }

    fn call(&mut self, words: &[&[u8]]) -> Step<Reply> {
        match self.client.cmd(words) {
            Ok(Reply::Error(text)) => Err(Broken::Refused(text)),
            Ok(reply) => Ok(reply),
            Err(_) => Err(Broken::Gone),
        }
    }

    fn saw(&mut self, list: u64, seen: Vec<u64>) {
        self.ops.push(Op::Read { list, seen });
    }

    /// One list, several at once, or all of them in order.
    fn read(&mut self) -> Step<()> {
        let reply_of = |reply: &Reply| reply.as_bytes().map(<[u8]>::to_vec);
        match self.below(4) {
            0 => {
                let reply = self.call(&[b"RANGE", b"list:", b"list;"])?;
                let all = in_range(&reply);
                for list in 0..LISTS {
                    self.saw(list, all.get(&list).cloned().unwrap_or_default());
                }
            }
            1 => {
                let lists = [self.below(LISTS), self.below(LISTS)];
                let keys = lists.map(key);
                let reply = self.call(&[b"MGET", &keys[0], &keys[1]])?;
                for (list, reply) in lists.into_iter().zip(reply.as_slice().unwrap_or_default()) {
                    self.saw(list, elements(reply_of(reply).as_deref()));
                }
            }
            _ => {
                let list = self.below(LISTS);
                self.get(list)?;
            }
        }
        Ok(())
    }

    fn get(&mut self, list: u64) -> Step<Vec<u64>> {
        let reply = self.call(&[b"GET", &key(list)])?;
        let seen = elements(reply.as_bytes());
        self.saw(list, seen.clone());
        Ok(seen)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// Appends by reading and writing.
    fn append(&mut self) -> Step<()> {
        let list = self.below(LISTS);
        let mut seen = self.get(list)?;
        let id = self.next_id();
        seen.push(id);
        self.ops.push(Op::Append { list, id });
        self.call(&[b"SET", &key(list), &value(&seen)])?;
        Ok(())
    }

    fn interactive(&mut self, begin: Option<&[u8]>) -> Step<Outcome> {
        if let Some(level) = begin {
            self.call(&[b"BEGIN", level])?;
        } else {
            self.is_decided = true;
        }
        for _ in 0..1 + self.below(3) {
            if self.below(5) < 3 {
                self.append()?;
            } else {
                self.read()?;
            }
        }
        if begin.is_none() {
            return Ok(Outcome::Committed);
        }
        if self.below(20) == 0 {
            self.call(&[b"ROLLBACK"])?;
            return Ok(Outcome::Aborted);
        }
        self.is_decided = true;
        self.call(&[b"COMMIT"])?;
        Ok(Outcome::Committed)
    }

    /// Reads and appends whose text is known beforehand.
    fn exec(&mut self) -> Step<Outcome> {
        self.call(&[b"MULTI"])?;
        let mut queued = Vec::new();
        for _ in 0..1 + self.below(4) {
            let list = self.below(LISTS);
            let appended = (self.below(2) == 0).then(|| self.next_id());
            match appended {
                Some(id) => self.call(&[b"APPEND", &key(list), &value(&[id])])?,
                None if list == 0 => self.call(&[b"RANGE", b"list:", b"list;"])?,
                None => self.call(&[b"GET", &key(list)])?,
            };
            queued.push((list, appended));
        }
        for (list, appended) in &queued {
            // Where the reply does not come, these may have happened all the same.
            if let (list, Some(id)) = (*list, *appended) {
                self.ops.push(Op::Append { list, id });
            }
        }
        self.is_decided = true;
        let reply = self.call(&[b"EXEC"])?;
        self.ops.clear();
        let replies = reply.as_slice().expect("EXEC without WATCH does not fail");
        for ((list, appended), reply) in queued.into_iter().zip(replies) {
            match appended {
                Some(id) => self.ops.push(Op::Append { list, id }),
                None if list == 0 => {
                    let all = in_range(reply);
                    for list in 0..LISTS {
                        self.saw(list, all.get(&list).cloned().unwrap_or_default());
                    }
                }
                None => self.saw(list, elements(reply.as_bytes())),
            }
        }
        Ok(Outcome::Committed)
    }

    fn watch(&mut self, watches: bool) -> Step<Outcome> {
        let lists = [self.below(LISTS), self.below(LISTS)];
        let keys = lists.map(key);
        if watches {
            self.call(&[b"WATCH", &keys[0], &keys[1]])?;
        }
        let mut seen = self.get(lists[0])?;
        self.get(lists[1])?;
        self.call(&[b"MULTI"])?;
        let (list, id) = (lists[0], self.next_id());
        seen.push(id);
        self.call(&[b"SET", &keys[0], &value(&seen)])?;
        self.ops.push(Op::Append { list, id });
        self.is_decided = true;
        match self.call(&[b"EXEC"])? {
            Reply::Null => Ok(Outcome::Aborted),
            _ => Ok(Outcome::Committed),
        }
    }

    /// One transaction; `None` when the server is gone.
    fn transaction(&mut self, way: Way) -> (Transaction, bool) {
        self.ops.clear();
        self.is_decided = false;
        let began = self.now();
        let done = match way {
            Way::Snapshot => self.interactive(Some(b"SNAPSHOT")),
            Way::Serializable => self.interactive(Some(b"SERIALIZABLE")),
            Way::Exec => self.exec(),
            Way::Watch => self.watch(true),
            Way::Unwatched => self.watch(false),
            Way::Nothing => self.interactive(None),
        };
        let (outcome, goes_on) = match done {
            Ok(outcome) => (outcome, true),
            Err(Broken::Refused(text)) if text.starts_with("CONFLICT") => (Outcome::Aborted, true),
            Err(Broken::Refused(text)) if is_farewell(&text) && self.is_decided => {
                (Outcome::Unknown, false)
            }
            Err(Broken::Refused(text)) => {
                assert!(is_farewell(&text), "{way:?} was refused: {text}");
                (Outcome::Aborted, false)
            }
            Err(Broken::Gone) if self.is_decided => (Outcome::Unknown, false),
            Err(Broken::Gone) => (Outcome::Aborted, false),
        };
        let transaction = Transaction {
            session: self.number,
            began,
            ended: match outcome {
                Outcome::Unknown => NEVER,
                Outcome::Committed | Outcome::Aborted => self.now(),
            },
            ops: std::mem::take(&mut self.ops),
            is_of_one_moment: matches!(way, Way::Snapshot | Way::Serializable),
            outcome,
        };
        (transaction, goes_on)
    }
}

/// What a server says that comes up or goes down.
fn is_farewell(text: &str) -> bool {
    text.starts_with("LOADING") || text.contains("shutting down")
}

/// The lists in the reply to a RANGE.
fn in_range(reply: &Reply) -> BTreeMap<u64, Vec<u64>> {
    let items = reply.as_slice().unwrap_or_default();
    let list = |key: &Reply| {
        let number = key.as_str()?.strip_prefix("list:")?;
        number.parse().ok()
    };
    let pairs = items.chunks_exact(2);
    pairs
        .filter_map(|pair| Some((list(&pair[0])?, elements(pair[1].as_bytes()))))
        .collect()
}

/// Clients at work.
pub struct Recorder {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    history: Arc<Mutex<Vec<Transaction>>>,
    threads: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

impl Recorder {
    /// Starts a client for each of `ways`.
    pub fn start(socket: &Path, ways: &[Way]) -> Recorder {
        let recorder = Recorder {
            stop: Arc::default(),
            committed: Arc::default(),
            history: Arc::default(),
            threads: Vec::new(),
            socket: socket.to_owned(),
        };
        let ids = Arc::new(AtomicU64::new(1));
        let sessions = Arc::new(AtomicU64::new(0));
        let moments = Arc::new(AtomicU64::new(0));
        let spawn = |(index, way): (usize, &Way)| {
            let (way, ids, sessions) = (*way, Arc::clone(&ids), Arc::clone(&sessions));
            let moments = Arc::clone(&moments);
            let (stop, socket) = (Arc::clone(&recorder.stop), socket.to_owned());
            let (history, committed) = (
                Arc::clone(&recorder.history),
                Arc::clone(&recorder.committed),
            );
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // The server may be being started again.
                    let mut client =
                        wait_for("a connection", || Client::connect_unix(&socket).ok());
                    if client.set_timeout(Some(DEADLINE)).is_err() {
                        continue;
                    }
                    let number = sessions.fetch_add(1, Ordering::Relaxed) as usize;
                    let mut session = Session {
                        client,
                        number,
                        random: 0x9E37_79B9_7F4A_7C15 ^ ((index + 8 * number) as u64 + 1) << 20,
                        ids: Arc::clone(&ids),
                        moments: Arc::clone(&moments),
                        is_decided: false,
                        ops: Vec::new(),
                    };
                    let mut goes_on = true;
                    while goes_on && !stop.load(Ordering::Relaxed) {
                        let (transaction, next) = session.transaction(way);
                        goes_on = next;
                        if transaction.outcome == Outcome::Committed {
                            committed.fetch_add(1, Ordering::Relaxed);
                        }
                        if !transaction.ops.is_empty() {
                            history.lock().expect("no client panics").push(transaction);
                        }
                    }
                }
            })
        };
        let threads = ways.iter().enumerate().map(spawn).collect();
        Recorder {
            threads,
            ..recorder
        }
    }

    /// How many transactions have been committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Lets the clients come to an end. Returns the history, and what the lists hold now.
    ///
    /// # Panics
    /// When a client met what it cannot explain, or the lists cannot be read.
    pub fn finish(mut self) -> (Vec<Transaction>, BTreeMap<u64, Vec<u64>>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client met what it cannot explain");
        }
        let mut client = Client::connect_unix(&self.socket).expect("the server is there");
        let reply = client.call(&["RANGE", "list:", "list;"]);
        let last = in_range(&reply.expect("the lists can be read"));
        let history = std::mem::take(&mut *self.history.lock().expect("no client panics"));
        (history, last)
    }
}

//! Clients that collide on a few keys over sockets, and what each of them sent and was answered.

use super::{Action, Answer, History, Op};
use crate::support::{DEADLINE, wait_for};
use crate::torture::Random;
use rd_wire::{Client, Reply};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// Keys, all of them hot.
pub const KEYS: usize = 3;
/// Most commands of a connection on their way at a time.
const PIPELINE_MAX: u64 = 4;
/// One value of so many is larger than what stays in a leaf.
const LARGE_ONE_IN: u64 = 12;
/// Longest of these.
const LARGE_BYTES_MAX: u64 = 20_000;
/// The end of a command without a reply, before the crash is over.
const OPEN: u64 = u64::MAX;
/// Values lie so far apart that INCR does not make one of another.
const VALUE_STEP: u64 = 1000;
/// Commands for which [`Way::Stale`] keeps its snapshot.
const STALE_COMMANDS: u64 = 20;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// All commands, as they should be used.
    Right,
    /// Replaces values without watching them.
    Unwatched,
    /// Reads from a snapshot, and believes that it is of now.
    Stale,
}

/// What all clients of a recorder share.
struct Shared {
    socket: PathBuf,
    begun: Instant,
    stop: AtomicBool,
    answered: AtomicU64,
    sessions: AtomicUsize,
    values: AtomicU64,
    history: Mutex<History>,
}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    client: Client,
    number: usize,
    random: Random,
    /// The last moment used: a connection's commands are sent one after the other.
    last: u64,
}

/// The connection is of no further use.
struct Broken;

fn key(index: usize) -> Vec<u8> {
    format!("hot:{index}").into_bytes()
}

/// The words of a request; [`Action::Replace`] takes several and is sent elsewhere.
fn words(action: &Action, key: &[u8]) -> Vec<Vec<u8>> {
    let of = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
    match action {
        Action::Get => of(&[b"GET", key]),
        Action::Strlen => of(&[b"STRLEN", key]),
        Action::Exists => of(&[b"EXISTS", key]),
        Action::Set(value) => of(&[b"SET", key, value]),
        // The two are the same to the model; the length of the value chooses.
        Action::Swap(value) if value.len() % 2 == 0 => of(&[b"GETSET", key, value]),
        Action::Swap(value) => of(&[b"SET", key, value, b"GET"]),
        Action::SetNx(value) => of(&[b"SETNX", key, value]),
        Action::SwapIfThere(value) => of(&[b"SET", key, value, b"XX", b"GET"]),
        Action::Append(value) => of(&[b"APPEND", key, value]),
        Action::Incr => of(&[b"INCR", key]),
        Action::Del => of(&[b"DEL", key]),
        Action::GetDel => of(&[b"GETDEL", key]),
        Action::Replace(..) => unreachable!("it is no single request"),
    }
}

/// What a reply says; `None` when the server came up or went down and did nothing.
fn answer(reply: &Reply) -> Option<Answer> {
    Some(match reply {
        Reply::Null => Answer::Value(None),
        Reply::Bulk(value) => Answer::Value(Some(value.clone())),
        Reply::Int(number) => Answer::Number(*number),
        Reply::Error(text) if text.starts_with("ERR value is not an integer") => Answer::Unfit,
        Reply::Error(text) => {
            assert!(text.starts_with("LOADING"), "an error: {text}");
            return None;
        }
        reply => {
            assert!(reply.is_ok(), "a reply: {reply:?}");
            Answer::Done
        }
    })
}

impl Session<'_> {
    fn now(&mut self) -> u64 {
        let now = self.shared.begun.elapsed().as_nanos() as u64;
        self.last = now.max(self.last + 1);
        self.last
    }

    /// A value that nobody else writes; at times a large one, or one that is no number.
    fn value(&mut self) -> Vec<u8> {
        let number = self.shared.values.fetch_add(1, Ordering::Relaxed);
        let mut value = (number * VALUE_STEP).to_string().into_bytes();
        match self.random.below(LARGE_ONE_IN) {
            0 => value.resize(self.random.below(LARGE_BYTES_MAX) as usize + 20, b'.'),
            1 => value.push(b'x'),
            _ => {}
        }
        value
    }

    fn action(&mut self) -> Action {
        match self.random.below(20) {
            0..5 => Action::Get,
            5 => Action::Strlen,
            6 => Action::Exists,
            7..9 => Action::Set(self.value()),
            9..11 => Action::Swap(self.value()),
            11 => Action::SwapIfThere(self.value()),
            12 => Action::SetNx(self.value()),
            13 => {
                let number = self.shared.values.fetch_add(1, Ordering::Relaxed);
                Action::Append(format!(",{number}").into_bytes())
            }
            14..17 => Action::Incr,
            17..19 => Action::Del,
            _ => Action::GetDel,
        }
    }

    fn note(&self, key: usize, op: Op) {
        let mut op = op;
        if op.answer.is_none() {
            op.ended = OPEN;
        } else {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.shared.history.lock().expect("no client panics")[key].push(op);
    }

    /// Sends some commands at once and takes their replies in.
    fn pipeline(&mut self) -> Result<(), Broken> {
        let count = 1 + self.random.below(PIPELINE_MAX);
        let mut sent = Vec::new();
        for _ in 0..count {
            let (at, action) = (self.random.below(KEYS as u64) as usize, self.action());
            self.client.send(&words(&action, &key(at)));
            let op = Op {
                session: self.number,
                sent: self.now(),
                ended: 0,
                action,
                answer: None,
            };
            sent.push((at, op));
        }
        let mut is_broken = self.client.flush().is_err();
        for (at, mut op) in sent {
            if !is_broken {
                match self.client.receive() {
                    Ok(reply) => match answer(&reply) {
                        Some(answer) => op.answer = Some(answer),
                        None => return Err(Broken),
                    },
                    Err(_) => is_broken = true,
                }
            }
            op.ended = match is_broken {
                // All that are cut off end together.
                true => self.last.max(self.shared.begun.elapsed().as_nanos() as u64),
                false => self.now(),
            };
            self.last = op.ended;
            self.note(at, op);
        }
        if is_broken { Err(Broken) } else { Ok(()) }
    }

    fn call(&mut self, words: &[&[u8]]) -> Result<Reply, Broken> {
        let reply = self.client.cmd(words).map_err(|_| Broken)?;
        match reply.error() {
            Some(text) if text.starts_with("LOADING") => Err(Broken),
            Some(text) => panic!("{words:?}: {text}"),
            None => Ok(reply),
        }
    }

    /// Sets a key to another value than the one that is read first, if nobody was faster.
    fn replace(&mut self, watches: bool) -> Result<(), Broken> {
        let (at, value) = (self.random.below(KEYS as u64) as usize, self.value());
        let key = key(at);
        if watches {
            self.call(&[b"WATCH", &key])?;
        }
        let seen = self.call(&[b"GET", &key])?;
        self.call(&[b"MULTI"])?;
        self.call(&[b"SET", &key, &value])?;
        let mut op = Op {
            session: self.number,
            sent: self.now(),
            ended: 0,
            action: Action::Replace(seen.as_bytes().map(<[u8]>::to_vec), value),
            answer: None,
        };
        let done = self.client.cmd(&[b"EXEC"]);
        op.ended = self.now();
        match done {
            // Nothing has happened.
            Ok(Reply::Null) => Ok(()),
            Ok(Reply::Error(text)) => {
                assert!(text.starts_with("LOADING"), "EXEC: {text}");
                Err(Broken)
            }
            Ok(_) => {
                op.answer = Some(Answer::Done);
                self.note(at, op);
                Ok(())
            }
            Err(_) => {
                self.note(at, op);
                Err(Broken)
            }
        }
    }

    /// Reads from one snapshot as if it were always of now.
    fn read_stale(&mut self) -> Result<(), Broken> {
        self.call(&[b"BEGIN", b"READ", b"ONLY"])?;
        for _ in 0..STALE_COMMANDS {
            let at = self.random.below(KEYS as u64) as usize;
            let sent = self.now();
            let reply = self.call(&[b"GET", &key(at)])?;
            let op = Op {
                session: self.number,
                sent,
                ended: self.now(),
                action: Action::Get,
                answer: answer(&reply),
            };
            self.note(at, op);
        }
        self.call(&[b"ROLLBACK"]).map(|_| ())
    }

    fn go_on(&mut self, way: Way) -> Result<(), Broken> {
        match (way, self.random.below(10)) {
            (Way::Stale, 0..5) => self.read_stale(),
            (Way::Unwatched, 0..5) => self.replace(false),
            (_, 0) => self.replace(true),
            _ => self.pipeline(),
        }
    }
}

fn work(shared: &Shared, mut random: Random, way: Way) {
    while !shared.stop.load(Ordering::Relaxed) {
        // The server may be being started again; what nobody has answered is no connection yet.
        let client = wait_for("a connection", || {
            let mut client = Client::connect_unix(&shared.socket).ok()?;
            client.set_timeout(Some(DEADLINE)).ok()?;
            let answer = client.cmd(&[b"PING"]).ok()?;
            answer.error().is_none().then_some(client)
        });
        let mut session = Session {
            shared,
            client,
            number: shared.sessions.fetch_add(1, Ordering::Relaxed),
            random: Random::new(random.draw()),
            last: 0,
        };
        loop {
            let is_over = session.go_on(way).is_err();
            if is_over || shared.stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// Clients at work.
pub struct Recorder {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Recorder {
    /// Starts a client for each of `ways`. The seed says what they send, not when.
    pub fn start(socket: &Path, ways: &[Way], seed: u64) -> Recorder {
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            begun: Instant::now(),
            stop: AtomicBool::default(),
            answered: AtomicU64::default(),
            sessions: AtomicUsize::default(),
            values: AtomicU64::new(1),
            history: Mutex::new(vec![Vec::new(); KEYS]),
        });
        let mut random = Random::new(seed);
        let spawn = |way: &Way| {
            let (shared, way) = (Arc::clone(&shared), *way);
            let random = Random::new(random.draw());
            std::thread::spawn(move || work(&shared, random, way))
        };
        let threads = ways.iter().map(spawn).collect();
        Recorder { shared, threads }
    }

    /// How many commands have been answered.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Says that no process is left of those that were there when something was killed.
    pub fn crash_is_over(&self) {
        let now = self.shared.begun.elapsed().as_nanos() as u64;
        let mut history = self.shared.history.lock().expect("no client panics");
        let all = history.iter_mut().flatten();
        all.filter(|op| op.ended == OPEN)
            .for_each(|op| op.ended = now);
    }

    /// Lets the clients come to an end. Returns what they sent and were answered, and a last look
    /// at each key.
    ///
    /// # Panics
    /// When a client met what it cannot explain, or the keys cannot be read.
    pub fn finish(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client met what it cannot explain");
        }
        self.crash_is_over();
        let mut session = Session {
            shared: &self.shared,
            client: Client::connect_unix(&self.shared.socket).expect("the server is there"),
            number: self.shared.sessions.fetch_add(1, Ordering::Relaxed),
            random: Random::new(0),
            last: 0,
        };
        for at in 0..KEYS {
            let sent = session.now();
            let reply = session.client.cmd(&[b"GET", &key(at)]);
            let op = Op {
                session: session.number,
                sent,
                ended: session.now(),
                action: Action::Get,
                answer: answer(&reply.expect("the key can be read")),
            };
            session.note(at, op);
        }
        std::mem::take(&mut *self.shared.history.lock().expect("no client panics"))
    }
}

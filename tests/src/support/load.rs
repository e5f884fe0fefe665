//! Clients that write as fast as they are answered, and know what was acknowledged.
//!
//! A load that is stopped has written more than what was waited for, by as much as the test was held up; where
//! the amount matters, [`fill`] writes just that.

use super::DEADLINE;
use rd_wire::Client;
use rd_wire::client::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Requests in a pipeline.
const PIPELINE: u64 = 16;
/// Keys asked for at once when looking.
const LOOK: u64 = 500;

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    counts: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
    value_bytes: usize,
}

/// What was acknowledged: of each writer, how many of its keys, from the first.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    counts: Vec<u64>,
    value_bytes: usize,
}

fn key(writer: usize, number: u64) -> Vec<u8> {
    format!("load:{writer}:{number:010}").into_bytes()
}

fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(bytes.max(value.len()), b'v');
    value
}

/// A connection that is served.
fn connect(socket: &Path) -> Client {
    let mut client = Client::connect_unix(socket).expect("a writer is connected");
    let limited = client.set_timeout(Some(DEADLINE));
    limited.expect("a timeout can be set");
    // One that waits to be accepted would outlive a fall of the server, and its writer would have no end.
    let reply = client.call(&["PING"]).expect("a writer is served");
    assert!(reply.error().is_none(), "{reply:?}");
    client
}

/// What a writer does.
struct Writer {
    number: usize,
    value_bytes: usize,
    /// How many of its keys, at most.
    keys: u64,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Writer {
    /// Writes until told to stop, all is written, or the server refuses or goes away.
    fn write(&self, client: &mut Client) {
        let mut first = 0;
        while first < self.keys && !self.stop.load(Ordering::Relaxed) {
            let numbers = first..(first + PIPELINE).min(self.keys);
            first = numbers.end;
            for number in numbers.clone() {
                let value = value(number, self.value_bytes);
                client.send(&[b"SET", &key(self.number, number)[..], &value]);
            }
            for _ in numbers {
                match client.receive() {
                    Ok(reply) if reply.is_ok() => self.count.fetch_add(1, Ordering::Relaxed),
                    _ => return,
                };
            }
        }
    }
}

/// Writes so many values of so many bytes, and no more, by so many writers that share them evenly: a second
/// time the same keys.
///
/// # Panics
/// When one is not acknowledged.
pub fn fill(socket: &Path, writers: usize, value_bytes: usize, writes: u64) -> Acknowledged {
    let keys = writes.div_ceil(writers as u64);
    let acknowledged = Load::of(socket, writers, value_bytes, keys).join();
    assert_eq!(
        acknowledged.total(),
        keys * writers as u64,
        "all is written"
    );
    acknowledged
}

impl Load {
    /// Starts so many writers of values of so many bytes, which go on until they are stopped.
    pub fn start(socket: &Path, writers: usize, value_bytes: usize) -> Load {
        Load::of(socket, writers, value_bytes, u64::MAX)
    }

    /// Starts so many writers, of so many keys each.
    fn of(socket: &Path, writers: usize, value_bytes: usize, keys: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Vec<Arc<AtomicU64>> = (0..writers).map(|_| Arc::default()).collect();
        let threads = counts.iter().enumerate().map(|(number, count)| {
            let mut client = connect(socket);
            let writer = Writer {
                number,
                value_bytes,
                keys,
                stop: Arc::clone(&stop),
                count: Arc::clone(count),
            };
            std::thread::spawn(move || writer.write(&mut client))
        });
        let threads = threads.collect();
        Load {
            stop,
            counts,
            threads,
            value_bytes,
        }
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// What was acknowledged so far.
    pub fn so_far(&self) -> Acknowledged {
        let counts = self.counts.iter();
        Acknowledged {
            counts: counts.map(|count| count.load(Ordering::Relaxed)).collect(),
            value_bytes: self.value_bytes,
        }
    }

    /// Waits until so many writes have been acknowledged.
    pub fn wait_for(&self, writes: u64) {
        super::wait_for(&format!("{writes} writes"), || {
            (self.acknowledged() >= writes).then_some(())
        });
    }

    /// Waits until every writer has come to its end, stopping those that have not.
    ///
    /// # Panics
    /// When a writer has panicked.
    pub fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until every writer has lost its connection.
    ///
    /// # Panics
    /// When a writer has panicked.
    pub fn join(mut self) -> Acknowledged {
        for thread in std::mem::take(&mut self.threads) {
            thread.join().expect("a writer does not panic");
        }
        self.so_far()
    }
}

impl Acknowledged {
    /// How many.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Looks for every acknowledged write.
    ///
    /// # Panics
    /// When one is not there, or the server does not answer.
    pub fn assert_there(&self, client: &mut Client) {
        self.look(client).expect("MGET is answered");
    }

    /// Looks for every acknowledged write on a server that may fall, or not be open yet.
    ///
    /// # Errors
    /// When the server does not answer.
    ///
    /// # Panics
    /// When a write is not there.
    pub fn look(&self, client: &mut Client) -> Result<(), Error> {
        for (writer, count) in self.counts.iter().enumerate() {
            let mut first = 0;
            while first < *count {
                let numbers = first..(first + LOOK).min(*count);
                let mut words = vec![b"MGET".to_vec()];
                words.extend(numbers.clone().map(|number| key(writer, number)));
                let reply = client.call(&words)?.into_result()?;
                let found = reply.as_slice().expect("MGET gives an array");
                for (number, found) in numbers.zip(found) {
                    assert_eq!(
                        found.as_bytes(),
                        Some(&value(number, self.value_bytes)[..]),
                        "write {number} of writer {writer} was acknowledged"
                    );
                }
                first += LOOK;
            }
        }
        Ok(())
    }
}

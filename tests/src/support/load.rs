//! Clients that write as fast as they are answered, and know what was acknowledged.

use super::DEADLINE;
use rd_wire::Client;
use std::path::{Path, PathBuf};
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

/// Writes until told to stop, or until the server refuses or goes away.
fn write(socket: &Path, writer: usize, bytes: usize, stop: &AtomicBool, count: &AtomicU64) {
    let Ok(mut client) = Client::connect_unix(socket) else {
        return;
    };
    if client.set_timeout(Some(DEADLINE)).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        let first = count.load(Ordering::Relaxed);
        for number in first..first + PIPELINE {
            client.send(&[b"SET", &key(writer, number)[..], &value(number, bytes)]);
        }
        for _ in 0..PIPELINE {
            match client.receive() {
                Ok(reply) if reply.is_ok() => count.fetch_add(1, Ordering::Relaxed),
                _ => return,
            };
        }
    }
}

impl Load {
    /// Starts so many writers of values of so many bytes.
    pub fn start(socket: &Path, writers: usize, value_bytes: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Vec<Arc<AtomicU64>> = (0..writers).map(|_| Arc::default()).collect();
        let threads = counts.iter().enumerate().map(|(writer, count)| {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(count));
            let socket: PathBuf = socket.to_owned();
            std::thread::spawn(move || write(&socket, writer, value_bytes, &stop, &count))
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
    /// When one is not there.
    pub fn assert_there(&self, client: &mut Client) {
        for (writer, count) in self.counts.iter().enumerate() {
            let mut first = 0;
            while first < *count {
                let numbers = first..(first + LOOK).min(*count);
                let mut words = vec![b"MGET".to_vec()];
                words.extend(numbers.clone().map(|number| key(writer, number)));
                let reply = client.call(&words).expect("MGET is answered");
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
    }
}

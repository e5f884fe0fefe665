//! The servers that can be loaded, and how the same work is said to each.
//!
//! A [`Server`] makes data, opens connections and tells of itself, all blocking and before or
//! beside the load. A [`Dialect`] puts trips into bytes and replies back, for the event loop; it
//! never waits, and never trusts what a server sends.

pub mod postgres;
pub mod resp;

use crate::address::Stream;
use crate::operation::{Operation, Outcome};
use anyhow::Result;

/// Which tables or keys a load is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Keys with values of a length.
    Values,
    /// Accounts with balances.
    Accounts,
}

/// What came first in a connection's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// How many bytes it took.
    pub bytes: usize,
    /// Whether one of the replies that [`Dialect::encode`] has announced is complete with it.
    pub is_end: bool,
}

/// Puts trips into bytes, and replies back.
pub trait Dialect: Send {
    /// Appends the trip that is next, and returns how many replies end it. `value` is what a key
    /// is set to.
    fn encode(&mut self, operation: &Operation, value: &[u8], out: &mut Vec<u8>) -> u32;

    /// Takes the first piece of the input, if it is whole.
    ///
    /// # Errors
    /// When the bytes are not of this protocol.
    fn decode(
        &mut self,
        input: &[u8],
        operation: &Operation,
        outcome: &mut Outcome,
    ) -> Result<Option<Piece>>;
}

/// What a server tells of itself while it is loaded; what it does not know is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Bytes of log ever written.
    pub wal_bytes: Option<u64>,
    /// Bytes of log from the redo point on.
    pub redo_bytes: Option<u64>,
    /// Pages that are newer in memory than on disk.
    pub dirty_pages: Option<u64>,
    /// How long recovery would take, by the server's own estimate.
    pub recovery_estimate_ms: Option<u64>,
    /// Checkpoints begun.
    pub checkpoints_started: Option<u64>,
    /// Whether one is under way.
    pub is_checkpoint_under_way: bool,
}

/// Asks a server about itself, again and again.
pub trait Watch: Send {
    /// How it is now.
    ///
    /// # Errors
    /// When the server does not answer, or not what was asked.
    fn sample(&mut self) -> Result<Sample>;
}

/// A server to be loaded.
pub trait Server: Send + Sync {
    /// Its name and version.
    ///
    /// # Errors
    /// When it does not answer.
    fn version(&self) -> Result<String>;

    /// Makes `count` keys with values cut from `values`, or accounts, in place of those with the
    /// same names, and checkpoints where the server can. `advance` is told of each that is done.
    ///
    /// # Errors
    /// What the server says.
    fn load(&self, data: Data, count: u64, values: &Values, advance: &dyn Fn(u64)) -> Result<()>;

    /// What all accounts hold together.
    ///
    /// # Errors
    /// What the server says, or which account is missing.
    fn total(&self, count: u64) -> Result<i64>;

    /// Opens a connection for the load; a session that does not wait for the disk if told so.
    ///
    /// # Errors
    /// What the server says.
    fn open(&self, is_asynchronous: bool) -> Result<Stream>;

    /// What one thread of the load needs.
    fn dialect(&self) -> Box<dyn Dialect>;

    /// What watches it.
    ///
    /// # Errors
    /// What the server says.
    fn watch(&self) -> Result<Box<dyn Watch>>;
}

/// Values to write: cuts of one text that no compression makes small.
#[derive(Clone, Debug)]
pub struct Values {
    text: Vec<u8>,
    bytes: usize,
}

/// How many different values there are.
const VALUES: usize = 4096;

impl Values {
    /// Values of so many bytes.
    pub fn new(bytes: usize, seed: u64) -> Values {
        use rand::{RngExt, SeedableRng};
        let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let text = (0..bytes + VALUES).map(|_| letters[random.random_range(0..letters.len())]);
        Values {
            text: text.collect(),
            bytes,
        }
    }

    /// One of them.
    pub fn get(&self, number: u64) -> &[u8] {
        let from = number as usize % VALUES;
        &self.text[from..from + self.bytes]
    }

    /// How long each is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

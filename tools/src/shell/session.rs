//! The connection of `rd_cli`: made when it is needed, made again when it is lost.
//!
//! Invariant: what belongs to a transaction is sent over the connection on which that began, or not at
//! all (`transaction`).

use super::transaction::{Transaction, is_begin};
use crate::probe::{Target, call};
use anyhow::{Result, anyhow, bail};
use rd_wire::client::{Client, Error, Reply};
use rd_wire::command::{self, Flags};

/// Which protocol is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, which a connection begins with.
    Resp2,
    /// RESP3.
    Resp3,
}

/// A connection and what belongs to it.
pub struct Session {
    target: Target,
    protocol: Protocol,
    /// The database that is selected.
    db: u64,
    /// The namespace that was chosen by its name, in its place.
    namespace: Option<Vec<u8>>,
    client: Option<Client>,
    transaction: Transaction,
}

impl Session {
    /// A session that is not yet connected.
    pub fn new(target: Target, protocol: Protocol, db: u64) -> Session {
        Session {
            target,
            protocol,
            db,
            namespace: None,
            client: None,
            transaction: Transaction::default(),
        }
    }

    /// What stands before the cursor.
    pub fn prompt(&self) -> String {
        if self.client.is_none() {
            return "not connected> ".to_owned();
        }
        let place = place(&self.target);
        match (&self.namespace, self.db) {
            (Some(name), _) => format!("{place}[{}]> ", name.escape_ascii()),
            (None, 0) => format!("{place}> "),
            (None, db) => format!("{place}[{db}]> "),
        }
    }

    /// Connects, unless it is.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses the protocol or the database.
    pub fn connect(&mut self) -> Result<()> {
        if self.client.is_some() {
            return Ok(());
        }
        let mut client = self
            .target
            .connect(None)
            .map_err(|error| self.unreachable(&error))?;
        if self.protocol == Protocol::Resp3 {
            greet(&mut client, &["HELLO", "3"])?;
        }
        if let Some(name) = &self.namespace {
            greet(&mut client, &[b"USE", &name[..]])?;
        } else if self.db != 0 {
            greet(&mut client, &["SELECT", &self.db.to_string()])?;
        }
        self.client = Some(client);
        Ok(())
    }

    /// Connects elsewhere.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn connect_to(&mut self, target: Target) -> Result<()> {
        self.target = target;
        self.namespace = None;
        self.client = None;
        self.transaction = Transaction::default();
        self.connect()
    }

    /// The connection itself, for those who use it in another way.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn into_client(mut self) -> Result<Client> {
        self.connect()?;
        self.client.ok_or_else(|| anyhow!("not connected"))
    }

    /// Runs a command. None if the server is gone because the command said so.
    ///
    /// A command that only reads is sent once more over a new connection if the old one broke,
    /// as it does after a restart of the server. So is one that begins a transaction, which changes
    /// nothing. One that writes is not: it may have been done. Nor is any within a transaction, which is
    /// lost with the connection; what is said of it afterwards is refused up to its end.
    ///
    /// # Errors
    /// When the server cannot be reached or the connection breaks.
    pub fn run(&mut self, words: &[Vec<u8>]) -> Result<Option<Reply>> {
        if self.transaction.refuses(words) {
            let lost = "not sent: the transaction was lost with its connection";
            match self.transaction.ends() {
                Some(ends) => bail!("{lost}; end it with {ends}"),
                None => bail!("{lost}"),
            }
        }
        let was_connected = self.client.is_some();
        self.connect_for(words)?;
        let transaction = self.transaction;
        match self.ask(words) {
            Ok(reply) => Ok(Some(reply)),
            Err(Error::Closed) if is_named(words, b"shutdown") => Ok(None),
            Err(error) if transaction.is_under_way() => {
                if transaction.is_end(words) {
                    self.transaction = Transaction::default();
                    bail!("{error}; whether the transaction was carried out is not known");
                }
                Err(anyhow!(
                    "{error}; the transaction is lost with its connection"
                ))
            }
            Err(error) if was_connected && can_repeat(words) && error.is_connection_lost() => {
                self.transaction = Transaction::default();
                self.connect_for(words)?;
                self.ask(words).map(Some).map_err(Into::into)
            }
            Err(error) if is_begin(words) => Err(anyhow!("{error}; no transaction was begun")),
            Err(error) => Err(anyhow!(
                "{error}; whether the command was done is not known"
            )),
        }
    }

    /// Connects for a command.
    fn connect_for(&mut self, words: &[Vec<u8>]) -> Result<()> {
        let connected = self.connect();
        if connected.is_err() {
            self.transaction.lose_with(words);
        }
        connected
    }

    fn ask(&mut self, words: &[Vec<u8>]) -> Result<Reply, Error> {
        let Some(client) = &mut self.client else {
            return Err(Error::Closed);
        };
        let reply = call(client, words);
        match &reply {
            Ok(reply) => self.follow(words, reply),
            Err(_) => {
                self.client = None;
                self.transaction.lose_with(words);
            }
        }
        if is_named(words, b"quit") {
            self.client = None;
        }
        if self.client.is_none() {
            self.transaction.lose();
        }
        reply
    }

    /// Keeps what a command changed of the connection, so that the next one gets it too.
    fn follow(&mut self, words: &[Vec<u8>], reply: &Reply) {
        self.transaction.follow(words, reply);
        if reply.error().is_some() {
            return;
        }
        let number = |index: usize| {
            let word = words.get(index)?;
            std::str::from_utf8(word).ok()?.parse::<u64>().ok()
        };
        if is_named(words, b"select") {
            self.db = number(1).unwrap_or(self.db);
            self.namespace = None;
        } else if is_named(words, b"use") {
            self.namespace = words.get(1).cloned();
        } else if is_named(words, b"reset") {
            (self.db, self.namespace, self.protocol) = (0, None, Protocol::Resp2);
        } else if is_named(words, b"hello") {
            match number(1) {
                Some(2) => self.protocol = Protocol::Resp2,
                Some(3) => self.protocol = Protocol::Resp3,
                _ => {}
            }
        }
    }

    /// Messages that came between replies.
    pub fn take_pushes(&mut self) -> Vec<Reply> {
        let client = self.client.iter_mut();
        client
            .flat_map(|client| std::iter::from_fn(|| client.take_push()))
            .map(Reply::Push)
            .collect()
    }

    fn unreachable(&self, error: &Error) -> anyhow::Error {
        let why = match error {
            Error::Connect { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        let place = place(&self.target);
        anyhow!("Could not connect to Redoubt at {place}: {why}")
    }
}

fn greet<T: AsRef<[u8]>>(client: &mut Client, words: &[T]) -> Result<()> {
    match call(client, words)? {
        Reply::Error(text) => {
            let words = words
                .iter()
                .map(|word| word.as_ref().escape_ascii().to_string());
            let command: Vec<String> = words.collect();
            Err(anyhow!("{} failed: {text}", command.join(" ")))
        }
        _ => Ok(()),
    }
}

/// A target in words: `127.0.0.1:7432`, or the path of a socket.
pub fn place(target: &Target) -> String {
    match target {
        Target::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        Target::Tcp(host, port) => format!("{host}:{port}"),
        Target::Unix(path) => path.display().to_string(),
    }
}

fn is_named(words: &[Vec<u8>], name: &[u8]) -> bool {
    words
        .first()
        .is_some_and(|word| word.eq_ignore_ascii_case(name))
}

fn can_repeat(words: &[Vec<u8>]) -> bool {
    if is_begin(words) {
        return true;
    }
    let row = words.first().and_then(|name| command::lookup(name));
    row.is_some_and(|row| row.flags.contains(Flags::READONLY))
}

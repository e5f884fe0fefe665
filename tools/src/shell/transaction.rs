//! What of a transaction is under way on a connection, as far as its commands and their replies tell:
//! so much is lost with the connection.
//!
//! Invariant: once it is lost, everything up to the command that was to end it is refused, as a server
//! does with a transaction that it has ended. Over a new connection it would be carried out by itself.

use rd_wire::Reply;

/// Errors of a command that was not understood, and so has ended nothing.
const NOT_UNDERSTOOD: [&str; 2] = ["ERR wrong number of arguments", "ERR syntax error"];

/// How a transaction was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Ends with EXEC or DISCARD.
    Multi,
    /// Ends with COMMIT or ROLLBACK.
    Begin,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    watches: bool,
    begun: Option<Begun>,
    is_lost: bool,
}

impl Transaction {
    /// Whether a lost connection takes something along.
    pub fn is_under_way(self) -> bool {
        self.watches || self.begun.is_some()
    }

    /// Takes in a command that was answered.
    pub fn follow(&mut self, words: &[Vec<u8>], reply: &Reply) {
        let name = name(words);
        let ends = match reply.error() {
            Some(error) => !NOT_UNDERSTOOD.iter().any(|text| error.starts_with(text)),
            None => true,
        };
        // Refused or not: what was typed behind it is meant for it.
        self.begin(words);
        match (name.as_str(), self.begun) {
            ("unwatch", None) => self.watches = false,
            ("exec" | "discard", Some(Begun::Multi)) if ends => *self = Transaction::default(),
            ("commit", Some(Begun::Begin)) if ends => self.begun = None,
            // ROLLBACK TO goes back within it.
            ("rollback", Some(Begun::Begin)) if ends && words.len() == 1 => self.begun = None,
            ("reset", _) if reply.error().is_none() => *self = Transaction::default(),
            _ => {}
        }
    }

    /// Takes in a command that may have begun one.
    fn begin(&mut self, words: &[Vec<u8>]) {
        match (name(words).as_str(), self.begun) {
            (_, Some(_)) => {}
            ("watch", None) => self.watches = true,
            (_, None) => self.begun = begun_by(words),
        }
    }

    /// A command was not answered, and the connection is gone: what is typed behind one that begins a
    /// transaction is meant for it all the same.
    pub fn lose_with(&mut self, words: &[Vec<u8>]) {
        self.begin(words);
        self.lose();
    }

    /// The connection is gone.
    pub fn lose(&mut self) {
        self.is_lost = self.is_under_way();
    }

    /// Whether a command is to be refused because the transaction that it belongs to is lost. The one
    /// that was to end it is the last that is. Whoever begins it once more need not end it.
    pub fn refuses(&mut self, words: &[Vec<u8>]) -> bool {
        let was_lost = self.is_lost;
        let is_same = begun_by(words).is_some_and(|begun| self.begun == Some(begun));
        if was_lost && is_same && !self.watches {
            *self = Transaction::default();
            return false;
        }
        if was_lost && self.is_end(words) {
            *self = Transaction::default();
        }
        was_lost
    }

    /// The commands that end it, in words; none if there is none.
    pub fn ends(self) -> Option<&'static str> {
        match (self.begun, self.watches) {
            (Some(Begun::Begin), _) => Some("ROLLBACK or RESET"),
            (Some(Begun::Multi), _) => Some("DISCARD or RESET"),
            (None, true) => Some("UNWATCH or RESET"),
            (None, false) => None,
        }
    }

    /// Whether it is over with this command, carried out or not.
    pub fn is_end(self, words: &[Vec<u8>]) -> bool {
        match name(words).as_str() {
            "exec" | "discard" => self.begun != Some(Begun::Begin),
            "commit" => self.begun == Some(Begun::Begin),
            "rollback" => self.begun == Some(Begun::Begin) && words.len() == 1,
            "unwatch" => self.begun.is_none(),
            "reset" => true,
            _ => false,
        }
    }
}

/// Whether a command begins a transaction, or what belongs to one.
pub fn is_begin(words: &[Vec<u8>]) -> bool {
    begun_by(words).is_some() || name(words) == "watch"
}

fn begun_by(words: &[Vec<u8>]) -> Option<Begun> {
    match name(words).as_str() {
        "multi" => Some(Begun::Multi),
        "begin" => Some(Begun::Begin),
        _ => None,
    }
}

fn name(words: &[Vec<u8>]) -> String {
    let name = words.first().map(Vec::as_slice).unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        let words = line.split(' ');
        words.map(|word| word.as_bytes().to_vec()).collect()
    }

    /// The state after lines of `command` or `command: error`.
    fn after(lines: &[&str]) -> Transaction {
        let mut transaction = Transaction::default();
        for line in lines {
            let (command, reply) = match line.split_once(": ") {
                Some((command, error)) => (command, Reply::Error(error.into())),
                None => (*line, Reply::Simple("OK".into())),
            };
            transaction.follow(&words(command), &reply);
        }
        transaction
    }

    #[test]
    fn a_transaction_is_under_way_until_what_began_it_is_ended() {
        for (lines, is_under_way) in [
            (&["GET k", "SET k v"][..], false),
            (&["BEGIN"], true),
            (&["begin read only: ERR syntax error"], true),
            (&["BEGIN", "COMMIT"], false),
            (&["BEGIN", "COMMIT: CONFLICT x"], false),
            (&["BEGIN", "COMMIT now: ERR syntax error"], true),
            (&["BEGIN", "ROLLBACK TO s"], true),
            (&["BEGIN", "ROLLBACK"], false),
            (&["BEGIN", "EXEC: ERR EXEC without MULTI"], true),
            (&["MULTI", "GET k", "EXEC"], false),
            (&["MULTI", "NONE: ERR unknown", "EXEC: EXECABORT x"], false),
            (&["MULTI", "COMMIT: ERR not in MULTI"], true),
            (&["WATCH k"], true),
            (&["WATCH k", "UNWATCH"], false),
            (&["WATCH k", "MULTI", "UNWATCH"], true),
            (&["WATCH k", "MULTI", "DISCARD"], false),
            (&["WATCH k", "BEGIN", "COMMIT"], true),
            (&["WATCH k", "MULTI", "RESET"], false),
        ] {
            let transaction = after(lines);
            assert_eq!(transaction.is_under_way(), is_under_way, "{lines:?}");
        }
    }

    #[test]
    fn what_belongs_to_a_lost_one_is_refused_to_its_end() {
        for (lines, within, end) in [
            (&["BEGIN"][..], &["SET k v", "ROLLBACK TO s"][..], "COMMIT"),
            (&["BEGIN"], &["EXEC"], "ROLLBACK"),
            (&["MULTI"], &["GET k", "COMMIT", "UNWATCH"], "EXEC"),
            (&["WATCH k"], &["GET k", "MULTI"], "EXEC"),
            (&["WATCH k"], &["GET k"], "UNWATCH"),
            (&["MULTI"], &[], "RESET"),
        ] {
            let mut transaction = after(lines);
            transaction.lose();
            for line in within.iter().chain([&end]) {
                assert!(transaction.refuses(&words(line)), "{lines:?} {line}");
            }
            assert!(!transaction.refuses(&words("GET k")), "{lines:?}");
        }
        for (line, end) in [
            ("BEGIN", "ROLLBACK"),
            ("MULTI", "DISCARD"),
            ("WATCH k", "UNWATCH"),
        ] {
            let mut unanswered = Transaction::default();
            unanswered.lose_with(&words(line));
            assert!(unanswered.refuses(&words("SET k v")), "{line}");
            let ends = unanswered.ends().expect("it is under way");
            assert!(ends.starts_with(end), "{line}: {ends}");
            assert!(unanswered.refuses(&words(end)), "{line}");
            assert_eq!(unanswered, Transaction::default(), "{line}");
        }
        let mut anew = after(&["MULTI"]);
        anew.lose();
        assert!(anew.refuses(&words("BEGIN")));
        assert!(!anew.refuses(&words("MULTI")));
        let mut none = after(&["BEGIN", "COMMIT"]);
        none.lose();
        assert!(!none.refuses(&words("GET k")));
    }
}

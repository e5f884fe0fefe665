//! The table of commands: what each is called, how many arguments it takes, which of them are
//! keys, what it may do to data, and what it is for. Handlers are the backend's; they hang on
//! [`CommandId`], which lists exactly the commands that can be called.
//!
//! `table.rs` declares, `resolve.rs` finds the command of a request, `info.rs` answers
//! `COMMAND`, `help.rs` makes text for people and the document `docs/commands.md`.
//!
//! A row without `|` in its name is a command, one with (`config|get`) a subcommand. A container
//! (`config`) cannot be called by itself, so it has no [`CommandId`].

mod build;
mod foreign;
mod help;
mod info;
mod resolve;
mod table;

pub use help::{command_document, synopsis, write_help};
pub use info::{
    write_command_count, write_command_docs, write_command_getkeys, write_command_getkeysandflags,
    write_command_info, write_command_list,
};
pub use resolve::{ResolveError, Resolved, keys, lookup, resolve};
pub use table::{CommandId, all, commands, name_of};

/// What a command may do and when it may run; the words are Redis's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Flags = Flags(0);
    /// May change data.
    pub const WRITE: Flags = Flags(1);
    /// Reads data and never changes it.
    pub const READONLY: Flags = Flags(1 << 1);
    /// May make data larger, so that it is refused when memory or disk is out.
    pub const DENYOOM: Flags = Flags(1 << 2);
    /// Administers the server.
    pub const ADMIN: Flags = Flags(1 << 3);
    /// Not from a script.
    pub const NOSCRIPT: Flags = Flags(1 << 4);
    /// Runs while the server is still loading.
    pub const LOADING: Flags = Flags(1 << 5);
    /// Runs on a replica with old data.
    pub const STALE: Flags = Flags(1 << 6);
    /// Takes time that does not grow with the data.
    pub const FAST: Flags = Flags(1 << 7);
    /// Runs before the client has authenticated.
    pub const NO_AUTH: Flags = Flags(1 << 8);
    /// Not while data is loaded in the background.
    pub const NO_ASYNC_LOADING: Flags = Flags(1 << 9);
    /// Not within a transaction.
    pub const NO_MULTI: Flags = Flags(1 << 10);
    /// Runs while a script holds the server.
    pub const ALLOW_BUSY: Flags = Flags(1 << 11);

    /// Not in the log of slow commands by itself.
    pub const SKIP_SLOWLOG: Flags = Flags(1 << 12);

    /// The words, in the order in which `COMMAND` shows them.
    const WORDS: [(Flags, &'static str); 13] = [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::DENYOOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::NOSCRIPT, "noscript"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::SKIP_SLOWLOG, "skip_slowlog"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::NO_ASYNC_LOADING, "no_async_loading"),
        (Flags::NO_MULTI, "no_multi"),
        (Flags::ALLOW_BUSY, "allow_busy"),
    ];

    /// These and `other` together.
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Their words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS
            .into_iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, word)| word)
    }
}

/// The shelf on which documentation puts a command, as Redis names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// About the connection.
    Connection,
    /// About keys, whatever their values.
    Generic,
    /// About the server.
    Server,
    /// About strings.
    String,
    /// About several commands as one.
    Transactions,
    /// About the bits of strings.
    Bitmap,
}

impl Group {
    /// All, in the order of the document.
    pub const ALL: [Group; 6] = [
        Group::String,
        Group::Bitmap,
        Group::Generic,
        Group::Transactions,
        Group::Connection,
        Group::Server,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Connection => "connection",
            Group::Generic => "generic",
            Group::Server => "server",
            Group::String => "string",
            Group::Transactions => "transactions",
            Group::Bitmap => "bitmap",
        }
    }
}

/// Which arguments are keys, and what is done to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Index of the first key; the command's name has index 0.
    pub first: usize,
    /// The last one, counted from the first; negative: from the end of the arguments, -1 being
    /// the last.
    pub last: i32,
    /// From one key to the next.
    pub step: usize,
    /// What is done to the keys, in Redis's words (`RO`, `access`, …).
    pub access: &'static [&'static str],
}

/// The kind of an argument, as `COMMAND DOCS` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgKind {
    /// A key.
    Key,
    /// Any bytes.
    Text,
    /// A pattern with `*` and `?`.
    Pattern,
    /// A whole number.
    Integer,
    /// A number with decimals.
    Double,
    /// Nothing but its token.
    Token,
    /// One of those below it.
    OneOf,
    /// All of those below it, in order.
    Block,
}

impl ArgKind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            ArgKind::Key => "key",
            ArgKind::Text => "string",
            ArgKind::Pattern => "pattern",
            ArgKind::Integer => "integer",
            ArgKind::Double => "double",
            ArgKind::Token => "pure-token",
            ArgKind::OneOf => "oneof",
            ArgKind::Block => "block",
        }
    }
}

/// An argument in a command's synopsis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What it is called.
    pub name: &'static str,
    /// Its kind.
    pub kind: ArgKind,
    /// The word before it, or which it is.
    pub token: Option<&'static str>,
    /// May be left out.
    pub optional: bool,
    /// May come several times.
    pub multiple: bool,
    /// For a key: which of the command's key specs it belongs to.
    pub key_spec: u8,
    /// Those within it, for [`ArgKind::OneOf`] and [`ArgKind::Block`].
    pub args: &'static [Arg],
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Small letters; `container|subcommand` for a subcommand.
    pub name: &'static str,
    /// Arguments, the name included (two words of name for a subcommand); negative: at least
    /// so many.
    pub arity: i32,
    /// What it may do and when.
    pub flags: Flags,
    /// Its keys.
    pub keys: &'static [KeySpec],
    /// Its shelf.
    pub group: Group,
    /// Classes for access control, beside those which flags imply, without `@`.
    pub categories: &'static [&'static str],
    /// The version of Redoubt that brought it.
    pub since: &'static str,
    /// How long it takes.
    pub complexity: &'static str,
    /// What it does, in a sentence without a full stop.
    pub summary: &'static str,
    /// Its arguments, behind the name.
    pub args: &'static [Arg],
    /// What clients of a cluster may like to know.
    pub tips: &'static [&'static str],
}

impl Command {
    /// Whether `count` arguments, the name included, are as many as it takes.
    #[inline]
    pub const fn takes(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            count >= wanted
        } else {
            count == wanted
        }
    }

    /// The container's name and the own one of a subcommand.
    pub fn parts(&self) -> Option<(&'static str, &'static str)> {
        self.name.split_once('|')
    }

    /// Its subcommands, if it has any.
    pub fn subcommands(&self) -> impl Iterator<Item = &'static Command> + Clone + use<> {
        let name = self.name;
        all().filter(move |row| row.parts().is_some_and(|(container, _)| container == name))
    }
}

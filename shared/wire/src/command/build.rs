//! What the rows of `table.rs` are put together from.

use super::{Arg, ArgKind, Command, Flags, Group, KeySpec};

/// The first version.
const V0_1: &str = "0.1.0";

pub(super) const ADMIN: Flags = Flags::ADMIN
    .and(Flags::NOSCRIPT)
    .and(Flags::LOADING)
    .and(Flags::STALE);
pub(super) const ANYTIME: Flags = Flags::LOADING.and(Flags::STALE);
pub(super) const SESSION: Flags = Flags::NOSCRIPT
    .and(ANYTIME)
    .and(Flags::FAST)
    .and(Flags::NO_AUTH)
    .and(Flags::ALLOW_BUSY);
/// Commands about the transaction of several commands that the connection is in.
pub(super) const TRANSACTION: Flags = Flags::NOSCRIPT.and(ANYTIME).and(Flags::ALLOW_BUSY);
pub(super) const READ_FAST: Flags = Flags::READONLY.and(Flags::FAST);
pub(super) const WRITE_FAST: Flags = Flags::WRITE.and(Flags::FAST);
pub(super) const GROW: Flags = Flags::WRITE.and(Flags::DENYOOM);
pub(super) const GROW_FAST: Flags = GROW.and(Flags::FAST);

pub(super) const ALL_SHARDS_SUM: &[&str] =
    &["request_policy:all_shards", "response_policy:agg_sum"];
pub(super) const ALL_SHARDS_OK: &[&str] =
    &["request_policy:all_shards", "response_policy:all_succeeded"];
pub(super) const MULTI_SHARD_SUM: &[&str] =
    &["request_policy:multi_shard", "response_policy:agg_sum"];

/// One key, the first argument, of which `access` tells what is done to it.
pub(super) const fn key(access: &'static [&'static str]) -> KeySpec {
    key_at(1, access)
}

/// One key at `first`.
pub(super) const fn key_at(first: usize, access: &'static [&'static str]) -> KeySpec {
    KeySpec {
        first,
        last: 0,
        step: 1,
        access,
    }
}

/// Keys from `first` on, and `more` behind it.
pub(super) const fn keys_between(
    first: usize,
    more: i32,
    access: &'static [&'static str],
) -> KeySpec {
    KeySpec {
        first,
        last: more,
        step: 1,
        access,
    }
}

/// Keys from `first` to the end, every `step` arguments.
pub(super) const fn keys_from(
    first: usize,
    step: usize,
    access: &'static [&'static str],
) -> KeySpec {
    KeySpec {
        first,
        last: -1,
        step,
        access,
    }
}

pub(super) const fn row(
    name: &'static str,
    arity: i32,
    group: Group,
    summary: &'static str,
) -> Command {
    Command {
        name,
        arity,
        flags: Flags::NONE,
        keys: &[],
        group,
        categories: match group {
            Group::Connection => &["connection"],
            Group::String => &["string"],
            Group::Bitmap => &["bitmap"],
            Group::Generic => &["keyspace"],
            Group::Server => &[],
            Group::Transactions => &["transaction"],
        },
        since: V0_1,
        complexity: "O(1)",
        summary,
        args: &[],
        tips: &[],
    }
}

impl Command {
    pub(super) const fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    pub(super) const fn keys(mut self, keys: &'static [KeySpec]) -> Self {
        self.keys = keys;
        self
    }

    pub(super) const fn categories(mut self, categories: &'static [&'static str]) -> Self {
        self.categories = categories;
        self
    }

    pub(super) const fn complexity(mut self, complexity: &'static str) -> Self {
        self.complexity = complexity;
        self
    }

    pub(super) const fn args(mut self, args: &'static [Arg]) -> Self {
        self.args = args;
        self
    }

    pub(super) const fn tips(mut self, tips: &'static [&'static str]) -> Self {
        self.tips = tips;
        self
    }
}

pub(super) const fn arg(name: &'static str, kind: ArgKind) -> Arg {
    Arg {
        name,
        kind,
        token: None,
        optional: false,
        multiple: false,
        key_spec: 0,
        args: &[],
    }
}

pub(super) const fn text(name: &'static str) -> Arg {
    arg(name, ArgKind::Text)
}

pub(super) const fn integer(name: &'static str) -> Arg {
    arg(name, ArgKind::Integer)
}

pub(super) const fn token(name: &'static str, word: &'static str) -> Arg {
    arg(name, ArgKind::Token).after(word)
}

pub(super) const fn one_of(name: &'static str, args: &'static [Arg]) -> Arg {
    Arg {
        args,
        ..arg(name, ArgKind::OneOf)
    }
}

pub(super) const fn block(name: &'static str, args: &'static [Arg]) -> Arg {
    Arg {
        args,
        ..arg(name, ArgKind::Block)
    }
}

impl Arg {
    pub(super) const fn after(mut self, word: &'static str) -> Self {
        self.token = Some(word);
        self
    }

    pub(super) const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    pub(super) const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    pub(super) const fn of_spec(mut self, index: u8) -> Self {
        self.key_spec = index;
        self
    }
}

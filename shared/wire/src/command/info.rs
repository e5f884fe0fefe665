//! The replies of `COMMAND` and its subcommands, in Redis 7.2's shapes.

use super::resolve::{keys_of, lookup_full};
use super::{Arg, ArgKind, Command, Flags, KeySpec, all, commands, keys, resolve};
use crate::command::ResolveError;
use crate::num::is_word;
use crate::reply::ReplyWriter;
use crate::request::Args;
use crate::texts;
use rd_base::glob;

/// Access control classes in the order in which Redis shows them.
const CATEGORIES: [&str; 12] = [
    "keyspace",
    "read",
    "write",
    "string",
    "bitmap",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
];

/// `COMMAND COUNT`.
pub fn write_command_count(reply: &mut ReplyWriter<'_>) {
    reply.integer(i64::try_from(commands().count()).unwrap_or(i64::MAX));
}

/// `COMMAND`, and `COMMAND INFO` with the names that follow it in `names` (none: all).
pub fn write_command_info(reply: &mut ReplyWriter<'_>, names: Args<'_>) {
    if names.is_empty() {
        reply.array(commands().count());
        commands().for_each(|command| write_info(reply, command));
        return;
    }
    reply.array(names.len());
    for name in names.iter() {
        match lookup_full(name) {
            Some(command) => write_info(reply, command),
            None => reply.null(),
        }
    }
}

fn write_info(reply: &mut ReplyWriter<'_>, command: &Command) {
    let (first, last, step) = legacy_range(command.keys);
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    write_words(reply, command.flags.words());
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    let categories = CATEGORIES
        .iter()
        .filter(|category| in_category(command, category));
    reply.set(categories.clone().count());
    for category in categories {
        reply.simple(&format!("@{category}"));
    }
    reply.set(command.tips.len());
    command
        .tips
        .iter()
        .for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(command.keys.len());
    command
        .keys
        .iter()
        .for_each(|spec| write_key_spec(reply, spec));
    reply.array(command.subcommands().count());
    command.subcommands().for_each(|sub| write_info(reply, sub));
}

/// First key, last key and step, as clients knew them before there were key specs; zeros if there
/// are no keys. Our specs of one command always follow each other.
fn legacy_range(specs: &[KeySpec]) -> (i64, i64, i64) {
    let (Some(first), Some(last)) = (specs.first(), specs.last()) else {
        return (0, 0, 0);
    };
    let last_key = if last.last < 0 {
        i64::from(last.last)
    } else {
        small(last.first).saturating_add(i64::from(last.last))
    };
    (small(first.first), last_key, small(first.step))
}

/// An index into arguments as a reply.
fn small(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn write_words(reply: &mut ReplyWriter<'_>, words: impl Iterator<Item = &'static str>) {
    let words: Vec<_> = words.collect();
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

/// Whether the command is in an access control class: by its row, or by what its flags imply.
fn in_category(command: &Command, category: &str) -> bool {
    let flags = command.flags;
    command.categories.contains(&category)
        || match category {
            "read" => flags.contains(Flags::READONLY),
            "write" => flags.contains(Flags::WRITE),
            "admin" | "dangerous" => flags.contains(Flags::ADMIN),
            "fast" => flags.contains(Flags::FAST),
            "slow" => !flags.contains(Flags::FAST),
            _ => false,
        }
}

fn write_key_spec(reply: &mut ReplyWriter<'_>, spec: &KeySpec) {
    reply.map(3);
    reply.bulk(b"flags");
    write_words(reply, spec.access.iter().copied());
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    reply.bulk(b"index");
    reply.integer(small(spec.first));
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"range");
    reply.bulk(b"spec");
    reply.map(3);
    reply.bulk(b"lastkey");
    // Counted from the first key; negative from the end of the arguments.
    reply.integer(i64::from(spec.last));
    reply.bulk(b"keystep");
    reply.integer(small(spec.step));
    reply.bulk(b"limit");
    reply.integer(0);
}

/// `COMMAND DOCS` with the names that follow it in `names` (none: all). Unknown ones are left
/// out, as in Redis.
pub fn write_command_docs(reply: &mut ReplyWriter<'_>, names: Args<'_>) {
    let rows: Vec<&Command> = if names.is_empty() {
        commands().collect()
    } else {
        names.iter().filter_map(lookup_full).collect()
    };
    reply.map(rows.len());
    rows.into_iter()
        .for_each(|command| write_docs(reply, command));
}

fn write_docs(reply: &mut ReplyWriter<'_>, command: &Command) {
    let subcommands = command.subcommands().count();
    let fields = [
        true,
        true,
        true,
        true,
        !command.args.is_empty(),
        subcommands > 0,
    ];
    reply.bulk(command.name.as_bytes());
    reply.map(fields.iter().filter(|there| **there).count());
    for (field, text) in [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group.name()),
        ("complexity", command.complexity),
    ] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !command.args.is_empty() {
        reply.bulk(b"arguments");
        write_args(reply, command, command.args);
    }
    if subcommands > 0 {
        reply.bulk(b"subcommands");
        reply.map(subcommands);
        command.subcommands().for_each(|sub| write_docs(reply, sub));
    }
}

fn write_args(reply: &mut ReplyWriter<'_>, command: &Command, args: &[Arg]) {
    reply.array(args.len());
    for arg in args {
        let is_key = arg.kind == ArgKind::Key && !command.keys.is_empty();
        let composed = matches!(arg.kind, ArgKind::OneOf | ArgKind::Block);
        let displayed = !composed && arg.kind != ArgKind::Token;
        let flags = [(arg.optional, "optional"), (arg.multiple, "multiple")];
        let flagged = arg.optional || arg.multiple;
        let fields = [
            true,
            true,
            displayed,
            is_key,
            arg.token.is_some(),
            flagged,
            composed,
        ];
        reply.map(fields.iter().filter(|there| **there).count());
        write_pair(reply, "name", arg.name);
        write_pair(reply, "type", arg.kind.name());
        if displayed {
            write_pair(reply, "display_text", arg.name);
        }
        if is_key {
            reply.bulk(b"key_spec_index");
            reply.integer(i64::from(arg.key_spec));
        }
        if let Some(token) = arg.token {
            write_pair(reply, "token", token);
        }
        if flagged {
            reply.bulk(b"flags");
            write_words(
                reply,
                flags
                    .iter()
                    .filter(|(there, _)| *there)
                    .map(|(_, word)| *word),
            );
        }
        if composed {
            reply.bulk(b"arguments");
            write_args(reply, command, arg.args);
        }
    }
}

fn write_pair(reply: &mut ReplyWriter<'_>, field: &str, text: &str) {
    reply.bulk(field.as_bytes());
    reply.bulk(text.as_bytes());
}

/// `COMMAND LIST`, with the options that follow it in `options`.
pub fn write_command_list(reply: &mut ReplyWriter<'_>, options: Args<'_>) {
    let fits: Box<dyn Fn(&Command) -> bool + '_> = match (options.len(), options.get(2)) {
        (0, _) => Box::new(|_| true),
        (3, Some(wanted)) if is_word(options.arg(0), "filterby") => match options.arg(1) {
            // There are no modules.
            kind if is_word(kind, "module") => Box::new(|_| false),
            kind if is_word(kind, "aclcat") => Box::new(move |command| {
                CATEGORIES
                    .iter()
                    .any(|category| is_word(wanted, category) && in_category(command, category))
            }),
            kind if is_word(kind, "pattern") => {
                Box::new(move |command| glob::matches(wanted, command.name.as_bytes(), true))
            }
            _ => return reply.error(texts::SYNTAX),
        },
        _ => return reply.error(texts::SYNTAX),
    };
    let rows: Vec<_> = all().filter(|command| fits(command)).collect();
    reply.set(rows.len());
    rows.iter()
        .for_each(|command| reply.bulk(command.name.as_bytes()));
}

/// The row of the command in `request`, whose keys are asked for, or the error to reply.
fn command_with_keys(request: Args<'_>) -> Result<&'static Command, &'static str> {
    let command = match resolve(request) {
        Ok(resolved) => resolved.command,
        Err(ResolveError::Arity(command)) if !command.keys.is_empty() => {
            return Err("ERR Invalid number of arguments specified for command");
        }
        Err(ResolveError::Arity(command)) => command,
        Err(_) => return Err("ERR Invalid command specified"),
    };
    if command.keys.is_empty() {
        return Err("ERR The command has no key arguments");
    }
    Ok(command)
}

/// `COMMAND GETKEYS`, with the command in question in `request`.
pub fn write_command_getkeys(reply: &mut ReplyWriter<'_>, request: Args<'_>) {
    let command = match command_with_keys(request) {
        Ok(command) => command,
        Err(error) => return reply.error(error),
    };
    let found: Vec<_> = keys(command, request).collect();
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
}

/// `COMMAND GETKEYSANDFLAGS`, with the command in question in `request`.
pub fn write_command_getkeysandflags(reply: &mut ReplyWriter<'_>, request: Args<'_>) {
    let command = match command_with_keys(request) {
        Ok(command) => command,
        Err(error) => return reply.error(error),
    };
    let found: Vec<_> = command
        .keys
        .iter()
        .flat_map(|spec| {
            let access = access_of(command, spec, request);
            keys_of(spec, request).map(move |key| (key, access))
        })
        .collect();
    reply.array(found.len());
    for (key, access) in found {
        reply.array(2);
        reply.bulk(key);
        write_words(reply, access.iter().copied());
    }
}

/// What a request does to the keys of a spec: for some commands that depends on its arguments.
fn access_of(command: &Command, spec: &KeySpec, request: Args<'_>) -> &'static [&'static str] {
    let has = |word: &str| request.iter().skip(3).any(|arg| is_word(arg, word));
    match command.name {
        "set" if !has("GET") => &["OW", "update"],
        "set" => &["RW", "access", "update"],
        "bitfield" => {
            let writes = request
                .iter()
                .skip(2)
                .any(|arg| is_word(arg, "SET") || is_word(arg, "INCRBY"));
            if writes {
                &["RW", "access", "update"]
            } else {
                &["RO", "access"]
            }
        }
        _ => spec.access,
    }
}

//! From the words of a request to its row, or to Redis's error.

use super::table::{CALLABLE, CONTAINERS, IDS};
use super::{Command, CommandId, KeySpec, foreign};
use crate::request::Args;

/// Slots of the table by name; a power of two, at most a third of them in use.
const SLOTS: usize = 1024;
/// A slot that no name has.
const FREE: u8 = u8::MAX;
/// Longest name of a command; a longer word need not be looked up.
const NAME_BYTES_MAX: usize = 32;
/// Bytes of a client's words that an error quotes, as in Redis.
const QUOTED_BYTES_MAX: usize = 128;

const _: () = assert!(CALLABLE.len() + CONTAINERS.len() < FREE as usize);
const _: () = assert!((CALLABLE.len() + CONTAINERS.len()) * 3 < SLOTS);

/// The rows of commands and containers by [`hash`] of their name, with open addressing: the
/// index of the row in `CALLABLE` with `CONTAINERS` behind it.
static BY_NAME: [u8; SLOTS] = {
    let mut slots = [FREE; SLOTS];
    let mut index = 0;
    #[allow(clippy::indexing_slicing, reason = "evaluated when compiled")]
    while index < CALLABLE.len() + CONTAINERS.len() {
        let row = if index < CALLABLE.len() {
            &CALLABLE[index]
        } else {
            &CONTAINERS[index - CALLABLE.len()]
        };
        let name = row.name.as_bytes();
        assert!(name.len() <= NAME_BYTES_MAX);
        if !is_subcommand(name) {
            let mut slot = hash(name);
            while slots[slot] != FREE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8;
        }
        index += 1;
    }
    slots
};

const fn is_subcommand(name: &[u8]) -> bool {
    let mut rest = name;
    while let [byte, behind @ ..] = rest {
        if *byte == b'|' {
            return true;
        }
        rest = behind;
    }
    false
}

/// Of length, first, second and last byte, letter case aside. Any function does; this one leaves
/// few collisions among the names there are.
#[inline]
const fn hash(name: &[u8]) -> usize {
    // Setting this bit makes ASCII letters small; other bytes only collide.
    const SMALL: usize = 0x20;
    match name {
        [first, second, .., last] => {
            let (first, second) = (*first as usize | SMALL, *second as usize | SMALL);
            let last = *last as usize | SMALL;
            let mixed = first
                .wrapping_mul(7)
                .wrapping_add(second.wrapping_mul(31))
                .wrapping_add(last.wrapping_mul(3))
                .wrapping_add(name.len().wrapping_mul(57));
            mixed % SLOTS
        }
        _ => 0,
    }
}

/// The command or container of this name, letter case aside.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    lookup_index(name).map(|(_, row)| row)
}

#[inline]
fn lookup_index(name: &[u8]) -> Option<(usize, &'static Command)> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut slot = hash(name);
    loop {
        let index = usize::from(*BY_NAME.get(slot)?);
        let row = match CALLABLE.get(index) {
            Some(row) => row,
            // `FREE` is beyond both.
            None => CONTAINERS.get(index.checked_sub(CALLABLE.len())?)?,
        };
        if row.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some((index, row));
        }
        slot = slot.wrapping_add(1) % SLOTS;
    }
}

/// The row and id of a subcommand of `container`, letter case aside.
fn lookup_subcommand(container: &Command, name: &[u8]) -> Option<(CommandId, &'static Command)> {
    IDS.iter().zip(CALLABLE).find_map(|(&id, row)| {
        let (parent, own) = row.parts()?;
        let same = parent == container.name && own.as_bytes().eq_ignore_ascii_case(name);
        same.then_some((id, row))
    })
}

/// The row of a name in one word, as COMMAND INFO takes it: `get`, `config`, `config|get`.
pub(super) fn lookup_full(name: &[u8]) -> Option<&'static Command> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let row = lookup(parts.next()?)?;
    match parts.next() {
        None => Some(row),
        Some(own) => lookup_subcommand(row, own).map(|(_, row)| row),
    }
}

/// The row of a request's first word or two.
fn lookup_request(args: Args<'_>) -> Option<(Option<CommandId>, &'static Command)> {
    let (index, row) = lookup_index(args.name())?;
    let container = CALLABLE.len() <= index || matches!(IDS.get(index), Some(CommandId::Command));
    match args.get(1) {
        Some(own) if container => lookup_subcommand(row, own).map(|(id, row)| (Some(id), row)),
        _ => Some((IDS.get(index).copied(), row)),
    }
}

/// A request's command, its arguments counted.
#[derive(Clone, Copy, Debug)]
pub struct Resolved {
    /// Which.
    pub id: CommandId,
    /// Its row.
    pub command: &'static Command,
}

/// Why a request has no command. [`ResolveError::reply`] is the error to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No command of this name.
    UnknownCommand(Vec<u8>),
    /// The container has no subcommand of this name.
    UnknownSubcommand(Vec<u8>),
    /// Too few or too many arguments.
    Arity(&'static Command),
}

impl ResolveError {
    /// The error reply, code word included, for [`crate::ReplyWriter::error_bytes`], which takes
    /// care of line ends that the client put in its words.
    pub fn reply(self) -> Vec<u8> {
        match self {
            ResolveError::UnknownCommand(text) | ResolveError::UnknownSubcommand(text) => text,
            ResolveError::Arity(command) => arity_error(command).into_bytes(),
        }
    }
}

/// The reply to a wrong number of arguments, also for what arity cannot say (MSET's odd one).
pub(super) fn arity_error(command: &Command) -> String {
    format!(
        "ERR wrong number of arguments for '{}' command",
        command.name
    )
}

/// Finds the command of a request and checks its arity.
#[inline]
pub fn resolve(args: Args<'_>) -> Result<Resolved, ResolveError> {
    let Some((id, command)) = lookup_request(args) else {
        return Err(unknown(args));
    };
    match id {
        Some(id) if command.takes(args.len()) => Ok(Resolved { id, command }),
        // A container alone is always short of arguments.
        _ => Err(ResolveError::Arity(command)),
    }
}

#[cold]
fn unknown(args: Args<'_>) -> ResolveError {
    let name = quoted(args.name(), QUOTED_BYTES_MAX);
    if lookup(args.name()).is_some() {
        let mut text = b"ERR unknown subcommand '".to_vec();
        text.extend_from_slice(quoted(args.get(1).unwrap_or(&[]), QUOTED_BYTES_MAX));
        text.extend_from_slice(b"'. Try ");
        text.extend(name.to_ascii_uppercase());
        text.extend_from_slice(b" HELP.");
        return ResolveError::UnknownSubcommand(text);
    }
    if let Some(what) = foreign::what(args.name()) {
        let mut text = b"ERR command '".to_vec();
        text.extend(name.to_ascii_uppercase());
        text.extend_from_slice(b"' ");
        text.extend_from_slice(what.as_bytes());
        return ResolveError::UnknownCommand(text);
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(name);
    text.extend_from_slice(b"', with args beginning with: ");
    let mut quoted_bytes = 0usize;
    for arg in args.iter().skip(1) {
        let Some(room) = QUOTED_BYTES_MAX
            .checked_sub(quoted_bytes)
            .filter(|&room| room > 0)
        else {
            break;
        };
        let arg = quoted(arg, room);
        text.push(b'\'');
        text.extend_from_slice(arg);
        text.extend_from_slice(b"' ");
        quoted_bytes = quoted_bytes.saturating_add(arg.len()).saturating_add(3);
    }
    ResolveError::UnknownCommand(text)
}

/// What an error shows of a client's word: at most `room` bytes, up to a NUL, as C prints it.
fn quoted(word: &[u8], room: usize) -> &[u8] {
    let word = word.get(..room).unwrap_or(word);
    word.split(|&byte| byte == 0).next().unwrap_or(&[])
}

/// The keys among the arguments of a request that [`resolve`] has accepted.
pub fn keys<'a>(
    command: &Command,
    args: Args<'a>,
) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
    let specs = command.keys.iter();
    specs.flat_map(move |spec| keys_of(spec, args))
}

/// The keys of one of a command's key specs.
pub(super) fn keys_of<'a>(
    spec: &KeySpec,
    args: Args<'a>,
) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
    let behind = match usize::try_from(spec.last) {
        Ok(last) => spec.first.saturating_add(last).saturating_add(1),
        Err(_) => args
            .len()
            .saturating_sub(spec.last.unsigned_abs() as usize)
            .saturating_add(1),
    };
    let count = behind.saturating_sub(spec.first);
    args.skip(spec.first)
        .iter()
        .take(count)
        .step_by(spec.step.max(1))
}

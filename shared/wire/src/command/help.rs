//! Text for people: synopses, `HELP` replies, and `docs/commands.md`.

use super::{Arg, ArgKind, Command, Group, commands};
use crate::reply::ReplyWriter;

/// How to call a command: `SET key value [NX | XX] [GET]`.
pub fn synopsis(command: &Command) -> String {
    let mut text = command.name.replace('|', " ").to_uppercase();
    text.push_str(&arguments(command));
    text
}

/// The arguments of a command, a blank before each.
fn arguments(command: &Command) -> String {
    command
        .args
        .iter()
        .map(|arg| format!(" {}", describe(arg)))
        .collect()
}

fn describe(arg: &Arg) -> String {
    let inner: Vec<_> = arg.args.iter().map(describe).collect();
    let core = match arg.kind {
        ArgKind::OneOf => inner.join(" | "),
        ArgKind::Block => inner.join(" "),
        ArgKind::Token => String::new(),
        _ => arg.name.to_owned(),
    };
    let core = match (arg.kind, arg.token, arg.optional) {
        // A choice within a sentence needs brackets; an optional one has them.
        (ArgKind::OneOf, None, true) => core,
        (ArgKind::OneOf, ..) => format!("<{core}>"),
        _ => core,
    };
    // Only what follows the token comes again.
    let core = if arg.multiple {
        format!("{core} [{core} ...]")
    } else {
        core
    };
    let whole = match arg.token {
        None => core,
        Some(token) if core.is_empty() => token.to_owned(),
        Some(token) => format!("{token} {core}"),
    };
    if arg.optional {
        format!("[{whole}]")
    } else {
        whole
    }
}

/// The reply of `CONFIG HELP` and its like: each subcommand of `container` (`config`) with its
/// arguments and, indented, what it does.
pub fn write_help(reply: &mut ReplyWriter<'_>, container: &Command) {
    let name = container.name.to_uppercase();
    let mut lines = vec![format!(
        "{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    )];
    if container.arity == -1 {
        lines.push("(no subcommand)".to_owned());
        lines.push(format!("    {}.", container.summary));
    }
    let is_help = |row: &&Command| row.parts().is_some_and(|(_, own)| own == "help");
    for row in container.subcommands().filter(|row| !is_help(row)) {
        let own = row.parts().map_or(row.name, |(_, own)| own).to_uppercase();
        lines.push(format!("{own}{}", arguments(row)));
        lines.push(format!("    {}.", row.summary));
    }
    lines.push("HELP".to_owned());
    lines.push("    Print this help.".to_owned());
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.simple(line));
}

/// The text of `docs/commands.md`.
pub fn command_document() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         Printed from the table in `shared/wire/src/command/table.rs`; a test holds them \
         together.\n`RD_WRITE_DOCS=1 cargo test -p rd-wire` writes this file anew.\n",
    );
    for group in Group::ALL {
        text.push_str(&format!("\n## {}\n", group.name()));
        for command in commands().filter(|command| command.group == group) {
            let subcommands: Vec<_> = command.subcommands().collect();
            // A container is only its subcommands.
            if command.arity == -1 || subcommands.is_empty() {
                text.push_str(&section(command));
            }
            subcommands
                .iter()
                .for_each(|sub| text.push_str(&section(sub)));
        }
    }
    text
}

fn section(command: &Command) -> String {
    let flags: Vec<_> = command.flags.words().collect();
    let flags = if flags.is_empty() {
        String::new()
    } else {
        format!(" · {}", flags.join(", "))
    };
    format!(
        "\n### `{}`\n\n{}.\n\n{} · since {}{flags}\n",
        synopsis(command),
        command.summary,
        command.complexity,
        command.since,
    )
}

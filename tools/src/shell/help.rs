//! Help, hints and completion, all from the command table.

use rd_base::Param;
use rd_wire::command::{self, Arg, ArgKind, Command, Group, synopsis};

/// The answer to `help` with these words behind it.
pub fn text(words: &[&str]) -> String {
    match words {
        [] => overview(),
        [group] if group.starts_with('@') => of_group(&group[1..]),
        [name, ..] => of_command(name, words.get(1).copied()),
    }
}

fn overview() -> String {
    let groups: Vec<_> = Group::ALL
        .iter()
        .map(|group| format!("@{}", group.name()))
        .collect();
    format!(
        "rd_cli {}\n\
         help <command>    what a command does and takes; <tab> completes its name\n\
         help @<group>     the commands of a group: {}\n\
         quit              leave; Ctrl-D does too\n\n\
         <n> <command> runs a command n times. What you type is kept for the next session.\n",
        env!("CARGO_PKG_VERSION"),
        groups.join(" "),
    )
}

fn of_group(name: &str) -> String {
    let same = |group: &&Group| group.name().eq_ignore_ascii_case(name);
    let Some(group) = Group::ALL.iter().find(same) else {
        return format!("There is no group @{name}. Try: help\n");
    };
    let rows = command::all().filter(|row| row.group == *group && !is_container(row));
    rows.map(section).collect()
}

fn of_command(name: &str, own: Option<&str>) -> String {
    let Some(row) = command::lookup(name.as_bytes()) else {
        return format!("There is no command {}. Try: help\n", name.to_uppercase());
    };
    let subcommands: Vec<_> = row.subcommands().collect();
    if let Some(own) = own
        && let Some(found) = subcommands
            .iter()
            .find(|sub| own_name(sub).eq_ignore_ascii_case(own))
    {
        return section(found);
    }
    let itself = if is_container(row) {
        String::new()
    } else {
        section(row)
    };
    subcommands
        .into_iter()
        .fold(itself, |text, sub| text + &section(sub))
}

fn section(row: &Command) -> String {
    format!(
        "\n  {}\n  summary: {}\n  complexity: {}\n  group: {}\n",
        synopsis(row),
        row.summary,
        row.complexity,
        row.group.name(),
    )
}

/// Whether the row cannot be called without a subcommand.
fn is_container(row: &Command) -> bool {
    row.parts().is_none() && row.arity != -1 && row.subcommands().next().is_some()
}

fn own_name(row: &Command) -> &'static str {
    row.parts().map_or(row.name, |(_, own)| own)
}

/// The row that these words call, and how many of them are its name.
fn called(words: &[&str]) -> Option<(&'static Command, usize)> {
    let row = command::lookup(words.first()?.as_bytes())?;
    let own = words.get(1).copied().unwrap_or_default();
    let sub = row
        .subcommands()
        .find(|sub| own_name(sub).eq_ignore_ascii_case(own));
    match sub {
        Some(sub) => Some((sub, 2)),
        None if is_container(row) => None,
        None => Some((row, 1)),
    }
}

/// What is still to be typed, shown behind the cursor: the arguments that the words before it
/// leave open. None unless the line is a command's name and ends with a blank.
pub fn hint(line: &str) -> Option<String> {
    if !line.ends_with(' ') {
        return None;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let (row, name_words) = called(&words)?;
    let typed = words.get(name_words..)?;
    let rest = Command {
        args: open_args(row.args, typed),
        ..*row
    };
    let name_bytes = synopsis(&Command { args: &[], ..*row }).len();
    let hint = synopsis(&rest).get(name_bytes..)?.trim_start().to_owned();
    (!hint.is_empty()).then_some(hint)
}

/// The arguments behind those that are typed, as far as position tells.
fn open_args(args: &'static [Arg], typed: &[&str]) -> &'static [Arg] {
    let mut open = args;
    let mut typed = typed.len();
    while let Some((first, rest)) = open.split_first() {
        let words = word_count(first);
        if first.multiple || typed < words {
            break;
        }
        typed -= words;
        open = rest;
    }
    open
}

/// Words that an argument takes on the line.
fn word_count(arg: &Arg) -> usize {
    let token = usize::from(arg.token.is_some());
    match arg.kind {
        ArgKind::Token => 1,
        ArgKind::OneOf => token + arg.args.iter().map(word_count).min().unwrap_or(0),
        ArgKind::Block => token + arg.args.iter().map(word_count).sum::<usize>(),
        ArgKind::Key | ArgKind::Text | ArgKind::Pattern | ArgKind::Integer | ArgKind::Double => {
            token + 1
        }
    }
}

/// Where the word at the end of `line` begins, and what it may become.
pub fn complete(line: &str) -> (usize, Vec<String>) {
    let blank = line
        .char_indices()
        .rfind(|(_, letter)| letter.is_whitespace());
    let start = blank.map_or(0, |(at, letter)| at + letter.len_utf8());
    let (before, word) = line.split_at(start);
    let words: Vec<&str> = before.split_whitespace().collect();
    (start, matching(candidates(&words), word))
}

/// Those that begin as the word does, in its letter case.
fn matching(candidates: Vec<String>, word: &str) -> Vec<String> {
    let small = word.chars().any(|letter| letter.is_ascii_lowercase());
    let begins = |candidate: &String| {
        let head = candidate.get(..word.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(word))
    };
    let mut found: Vec<String> = candidates.into_iter().filter(begins).collect();
    if small {
        found
            .iter_mut()
            .for_each(|candidate| candidate.make_ascii_lowercase());
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn candidates(before: &[&str]) -> Vec<String> {
    match before {
        [] => command_names()
            .chain(["HELP".into(), "QUIT".into(), "EXIT".into()])
            .collect(),
        [help] if help.eq_ignore_ascii_case("help") => {
            let groups = Group::ALL.iter().map(|group| format!("@{}", group.name()));
            command_names().chain(groups).collect()
        }
        [help, rest @ ..] if help.eq_ignore_ascii_case("help") => subcommand_names(rest),
        [name] => {
            let mut names = subcommand_names(&[name]);
            names.extend(tokens_behind(before));
            names
        }
        [config, how, ..] if config.eq_ignore_ascii_case("config") => match *how {
            how if how.eq_ignore_ascii_case("get") || how.eq_ignore_ascii_case("set") => Param::ALL
                .iter()
                .map(|param| param.name().to_owned())
                .collect(),
            _ => Vec::new(),
        },
        _ => tokens_behind(before),
    }
}

fn command_names() -> impl Iterator<Item = String> {
    command::commands().map(|row| row.name.to_uppercase())
}

fn subcommand_names(words: &[&str]) -> Vec<String> {
    let row = words
        .first()
        .and_then(|name| command::lookup(name.as_bytes()));
    let subcommands = row.into_iter().flat_map(Command::subcommands);
    subcommands
        .map(|sub| own_name(sub).to_uppercase())
        .collect()
}

/// The words such as `NX` that the called command knows.
fn tokens_behind(words: &[&str]) -> Vec<String> {
    let mut tokens = Vec::new();
    if let Some((row, _)) = called(words) {
        push_tokens(&mut tokens, row.args);
    }
    tokens
}

fn push_tokens(tokens: &mut Vec<String>, args: &[Arg]) {
    for arg in args {
        tokens.extend(arg.token.map(str::to_owned));
        push_tokens(tokens, arg.args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_shrink_as_words_are_typed() {
        for (line, hint_text) in [
            ("expire ", Some("key seconds [NX | XX | GT | LT]")),
            ("EXPIRE k ", Some("seconds [NX | XX | GT | LT]")),
            ("expire k 9 ", Some("[NX | XX | GT | LT]")),
            ("mset a 1 ", Some("key value [key value ...]")),
            ("get k ", None),
            ("set", None),
            ("nonsense ", None),
            ("config ", None),
        ] {
            assert_eq!(hint(line).as_deref(), hint_text, "{line:?}");
        }
        assert!(hint("config get ").is_some());
    }

    #[test]
    fn completion_knows_commands_subcommands_words_and_parameters() {
        let whole = |line: &str| complete(line).1;
        assert_eq!(whole("ap"), ["append"]);
        assert_eq!(whole("AP"), ["APPEND"]);
        assert!(whole("config ").contains(&"REWRITE".to_owned()));
        assert!(whole("config get wal_seg").contains(&"wal_segment_size".to_owned()));
        assert!(whole("set k v ").contains(&"NX".to_owned()));
        assert_eq!(whole("help @s"), ["@server", "@string"]);
        assert_eq!(complete("set k v n"), (8, vec!["nx".to_owned()]));
        // A blank of two bytes, as a terminal may send it, and one of three.
        assert_eq!(complete("set\u{a0}k v n"), (9, vec!["nx".to_owned()]));
        assert_eq!(complete("set k v\u{2003}n"), (10, vec!["nx".to_owned()]));
        assert_eq!(whole("kännt ä"), Vec::<String>::new());
        assert!(whole("").len() > 20);
    }

    #[test]
    fn help_is_the_tables() {
        let expire = text(&["expire"]);
        assert!(expire.contains("EXPIRE key seconds [NX | XX | GT | LT]\n  summary: "));
        assert!(text(&["config", "get"]).starts_with("\n  CONFIG GET "));
        assert!(text(&["config"]).contains("CONFIG REWRITE"));
        assert!(text(&["@string"]).contains("\n  APPEND key value\n"));
        assert!(text(&["@nothing"]).contains("no group"));
        assert!(text(&["nothing"]).contains("no command NOTHING"));
        assert!(text(&[]).contains("@string"));
    }
}

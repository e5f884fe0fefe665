//! The loop at a terminal: a line with history, completion and hints; the reply; the next line.

use super::session::Session;
use super::{help, line, reply};
use crate::cli::{print, print_note};
use crate::probe::Target;
use anyhow::{Context as _, Result};
use rd_base::error::with_causes;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};
use std::borrow::Cow;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where lines are kept, in the user's home directory.
const HISTORY_FILE: &str = ".rd_cli_history";
/// Lines that are kept.
const HISTORY_LINES: usize = 10_000;
/// A command that takes longer is told how long it took.
const SLOW: Duration = Duration::from_millis(500);

/// Runs until the user leaves.
///
/// # Errors
/// When the terminal cannot be used.
pub fn run(session: &mut Session, raw: bool) -> Result<()> {
    let config = Config::builder()
        .max_history_size(HISTORY_LINES)
        .and_then(|builder| builder.history_ignore_dups(true))
        .context("could not set up the history")?
        .auto_add_history(false)
        .build();
    let mut editor: Editor<Assistant, DefaultHistory> =
        Editor::with_config(config).context("could not set up the terminal")?;
    editor.set_helper(Some(Assistant));
    let history = history_path();
    if let Some(path) = &history {
        // There is none before the first session.
        let _ = editor.load_history(path);
    }
    if let Err(error) = session.connect() {
        print_note(&with_causes(&*error));
    }
    loop {
        let typed = match editor.readline(&session.prompt()) {
            Ok(typed) => typed,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("could not read from the terminal"),
        };
        if typed.trim().is_empty() {
            continue;
        }
        // A history that cannot be kept is no reason not to work.
        let _ = editor.add_history_entry(typed.as_str());
        if let Some(path) = &history {
            let _ = editor.append_history(path);
        }
        if !obey(session, &typed, raw) {
            break;
        }
    }
    Ok(())
}

fn history_path() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(PathBuf::from(home).join(HISTORY_FILE))
}

/// Does what a line says; false if that is to leave.
fn obey(session: &mut Session, typed: &str, raw: bool) -> bool {
    let words = match line::words(typed.as_bytes()) {
        Ok(words) => words,
        Err(problem) => {
            print(&format!("{problem}\n"));
            return true;
        }
    };
    let text: Vec<Cow<'_, str>> = words
        .iter()
        .map(|word| String::from_utf8_lossy(word))
        .collect();
    let text: Vec<&str> = text.iter().map(AsRef::as_ref).collect();
    match text.as_slice() {
        [] => {}
        [word] if is_any(word, &["quit", "exit"]) => return false,
        [word] if is_any(word, &["clear"]) => print("\x1b[H\x1b[2J"),
        [word, rest @ ..] if is_any(word, &["help", "?"]) => print(&help::text(rest)),
        [word, host, port] if is_any(word, &["connect"]) => match port.parse() {
            Ok(port) => {
                if let Err(error) = session.connect_to(Target::new(host, port)) {
                    print(&(with_causes(&*error) + "\n"));
                }
            }
            Err(_) => print(&format!("Invalid port: {port}\n")),
        },
        [times, _, ..] if times.parse::<u32>().is_ok() => {
            let times = times.parse::<u32>().unwrap_or(0);
            let command = words.get(1..).unwrap_or(&[]);
            for _ in 0..times {
                if !show(session, command, raw) {
                    break;
                }
            }
        }
        _ => {
            show(session, &words, raw);
        }
    }
    true
}

fn is_any(word: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(word))
}

/// Runs a command and prints what comes back; false if nothing does.
fn show(session: &mut Session, words: &[Vec<u8>], raw: bool) -> bool {
    let began = Instant::now();
    let outcome = session.run(words);
    let took = began.elapsed();
    for push in session.take_pushes() {
        print(&reply::pretty(&push));
    }
    match outcome {
        Ok(Some(answer)) => {
            // That the terminal is gone shows when the next line is read.
            let _ = io::stdout().write_all(&reply::shown(words, &answer, raw));
            if took >= SLOW {
                print(&format!("({:.2}s)\n", took.as_secs_f64()));
            }
            true
        }
        Ok(None) => false,
        Err(error) => {
            print(&(with_causes(&*error) + "\n"));
            false
        }
    }
}

/// What the line editor asks while a line is typed.
struct Assistant;

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = line.get(..cursor).unwrap_or(line);
        Ok(help::complete(before))
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, cursor: usize, _: &Context<'_>) -> Option<String> {
        if cursor < line.len() {
            None
        } else {
            help::hint(line)
        }
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {}
impl Helper for Assistant {}

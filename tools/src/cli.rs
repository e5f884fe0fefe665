//! What every tool does with its command line, its errors and its exit code.

use anyhow::Error;
use clap::Parser;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// The text behind a tool's name in the answer to `--version`.
pub const VERSION: &str = concat!("(Redoubt) ", env!("CARGO_PKG_VERSION"));

/// The exit code that PostgreSQL's tools have for most failures.
pub const FAILURE: u8 = 1;

/// Reads the command line and runs the tool.
///
/// A mistake on the command line is explained and ends with `bad_arguments`; an error of `body`
/// is printed and ends with [`FAILURE`]. A reader that went away (`rd_waldump | head`) is no error.
pub fn main<A: Parser>(
    tool: &str,
    bad_arguments: u8,
    body: impl FnOnce(A) -> Result<ExitCode, Error>,
) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // There is nobody left to tell that the terminal is gone.
            let _ = message.print();
            return if message.use_stderr() {
                ExitCode::from(bad_arguments)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match body(arguments) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(tool, &error);
            ExitCode::from(FAILURE)
        }
    }
}

/// An error that says what to do about it.
pub fn with_hint(what: impl Display, hint: impl Display) -> Error {
    anyhow::anyhow!("{what}\nHINT: {hint}")
}

/// Prints an error with its causes, and its details and hints on lines of their own.
pub fn print_error(tool: &str, error: &Error) {
    print_message(tool, "error", &format!("{error:#}"));
}

/// Prints a warning in the same way.
pub fn print_warning(tool: &str, message: &str) {
    print_message(tool, "warning", message);
}

fn print_message(tool: &str, severity: &str, message: &str) {
    // Standard error is the last resort: if it fails there is nowhere to say so.
    let _ = io::stderr().write_all(render(tool, severity, message).as_bytes());
}

/// The lines of a message, each with the tool's name and what it is.
fn render(tool: &str, severity: &str, message: &str) -> String {
    let mut severity = severity;
    let mut text = String::new();
    for line in message.lines() {
        let (of_line, line) = match (line.strip_prefix("HINT: "), line.strip_prefix("DETAIL: ")) {
            (Some(hint), _) => ("hint", hint),
            (_, Some(detail)) => ("detail", detail),
            (None, None) => (severity, line),
        };
        severity = of_line;
        text.push_str(&format!("{tool}: {of_line}: {line}\n"));
    }
    text
}

/// Whether the error is that nobody reads the output any more.
fn is_broken_pipe(error: &Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn each_line_says_what_it_is() {
        let error = with_hint("the disk is full\nDETAIL: 0 bytes are left", "Make room.");
        let error = Err::<(), _>(error)
            .context("could not write")
            .expect_err("it is one");
        assert_eq!(
            render("rd_x", "error", &format!("{error:#}")),
            "rd_x: error: could not write: the disk is full\n\
             rd_x: detail: 0 bytes are left\n\
             rd_x: hint: Make room.\n"
        );
    }

    #[test]
    fn only_a_reader_that_left_is_silent() {
        let broken = |kind| Error::from(io::Error::from(kind));
        assert!(is_broken_pipe(&broken(ErrorKind::BrokenPipe)));
        assert!(!is_broken_pipe(&broken(ErrorKind::StorageFull)));
        assert!(!is_broken_pipe(&anyhow::anyhow!("broken pipe")));
    }
}

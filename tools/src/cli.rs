//! What every tool does with its command line, its errors and its exit code.

use anyhow::Error;
use clap::Parser;
use rd_base::error::with_causes;
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
/// is printed and ends with [`FAILURE`]. A reader that went away (`rd_waldump | head`) is no error:
/// so a tool whose exit code is its verdict prints to a [`Verdict`], or with [`print`].
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
    print_message(tool, "error", &with_causes(&**error));
}

/// Prints a warning in the same way.
pub fn print_warning(tool: &str, message: &str) {
    print_message(tool, "warning", message);
}

/// Prints a line to standard error as it is. That nobody reads it is no failure.
pub fn print_note(line: &str) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints to standard output at once. That nobody reads it is no failure.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Standard output of a tool whose exit code is its verdict: what it looks at, what it does and
/// what it finds are the same whether or not somebody reads of it. Writing never fails; once
/// something could not be written, the rest is left out.
#[derive(Debug, Default)]
pub struct Verdict {
    failed: Option<io::Error>,
}

impl Verdict {
    fn note(&mut self, result: io::Result<()>) {
        self.failed = self.failed.take().or(result.err());
    }

    /// Warns if some of the output was lost, unless its reader wanted no more.
    pub fn finish(mut self, tool: &str) {
        let _ = self.flush();
        if let Some(error) = self.failed
            && error.kind() != ErrorKind::BrokenPipe
        {
            print_warning(tool, &format!("could not write all of the output: {error}"));
        }
    }
}

impl Write for Verdict {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.note(io::stdout().write_all(bytes));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed.is_none() {
            self.note(io::stdout().flush());
        }
        Ok(())
    }
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
            render("rd_x", "error", &with_causes(&*error)),
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

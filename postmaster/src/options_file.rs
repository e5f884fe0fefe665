//! `postmaster.opts`: the command line that the server was started with, on one line, as
//! PostgreSQL leaves it. `rd_ctl restart` starts with it again, `rd_ctl status` shows it.
//!
//! Invariant: it is written by the holder of the data directory's lock, when nothing can fail any
//! more by what it says; it stays when the server ends, and nothing but these two depends on it.

use crate::in_place;
use std::ffi::OsString;
use std::path::Path;

/// Name of the file in the data directory.
const OPTIONS_FILE: &str = "postmaster.opts";

/// The program and its arguments, each of these in quotes.
pub fn render(mut words: impl Iterator<Item = OsString>) -> String {
    let mut line = words
        .next()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for word in words {
        let word = word
            .to_string_lossy()
            .replace('\\', r"\\")
            .replace('"', "\\\"");
        line.push_str(&format!(" \"{word}\""));
    }
    line.push('\n');
    line
}

/// Writes the file anew. A server can do without it, so that it cannot be written is only told, with
/// `shown` for the directory's name.
pub fn write(dir: &Path, shown: &Path, command_line: &str) {
    let path = dir.join(OPTIONS_FILE);
    if let Err(error) = in_place::write(&path, command_line) {
        log::warn!(
            "could not write {}, from which rd_ctl restart takes the options: {error}",
            shown.join(OPTIONS_FILE).display()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted() {
        let words = ["/bin/redoubt", "-D", "/srv/my data", r#"a"b\c"#].map(OsString::from);
        let line = render(words.into_iter());
        assert_eq!(
            line,
            "/bin/redoubt \"-D\" \"/srv/my data\" \"a\\\"b\\\\c\"\n"
        );
        assert_eq!(render(std::iter::empty()), "\n");
    }

    #[test]
    fn a_shorter_line_takes_the_place_of_a_longer_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for line in ["redoubt \"-D\" \"/srv/data\"\n", "redoubt\n"] {
            write(dir.path(), dir.path(), line);
            let text = std::fs::read_to_string(dir.path().join(OPTIONS_FILE));
            assert_eq!(text.expect("it is there"), line);
        }
    }
}

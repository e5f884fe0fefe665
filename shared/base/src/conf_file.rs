//! Configuration files: their grammar, their includes, and how one is rewritten.
//!
//! A line is empty, a comment (`# ...`), or `name = value`, where the equals sign may be left out
//! and a comment may follow. A value is a bare word, or stands in single quotes, where `''` is one
//! quote. `include`, `include_if_exists` and `include_dir` take a path relative to their own file.
//! Later lines win. All errors of all files are collected.
//!
//! Reading is bounded however the files are made: in the size of a file and of all together, in how
//! deep and how often they include each other, in settings and in problems. What is no regular file
//! is refused, as a pipe could be waited for without end.

use crate::config::{Place, Problem, note};
use crate::limits::{
    CONFIG_ASSIGNMENTS_MAX, CONFIG_FILE_BYTES_MAX, CONFIG_FILES_MAX, CONFIG_INCLUDE_DEPTH_MAX,
};
use crate::params::Param;
use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The configuration file's name in a data directory.
pub const FILE_NAME: &str = "redoubt.conf";

/// One `name = value` of a line.
#[derive(Debug, PartialEq, Eq)]
struct Statement<'a> {
    name: &'a str,
    value: String,
    /// Where the value stands in the line, its quotes included.
    value_at: Range<usize>,
}

/// Reads one line without its line break; nothing for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<Statement<'_>>, String> {
    let text = line.trim_start();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let name_end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'))
        .unwrap_or(text.len());
    if name_end == 0 {
        return Err("syntax error: expected name = value".to_owned());
    }
    let (name, rest) = text.split_at(name_end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let start = line.len() - rest.len();
    let (value, length) = parse_value(rest).map_err(|error| format!("{error} after \"{name}\""))?;
    let tail = rest[length..].trim_start();
    if !tail.is_empty() && !tail.starts_with('#') {
        return Err(format!(
            "syntax error: unexpected text after the value of \"{name}\"; quote a value with spaces"
        ));
    }
    let value_at = start..start + length;
    Ok(Some(Statement {
        name,
        value,
        value_at,
    }))
}

/// The value at the start of `text`, and how many bytes of it are the value.
fn parse_value(text: &str) -> Result<(String, usize), &'static str> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text
            .find(|c: char| c.is_whitespace() || matches!(c, '#' | '\'' | '='))
            .unwrap_or(text.len());
        return match end {
            0 => Err("syntax error: expected a value"),
            _ => Ok((text[..end].to_owned(), end)),
        };
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if character != '\'' {
            value.push(character);
        } else if characters.next_if(|(_, next)| *next == '\'').is_some() {
            value.push('\'');
        } else {
            return Ok((value, at + 2)); // the opening quote and this one
        }
    }
    Err("syntax error: missing closing quote")
}

/// A value as a file has to write it: bare where that reads back, else in quotes.
pub(crate) fn quote(value: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':');
    if !value.is_empty() && value.chars().all(bare) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

/// One assignment that was read, and from where.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) place: Place,
}

/// All assignments of a file and of what it includes, in order, and what was wrong with the text.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) assignments: Vec<Assignment>,
    pub(crate) problems: Vec<Problem>,
    /// Files that were included so far.
    files: usize,
    /// Their bytes.
    bytes: u64,
    /// A bound on all files together is reached: nothing more is read.
    is_full: bool,
    /// The path of this process's working directory, if that is where the files are.
    inside: Option<PathBuf>,
}

impl Reading {
    /// Nothing read yet. What is below `inside`, if that is given, is read from the working directory,
    /// which may be elsewhere by now.
    pub(crate) fn from_inside(inside: Option<PathBuf>) -> Reading {
        Reading {
            inside,
            ..Reading::default()
        }
    }

    /// The way to a file for this process.
    fn reach(&self, path: &Path) -> PathBuf {
        let relative = self
            .inside
            .as_deref()
            .and_then(|dir| path.strip_prefix(dir).ok());
        relative.map_or_else(|| path.to_owned(), |relative| Path::new(".").join(relative))
    }

    /// Reads a file with its includes. A file that is not there is a problem.
    pub(crate) fn file(&mut self, path: &Path) {
        match read_text(&self.reach(path)) {
            Ok(text) => self.text(path, &text, 0),
            Err(error) => {
                let message = format!(
                    "could not read configuration file: {error}; rd_initdb makes a data directory"
                );
                let place = Place::File(path.into(), 0);
                self.problem(&place, message);
            }
        }
    }

    /// Reads the text of a file; `path` is what includes are relative to.
    pub(crate) fn text(&mut self, path: &Path, text: &[u8], depth: usize) {
        let file: Arc<Path> = path.into();
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if self.is_full {
                return;
            }
            let place = Place::File(Arc::clone(&file), index + 1);
            let statement = match std::str::from_utf8(line) {
                Ok(line) => parse_line(line.trim_end_matches('\r')),
                Err(_) => Err("line is not UTF-8".to_owned()),
            };
            match statement {
                Ok(None) => {}
                Ok(Some(statement)) => match IncludeKind::find(statement.name) {
                    Some(kind) => self.include(kind, path, &statement.value, place, depth),
                    None if self.assignments.len() == CONFIG_ASSIGNMENTS_MAX => self.stop(
                        &place,
                        format!("there are more than {CONFIG_ASSIGNMENTS_MAX} settings"),
                    ),
                    None => self.assignments.push(Assignment {
                        name: statement.name.to_owned(),
                        value: statement.value,
                        place,
                    }),
                },
                Err(message) => self.problem(&place, message),
            }
        }
    }

    fn problem(&mut self, place: &Place, message: String) {
        note(&mut self.problems, || {
            Problem::new(place.clone(), None, message)
        });
    }

    /// Reads no further, and says why.
    fn stop(&mut self, place: &Place, message: String) {
        self.is_full = true;
        self.problem(place, message);
    }

    fn include(&mut self, kind: IncludeKind, from: &Path, value: &str, place: Place, depth: usize) {
        if depth + 1 > CONFIG_INCLUDE_DEPTH_MAX {
            let message =
                format!("files include each other more than {CONFIG_INCLUDE_DEPTH_MAX} deep");
            return self.problem(&place, message);
        }
        let path = from.parent().unwrap_or(Path::new("")).join(value);
        let files = match kind {
            IncludeKind::Dir => match directory_files(&self.reach(&path)) {
                // By the path that is shown.
                Ok(files) => files.iter().map(|file| path.join(file)).collect(),
                Err(error) => {
                    let path = path.display();
                    let message = format!("could not read directory \"{path}\": {error}");
                    return self.problem(&place, message);
                }
            },
            IncludeKind::File | IncludeKind::IfExists => vec![path],
        };
        for path in files {
            match read_text(&self.reach(&path)) {
                Ok(text) => self.included(&path, &text, &place, depth + 1),
                Err(error)
                    if kind == IncludeKind::IfExists && error.kind() == io::ErrorKind::NotFound => {
                }
                Err(error) => {
                    let message = format!("could not include \"{}\": {error}", path.display());
                    self.problem(&place, message);
                }
            }
            if self.is_full {
                return;
            }
        }
    }

    /// Reads the text of a file that is included at `place`, if all together are not too many.
    fn included(&mut self, path: &Path, text: &[u8], place: &Place, depth: usize) {
        self.files += 1;
        self.bytes += text.len() as u64;
        if self.files > CONFIG_FILES_MAX {
            let message = format!(
                "files are included more than {CONFIG_FILES_MAX} times; does one include itself?"
            );
            self.stop(place, message);
        } else if self.bytes > CONFIG_FILE_BYTES_MAX {
            let message =
                format!("included files are larger than {CONFIG_FILE_BYTES_MAX} bytes together");
            self.stop(place, message);
        } else {
            self.text(path, text, depth);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IncludeKind {
    File,
    IfExists,
    Dir,
}

impl IncludeKind {
    fn find(name: &str) -> Option<IncludeKind> {
        match name.to_ascii_lowercase().as_str() {
            "include" => Some(IncludeKind::File),
            "include_if_exists" => Some(IncludeKind::IfExists),
            "include_dir" => Some(IncludeKind::Dir),
            _ => None,
        }
    }
}

/// The names of the `*.conf` files of a directory, in order; hidden ones are left out.
fn directory_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        // One more than can be included, so that there is an error.
        if files.len() > CONFIG_FILES_MAX {
            break;
        }
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let text = name.to_string_lossy();
        if text.ends_with(".conf") && !text.starts_with('.') && path.is_file() {
            files.push(name.into());
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if !fs::metadata(path)?.is_file() {
        let message = "not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let file = fs::File::open(path)?;
    file.take(CONFIG_FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
        let message = format!("larger than {CONFIG_FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// The text of a configuration file with new values: the last line that sets a parameter is changed
/// in place, else its line is added below the sample's commented one, else at the end. All other
/// lines, comments and their order stay. A line after which another file is included is left as it
/// is and followed by one at the end, since the other file might set the parameter too.
pub fn rewrite(text: &str, changes: &[(Param, String)]) -> String {
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    for (param, value) in changes {
        rewrite_one(&mut lines, *param, &quote(value));
    }
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn rewrite_one(lines: &mut Vec<String>, param: Param, value: &str) {
    let mut set_at = None;
    let mut sample_at = None;
    let mut include_at = None;
    for (index, line) in lines.iter().enumerate() {
        let line = line.trim_end_matches('\r');
        match parse_line(line) {
            Ok(Some(statement)) if Param::find(statement.name) == Some(param) => {
                set_at = Some((index, statement.value_at));
            }
            Ok(Some(statement)) if IncludeKind::find(statement.name).is_some() => {
                include_at = Some(index);
            }
            Ok(None) if sample_sets(line, param) => sample_at = Some(index),
            _ => {}
        }
    }
    let after_includes = |index: usize| include_at.is_none_or(|include| include < index);
    match (set_at, sample_at) {
        (Some((index, at)), _) if after_includes(index) => lines[index].replace_range(at, value),
        (None, Some(index)) if after_includes(index) => {
            lines.insert(index + 1, format!("{param} = {value}"));
        }
        _ => lines.push(format!("{param} = {value}")),
    }
}

/// Whether a comment line is the sample's `#name = value` of this parameter.
fn sample_sets(line: &str, param: Param) -> bool {
    let text = line.trim_start().trim_start_matches('#');
    let Some((name, _)) = text.split_once('=') else {
        return false;
    };
    !text.starts_with(char::is_whitespace) && Param::find(name.trim()) == Some(param)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(line: &str) -> Option<(&str, String)> {
        let statement = parse_line(line).expect("must parse")?;
        Some((statement.name, statement.value))
    }

    #[test]
    fn lines_parse() {
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("", None),
            ("   \t", None),
            ("# port = 1", None),
            ("port = 7432", Some(("port", "7432"))),
            ("  port=7432  # why", Some(("port", "7432"))),
            ("port 7432", Some(("port", "7432"))),
            ("max_wal_size = 1.5GB", Some(("max_wal_size", "1.5GB"))),
            ("a = 'two words'", Some(("a", "two words"))),
            ("a = 'it''s' # x", Some(("a", "it's"))),
            ("a = ''", Some(("a", ""))),
            ("a = ''''", Some(("a", "'"))),
            ("a = '# no comment'", Some(("a", "# no comment"))),
            ("a = x#comment", Some(("a", "x"))),
            ("include 'x.conf'", Some(("include", "x.conf"))),
            ("a = *", Some(("a", "*"))),
            ("a = 'é'", Some(("a", "é"))),
        ];
        for (line, expected) in cases {
            let expected = expected.map(|(name, value)| (name, value.to_owned()));
            assert_eq!(pair(line), expected, "{line:?}");
        }
        for bad in [
            "port",
            "port =",
            "port = # 1",
            "= 1",
            "'a' = 1",
            "a = 'x",
            "a = 'x''",
            "a = b c",
            "a = 'b' c",
            "a == b",
            "a = b'c'",
            "[section]",
        ] {
            assert!(parse_line(bad).is_err(), "{bad:?} must not parse");
        }
    }

    #[test]
    fn quoting_reads_back() {
        for value in [
            "",
            "a",
            "16MB",
            "two words",
            "it's",
            "''",
            "# x",
            "a=b",
            "é",
            "127.0.0.1,::1",
        ] {
            let line = format!("name = {} # comment", quote(value));
            assert_eq!(pair(&line), Some(("name", value.to_owned())), "{line}");
        }
    }

    #[test]
    fn rewriting_keeps_comments_and_order() {
        let text = "# mine\nport = 1 # first\n\n  Port='7433'  # last wins\n\
                    #max_wal_size = 1GB\t\t# sample\nshared_buffers = 64MB\n";
        let changes = [
            (Param::Port, "7000".to_owned()),
            (Param::MaxWalSize, "2GB".to_owned()),
            (Param::ListenAddresses, "a, b".to_owned()),
        ];
        let expected = "# mine\nport = 1 # first\n\n  Port=7000  # last wins\n\
                        #max_wal_size = 1GB\t\t# sample\nmax_wal_size = 2GB\n\
                        shared_buffers = 64MB\nlisten_addresses = 'a, b'\n";
        assert_eq!(rewrite(text, &changes), expected);
        assert_eq!(
            rewrite(expected, &changes),
            expected,
            "a second time changes nothing"
        );
        assert_eq!(rewrite("", &changes[..1]), "port = 7000\n");
        assert_eq!(rewrite("a = 1", &[]), "a = 1\n");
    }

    #[test]
    fn rewriting_goes_behind_includes() {
        let text = "port = 1\ninclude 'more.conf'\n# end\n";
        let changes = [(Param::Port, "2".to_owned())];
        assert_eq!(rewrite(text, &changes), format!("{text}port = 2\n"));
        let text = "include 'more.conf'\nport = 1\r\n";
        assert_eq!(rewrite(text, &changes), "include 'more.conf'\nport = 2\r\n");
    }
}

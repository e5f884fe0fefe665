//! The sample `redoubt.conf` and `docs/parameters.md`, printed from the table of parameters, so
//! that neither can drift from it.

use crate::conf_file::quote;
use crate::limits::{CONFIG_INCLUDE_DEPTH_MAX, CONFIG_OVERRIDES_BYTES_MAX};
use crate::params::{Context, Param, Parameter, Reach, Section};
use crate::units;
use crate::value::Kind;
use std::fmt::Write;

/// Width of the rules in the sample file.
const RULE_WIDTH: usize = 79;

const SAMPLE_HEAD: &str = "\
# Redoubt configuration file
#
# Lines are `name = value`; the equals sign may be left out. What follows a `#`
# is a comment. Values with spaces or other signs stand in single quotes, with
# '' for one quote within. The lines below show the defaults.
#
# Sizes take the units B kB MB GB TB (1 kB = 1024 bytes), durations us ms s min
# h d, in exactly this case.
#
# The server reads this file when it starts, and again on SIGHUP or `rd_ctl
# reload`; some parameters need a restart, as marked. `-c name=value` on the
# command line wins over this file, CONFIG SET over both. CONFIG REWRITE writes
# what CONFIG SET has changed into this file and keeps its comments.
#
# Other files are read in with include 'file', include_if_exists 'file' and
# include_dir 'directory'; their paths are relative to this file.
";

/// The configuration file that `rd_initdb` writes: all parameters, as comments, with their
/// defaults, bounds and help. It sets nothing.
pub fn sample_conf() -> String {
    let mut text = SAMPLE_HEAD.to_owned();
    let rule = format!("#{}", "-".repeat(RULE_WIDTH - 1));
    for section in Section::ALL {
        let title = section.title().to_uppercase();
        text.push_str(&format!("\n\n{rule}\n# {title}\n{rule}\n"));
        for row in rows(*section).filter(|row| row.context != Context::Initdb) {
            text.push('\n');
            push_comment(&mut text, row.help);
            push_comment(&mut text, &remarks(row));
            text.push_str(&format!("#{} = {}\n", row.name, quote(row.default)));
        }
    }
    text
}

/// `docs/parameters.md`.
pub fn parameters_markdown() -> String {
    let mut text = format!(
        "# Parameters\n\n\
         <!-- Printed from shared/base/src/params.rs; a test there compares. -->\n\n\
         Values come in layers, the later over the earlier: the defaults below, `redoubt.conf` in \
         the data\ndirectory (and what it includes, up to {CONFIG_INCLUDE_DEPTH_MAX} deep), \
         `-c name=value` on the command line, `CONFIG SET`.\n\
         A wrong value prevents the start; on reload it is logged and the old one stays.\n\n\
         - Sizes take the units {}, durations {}, in exactly this\n  \
           case; 1 kB is 1024 bytes. A bare number counts in the unit given under *bare number*; \
         fractions are\n  rounded to it.\n\
         - *restart*: takes effect when the server starts. *reload*: SIGHUP, `rd_ctl reload` or \
         `CONFIG SET` is\n  enough. *session*: besides, each session can have its own. \
         *initdb*: fixed by `rd_initdb`.\n\
         - *local*: `CONFIG SET` takes it only over the unix socket.\n\
         - All values of `CONFIG SET` together take at most {CONFIG_OVERRIDES_BYTES_MAX} bytes; \
         `CONFIG REWRITE` moves them\n  to the file. They end with the server otherwise.\n\
         - `CONFIG GET` also knows the names of Redis in brackets, and then \
         writes as Redis does.\n",
        units::Measure::Size.unit_names(),
        units::Measure::Duration.unit_names(),
    );
    for section in Section::ALL {
        let _ = write!(
            text,
            "\n## {}\n\n\
             | name | type | default | range | bare number | change | meaning |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            section.title()
        );
        for row in rows(*section) {
            push_table_row(&mut text, row);
        }
    }
    text
}

fn push_table_row(text: &mut String, row: &Parameter) {
    let redis = row
        .redis_name
        .map_or(String::new(), |name| format!(" (`{name}`)"));
    let default = match row.default {
        "" => "`''`".to_owned(),
        value => format!("`{value}`"),
    };
    let range = match row.kind {
        Kind::Word { words } => words.join(", "),
        kind => kind
            .range()
            .map_or(String::new(), |(min, max)| format!("{min} .. {max}")),
    };
    let change = match row.context {
        Context::Initdb => "initdb",
        Context::Postmaster => "restart",
        Context::Sighup => "reload",
        Context::Session => "session",
    };
    let local = if row.reach == Reach::Local && row.context.at_run_time() {
        ", local"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "| `{}`{redis} | {} | {default} | {range} | {} | {change}{local} | {} |",
        row.name,
        row.kind.type_name(),
        bare_unit(row).unwrap_or_default(),
        row.help.replace('|', "\\|"),
    );
}

fn rows(section: Section) -> impl Iterator<Item = &'static Parameter> {
    Param::ALL
        .iter()
        .map(|param| param.row())
        .filter(move |row| row.section == section)
}

/// Bounds, unit and time of effect, in one line; empty if there is nothing to say.
fn remarks(row: &Parameter) -> String {
    let mut remarks = Vec::new();
    match row.kind {
        Kind::Word { words } => remarks.push(words.join(", ")),
        Kind::Bool => remarks.push("on, off".to_owned()),
        kind => remarks.extend(kind.range().map(|(min, max)| format!("{min} .. {max}"))),
    }
    remarks.extend(bare_unit(row).map(|unit| format!("a bare number counts in {unit}")));
    if !row.context.remark().is_empty() {
        remarks.push(format!("({})", row.context.remark()));
    }
    remarks.join("; ").replace("; (", " (")
}

/// The unit of a bare number, as in `8kB` or `s`.
fn bare_unit(row: &Parameter) -> Option<String> {
    let Kind::Measured { measure, unit, .. } = row.kind else {
        return None;
    };
    let text = units::print(unit, measure);
    let single = text
        .strip_prefix('1')
        .filter(|rest| rest.starts_with(char::is_alphabetic));
    Some(single.map_or(text.clone(), str::to_owned))
}

/// Adds comment lines, broken between words.
fn push_comment(text: &mut String, comment: &str) {
    let mut width = 0;
    for word in comment.split_whitespace() {
        if width == 0 || width + 1 + word.len() > RULE_WIDTH {
            if width > 0 {
                text.push('\n');
            }
            text.push('#');
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    if width > 0 {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf_file::Reading;
    use std::path::Path;

    #[test]
    fn the_sample_names_each_parameter_once_with_its_default() {
        let sample = sample_conf();
        let mut reading = Reading::default();
        reading.text(Path::new("sample"), sample.as_bytes(), 0);
        assert!(
            reading.problems.is_empty() && reading.assignments.is_empty(),
            "it sets nothing"
        );
        let set: String = sample
            .lines()
            .filter_map(|line| {
                line.strip_prefix('#')
                    .filter(|rest| !rest.starts_with([' ', '-']))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        reading.text(Path::new("sample"), set.as_bytes(), 0);
        assert_eq!(reading.problems, []);
        let given: Vec<(String, String)> = reading
            .assignments
            .into_iter()
            .map(|read| (read.name, read.value))
            .collect();
        let expected: Vec<(String, String)> = Param::ALL
            .iter()
            .map(|param| param.row())
            .filter(|row| row.context != Context::Initdb)
            .map(|row| (row.name.to_owned(), row.default.to_owned()))
            .collect();
        assert_eq!(given, expected);
        assert!(
            sample.lines().all(|line| line.len() <= RULE_WIDTH),
            "lines fit a terminal"
        );
    }

    /// Run with `RD_WRITE_DOCS=1` to write the document anew.
    #[test]
    fn the_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/parameters.md");
        let expected = parameters_markdown();
        if std::env::var_os("RD_WRITE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("folder");
            std::fs::write(&path, &expected).expect("docs/parameters.md");
        }
        let current = std::fs::read_to_string(&path).expect("docs/parameters.md");
        assert!(
            current == expected,
            "docs/parameters.md is not what params.rs says; write it anew with \
             RD_WRITE_DOCS=1 cargo test -p rd-base the_document_is_current"
        );
    }
}

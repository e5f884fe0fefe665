//! `docs/tools.md` is `introductions.md` with each tool's own help behind its introduction.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use support::run;

const INTRODUCTIONS: &str = include_str!("introductions.md");

fn document() -> String {
    let mut sections = INTRODUCTIONS.split("\n## ");
    let mut text = sections.next().unwrap_or_default().to_owned();
    for section in sections {
        let tool = section.lines().next().unwrap_or_default();
        let help = run(tool, &["--help"]);
        assert_eq!(help.code, 0, "{}", help.err);
        let lines: Vec<&str> = help.out.lines().map(str::trim_end).collect();
        text.push_str(&format!(
            "\n## {section}\n```text\n{}\n```\n",
            lines.join("\n")
        ));
    }
    text
}

#[test]
fn the_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tools.md");
    let document = document();
    if std::env::var_os("RD_WRITE_DOCS").is_some() {
        fs::write(&path, &document).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == document,
        "docs/tools.md is old: RD_WRITE_DOCS=1 cargo test -p rd-tools"
    );
}

#[test]
fn every_tool_is_documented() {
    let bins = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    for entry in fs::read_dir(bins).expect("there").flatten() {
        let tool = entry.file_name().to_string_lossy().replace(".rs", "");
        assert!(INTRODUCTIONS.contains(&format!("\n## {tool}\n")), "{tool}");
    }
}

//! `docs/bench.md` is `introduction.md`, the program's own help, and `scripts.md`.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_document_is_current() {
    let help = Command::new(env!("CARGO_BIN_EXE_rd_bench"))
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .expect("the program is there");
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).expect("text");
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let document = format!(
        "{}\n```text\n{}\n```\n{}",
        include_str!("introduction.md"),
        lines.join("\n"),
        include_str!("scripts.md")
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bench.md");
    if std::env::var_os("RD_WRITE_DOCS").is_some() {
        fs::write(&path, &document).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == document,
        "docs/bench.md is old: RD_WRITE_DOCS=1 cargo test -p rd-bench"
    );
}

//! Tidy: the rules of the house that no compiler checks.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Every Rust file that belongs to the project.
fn rust_files() -> Vec<PathBuf> {
    files(".rs")
}

/// Every file that belongs to the project and whose name ends so.
fn files(end: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "data" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(end) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn check(rule: &str, is_broken: impl Fn(&Path, &str) -> Vec<String>) {
    let broken: Vec<String> = rust_files()
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let place = path.strip_prefix(root()).unwrap().to_owned();
            is_broken(&place, &text)
        })
        .collect();
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn unsafe_is_in_one_room() {
    check("`unsafe` belongs into shared/sys", |path, text| {
        let is_code = |line: &str| !line.trim_start().starts_with("//");
        let has = |line: &&str| {
            is_code(line) && (line.contains("unsafe {") || line.contains("unsafe impl"))
        };
        let in_room = path.starts_with("shared/sys") || path.ends_with("tidy.rs");
        match text.lines().find(has) {
            Some(line) if !in_room => vec![format!("{}: {}", path.display(), line.trim())],
            _ => Vec::new(),
        }
    });
    for manifest in rust_manifests() {
        let text = fs::read_to_string(&manifest).unwrap();
        let forbids = text.contains("[lints]\nworkspace = true");
        let is_room = manifest.ends_with("shared/sys/Cargo.toml");
        assert!(
            forbids || is_room,
            "{} does not take the workspace's lints",
            manifest.display()
        );
    }
}

fn rust_manifests() -> Vec<PathBuf> {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = text
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    let names = members.split(',').map(|name| name.trim().trim_matches('"'));
    names
        .filter(|name| !name.is_empty())
        .map(|name| root().join(name).join("Cargo.toml"))
        .collect()
}

#[test]
fn files_fit_a_head_and_say_what_they_are_for() {
    check(
        "a file has at most 900 lines, and opens with its purpose",
        |path, text| {
            let mut broken = Vec::new();
            let lines = text.lines().count();
            if lines > 900 {
                broken.push(format!("{}: {lines} lines", path.display()));
            }
            let first = text
                .lines()
                .find(|line| !line.is_empty() && !line.starts_with("#!"));
            if !first.is_some_and(|line| line.starts_with("//!")) {
                broken.push(format!("{}: no //! at the top", path.display()));
            }
            broken
        },
    );
}

#[test]
fn atomics_of_shared_memory_are_those_that_can_be_interleaved() {
    check(
        "numbers in shared memory are atomics of rd_sys::atomic",
        |path, text| {
            let folders = ["shared/store/src", "shared/engine/src"];
            let is_shared = folders.iter().any(|folder| path.starts_with(folder));
            // The ring says why.
            let free = ["tests", "tests.rs", "ring.rs"].map(OsStr::new);
            if !is_shared || path.iter().any(|part| free.contains(&part)) {
                return Vec::new();
            }
            let uses = text.split("std::sync::atomic::").skip(1);
            uses.filter_map(|rest| rest.split([';', '(']).next())
                .filter(|names| names.contains("AtomicU") || names.contains("AtomicI"))
                .map(|names| format!("{}: std's {names}", path.display()))
                .collect()
        },
    );
}

/// All of it takes no latch and waits for nothing, whoever has died: the scenario `deaths` of
/// `interleavings` does all of it at any moment. What is added here is added there.
#[test]
fn the_postmaster_touches_little_of_shared_memory() {
    const TOUCHED: [&str; 10] = [
        "as_ref",
        "change_overrides",
        "checkpoint.is_cleaned",
        "checkpoint.order_stop",
        "count_file_read",
        "file_reads",
        "overrides_generation",
        "peek_overrides",
        "phase",
        "redo_progress",
    ];
    let mut touched = BTreeSet::new();
    for path in rust_files() {
        if !path.starts_with(root().join("postmaster/src")) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().map(str::trim);
        let code: String = code.filter(|line| !line.starts_with("//")).collect();
        let uses = code.split("shared.").skip(1);
        touched.extend(uses.map(|rest| rest.split('(').next().unwrap_or(rest).to_owned()));
    }
    let touched: Vec<&str> = touched.iter().map(String::as_str).collect();
    assert_eq!(touched, TOUCHED);
}

#[test]
fn nothing_is_left_for_later() {
    check("no mark of unfinished work", |path, text| {
        let marks = ["todo!(", "unimplemented!(", "FIXME", "XXX"];
        let left = |line: &&str| marks.iter().any(|mark| line.contains(mark));
        if path.ends_with("tidy.rs") {
            return Vec::new();
        }
        let lines = text.lines().filter(left);
        lines
            .map(|line| format!("{}: {}", path.display(), line.trim()))
            .collect()
    });
}

/// What a crate of the server imports, by its manifest.
fn imports(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let section = text.split("[dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let names = section
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| name.starts_with("rd-"))
        .map(str::to_owned)
        .collect()
}

/// What is wrong behind the point to which a script usually comes would be found hours later.
#[test]
fn scripts_can_be_read_to_their_end() {
    let scripts = files(".sh");
    assert!(scripts.len() > 5, "{scripts:?}");
    let read = Command::new("bash")
        .arg("-n")
        .arg(root().join(".ci/run"))
        .output();
    if read.is_err() {
        return rd_tests::support::skip("there is no bash");
    }
    for script in &scripts {
        let read = Command::new("bash").arg("-n").arg(script).output().unwrap();
        let said = String::from_utf8_lossy(&read.stderr);
        assert!(
            read.status.success() && said.is_empty(),
            "{}: {said}",
            script.display()
        );
    }
}

/// A sabotage that no longer applies, or names a test of another name, would be noticed only by who runs them all.
#[test]
fn sabotages_apply_and_their_tests_are_there() {
    let script = root().join("tests/sabotage.sh");
    let is_checkout = Command::new("git")
        .args(["rev-parse", "--is-inside-work-tree"])
        .current_dir(root())
        .output();
    if !is_checkout.is_ok_and(|output| output.status.success()) {
        return rd_tests::support::skip("there is no git, or no checkout");
    }
    let checked = Command::new("bash").arg(script).arg("--check").output();
    let Ok(checked) = checked else {
        return rd_tests::support::skip("there is no bash");
    };
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

#[test]
fn imports_go_down_the_layers_only() {
    let below: &[(&str, &[&str])] = &[
        ("shared/base", &[]),
        ("shared/sys", &["rd-base"]),
        ("shared/format", &["rd-base"]),
        ("shared/wire", &["rd-base"]),
        ("shared/store", &["rd-base", "rd-sys", "rd-format"]),
        (
            "shared/engine",
            &["rd-base", "rd-sys", "rd-format", "rd-store"],
        ),
        ("walwriter", &["rd-base", "rd-sys", "rd-store"]),
        (
            "checkpointer",
            &["rd-base", "rd-sys", "rd-format", "rd-store"],
        ),
        ("startup", &["rd-base", "rd-sys", "rd-store", "rd-engine"]),
        (
            "backend",
            &["rd-base", "rd-sys", "rd-store", "rd-engine", "rd-wire"],
        ),
    ];
    for (folder, allowed) in below {
        for import in imports(folder) {
            assert!(
                allowed.contains(&import.as_str()),
                "{folder} must not import {import}"
            );
        }
    }
}

#[test]
fn the_server_links_no_runtime() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-e",
            "normal",
            "-p",
            "rd-postmaster",
            "--prefix",
            "none",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for banned in [
        "tokio ",
        "mio ",
        "rayon ",
        "crossbeam-channel ",
        "parking_lot ",
        "tempfile ",
    ] {
        assert!(
            !tree.lines().any(|line| line.starts_with(banned)),
            "the server links {banned}"
        );
    }
}

//! `rd_bench` against real servers: what it writes can be read, what it counts was done, and what
//! cannot be done is said clearly. Speeds are no matter here.

#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, run};
use rd_tests::support::wait_for;
use std::collections::BTreeMap;
use std::fs;
use tempfile::tempdir;

/// Options of a short run.
const SHORT: [&str; 6] = ["-t", "0.5", "--warm-up", "0.1", "-c", "4"];

/// Runs `rd_bench` on a cluster; whether it succeeded, and what it printed.
fn bench(cluster: &Cluster, options: &[&str]) -> (bool, String, String) {
    let socket = cluster.socket();
    let mut arguments = vec!["-s", socket.to_str().unwrap()];
    arguments.extend_from_slice(&SHORT);
    arguments.extend_from_slice(options);
    let (status, out, err) = run("rd_bench", &arguments);
    (status.success(), out, err)
}

/// The operations that a summary speaks of.
fn operations(summary: &str, work: &str) -> u64 {
    let prefix = format!("{work}: ");
    let line = summary.lines().find_map(|line| line.strip_prefix(&prefix));
    let count = line.and_then(|line| line.split(' ').next());
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no operations of {work} in:\n{summary}"))
}

#[test]
fn every_work_is_done_and_counted() {
    let cluster = Cluster::started(&[]);
    let (is_done, out, err) = bench(&cluster, &["--load", "-k", "500", "-t", "0"]);
    assert!(is_done && out.is_empty(), "{out}{err}");
    let (_, _, err) = bench(&cluster, &["--load", "-k", "50", "-w", "exec", "-t", "0"]);
    assert_eq!(err, "");
    assert_eq!(
        cluster.client().cmd(&[b"DBSIZE"]).unwrap().as_int(),
        Some(550)
    );
    for (work, options) in [
        ("get", &["-k", "500"][..]),
        (
            "set",
            &["-k", "500", "-P", "8", "--distribution", "zipfian"],
        ),
        ("mixed", &["-k", "500", "--writers", "2", "-j", "2"]),
        ("range", &["-k", "500", "--limit", "7"]),
        ("exec", &["-k", "50"]),
        ("transfer", &["-k", "50"]),
        ("transfer", &["-k", "50", "--batch", "--serializable"]),
        ("get", &["-k", "500", "-r", "200"]),
    ] {
        let mut all = vec!["-w", work];
        all.extend_from_slice(options);
        // The disk may stand still for as long as the run is.
        let out = wait_for("an operation", || {
            let (is_done, out, err) = bench(&cluster, &all);
            assert!(is_done, "{work}: {err}");
            (operations(&out, work) > 0).then_some(out)
        });
        assert!(
            !out.contains("not there"),
            "{work}: every key is there: {out}"
        );
    }
    // Nothing but accounts and keys of the load was written.
    assert_eq!(
        cluster.client().cmd(&[b"DBSIZE"]).unwrap().as_int(),
        Some(550)
    );
}

#[test]
fn conflicts_are_tried_again_and_no_balance_is_lost() {
    let cluster = Cluster::started(&[]);
    let options = ["-w", "transfer", "-k", "2", "--load"];
    wait_for("a conflict", || {
        let (is_done, out, err) = bench(&cluster, &options);
        assert!(is_done, "{err}");
        out.contains("conflicts tried again").then_some(())
    });
    let mut client = cluster.client();
    let mut balance = |key: &[u8]| -> i64 {
        let reply = client.cmd(&[b"GET", key]).unwrap();
        let rd_wire::Reply::Bulk(digits) = reply else {
            panic!("{reply:?}");
        };
        String::from_utf8(digits).unwrap().parse().unwrap()
    };
    let sum = balance(b"account:000000000000") + balance(b"account:000000000001");
    assert_eq!(sum, 2000);
}

/// The rows of a CSV file, by the names of their columns.
fn rows(lines: &str) -> Vec<BTreeMap<&str, &str>> {
    let mut rows = lines
        .lines()
        .map(|line| line.split(',').collect::<Vec<&str>>());
    let columns = rows.next().unwrap();
    let named = |row: Vec<_>| {
        assert_eq!(row.len(), columns.len(), "{row:?}");
        columns.iter().copied().zip(row).collect()
    };
    rows.map(named).collect()
}

#[test]
fn what_it_writes_can_be_read() {
    let cluster = Cluster::started(&[]);
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (csv, json, svg, html) = (path("a.csv"), path("a.json"), path("a.svg"), path("a.html"));
    let options = [
        "-w", "set", "-k", "100", "--load", "-q", "-t", "2.2", "-r", "300",
    ];
    let outputs = ["--csv", &csv, "--json", &json, "--report", &svg];
    let all: Vec<&str> = options.iter().chain(&outputs).copied().collect();
    let told = [
        "wal_bytes",
        "redo_bytes",
        "dirty_pages",
        "recovery_estimate_ms",
    ];
    // The machine may stand still for as long as the run is.
    let what = format!("operations, and samples of each of {told:?}");
    let (lines, json) = wait_for(&what, || {
        let (is_done, out, err) = bench(&cluster, &all);
        assert!(is_done, "{err}");
        assert_eq!((out.as_str(), err.as_str()), ("", ""));
        let lines = fs::read_to_string(&csv).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        let samples = json["samples"].as_array().unwrap();
        let is_known = |name: &&str| samples.iter().any(|sample| sample[name].is_u64());
        let is_asked = rows(&lines).iter().any(|row| !row["wal_bytes"].is_empty());
        let is_some_done = json["main"]["operations"].as_u64() > Some(0);
        (is_some_done && is_asked && told.iter().all(is_known)).then_some((lines, json))
    });
    let rows = rows(&lines);
    assert_eq!(rows.len(), 3, "two whole seconds and a part of one");
    let number = |row: &BTreeMap<&str, &str>, name: &str| row[name].parse::<f64>().unwrap();
    // A slow machine may answer nothing, and may not be asked about itself, for a second.
    for row in rows.iter().filter(|row| row["operations"] != "0") {
        assert!(number(row, "p50_us") > 0.0, "{row:?}");
        assert!(number(row, "p50_us") <= number(row, "max_us"), "{row:?}");
    }
    let asked: Vec<_> = rows
        .iter()
        .filter(|row| !row["wal_bytes"].is_empty())
        .collect();
    for pair in asked.windows(2) {
        assert!(number(pair[0], "wal_bytes") <= number(pair[1], "wal_bytes"));
    }
    let of_lines: f64 = rows.iter().map(|row| number(row, "operations")).sum();
    // 300 a second for 2.2 seconds, and what fell due in the warm-up of 0.1.
    assert!((1.0..=700.0).contains(&of_lines), "{lines}");

    let of_series = json["main"]["series"].as_array().unwrap().iter();
    let sum: u64 = of_series
        .map(|second| second["operations"].as_u64().unwrap())
        .sum();
    assert_eq!(json["main"]["operations"].as_u64(), Some(sum));
    assert_eq!(sum as f64, of_lines);
    assert!(json["server"].as_str().unwrap().starts_with("Redoubt "));
    let samples = json["samples"].as_array().unwrap();

    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    // How fast the log grows is told by two samples of the run that are half a second apart; there are such
    // ones for certain in a second.
    let in_run = samples.iter().filter(|sample| sample["wal_bytes"].is_u64());
    let at_s = in_run.map(|sample| sample["at_s"].as_f64().unwrap());
    let at_s: Vec<f64> = at_s.filter(|at_s| *at_s >= 0.0).collect();
    let span_s = at_s
        .last()
        .zip(at_s.first())
        .map(|(last, first)| last - first);
    let growth = span_s.and_then(|span_s| (span_s >= 1.0).then_some("log, MB/s"));
    for panel in ["operations/s", "response time, ms"].iter().chain(&growth) {
        assert!(picture.contains(panel), "{panel}");
    }
    wait_for("an operation", || {
        let options = ["-w", "get", "-k", "100", "--report", &html];
        let (is_done, out, err) = bench(&cluster, &options);
        assert!(is_done, "{err}");
        (operations(&out, "get") > 0).then_some(())
    });
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && page.contains("p99.9"));
}

#[test]
fn checkpoints_are_marked() {
    let cluster = Cluster::started(&[]);
    let options = ["-w", "set", "-k", "1000", "--json", "-", "-t", "2"];
    let run = || {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| bench(&cluster, &options));
            let mut client = cluster.client();
            // Checkpoints one after another, until the run is over: some of them are within it.
            while !run.is_finished() {
                client.cmd(&[b"CHECKPOINT"]).unwrap();
            }
            let (is_done, out, err) = run.join().unwrap();
            assert!(is_done, "{err}");
            serde_json::from_str::<serde_json::Value>(&out).unwrap()
        })
    };
    // Unless the machine stands still for as long as the run is.
    let marks = wait_for("a mark", || {
        let marks = run()["checkpoints"].as_array().unwrap().clone();
        (!marks.is_empty()).then_some(marks)
    });
    for mark in marks {
        // The last one is seen by a look that began within the run, and may have taken long.
        let start_s = mark["start_s"].as_f64().unwrap();
        assert!(start_s >= -1.0, "{mark}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let mut cluster = Cluster::started(&[("max_value_size", "1kB")]);
    let refused = |cluster: &Cluster, options: &[&str], texts: &[&str]| {
        let (mut is_done, mut out, mut err) = bench(cluster, options);
        // A machine that stands still for as long as the run is asks for nothing that could be refused.
        while is_done && operations(&out, "set") == 0 {
            (is_done, out, err) = bench(cluster, options);
        }
        assert!(!is_done, "{options:?}");
        for text in texts {
            assert!(err.contains(text), "{options:?}: no {text:?} in: {err}");
        }
    };
    let absent = [
        "account 0 is missing",
        "hint: Make the accounts with --load",
    ];
    refused(&cluster, &["-w", "transfer"], &absent);
    refused(&cluster, &["-c", "0"], &["--connections"]);
    refused(&cluster, &["--report", "x.pdf"], &[".svg or .html"]);
    let unwritable = "/nowhere/at/all.csv";
    refused(&cluster, &["-k", "9", "--csv", unwritable], &[unwritable]);
    // What the server refuses is passed on, with the operation that it refused.
    let large = ["-w", "set", "-k", "9", "-b", "2000"];
    refused(&cluster, &large, &["Set(", "max_value_size"]);
    wait_for("a refusal that is counted by its text", || {
        let (is_done, out, err) = bench(&cluster, &[&large[..], &["--keep-going"]].concat());
        assert!(is_done, "{err}");
        out.contains("max_value_size").then_some(())
    });
    cluster.stop(Signal::SIGINT);
    refused(&cluster, &[], &["could not connect to"]);
}

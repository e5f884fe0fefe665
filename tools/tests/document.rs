//! `docs/tools.md` is what the tools say of themselves, with a word before each.

mod support;

use std::fs;
use std::path::Path;
use support::run;

const HEAD: &str = "# Tools\n\n\
Printed from the tools' own help; a test holds them together.\n\
`RD_WRITE_DOCS=1 cargo test -p rd-tools` writes this file anew.\n\n\
All stand beside the server's program, `redoubt`. Option letters, words and exit codes are those of\n\
PostgreSQL's tools, and of `redis-cli`, where these have the tool. Where `-D` names a data directory,\n\
the environment variable `RDDATA` stands for it. A data directory that others can read is refused.\n\
Errors go to standard error: `tool: error: what is wrong`, then `tool: hint: what to do`.\n";

/// Each tool, what is to be known before its options, and an example.
const TOOLS: &[(&str, &str)] = &[
    (
        "rd_initdb",
        "Makes a data directory: a first log file, catalog, first database, `pg_control`, and a\n\
         commented `redoubt.conf`. What was made is removed again if it cannot be finished.\n\n\
         ```\nrd_initdb -D /srv/redoubt\nrd_initdb -D /srv/redoubt --wal-segsize=64\n```\n",
    ),
    (
        "rd_ctl",
        "Starts the server in the background and waits until it serves; while it recovers, the\n\
         percentage and the time left are shown. Its log goes to the file of `-l`, or to `server.log`\n\
         in the data directory; if the start fails, the log's last words are in the error. `restart`\n\
         uses the options of the last start again, unless `-o` gives others.\n\n\
         ```\nrd_ctl -D /srv/redoubt -l redoubt.log start\nrd_ctl -D /srv/redoubt -o '-c port=7433' start\n\
         rd_ctl -D /srv/redoubt reload\nrd_ctl -D /srv/redoubt stop -m fast\n```\n",
    ),
    (
        "rd_isready",
        "Asks a server, or with `-D` reads its `postmaster.pid`, which needs no connection.\n\n\
         ```\nrd_isready -h 127.0.0.1 -p 7432\n127.0.0.1:7432 - accepting connections\n\
         rd_isready -D /srv/redoubt\n\
         /srv/redoubt - rejecting connections: recovering and advancing: redo 43 %, about 3 s left\n```\n",
    ),
    (
        "rd_cli",
        "At a terminal: history (`~/.rd_cli_history`), completion with the tabulator, hints of what a\n\
         command takes, and `help`. Replies are printed as `redis-cli` prints them. A command that only\n\
         reads is sent again over a new connection if the old one broke; one that writes is not, for it\n\
         may have been done.\n\n\
         ```\nrd_cli SET greeting 'hello world'\nrd_cli -D /srv/redoubt INFO wal\n\
         rd_cli -x SET picture < picture.png\nrd_cli --pipe < requests.resp\n```\n",
    ),
    (
        "rd_controldata",
        "Reads `global/pg_control`, beside a running server too. The first field is the format; each\n\
         relation file has a line at the end.\n\n\
         ```\nrd_controldata -D /srv/redoubt\nrd_controldata -D /srv/redoubt --json\n```\n",
    ),
    (
        "rd_waldump",
        "Prints each record of the log: kind, length, place, start count, time, keys and what is done to\n\
         pages. A record that cannot be read is located by LSN, file and offset, and told apart: the end\n\
         of the log, which may be torn, or damage to log that was durable.\n\n\
         ```\nrd_waldump -p /srv/redoubt -s 0/1000028 -n 10\nrd_waldump -p /srv/redoubt -z\n\
         rd_waldump -p /srv/redoubt/wal 000000010000000000000003\n```\n",
    ),
    (
        "rd_verify",
        "Reads every page of every relation file and holds pages, links, levels, free blocks and\n\
         counts against each other. The server must be stopped.\n\n\
         ```\nrd_ctl stop -D /srv/redoubt && rd_verify -D /srv/redoubt\n```\n",
    ),
];

fn document() -> String {
    let mut text = HEAD.to_owned();
    for (tool, about) in TOOLS {
        let help = run(tool, &["--help"]);
        assert_eq!(help.code, 0, "{}", help.err);
        let lines: Vec<&str> = help.out.lines().map(str::trim_end).collect();
        text.push_str(&format!(
            "\n## {tool}\n\n{about}\n```text\n{}\n```\n",
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
    let mut found: Vec<String> = fs::read_dir(bins)
        .expect("there")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().replace(".rs", ""))
        .collect();
    found.sort();
    let mut documented: Vec<&str> = TOOLS.iter().map(|(tool, _)| *tool).collect();
    documented.sort_unstable();
    assert_eq!(found, documented);
}

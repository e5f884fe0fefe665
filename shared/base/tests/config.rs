//! Configuration as the server meets it: files on disk, command line, reload, `CONFIG SET`,
//! `CONFIG REWRITE`.

use proptest::prelude::*;
use rd_base::conf_file::{FILE_NAME, rewrite};
use rd_base::config::{Place, SetErrorReason};
use rd_base::documents::sample_conf;
use rd_base::limits::{BACKENDS_MAX, CONFIG_OVERRIDES_BYTES_MAX};
use rd_base::params::{Context, Reach};
use rd_base::words::{EndOfRecoveryCheckpoint, LogMinMessages, TornPageProtection, WalSyncMethod};
use rd_base::{Config, Overrides, Param};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const MB: u64 = 1 << 20;

/// A data directory with a configuration file.
fn data_dir(conf: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    write_conf(dir.path(), conf);
    dir
}

fn write_conf(dir: &Path, conf: &str) {
    fs::write(dir.join(FILE_NAME), conf).expect("redoubt.conf");
}

fn command_line(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(dir: &TempDir) -> Config {
    Config::load(dir.path(), &[]).expect("must load")
}

/// What is wrong, with the directory left out.
fn load_errors(dir: &TempDir, arguments: &[(&str, &str)]) -> Vec<String> {
    let problems = Config::load(dir.path(), &command_line(arguments)).expect_err("must not load");
    without_dir(dir, &problems.to_string())
}

fn without_dir(dir: &TempDir, text: &str) -> Vec<String> {
    let prefix = format!("{}/", dir.path().display());
    text.lines().map(|line| line.replace(&prefix, "")).collect()
}

#[test]
fn the_sample_file_means_the_defaults() {
    let config = load(&data_dir(&sample_conf()));
    let defaults = Config::default();
    for param in Param::ALL.iter().copied() {
        assert_eq!(config.show(param), defaults.show(param), "{param}");
        assert_eq!(config.source(param), &Place::Default);
    }
    assert_eq!(config.listen_addresses(), "127.0.0.1");
    assert_eq!(config.port(), 7432);
    assert_eq!(config.unix_socket_permissions(), 0o700);
    assert_eq!(config.shared_buffers_bytes(), 128 * MB);
    assert_eq!(config.checkpoint_timeout(), Duration::from_secs(300));
    assert_eq!(
        config.checkpoint_completion_target().to_bits(),
        0.9_f64.to_bits()
    );
    assert_eq!(config.wal_sync_method(), WalSyncMethod::OpenDatasync);
    assert_eq!(
        config.torn_page_protection(),
        TornPageProtection::DoubleWrite
    );
    assert_eq!(
        config.end_of_recovery_checkpoint(),
        EndOfRecoveryCheckpoint::AfterOpen
    );
    assert_eq!(config.log_min_messages(), LogMinMessages::Log);
    assert!(config.synchronous_commit() && config.restart_after_crash());
}

#[test]
fn later_layers_win_and_each_value_knows_its_source() {
    let dir = data_dir("port = 1000\nport = 1001\nmax_connections = 5\nmax-value-size = 2MB\n");
    let arguments = command_line(&[("max_connections", "6"), ("backends", "3")]);
    let config = Config::load(dir.path(), &arguments).expect("must load");
    assert_eq!(
        (config.port(), config.max_connections(), config.backends()),
        (1001, 6, 3)
    );
    assert_eq!(config.max_value_size_bytes(), 2 * MB);
    let file = Place::File(dir.path().join(FILE_NAME).into(), 2);
    assert_eq!(config.source(Param::Port), &file);
    assert_eq!(config.source(Param::MaxConnections), &Place::CommandLine);
    assert_eq!(config.source(Param::WalSyncMethod), &Place::Default);

    let overrides = config
        .set(&[("maxclients", "7")], Reach::Anyone, &Overrides::new())
        .expect("must be accepted");
    let config = config.with_overrides(&overrides).config;
    assert_eq!(config.max_connections(), 7);
    assert_eq!(config.source(Param::MaxConnections), &Place::ConfigSet);
    assert_eq!(
        config
            .with_overrides(&Overrides::new())
            .config
            .max_connections(),
        6
    );
}

#[test]
fn what_is_automatic_follows_what_it_depends_on() {
    for (shared_buffers, wal_buffers) in [
        ("16MB", 4 * MB),
        ("128MB", 4 * MB),
        ("256MB", 8 * MB),
        ("1GB", 32 * MB),
        ("1000000kB", 31_244 * 1024 / 8192 * 8192),
        ("64GB", 64 * MB),
    ] {
        let config = Config::from_pairs(&[("shared_buffers", shared_buffers)]).expect("valid");
        let resolved = config.wal_buffers_bytes();
        assert!(resolved.is_multiple_of(8192), "{shared_buffers}");
        assert!(
            resolved.abs_diff(wal_buffers) <= 8192,
            "{shared_buffers}: {resolved}"
        );
    }
    let config = Config::from_pairs(&[("wal_buffers", "8kB")]).expect("valid");
    assert_eq!(config.wal_buffers_bytes(), 256 * 1024);
    let backends = Config::default().backends() as usize;
    assert!((2..=BACKENDS_MAX).contains(&backends), "{backends}");
}

#[test]
fn all_mistakes_are_reported_with_file_and_line() {
    let dir = data_dir(
        "shared_bufers = 1GB\n\
         shared_buffers = 1MB  # too little\n\
         port = 74x\n\
         \n\
         wal_sync_method = sync\n\
         checkpoint_timeout = '5 minutes'\n\
         restart_after_crash = perhaps\n\
         nonsense\n\
         a = 'open\n\
         wal_segment_size = 1MB\n\
         quite_unknown = 1\n",
    );
    let expected = [
        "redoubt.conf:8: syntax error: expected a value after \"nonsense\"",
        "redoubt.conf:9: syntax error: missing closing quote after \"a\"",
        "redoubt.conf:1: parameter \"shared_bufers\": no such parameter; \
         did you mean \"shared_buffers\"?",
        "redoubt.conf:2: parameter \"shared_buffers\": 1MB is outside the valid range \
         (16MB .. 16TB)",
        "redoubt.conf:3: parameter \"port\": invalid value \"74x\": \
         must be a number without unit",
        "redoubt.conf:5: parameter \"wal_sync_method\": invalid value \"sync\": \
         must be one of fdatasync, fsync, open_datasync, open_sync",
        "redoubt.conf:6: parameter \"checkpoint_timeout\": invalid value \"5 minutes\": \
         valid units are us, ms, s, min, h, d",
        "redoubt.conf:7: parameter \"restart_after_crash\": invalid value \"perhaps\": \
         must be on or off",
        "redoubt.conf:10: parameter \"wal_segment_size\": is fixed by rd_initdb \
         and cannot be set",
        "redoubt.conf:11: parameter \"quite_unknown\": no such parameter",
        "command line: parameter \"port\": 70000 is outside the valid range (0 .. 65535)",
    ];
    assert_eq!(load_errors(&dir, &[("port", "70000")]), expected);
}

#[test]
fn a_missing_file_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("redoubt.conf: could not read configuration file:"),
        "{errors:?}"
    );
    assert!(errors[0].contains("rd_initdb"), "{errors:?}");
}

#[test]
fn text_that_is_no_text_is_refused() {
    let dir = data_dir("");
    fs::write(dir.path().join(FILE_NAME), b"port = 1\nport = \xff\n").expect("write");
    assert_eq!(
        load_errors(&dir, &[]),
        ["redoubt.conf:2: line is not UTF-8"]
    );
    fs::write(dir.path().join(FILE_NAME), b"port = 1\0\n").expect("write");
    assert_eq!(load_errors(&dir, &[]).len(), 1);
    fs::write(dir.path().join(FILE_NAME), vec![b'#'; (1 << 20) + 1]).expect("write");
    assert!(load_errors(&dir, &[])[0].contains("larger than"));
    fs::write(
        dir.path().join(FILE_NAME),
        b"\xEF\xBB\xBFport = 1\r\nmax_connections = 2\r\n",
    )
    .expect("write");
    let config = load(&dir);
    assert_eq!((config.port(), config.max_connections()), (1, 2));
}

#[test]
fn includes_are_relative_ordered_and_bounded() {
    let dir = data_dir(
        "port = 1\n\
         include 'more/a.conf'\n\
         include_if_exists = 'absent.conf'\n\
         include_dir 'parts'\n",
    );
    for folder in ["more", "parts"] {
        fs::create_dir(dir.path().join(folder)).expect("folder");
    }
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("write");
    write(
        "more/a.conf",
        "port = 2\nmax_connections = 2\ninclude b.conf\n",
    );
    write("more/b.conf", "max_connections = 3\n");
    for number in [20, 13, 17, 10, 19, 12, 18, 15, 16, 11, 14] {
        write(
            &format!("parts/{number}.conf"),
            &format!("backends = {number}\n"),
        );
    }
    write("parts/.hidden.conf", "backends = 30\n");
    write("parts/30.conf.bak", "backends = 40\n");
    let config = load(&dir);
    assert_eq!(
        (config.port(), config.max_connections(), config.backends()),
        (2, 3, 20)
    );
    let source = config.source(Param::MaxConnections).to_string();
    assert!(source.ends_with("more/b.conf:1"), "{source}");

    write("more/b.conf", "include 'a.conf'\n");
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].ends_with("files include each other more than 10 deep"),
        "{errors:?}"
    );

    for depth in 0..11 {
        write(
            &format!("more/{depth}.conf"),
            &format!("include {}.conf\n", depth + 1),
        );
    }
    write("more/11.conf", "port = 11\n");
    write_conf(dir.path(), "include more/2.conf\n");
    assert_eq!(load(&dir).port(), 11, "ten files below the first one");
    write_conf(dir.path(), "include more/1.conf\n");
    assert_eq!(load_errors(&dir, &[]).len(), 1, "eleven are too many");

    write_conf(
        dir.path(),
        "include 'gone.conf'\ninclude_dir 'gone'\ninclude 'parts'\n",
    );
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(
        errors[0].starts_with("redoubt.conf:1: could not include"),
        "{errors:?}"
    );
    assert!(
        errors[1].starts_with("redoubt.conf:2: could not read directory"),
        "{errors:?}"
    );
    assert!(
        errors[2].starts_with("redoubt.conf:3: could not include"),
        "{errors:?}"
    );
}

/// Whatever files say of each other, reading them ends soon, with few words.
#[test]
fn files_that_include_each_other_without_end_are_given_up() {
    let dir = data_dir("include 'redoubt.conf'\n");
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].ends_with("more than 10 deep"), "{errors:?}");

    // A tree of 1000^10 files, if nobody counted.
    write_conf(dir.path(), &"include 'redoubt.conf'\n".repeat(1000));
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 101, "a hundred are listed: {errors:?}");
    assert!(errors[100].ends_with("and more problems, which are not listed"));

    // Two files, in turn, each large: the sum is bounded, too.
    let filling = format!("#{}\n", "-".repeat(300_000));
    let more = format!("{filling}include 'redoubt.conf'\n");
    fs::write(dir.path().join("more.conf"), more).expect("write");
    write_conf(dir.path(), &format!("{filling}include 'more.conf'\n"));
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].ends_with("larger than 1048576 bytes together"),
        "{errors:?}"
    );

    // Wide rather than deep.
    write_conf(dir.path(), &"include 'more.conf'\n".repeat(300));
    fs::write(dir.path().join("more.conf"), "port = 1\n").expect("write");
    let errors = load_errors(&dir, &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("included more than 256 times"),
        "{errors:?}"
    );

    // A pipe nobody writes to.
    fs::remove_file(dir.path().join("more.conf")).expect("removed");
    let made = std::process::Command::new("mkfifo")
        .arg(dir.path().join("more.conf"))
        .status();
    assert!(made.expect("coreutils").success());
    write_conf(dir.path(), "include 'more.conf'\n");
    let errors = load_errors(&dir, &[]);
    assert!(errors[0].ends_with("not a regular file"), "{errors:?}");
}

#[test]
fn a_file_of_nothing_but_mistakes_is_read_in_bounded_time_and_words() {
    for line in ["=\n", "x y\n", "port x\n", "'\n", "\u{e9}\n"] {
        let dir = data_dir(&line.repeat((1 << 20) / line.len()));
        let errors = load_errors(&dir, &[]);
        assert!(
            (100..=102).contains(&errors.len()),
            "{line:?}: {}",
            errors.len()
        );
    }
    let dir = data_dir(&format!("{} = 1\n", "x".repeat(1_000_000)));
    let errors = load_errors(&dir, &[]);
    assert!(errors.len() == 1 && errors[0].len() < 300, "a name is cut");
    // More settings than anybody has, all good.
    let dir = data_dir(&"port 1\n".repeat(10_001));
    let errors = load_errors(&dir, &[]);
    assert!(errors[0].contains("more than 10000 settings"), "{errors:?}");
}

#[test]
fn numbers_beyond_every_word_are_refused_with_their_units() {
    let long = "9".repeat(100_000);
    for number in [
        "18446744073709551615",
        "99999999999999999999",
        "1e400",
        &long,
    ] {
        for unit in ["", "B", "kB", "TB", "us", "d"] {
            for sign in ["", "-", "+", "0.", "."] {
                for param in Param::ALL {
                    let text = format!("{sign}{number}{unit}");
                    let _ = param.row().kind.parse(&text);
                }
            }
        }
    }
    let errors = load_errors(&data_dir("max_wal_size = 99999999999999999999TB\n"), &[]);
    assert!(errors[0].ends_with("too large"), "{errors:?}");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let dir = data_dir("max_wal_size = 64MB\n");
    assert_eq!(
        load_errors(&dir, &[]),
        [
            "redoubt.conf:1: parameter \"max_wal_size\": \"max_wal_size\" (64MB) must be at least \
          \"min_wal_size\" (80MB)"
        ]
    );
    write_conf(dir.path(), "max_wal_size = 64MB\nmin_wal_size = 16MB\n");
    let small = load(&dir)
        .with_wal_segment_size(8 * MB)
        .expect("two segments fit");
    assert_eq!(small.wal_segment_size_bytes(), 8 * MB);
    assert_eq!(small.source(Param::WalSegmentSize), &Place::ControlFile);
    let problems = load(&dir)
        .with_wal_segment_size(16 * MB)
        .expect_err("one segment only");
    assert_eq!(
        without_dir(&dir, &problems.to_string()),
        [
            "redoubt.conf:2: parameter \"min_wal_size\": \"min_wal_size\" (16MB) must be at least \
          2 times \"wal_segment_size\" (16MB)"
        ]
    );
    write_conf(dir.path(), "max_wal_size = 64MB\nmin_wal_size = 32MB\n");
    assert_eq!(load(&dir).max_wal_size_bytes(), 64 * MB);
}

#[test]
fn reload_takes_up_what_is_right_and_keeps_the_rest() {
    let dir = data_dir("max_connections = 5\nshared_buffers = 32MB\ncheckpoint_timeout = 1min\n");
    let config = load(&dir)
        .with_wal_segment_size(MB)
        .expect("80MB is enough");
    write_conf(
        dir.path(),
        "max_connections = 0\nshared_buffers = 64MB\ncheckpoint_timeout = 2min\nunknown_one = 1\n",
    );
    let reloaded = config.reload(&Overrides::new());
    let text: Vec<String> = reloaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        without_dir(&dir, &text.join("\n")),
        [
            "redoubt.conf:1: parameter \"max_connections\": 0 is outside the valid range \
             (1 .. 1000000)",
            "redoubt.conf:4: parameter \"unknown_one\": no such parameter",
            "redoubt.conf:2: parameter \"shared_buffers\": cannot be changed to 64MB without \
             restarting the server; 32MB stays in force",
        ]
    );
    let changed: Vec<String> = reloaded.changed.iter().map(ToString::to_string).collect();
    assert_eq!(
        changed,
        ["parameter \"checkpoint_timeout\" changed to \"2min\""]
    );
    let config = reloaded.config;
    assert_eq!(
        (config.max_connections(), config.shared_buffers_bytes()),
        (5, 32 * MB)
    );
    assert!(config.pending_restart(Param::SharedBuffers));
    assert!(!config.pending_restart(Param::WalBuffers));
    assert_eq!(
        config.wal_segment_size_bytes(),
        MB,
        "what pg_control says stays"
    );

    write_conf(dir.path(), "shared_buffers = 32MB\n");
    let reloaded = config.reload(&Overrides::new());
    assert!(reloaded.problems.is_empty(), "{:?}", reloaded.problems);
    let config = reloaded.config;
    assert!(!config.pending_restart(Param::SharedBuffers));
    assert_eq!(
        config.max_connections(),
        10_000,
        "a line that is gone means the default"
    );
    assert_eq!(config.checkpoint_timeout(), Duration::from_secs(300));
}

#[test]
fn a_file_that_cannot_be_made_out_changes_nothing() {
    let dir = data_dir("max_connections = 5\n");
    let config = load(&dir);
    write_conf(
        dir.path(),
        "max_connections = 6\nlog_connections on 'oops\n",
    );
    let reloaded = config.reload(&Overrides::new());
    assert_eq!(reloaded.problems.len(), 1, "{:?}", reloaded.problems);
    assert!(reloaded.changed.is_empty());
    assert_eq!(reloaded.config.max_connections(), 5);
    fs::remove_file(dir.path().join(FILE_NAME)).expect("remove");
    let reloaded = config.reload(&Overrides::new());
    assert_eq!(reloaded.problems.len(), 1);
    assert_eq!(reloaded.config.max_connections(), 5);
}

#[test]
fn reload_keeps_relations() {
    let dir = data_dir("");
    let config = load(&dir);
    write_conf(dir.path(), "max_wal_size = 32MB\nmax_connections = 7\n");
    let reloaded = config.reload(&Overrides::new());
    assert_eq!(reloaded.problems.len(), 1, "{:?}", reloaded.problems);
    assert_eq!(reloaded.config.max_wal_size_bytes(), 1024 * MB);
    assert_eq!(reloaded.config.max_connections(), 7);
    // A value set by command that no longer fits a new file gives way to it.
    let overrides = config
        .set(
            &[("min_wal_size", "512MB")],
            Reach::Anyone,
            &Overrides::new(),
        )
        .expect("fits 1GB");
    write_conf(dir.path(), "max_wal_size = 256MB\n");
    let reloaded = config.reload(&overrides);
    assert_eq!(reloaded.config.max_wal_size_bytes(), 256 * MB);
    assert_eq!(reloaded.config.min_wal_size_bytes(), 80 * MB);
    let text: Vec<String> = reloaded.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "CONFIG SET: parameter \"min_wal_size\": \"max_wal_size\" (256MB) must be at least \
          \"min_wal_size\" (512MB)"
        ]
    );
}

#[test]
fn what_the_server_chose_is_no_change_when_the_file_leaves_it_to_the_server_again() {
    let dir = data_dir("backends = 0\nwal_buffers = 0\n");
    let config = load(&dir);
    let reloaded = config.reload(&Overrides::new());
    assert!(reloaded.problems.is_empty(), "{:?}", reloaded.problems);
    for param in [Param::Backends, Param::WalBuffers] {
        assert!(!reloaded.config.pending_restart(param), "{param}");
    }
    write_conf(dir.path(), "backends = 0\nwal_buffers = 100kB\n");
    let problems = config.reload(&Overrides::new()).problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn a_file_is_checked_as_a_start_would_read_it() {
    let dir = data_dir("max_wal_size = 512MB\n");
    let config = Config::load(dir.path(), &command_line(&[("max_wal_size", "2GB")]))
        .expect("valid")
        .with_wal_segment_size(2 * MB)
        .expect("80MB is enough");
    let problems = |text: &str| match config.check_file(text) {
        Ok(()) => Vec::new(),
        Err(problems) => without_dir(&dir, &problems.to_string()),
    };
    assert_eq!(
        problems("max_wal_size = 1GB\nmin_wal_size = 900MB\n"),
        [""; 0]
    );
    // With the command line it would do, but nobody says that there will be one.
    assert_eq!(
        problems("max_wal_size = 512MB\nmin_wal_size = 900MB\n"),
        [
            "redoubt.conf:1: parameter \"max_wal_size\": \"max_wal_size\" (512MB) must be at least \
             \"min_wal_size\" (900MB)"
        ]
    );
    assert_eq!(
        problems("min_wal_size = 3GB\nmax_wal_size = 4GB\n"),
        [
            "command line: parameter \"max_wal_size\": \"max_wal_size\" (2GB) must be at least \
             \"min_wal_size\" (3GB)"
        ]
    );
    assert_eq!(
        problems("port = x\n"),
        ["redoubt.conf:1: parameter \"port\": invalid value \"x\": not a number"]
    );
    assert_eq!(
        problems("min_wal_size = 2MB\n"),
        [
            "redoubt.conf:1: parameter \"min_wal_size\": \"min_wal_size\" (2MB) must be at least \
             2 times \"wal_segment_size\" (2MB)"
        ]
    );
}

#[test]
fn config_set_checks_everything_and_takes_all_or_nothing() {
    let config = Config::default();
    let none = Overrides::new();
    let refusal = |pairs: &[(&str, &str)], reach| {
        let error = config
            .set(pairs, reach, &none)
            .expect_err("must be refused");
        (error.argument, error.reason)
    };
    let unknown = refusal(&[("log_connection", "on")], Reach::Anyone);
    let nearest = SetErrorReason::Unknown(Some("log_connections"));
    assert_eq!(unknown, ("log_connection".to_owned(), nearest));
    let twice = refusal(
        &[("maxclients", "1"), ("max_connections", "2")],
        Reach::Anyone,
    );
    assert_eq!(
        twice,
        ("max_connections".to_owned(), SetErrorReason::Repeated)
    );
    for name in ["port", "bind", "shared_buffers", "wal_segment_size"] {
        let (_, reason) = refusal(&[(name, "1")], Reach::Local);
        assert_eq!(reason, SetErrorReason::Immutable, "{name}");
    }
    let (_, reason) = refusal(&[("fault_points", "x")], Reach::Anyone);
    assert_eq!(reason, SetErrorReason::NotOverTcp);
    assert!(
        config
            .set(&[("fault_points", "x")], Reach::Local, &none)
            .is_ok()
    );
    let (argument, reason) = refusal(&[("timeout", "5"), ("max_wal_size", "x")], Reach::Anyone);
    assert_eq!(argument, "max_wal_size");
    assert_eq!(reason.to_string(), "invalid value \"x\": not a number");
    let (argument, reason) = refusal(&[("max_wal_size", "64MB")], Reach::Anyone);
    assert_eq!(argument, "max_wal_size");
    assert!(matches!(reason, SetErrorReason::Relation(_)));

    // A relation that others have broken before hides no other.
    let mut broken = Overrides::new();
    let room = |param, value: &str, overrides: &mut Overrides| {
        overrides.insert(param, value.to_owned()).expect("room");
    };
    room(Param::MinWalSize, "900MB", &mut broken);
    room(Param::MaxWalSize, "100MB", &mut broken);
    let error = config
        .set(&[("client_query_max", "1MB")], Reach::Anyone, &broken)
        .expect_err("less than proto_max_bulk_len");
    assert!(
        matches!(error.reason, SetErrorReason::Relation(_)),
        "{error}"
    );

    // What clients of Redis switch on by habit is so anyway; the contrary cannot be had.
    let habits = [("appendonly", "yes"), ("save", "")];
    assert_eq!(config.set(&habits, Reach::Anyone, &none), Ok(none.clone()));
    let (argument, reason) = refusal(&[("timeout", "1"), ("appendonly", "no")], Reach::Anyone);
    assert_eq!(
        (argument.as_str(), reason),
        ("appendonly", SetErrorReason::Immutable)
    );

    let pairs = [
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
        ("Timeout", "90"),
    ];
    let overrides = config
        .set(&pairs, Reach::Anyone, &none)
        .expect("they fit together");
    let new = config.with_overrides(&overrides).config;
    assert_eq!(
        (new.max_wal_size_bytes(), new.min_wal_size_bytes()),
        (64 * MB, 32 * MB)
    );
    assert_eq!(new.timeout(), Duration::from_secs(90));
    let held: Vec<_> = overrides
        .iter()
        .map(|(param, text)| (param, text.to_owned()))
        .collect();
    assert!(
        held.contains(&(Param::Timeout, "90s".to_owned())),
        "{held:?}"
    );
}

#[test]
fn config_get_takes_patterns_and_names_of_redis() {
    let config = Config::default();
    assert_eq!(config.get_matching("port"), [("port", "7432".to_owned())]);
    assert_eq!(
        config.get_matching("MAX_WAL*"),
        [("max_wal_size", "1GB".to_owned())]
    );
    assert_eq!(
        config.get_matching("maxclients"),
        [("maxclients", "10000".to_owned())]
    );
    assert_eq!(
        config.get_matching("proto-max-bulk-le[mn]"),
        [("proto-max-bulk-len", (16 * MB).to_string())]
    );
    assert_eq!(
        config.get_matching("tcp-keepalive"),
        [("tcp-keepalive", "300".to_owned())]
    );
    assert_eq!(
        config.get_matching("appendonly"),
        [("appendonly", "yes".to_owned())]
    );
    assert_eq!(config.get_matching("save"), [("save", String::new())]);
    assert!(config.get_matching("nothing*").is_empty());
    assert!(config.get_matching("*").len() > Param::ALL.len());
}

#[test]
fn overrides_are_bounded() {
    let mut overrides = Overrides::new();
    let long = "'".repeat(1023);
    for param in Param::ALL {
        let before = overrides.clone();
        if overrides.insert(*param, long.clone()).is_err() {
            assert_eq!(overrides, before, "a refused value changes nothing");
            let bytes = overrides.encode();
            assert!(bytes.len() <= CONFIG_OVERRIDES_BYTES_MAX);
            assert_eq!(Overrides::decode(&bytes), Ok(overrides));
            let mut full = before;
            full.insert(*param, "short".to_owned())
                .expect("this one still fits");
            let with_short = full.clone();
            assert!(full.insert(*param, long).is_err());
            assert_eq!(full, with_short, "the old value is still there");
            return;
        }
    }
    panic!("there must be a bound");
}

#[test]
fn damaged_overrides_are_an_error() {
    for bad in [
        "x = 1\n",
        "port\n",
        "port = 'a\n",
        "include '/etc/passwd'\n",
        "port = \u{0}'",
    ] {
        assert!(Overrides::decode(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert_eq!(Overrides::decode(b""), Ok(Overrides::new()));
}

#[test]
fn every_parameter_survives_rewriting_the_sample() {
    let dir = data_dir("");
    let mut changes = Vec::new();
    for param in Param::ALL.iter().copied() {
        let row = param.row();
        let fits = |value: &&&str| Config::from_pairs(&[(row.name, value)]).is_ok();
        if row.context != Context::Initdb
            && let Some(value) = row.extremes.iter().find(fits)
        {
            changes.push((param, (*value).to_owned()));
        }
    }
    assert!(changes.len() > 15);
    let conf = rewrite(&sample_conf(), &changes);
    write_conf(dir.path(), &conf);
    let config = load(&dir);
    let arguments: Vec<(&str, &str)> = changes
        .iter()
        .map(|(param, value)| (param.name(), value.as_str()))
        .collect();
    let expected = Config::from_pairs(&arguments).expect("valid");
    for param in Param::ALL.iter().copied() {
        assert_eq!(config.show(param), expected.show(param), "{param}");
    }
    let comments = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| line.starts_with('#') || line.is_empty());
        lines.map(str::to_owned).collect()
    };
    assert_eq!(
        comments(&conf),
        comments(&sample_conf()),
        "comments and their order stay"
    );
}

/// Lines of valid configuration files, for the test of rewriting.
const LINES: &[&str] = &[
    "",
    "# port = 5",
    "#port = 5 # sample",
    "port = 5",
    "  PORT '6' # with a comment",
    "port=7\r",
    "backends = 8",
    "include 'other.conf'",
    "include_if_exists absent.conf",
    "listen_addresses = 'it''s, # no comment'",
];

proptest! {
    /// Whatever text a file holds, reading it ends in values or in messages.
    #[test]
    fn no_file_is_too_strange(text in "([ -~é\t\r\n]|port|=|'|#|include |\\.conf){0,60}") {
        let dir = data_dir(&text);
        let _ = Config::load(dir.path(), &[]);
    }

    /// A rewritten file sets what it was asked to set, and nothing else changes.
    #[test]
    fn rewriting_sets_the_value(lines in prop::collection::vec(prop::sample::select(LINES), 0..8)) {
        let text = lines.join("\n");
        let dir = data_dir(&text);
        fs::write(dir.path().join("other.conf"), "port = 99\nbackends = 9\n").expect("write");
        let old = load(&dir);
        let rewritten = rewrite(&text, &[(Param::Port, "4711".to_owned())]);
        write_conf(dir.path(), &rewritten);
        let new = load(&dir);
        prop_assert_eq!(new.port(), 4711);
        for param in Param::ALL.iter().copied().filter(|param| *param != Param::Port) {
            prop_assert_eq!(old.show(param), new.show(param));
        }
        let sets_port = |line: &str| line.trim_start().to_lowercase().starts_with("port");
        for line in text.lines().filter(|line| !sets_port(line)) {
            prop_assert!(rewritten.contains(line));
        }
    }

    /// What is put in comes out, for any text.
    #[test]
    fn overrides_read_back(values in prop::collection::vec("\\PC{0,80}", 1..10)) {
        let mut overrides = Overrides::new();
        for (param, value) in Param::ALL.iter().zip(values) {
            prop_assert!(overrides.insert(*param, value).is_ok());
        }
        prop_assert_eq!(Overrides::decode(&overrides.encode()), Ok(overrides));
    }
}

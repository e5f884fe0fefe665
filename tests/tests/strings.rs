//! Redis's commands on strings and keys, held against what a Redis server answers: a fixture, and
//! where `redis-server` is installed, as many random commands as it takes.

#![allow(clippy::unwrap_used)]

use rd_tests::support::cluster::Cluster;
use rd_tests::support::script::Script;
use rd_tests::support::{skip, wait_for};
use rd_wire::{Client, Proto};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// How often a script is run until its replies are right.
const PASSES_MAX: usize = 10;
/// Random commands of a fixture or a run.
const COMMANDS: usize = 500;
/// The seed of the random commands whose replies are in `random.txt`.
const FROZEN_SEED: u64 = 1;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/commands")
        .join(name)
}

fn script(name: &str) -> Script {
    Script::parse(&fs::read_to_string(path(name)).unwrap())
}

fn differences(script: &Script, cluster: &Cluster) -> String {
    [Proto::Resp2, Proto::Resp3]
        .into_iter()
        .map(|proto| script.differences(&cluster.socket(), proto))
        .collect()
}

fn assert_script(name: &str) {
    // Some values are as large as they may be.
    let cluster = Cluster::started(&[("shared_buffers", "128MB")]);
    // Times to live are whole seconds: one that the disk took half of is another.
    let mut passes = (0..PASSES_MAX).map(|_| differences(&script(name), &cluster));
    let mut found = passes.next().expect("one pass");
    while !found.is_empty()
        && let Some(again) = passes.next()
    {
        found = again;
    }
    assert!(found.is_empty(), "{name}:\n{found}");
}

/// A Redis server, as long as this lives.
struct Redis {
    server: Child,
    directory: TempDir,
}

impl Redis {
    /// Starts one, if it is installed.
    fn start() -> Option<Redis> {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", ""])
            .args(["--proto-max-bulk-len", "16mb"])
            .args(["--unixsocket", "redis.sock"])
            .current_dir(directory.path())
            .stdout(Stdio::null());
        let Ok(server) = command.spawn() else {
            skip("no redis-server is installed");
            return None;
        };
        let redis = Redis { server, directory };
        wait_for("the Redis server", || {
            std::os::unix::net::UnixStream::connect(redis.socket()).ok()
        });
        Some(redis)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// What commands are made of: a letter stands for a kind of argument (see [`argument`]), other
/// words for themselves. No reply depends on how much time passes; and DBSIZE is not among them,
/// for Redis counts a key that is SET with an end in the past.
const SHAPES: &str = "\
    SET k v; SET k v NX; SET k v XX GET; SET k v KEEPTTL; SET k v t; SET k v t GET NX; \
    GET k; GETSET k v; GETDEL k; GETEX k; GETEX k t; GETEX k PERSIST; SETNX k v; \
    MSET k v k v; MSETNX k v k v; MGET k k k; STRLEN k; APPEND k v; INCR k; DECR k; \
    INCRBY k n; DECRBY k n; INCRBYFLOAT k f; GETRANGE k n n; SUBSTR k n n; \
    SETRANGE k o v; SETBIT k o b; GETBIT k o; BITCOUNT k; BITCOUNT k n n; \
    BITCOUNT k n n BIT; BITPOS k b; BITPOS k b n; BITPOS k b n n; BITPOS k b n n BIT; \
    BITOP AND k k k; BITOP OR k k k; BITOP XOR k k; BITOP NOT k k; \
    BITFIELD k SET y o n GET y o; BITFIELD k OVERFLOW w INCRBY y o n; \
    BITFIELD_RO k GET y o; DEL k; UNLINK k k; EXISTS k k; TOUCH k k; TYPE k; \
    RENAME k k; RENAMENX k k; COPY k k; COPY k k REPLACE; PERSIST k; EXPIREAT k a; \
    EXPIREAT k a e; PEXPIREAT k a; EXPIRETIME k; PEXPIRETIME k; EXPIRE k -1 e; LCS k k; \
    LCS k k LEN; LCS k k IDX MINMATCHLEN o WITHMATCHLEN; OBJECT REFCOUNT none; \
    SETEX k 0 v; PSETEX k x v";

/// An argument of the kind that a letter stands for; other words stand for themselves.
fn argument(dice: &mut Dice, word: &str) -> String {
    let numbers = [
        "0", "1", "-1", "2", "-2", "3", "7", "-9", "10", "100", "x", "1.5", "",
    ];
    let word = match word {
        "k" => dice.one_of(&["a", "b", "c", "d", "e"]),
        "v" => dice.one_of(&[
            "1",
            "20",
            "-3",
            "0.5",
            "1e3",
            "hello",
            "hello world",
            "\\x00\\xff\\x0f",
            "",
            "9223372036854775807",
            "ohmytext",
            "mynewtext",
            "3.14159265358979323846",
        ]),
        "n" => dice.one_of(&numbers),
        "f" => dice.one_of(&[
            "0.1", "-0.25", "1e2", "3", "1e-3", "abc", "10.5", "-1e10", "1e17",
        ]),
        "o" => dice.one_of(&["0", "1", "2", "5", "8", "13", "31", "100", "-1", "x"]),
        "b" => dice.one_of(&["0", "1", "1", "0", "2", "x"]),
        "y" => dice.one_of(&["u8", "i8", "u1", "i5", "i64", "u63", "u64", "u16"]),
        "w" => dice.one_of(&["WRAP", "SAT", "FAIL", "sat", "x"]),
        "a" => dice.one_of(&["33177117420", "33177117421", "33177117425", "0", "-5", "x"]),
        "e" => dice.one_of(&["NX", "XX", "GT", "LT", "gt", "x"]),
        "t" => {
            return format!(
                "{} {}",
                dice.one_of(&["EXAT", "PXAT", "exat"]),
                dice.one_of(&["33177117420", "33177117420123", "1", "0", "-1", "x"]),
            );
        }
        other => other,
    };
    let is_bare = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    match is_bare && !word.contains('\\') {
        true => word.to_owned(),
        false => format!("\"{word}\""),
    }
}

/// A script of random commands, without replies.
fn random_script(seed: u64) -> Script {
    let mut dice = Dice(seed);
    let shapes: Vec<&str> = SHAPES.split("; ").collect();
    let mut text = format!("== random commands of seed {seed}, see tests/tests/strings.rs\n");
    for _ in 0..COMMANDS {
        let shape = dice.one_of(&shapes);
        let words: Vec<String> = shape
            .split(' ')
            .map(|word| argument(&mut dice, word))
            .collect();
        writeln!(text, "> {}", words.join(" ")).unwrap();
    }
    Script::parse(&text)
}

#[test]
fn answers_as_redis_does() {
    assert_script("strings.txt");
}

#[test]
fn random_commands_answer_as_redis_did() {
    assert_script("random.txt");
}

#[test]
fn random_commands_answer_as_redis_does() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let cluster = Cluster::started(&[]);
    for seed in 2..12 {
        let script = random_script(seed).recorded(&redis.socket());
        let found = differences(&script, &cluster);
        assert!(found.is_empty(), "seed {seed}:\n{found}");
    }
}

#[test]
fn strings_are_exchanged_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let cluster = Cluster::started(&[]);
    let mut ours = cluster.client();
    let mut theirs = Client::connect_unix(redis.socket()).unwrap();
    let values = [
        b"".to_vec(),
        b"12".to_vec(),
        b"-32769".to_vec(),
        b"2147483648".to_vec(),
        b"hello".to_vec(),
        vec![b'a'; 100],
        b"abcabcabcabcabcabcabcabcabcabd".repeat(10),
        (0..70_000u32)
            .map(|at| (at.wrapping_mul(at) >> 3) as u8)
            .collect(),
        b"compressible ".repeat(5000),
    ];
    for value in values {
        for (from, to) in [(true, false), (false, true), (true, true)] {
            let mut client = |is_ours: bool, request: &[&[u8]]| match is_ours {
                true => ours.cmd(request).unwrap(),
                false => theirs.cmd(request).unwrap(),
            };
            assert!(client(from, &[b"SET", b"from", &value]).is_ok());
            let payload = client(from, &[b"DUMP", b"from"]).into_bytes().unwrap();
            let payload = payload.expect("the key is there");
            let restored = client(to, &[b"RESTORE", b"to", b"0", &payload, b"REPLACE"]);
            assert!(restored.is_ok(), "{restored:?}");
            let there = client(to, &[b"GET", b"to"]).into_bytes().unwrap();
            assert!(there.as_ref() == Some(&value), "{} bytes", value.len());
        }
    }
    assert!(theirs.call(&["RPUSH", "list", "a"]).unwrap().as_int() == Some(1));
    let payload = theirs.call(&["DUMP", "list"]).unwrap();
    let payload = payload.into_bytes().unwrap().unwrap();
    let refused = ours.cmd(&[b"RESTORE", b"list", b"0", &payload]).unwrap();
    let text = "ERR payload of a list; Redoubt stores strings only";
    assert_eq!(refused.error(), Some(text));
}

/// Writes `strings.txt` and `random.txt` anew from a Redis server, when asked to.
#[test]
fn freeze() {
    if std::env::var_os("RD_FREEZE").is_none() {
        return;
    }
    let redis = Redis::start().expect("redis-server is installed");
    let strings = script("strings.txt").recorded(&redis.socket());
    fs::write(path("strings.txt"), strings.render()).unwrap();
    let random = random_script(FROZEN_SEED).recorded(&redis.socket());
    fs::write(path("random.txt"), random.render()).unwrap();
}

//! Random programs of all data commands, over several connections whose transactions are open at
//! the same time, with kill -9 in between, held against a model in memory (`rd_tests::model`). A
//! program that goes wrong is made as short as it will go before it is shown.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rd_tests::model::{DATABASES, Model, shown};
use rd_tests::support::cluster::Cluster;
use rd_wire::Client;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

// As many as the argument `d` chooses from.
const _: () = assert!(DATABASES == 3);

/// Connections of a program.
const CONNECTIONS: usize = 4;
/// Programs of a run.
const PROGRAMS: u32 = 48;
/// Longest program.
const STEPS_MAX: usize = 120;
/// How long a key that ends soon is still there, in milliseconds.
const SOON_MS: u64 = 3;

/// What steps are made of: a letter stands for a kind of argument, other words for themselves.
const SHAPES: &[&str] = &[
    "GET k",
    "SET k v",
    "SET k v NX",
    "SET k v XX GET",
    "SET k v KEEPTTL",
    "SET k v PXAT a",
    "GETEX k",
    "GETEX k PXAT a",
    "GETEX k PERSIST",
    "GETSET k v",
    "GETDEL k",
    "SETNX k v",
    "MSET k v k v",
    "MSETNX k v k v",
    "MGET k k k",
    "STRLEN k",
    "APPEND k v",
    "INCR k",
    "DECR k",
    "INCRBY k n",
    "DECRBY k n",
    "GETRANGE k n n",
    "SUBSTR k n n",
    "SETRANGE k o v",
    "LCS k k LEN",
    "SETBIT k o b",
    "GETBIT k o",
    "BITCOUNT k",
    "BITPOS k b",
    "BITOP AND k k k",
    "BITOP OR k k k",
    "BITOP XOR k k",
    "BITOP NOT k k",
    "BITFIELD k INCRBY u8 o n",
    "DEL k",
    "UNLINK k k",
    "EXISTS k k",
    "TOUCH k k",
    "TYPE k",
    "RENAME k k",
    "RENAMENX k k",
    "COPY k k",
    "COPY k k REPLACE",
    "COPY k k DB d",
    "COPY k k DB d REPLACE",
    "MOVE k d",
    "KEYS *",
    "SCAN 0 COUNT 1000",
    "RANDOMKEY",
    "DBSIZE",
    "PEXPIREAT k a",
    "PEXPIREAT k a e",
    "EXPIREAT k 33177117420",
    "PERSIST k",
    "TTL k",
    "EXPIRETIME k",
    "PEXPIRETIME k",
    "RANGE k k",
    "RANGE k  LIMIT 2",
    "RANGE  k KEYS",
    "RANGE PREFIX p VALUES",
    "REVRANGE k k",
    "REVRANGE   LIMIT 2 KEYS",
    "COUNTRANGE k k",
    "COUNTRANGE PREFIX p",
    "DELRANGE k k",
    "SOON k",
    "SOON k",
    // Several times, so that transactions are often open, and come to an end.
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH k",
    "WATCH k k",
    "UNWATCH",
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "BEGIN SERIALIZABLE",
    "BEGIN SERIALIZABLE",
    "BEGIN READ ONLY",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "ROLLBACK TO s",
    "RELEASE s",
    "SELECT d",
    "SELECT d",
    "USE m",
    "NAMESPACE CREATE m",
    "NAMESPACE DROP m",
    "NAMESPACE RENAME m m",
    "FLUSHDB",
    "SWAPDB d d",
    "CRASH",
];

fn one_of<'a>(choice: u8, of: &[&'a str]) -> &'a str {
    of[usize::from(choice) % of.len()]
}

/// The words of a request of this shape; `choices` says which arguments.
fn words(shape: &str, choices: &[u8]) -> Vec<Vec<u8>> {
    let mut choices = choices.iter().copied().cycle();
    let mut word = |word: &str| -> Vec<u8> {
        let mut pick = |of| one_of(choices.next().unwrap_or(0), of).as_bytes().to_vec();
        match word {
            "k" => pick(&["a", "b", "c", "pa", "pb", "pc\0", "q"]),
            "v" => {
                let value = pick(&[
                    "1",
                    "20",
                    "-3",
                    "hello",
                    "",
                    "\0\u{7f}",
                    "9223372036854775807",
                    "L",
                ]);
                // At times one that does not stay in a leaf.
                if value == b"L" {
                    vec![b'x'; 5000]
                } else {
                    value
                }
            }
            "n" => pick(&["0", "1", "-1", "2", "-2", "3", "7", "-9", "100"]),
            "o" => pick(&["0", "1", "2", "5", "8", "13", "31", "100"]),
            "b" => pick(&["0", "1"]),
            "d" => pick(&["0", "1", "2"]),
            "m" => pick(&["first", "second"]),
            "s" => pick(&["s", "t"]),
            "a" => pick(&[
                "33177117420000",
                "33177117421000",
                "33177117422123",
                "1",
                "1700000000000",
            ]),
            "e" => pick(&["NX", "XX", "GT", "LT"]),
            other => other.as_bytes().to_vec(),
        }
    };
    shape.split(' ').map(&mut word).collect()
}

#[derive(Clone, Debug)]
struct Step {
    who: usize,
    words: Vec<Vec<u8>>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..CONNECTIONS, 0..SHAPES.len(), any::<[u8; 4]>());
    let step = step.prop_map(|(who, shape, choices)| Step {
        who,
        words: words(SHAPES[shape], &choices),
    });
    proptest::collection::vec(step, 1..STEPS_MAX)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// A server, for one program after the other.
struct World {
    cluster: Cluster,
}

impl World {
    /// Everything is as at the beginning.
    fn clear(&self) {
        let mut client = self.cluster.client();
        assert!(client.call(&["FLUSHALL"]).expect("a reply").is_ok());
        for name in ["first", "second"] {
            // It is there or not.
            let _ = client.call(&["NAMESPACE", "DROP", name]).expect("a reply");
        }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        self.clear();
        let mut model = Model::default();
        let mut clients: BTreeMap<usize, Client> = BTreeMap::new();
        // One is enough, and takes its time. Each run of a program has its own, so that one which fails
        // fails again when it is made short.
        let mut may_crash = true;
        for (at, step) in steps.iter().enumerate() {
            if step.words[0] == b"CRASH" {
                if std::mem::take(&mut may_crash) {
                    clients.clear();
                    model.crash();
                    self.cluster.kill_all();
                    self.cluster.start();
                    self.look(&model)
                        .map_err(|wrong| format!("step {at}, after the crash: {wrong}"))?;
                }
                continue;
            }
            let client = clients
                .entry(step.who)
                .or_insert_with(|| self.cluster.client());
            let clock_ms = now_ms();
            let mut words = step.words.clone();
            let is_soon = words[0] == b"SOON";
            if is_soon {
                let at = (clock_ms + SOON_MS).to_string();
                words = vec![b"PEXPIREAT".to_vec(), words[1].clone(), at.into_bytes()];
            }
            let mut send = || client.call(&words).expect("a reply");
            model
                .step(step.who, &words, clock_ms, &mut send)
                .map_err(|wrong| format!("step {at}, {} {}: {wrong}", step.who, shown(&words)))?;
            while is_soon && now_ms() <= clock_ms + SOON_MS {
                // The clock is what is waited for.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        self.look(&model)
            .map_err(|wrong| format!("in the end: {wrong}"))
    }

    /// Everything that is there is what the model has, be it read by a step or not.
    fn look(&self, model: &Model) -> Result<(), String> {
        let mut client = self.cluster.client();
        model.look(now_ms(), &mut |words| client.call(words).expect("a reply"))
    }
}

#[test]
fn programs_of_all_commands_are_answered_as_the_model_says() {
    let mut cluster = Cluster::new(&[
        ("backends", "3"),
        // What has ended stays until it is seen, so that each program has one right answer.
        ("expire_rate", "0"),
        // And goes when it is watched.
        ("expire_clock_settle", "0"),
        ("shared_buffers", "16MB"),
    ]);
    cluster.announce("");
    cluster.start();
    let world = RefCell::new(World { cluster });
    let config = Config {
        cases: std::env::var("RD_PROGRAMS").map_or(PROGRAMS, |text| text.parse().expect("a count")),
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let done = world.borrow_mut().run(&steps);
        done.map_err(TestCaseError::fail)
    });
    if let Err(proptest::test_runner::TestError::Fail(why, steps)) = outcome {
        let program: Vec<String> = steps
            .iter()
            .map(|step| format!("{} {}", step.who, shown(&step.words)))
            .collect();
        panic!("{why}\n{}", program.join("\n"));
    }
    outcome.expect("the server answers");
}

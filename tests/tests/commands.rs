//! Every command over a socket, in both protocols, held against what Redis answers.

use rd_tests::support::cluster::Cluster;
use rd_tests::support::script::Script;
use rd_tests::support::wait_for;
use rd_wire::Proto;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn script_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/commands")
        .join(name)
}

fn script(name: &str) -> Script {
    let path = script_path(name);
    Script::parse(&fs::read_to_string(&path).expect("a script"))
}

fn assert_script(name: &str) {
    let cluster = Cluster::started(&[]);
    let script = script(name);
    let differences: String = [Proto::Resp2, Proto::Resp3]
        .into_iter()
        .map(|proto| script.differences(&cluster.socket(), proto))
        .collect();
    assert!(differences.is_empty(), "{name}:\n{differences}");
}

#[test]
fn answers_as_redis_does() {
    assert_script("redis.txt");
}

#[test]
fn transactions_answer_as_those_of_redis() {
    assert_script("transactions.txt");
}

#[test]
fn answers_what_redis_does_not_know() {
    assert_script("redoubt.txt");
}

/// Writes what Redis answers anew from a Redis server, when asked to.
#[test]
fn freeze() {
    if std::env::var_os("RD_FREEZE").is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("redis.sock");
    let mut server = Command::new("redis-server")
        .args(["--port", "0", "--save", ""])
        .args(["--proto-max-bulk-len", "16mb"])
        .arg("--unixsocket")
        .arg(&socket)
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    wait_for("the Redis server", || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    let names = ["redis.txt", "transactions.txt"];
    let recorded = names.map(|name| script(name).recorded(&socket));
    server.kill().expect("it is ours");
    server.wait().expect("it is ours");
    for (name, recorded) in names.iter().zip(recorded) {
        fs::write(script_path(name), recorded.render()).expect("written");
    }
}

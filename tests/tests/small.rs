//! How little a server takes.

use rd_tests::support::cluster::Cluster;
use rd_tests::support::process::private_bytes;

/// Memory of all processes together, beside shared memory.
const PRIVATE_BYTES_MAX: u64 = 32 << 20;

#[test]
fn a_fresh_server_holds_little_beside_shared_memory() {
    let cluster = Cluster::started(&[("shared_buffers", "128MB")]);
    let mut client = cluster.client();
    assert!(
        client
            .call(&["SET", "key", "value"])
            .expect("answered")
            .is_ok()
    );
    let mut processes = vec![("postmaster".to_owned(), cluster.pid().expect("a server"))];
    let children = cluster.children();
    assert!(children.len() >= 4, "checkpointer, walwriter, 2 backends");
    processes.extend(children.into_iter().map(|child| (child.role, child.pid)));
    let each: Vec<(String, u64)> = processes
        .into_iter()
        .map(|(role, pid)| (role, private_bytes(pid).expect("it lives")))
        .collect();
    let sum: u64 = each.iter().map(|(_, bytes)| bytes).sum();
    println!("{sum} bytes: {each:?}");
    assert!(sum < PRIVATE_BYTES_MAX, "{sum} bytes: {each:?}");
}

//! What a backend holds while it waits.

use crate::rig::{Client, Rig};
use rd_base::{BlockNo, PageTag, Role};
use rd_engine::NamespaceId;
use rd_sys::watchdog::Watchdog;
use std::time::{Duration, Instant};

/// A page of a large source may have to come from disk, and there may be many. Others have the leaves
/// meanwhile; and what they change there is not overlooked.
#[test]
fn bitop_holds_no_leaf_while_it_reads_its_sources() {
    const VALUE_BYTES: usize = 20_000;
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let rig = Rig::new(&[]);
    let ask = |number, words: &[&[u8]]| {
        let mut server = rig.server(number);
        let mut client = Client::new(&mut server);
        client.send(&rig, &mut server, words);
        rig.flush();
        let received = client.received(&server);
        server.end_turn();
        String::from_utf8_lossy(&received).into_owned()
    };
    for digit in b'1'..=b'6' {
        ask(0, &[b"SET", &[digit], &[digit; VALUE_BYTES]]);
    }
    let store = rig.store(Role::Startup);
    let pool = &store.shared.pool;
    let file = store.shared.namespaces.entry(NamespaceId::DB0).file();
    let file = file.expect("it has keys");
    // A page of the fifth.
    let mut pages =
        (0..1000).filter_map(|block| pool.get_resident(PageTag::new(file, BlockNo::new(block))));
    let page = pages.find(|page| {
        let of_it = |byte: &&u8| **byte == b'5';
        page.read().iter().filter(of_it).count() > VALUE_BYTES / 4
    });
    let page = page.expect("it was written a moment ago");
    std::thread::scope(|scope| {
        let held = page.write();
        scope.spawn(|| {
            let bitop: [&[u8]; 9] = [b"BITOP", b"OR", b"0", b"1", b"2", b"3", b"4", b"5", b"6"];
            assert_eq!(ask(1, &bitop), format!(":{VALUE_BYTES}\r\n"));
        });
        // It has come to that page.
        while pool.pins(page.frame()) < 2 {
            std::thread::yield_now();
        }
        let writer = scope.spawn(|| assert_eq!(ask(2, &[b"SET", b"1", b"A"]), "+OK\r\n"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !writer.is_finished() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let is_free = writer.is_finished();
        drop(held);
        assert!(is_free, "BITOP holds the leaf");
    });
    assert_eq!(ask(0, &[b"GETRANGE", b"0", b"0", b"1"]), "$2\r\nw7\r\n");
}

//! What goes by the clock: how long a command waits.

use super::{Alone, SECOND_NS};
use std::sync::atomic::Ordering;

const MS_NS: u64 = SECOND_NS / 1000;

impl Alone {
    /// The clock goes on, and with it the server's next turn.
    fn after(&mut self, ns: u64) {
        self.time.fetch_add(ns, Ordering::SeqCst);
        self.server.now_ns = self.server.store.clock.monotonic_ns();
    }
}

#[test]
fn waitaof_waits_no_longer_than_it_is_told_to() {
    let mut alone = Alone::under(&[("expire_rate", "0")]);
    alone.ask(&[b"CLIENT", b"SYNCHRONOUS-COMMIT", b"OFF"]);
    let not_yet = b"*2\r\n:0\r\n:0\r\n";
    let Alone {
        rig,
        server,
        client,
        ..
    } = &mut alone;
    client.send(rig, server, &[b"SET", b"key", b"value"]);
    assert_eq!(client.received(server), b"+OK\r\n");
    // The disk stands still.
    client.send(rig, server, &[b"WAITAOF", b"1", b"0", b"100"]);
    assert!(client.go_on(server), "it waits");
    let at_ns = server.wakes_at_ns(true);
    assert_eq!(at_ns, Some(server.now_ns + 100 * MS_NS));
    alone.after(99 * MS_NS);
    assert!(alone.client.go_on(&mut alone.server), "it waits");
    assert!(!alone.server.has_held_due());
    alone.after(MS_NS);
    assert!(alone.server.has_held_due());
    assert!(!alone.client.go_on(&mut alone.server), "its time is over");
    assert_eq!(alone.client.received(&alone.server), not_yet);
    // Without a limit it waits for as long as it takes.
    let Alone {
        rig,
        server,
        client,
        ..
    } = &mut alone;
    client.send(rig, server, &[b"WAITAOF", b"1", b"0", b"0"]);
    alone.after(3600 * SECOND_NS);
    assert!(alone.client.go_on(&mut alone.server), "it waits");
    alone.rig.flush();
    assert!(!alone.client.go_on(&mut alone.server));
    let received = alone.client.received(&alone.server);
    assert_eq!(received, b"*2\r\n:1\r\n:0\r\n");
}

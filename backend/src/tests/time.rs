//! What goes by the clock: how long a command waits, and how many keys are removed in a second.

use super::{Alone, SECOND_NS};
use rd_base::counters::Counter;
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

/// Also where that is not a whole number of keys for each turn of the remover.
#[test]
fn keys_are_removed_at_the_rate_that_is_set() {
    const SECONDS: u64 = 10;
    for rate in [1, 7, 60, 1000] {
        let rate_text = rate.to_string();
        let settings = [
            ("expire_rate", &rate_text[..]),
            ("expire_clock_settle", "0"),
        ];
        let mut alone = Alone::under(&settings);
        for number in 0..rate * (SECONDS + 2) {
            let key = format!("key:{number:06}");
            alone.ask(&[b"SET", key.as_bytes(), b"value", b"PX", b"1"]);
        }
        alone.after(SECOND_NS);
        alone.server.remove_ended();
        let removed = |alone: &Alone| {
            let stats = &alone.server.store.shared.stats;
            stats.get(Counter::ExpiredKeys)
        };
        let before = removed(&alone);
        for _ in 0..SECONDS * 50 {
            alone.after(20 * MS_NS);
            alone.server.remove_ended();
            alone.rig.flush();
        }
        let count = removed(&alone) - before;
        let expected = rate * SECONDS;
        assert!(
            count <= expected + 1 && count + rate.div_ceil(50) >= expected,
            "{count} keys in {SECONDS} s at a rate of {rate}"
        );
    }
}

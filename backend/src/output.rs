//! What a connection is still to be sent: reply bytes, and the LSNs that hold them back.
//!
//! A backend never blocks on durability. A reply that may not be seen before an LSN is durable is
//! put behind a *gate*; so is everything after it, since replies go out in order.
//!
//! Invariants:
//! * Gates stand in ascending order of both place and LSN: a gate whose LSN an earlier one already
//!   waits for is not kept.
//! * The replies of a transaction that is queued go out with that of its EXEC if all of them are
//!   there at the end of a turn: a gate behind the first of them is set before it. Nobody can use
//!   them alone, and to send twice costs about as much as the transaction does.
//! * Every gate stands at a place that is not sent: `sent <= at <= bytes.len()`, also when all
//!   bytes are sent, since a gate may be set before the bytes that it holds back are written.

use rd_base::Lsn;
use std::collections::VecDeque;

/// A buffer that is empty keeps at most so much memory.
const KEPT_BYTES_MAX: usize = 16 << 10;

struct Gate {
    /// First byte that it holds back, as an index of `bytes`.
    at: usize,
    lsn: Lsn,
}

/// Replies of one connection that have not been sent.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    gates: VecDeque<Gate>,
    /// Where the replies begin that go out together with what comes behind them.
    joined: Option<usize>,
}

impl Output {
    /// Where replies are appended; nothing may be removed from it.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The place at which the next reply begins, for [`Output::hold`].
    pub fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// From here on, until [`Output::part`], replies are held back together.
    pub fn join(&mut self) {
        self.joined = Some(self.bytes.len());
    }

    /// Replies are held back each by itself again.
    pub fn part(&mut self) {
        self.joined = None;
    }

    /// Holds everything from `mark` on back until `lsn` is durable.
    pub fn hold(&mut self, mark: usize, lsn: Lsn) {
        let mark = self.joined.map_or(mark, |joined| joined.min(mark));
        if self.gates.back().is_none_or(|gate| gate.lsn < lsn) {
            self.gates.push_back(Gate { at: mark, lsn });
        }
    }

    /// Opens all gates up to `durable`.
    pub fn release(&mut self, durable: Lsn) {
        while self.gates.front().is_some_and(|gate| gate.lsn <= durable) {
            self.gates.pop_front();
        }
    }

    /// The least LSN that replies wait for.
    pub fn waits_for(&self) -> Option<Lsn> {
        self.gates.front().map(|gate| gate.lsn)
    }

    /// The greatest LSN that replies wait for.
    pub fn waits_until(&self) -> Option<Lsn> {
        self.gates.back().map(|gate| gate.lsn)
    }

    /// What may be sent now.
    pub fn sendable(&self) -> &[u8] {
        let end = self.gates.front().map_or(self.bytes.len(), |gate| gate.at);
        assert!(
            (self.sent..=self.bytes.len()).contains(&end),
            "a gate at {end}, with {} of {} bytes sent",
            self.sent,
            self.bytes.len()
        );
        self.bytes.get(self.sent..end).unwrap_or(&[])
    }

    /// Says that the first `count` sendable bytes have been sent.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        // Some of them are on their way: what is left is held back by itself.
        self.joined = self.joined.filter(|joined| *joined >= self.sent);
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES_MAX);
        } else if self.sent > self.bytes.len() / 2 {
            // Less is moved than was sent since the last time, however much there is.
            self.bytes.drain(..self.sent);
        } else {
            return;
        }
        for gate in &mut self.gates {
            gate.at -= self.sent;
        }
        if let Some(joined) = &mut self.joined {
            *joined -= self.sent;
        }
        self.sent = 0;
    }

    /// Bytes not yet sent, held back or not.
    pub fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing is left to be sent.
    pub fn is_empty(&self) -> bool {
        self.unsent() == 0
    }

    /// Heap bytes held.
    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.gates.capacity() * size_of::<Gate>()
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
            self.gates = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_its_reply_and_all_after_it() {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"read");
        let mark = output.mark();
        output.bytes().extend_from_slice(b"written");
        output.hold(mark, Lsn::new(10));
        output.bytes().extend_from_slice(b"later");
        assert_eq!(output.sendable(), b"read");
        output.advance(4);
        assert_eq!(output.sendable(), b"");
        output.release(Lsn::new(9));
        assert_eq!(output.sendable(), b"");
        output.release(Lsn::new(10));
        assert_eq!(output.sendable(), b"writtenlater");
        output.advance(12);
        assert!(output.is_empty());
    }

    #[test]
    fn sending_in_pieces_keeps_the_gates_in_place() {
        let mut output = Output::default();
        for (text, lsn) in [(&b"aaaa"[..], 1), (b"bbbb", 2), (b"cccc", 2), (b"dddd", 3)] {
            let mark = output.mark();
            output.bytes().extend_from_slice(text);
            output.hold(mark, Lsn::new(lsn));
        }
        let mut seen = Vec::new();
        for durable in 0..=3 {
            output.release(Lsn::new(durable));
            assert_eq!(
                output.waits_for(),
                (durable < 3).then(|| Lsn::new(durable + 1))
            );
            while !output.sendable().is_empty() {
                let count = output.sendable().len().min(3);
                seen.extend_from_slice(&output.sendable()[..count]);
                output.advance(count);
            }
            let expected: &[u8] = match durable {
                0 => b"",
                1 => b"aaaa",
                2 => b"aaaabbbbcccc",
                _ => b"aaaabbbbccccdddd",
            };
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn joined_replies_wait_for_each_other_unless_one_is_sent() {
        for is_sent_between in [false, true] {
            let mut output = Output::default();
            output.bytes().extend_from_slice(b"before");
            output.advance(2);
            output.join();
            output.bytes().extend_from_slice(b"queued");
            if is_sent_between {
                output.advance(output.sendable().len());
                output.bytes().extend_from_slice(b"again");
            }
            let mark = output.mark();
            output.bytes().extend_from_slice(b"done");
            output.hold(mark, Lsn::new(10));
            output.part();
            let expected: &[u8] = if is_sent_between { b"again" } else { b"fore" };
            assert_eq!(output.sendable(), expected);
            output.advance(expected.len());
            let mark = output.mark();
            output.bytes().extend_from_slice(b"alone");
            output.hold(mark, Lsn::new(11));
            output.release(Lsn::new(10));
            let expected: &[u8] = if is_sent_between {
                b"done"
            } else {
                b"queueddone"
            };
            assert_eq!(output.sendable(), expected);
        }
    }

    #[test]
    fn what_is_left_is_moved_seldom() {
        const PIECES: usize = 64;
        const PIECE_BYTES: usize = 2 << 20;
        let mut output = Output::default();
        output.bytes().resize(PIECES * PIECE_BYTES, b'x');
        let mut moves = 0;
        for piece in 1..=PIECES {
            output.advance(PIECE_BYTES);
            assert_eq!(output.unsent(), (PIECES - piece) * PIECE_BYTES);
            moves += usize::from(output.sent == 0);
        }
        assert!(moves <= 8, "{moves} times");
    }

    #[test]
    fn a_gate_without_bytes_holds_back_what_is_written_after_all_else_was_sent() {
        let mut output = Output::default();
        output.bytes().extend_from_slice(b"abc");
        let mark = output.mark();
        output.hold(mark, Lsn::new(10));
        assert_eq!(output.sendable(), b"abc");
        output.advance(3);
        output.bytes().extend_from_slice(b"xyzxyz");
        assert_eq!(output.sendable(), b"", "the gate is shut");
        output.release(Lsn::new(10));
        assert_eq!(output.sendable(), b"xyzxyz");
    }
}

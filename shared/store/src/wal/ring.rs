//! The ring: the newest part of the log, as words in shared memory.
//!
//! A page of the log has its place in the ring by its number. Its usable bytes lie behind the room
//! of its header, as on disk; the first word of that room holds the header's `remaining`, the rest
//! is never used: headers are made by the flusher in its own buffer.
//!
//! The words are stored and loaded one by one and without order (Relaxed). What orders them is
//! around: an inserter's words are visible to whoever saw its slot cleared or advanced, and a
//! flusher's loads come before any store that overwrites, because the ring's end is raised after
//! them and looked at before it.
//!
//! They are no steps of a simulation, which would find itself between two words of a copy nearly
//! always, where nobody looks: what may be looked at is said by the words around.
//!
//! Invariant: the word for `remaining` is stored by the record that covers the page's first usable
//! byte, so it is right as soon as that byte is complete.

use super::USABLE;
use rd_base::limits::WAL_PAGE_BYTES;
use rd_format::wal_page::WAL_HEADER_BYTES;
use rd_sys::shm::Area;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE_WORDS: usize = WAL_PAGE_BYTES / 8;
const HEADER_WORDS: usize = WAL_HEADER_BYTES / 8;
const REMAINING_WORD: usize = 0;

const _: () = assert!(WAL_HEADER_BYTES.is_multiple_of(8) && HEADER_WORDS > REMAINING_WORD);

/// Eight bytes of the ring.
pub(super) type RingWord = AtomicU64;

/// The words of the ring; a power of two of pages.
pub(super) struct Ring {
    words: Area<RingWord>,
    page_mask: u64,
}

impl Ring {
    pub(super) fn new(words: Area<RingWord>) -> Ring {
        let pages = words.len() / PAGE_WORDS;
        assert!(pages.is_power_of_two() && words.len().is_multiple_of(PAGE_WORDS));
        Ring {
            words,
            page_mask: pages as u64 - 1,
        }
    }

    /// Usable bytes of the whole ring.
    pub(super) fn usable_bytes(&self) -> u64 {
        (self.page_mask + 1) * USABLE
    }

    /// Up to where the ring may be filled while everything before `written_pos` is in the files:
    /// the page of that position stays (W4).
    pub(super) fn end_for(&self, written_pos: u64) -> u64 {
        written_pos / USABLE * USABLE + self.usable_bytes()
    }

    #[inline]
    fn page(&self, page: u64) -> &[AtomicU64] {
        let base = (page & self.page_mask) as usize * PAGE_WORDS;
        &self.words[base..base + PAGE_WORDS]
    }

    /// Copies a piece of a record. `bytes` belongs at `pos`; the record begins at `record_pos` and
    /// ends, padding included, at `record_end_pos`. A piece that is not the record's last has a
    /// multiple of 8 bytes; the last is padded with zeros.
    #[inline]
    pub(super) fn copy(&self, pos: u64, bytes: &[u8], record_pos: u64, record_end_pos: u64) {
        let mut page = pos / USABLE;
        let mut in_page = (pos % USABLE) as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let words = self.page(page);
            if in_page == 0 {
                let page_pos = page * USABLE;
                let earlier = page_pos > record_pos;
                let remaining = if earlier {
                    record_end_pos - page_pos
                } else {
                    0
                };
                words[REMAINING_WORD].store(remaining, Ordering::Relaxed);
            }
            let (piece, after) = rest.split_at(rest.len().min(USABLE as usize - in_page));
            let first = HEADER_WORDS + in_page / 8;
            store_words(&words[first..first + piece.len().div_ceil(8)], piece);
            rest = after;
            page += 1;
            in_page = 0;
        }
    }

    /// Puts the start of a page that was read from a file into its place.
    pub(super) fn take_up_page(&self, page: u64, bytes: &[u8], remaining: u32) {
        let words = self.page(page);
        words[REMAINING_WORD].store(u64::from(remaining), Ordering::Relaxed);
        let usable = &bytes[WAL_HEADER_BYTES.min(bytes.len())..];
        let end = HEADER_WORDS + usable.len().div_ceil(8);
        store_words(&words[HEADER_WORDS..end], usable);
    }

    /// Copies the first `usable_bytes` of a page (a multiple of 8) out, behind the room for the
    /// header, and fills the rest with zeros. Returns `remaining`.
    pub(super) fn read_page(&self, page: u64, usable_bytes: usize, out: &mut [u8]) -> u32 {
        let words = self.page(page);
        let end = WAL_HEADER_BYTES + usable_bytes;
        let from = words[HEADER_WORDS..].iter();
        for (bytes, word) in out[WAL_HEADER_BYTES..end].chunks_exact_mut(8).zip(from) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        out[end..WAL_PAGE_BYTES].fill(0);
        let remaining = words[REMAINING_WORD].load(Ordering::Relaxed);
        u32::try_from(remaining).expect("a record's length is 32 bits")
    }
}

#[inline]
fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter().zip(whole) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        words[whole.len()].store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
}

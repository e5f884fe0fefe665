//! Short texts in shared memory: why something failed.

use rd_sys::atomic::{AtomicU64, Ordering};
use zerocopy::{FromBytes, KnownLayout};

/// A text of up to `WORDS` times eight bytes. guard: the latch of the checkpoints.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(super) struct TextWords<const WORDS: usize> {
    pub bytes: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> TextWords<WORDS> {
    /// Keeps as much of `text` as there is room for.
    pub fn write(&self, text: &str) {
        let text = &text.as_bytes()[..text.floor_char_boundary(8 * WORDS)];
        for (word, bytes) in self.words.iter().zip(text.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.bytes.store(text.len() as u64, Ordering::Relaxed);
    }

    /// The text.
    pub fn read(&self) -> String {
        let length = (self.bytes.load(Ordering::Relaxed) as usize).min(8 * WORDS);
        let words = self.words.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(length);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

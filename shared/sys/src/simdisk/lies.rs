//! What a disk does without telling: lies that are to come, and those that were told.

use super::image::Contents;
use std::ops::Range;
use std::sync::Arc;

/// What a disk may do without telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A write lands so many bytes behind its place, and its place is as it was.
    Misdirected(u64),
    /// A write is reported as done, and nothing of it is: whoever reads finds what was there before.
    Lost,
    /// A bit of this byte of a write is another, from then on; the bytes count on from the first one
    /// behind the last.
    Rot(u64),
    /// A write is done, and a second time so many bytes behind its place, or before it, over what is
    /// there, as far as the file has room: the half of a misdirected write that can be told, without
    /// the stale page that goes with it.
    Doubled(i64),
}

/// A lie that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of the file, when it was written.
    pub path: Arc<str>,
    /// The bytes that are not as they should be; none of a write that was lost.
    pub spoilt: Range<u64>,
}

/// A lie to come.
#[derive(Clone, Debug)]
struct ToCome {
    lie: Lie,
    path_contains: String,
    skip: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Lies {
    to_come: Vec<ToCome>,
    pub(super) told: Vec<Told>,
}

impl Lies {
    pub(super) fn add(&mut self, lie: Lie, path_contains: &str, skip: u64) {
        self.to_come.push(ToCome {
            lie,
            path_contains: path_contains.to_owned(),
            skip,
        });
    }

    /// Takes back those that have not come.
    pub(super) fn clear(&mut self) {
        self.to_come.clear();
    }

    /// What the next write to `path` is to be a lie about.
    pub(super) fn next(&mut self, path: &str) -> Option<Lie> {
        for at in 0..self.to_come.len() {
            let lie = &mut self.to_come[at];
            if !path.contains(&lie.path_contains) {
                continue;
            }
            match lie.skip.checked_sub(1) {
                Some(left) => lie.skip = left,
                None => return Some(self.to_come.remove(at).lie),
            }
        }
        None
    }
}

/// Writes as `lie` says; says which bytes are not as they should be.
pub(super) fn write(contents: &mut Contents, lie: Lie, bytes: &[u8], offset: u64) -> Range<u64> {
    let len = bytes.len() as u64;
    match lie {
        Lie::Lost => offset..offset,
        Lie::Misdirected(by) => {
            contents.write(bytes, offset + by);
            offset + by..offset + by + len
        }
        Lie::Rot(byte) => {
            let mut rotten = bytes.to_vec();
            let at = byte.checked_rem(len).unwrap_or(0);
            if let Some(byte) = rotten.get_mut(at as usize) {
                *byte ^= 0x10;
            }
            contents.write(&rotten, offset);
            offset + at..offset + at + 1
        }
        Lie::Doubled(by) => {
            contents.write(bytes, offset);
            let Some(second) = offset.checked_add_signed(by) else {
                return offset..offset;
            };
            let room = contents.len().saturating_sub(second).min(len);
            if room > 0 {
                contents.write(&bytes[..room as usize], second);
            }
            second..second.saturating_add(room)
        }
    }
}

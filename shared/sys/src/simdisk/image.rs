//! The contents of one simulated file: what programs see, what the disk holds, and what lies
//! between.
//!
//! Invariants:
//!
//! * A page that is neither `dirty` nor `lost` is the same in `live` and `durable`.
//! * `dirty` pages are those written since their last sync; each keeps the versions it went
//!   through, because the disk may have any of them, sector by sector.
//! * `lost` pages are those a failed sync took for clean, or that have rotted since they were
//!   written, on disk or in the cache alone: the cache shows them, the disk has not got them, and no
//!   later sync will bring them there unless they are written again. Once the process is dead the
//!   cache may let go of them at any time.

use super::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of a page of the simulated cache.
pub(super) const CACHE_PAGE_BYTES: usize = 4096;
/// Bytes that a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
/// Versions of a dirty page that are remembered beside the durable and the live one.
const VERSIONS_MAX: usize = 6;

type Page = [u8; CACHE_PAGE_BYTES];
static ZEROS: Page = [0; CACHE_PAGE_BYTES];

/// One page's worth of a file.
#[derive(Clone, Debug, Default)]
enum Slot {
    /// No room on disk yet.
    #[default]
    Hole,
    /// Room, and zeros in it.
    Zero,
    /// Bytes, shared between images until one is written.
    Data(Arc<Page>),
}

impl Slot {
    fn bytes(&self) -> &Page {
        match self {
            Slot::Hole | Slot::Zero => &ZEROS,
            Slot::Data(page) => page,
        }
    }

    fn is_hole(&self) -> bool {
        matches!(self, Slot::Hole)
    }

    fn of(page: &Page) -> Slot {
        if *page == ZEROS {
            return Slot::Zero;
        }
        // Copied once, to its place.
        let bytes: Arc<[u8]> = Arc::from(&page[..]);
        Slot::Data(bytes.try_into().expect("a page's length"))
    }
}

#[derive(Clone, Debug, Default)]
struct Image {
    slots: Vec<Slot>,
    len: u64,
}

impl Image {
    fn slot(&self, page: usize) -> Slot {
        self.slots.get(page).cloned().unwrap_or_default()
    }

    fn set(&mut self, page: usize, slot: Slot) {
        if self.slots.len() <= page {
            self.slots.resize(page + 1, Slot::Hole);
        }
        self.slots[page] = slot;
    }

    /// Pages that have room on disk.
    fn pages_taken(&self) -> u64 {
        self.slots.iter().filter(|slot| !slot.is_hole()).count() as u64
    }

    /// Sets the length, and cuts what lies beyond it.
    fn cut(&mut self, len: u64) {
        let before = std::mem::replace(&mut self.len, len);
        if before <= len && self.slots.len() <= pages_of(0, len).end {
            return;
        }
        let (full, rest) = place_of(len);
        self.slots.truncate(full + usize::from(rest > 0));
        if let Some(Slot::Data(page)) = self.slots.get_mut(full) {
            Arc::make_mut(page)[rest..].fill(0);
        }
    }
}

fn place_of(offset: u64) -> (usize, usize) {
    let page = CACHE_PAGE_BYTES as u64;
    ((offset / page) as usize, (offset % page) as usize)
}

/// The pages that a range of bytes touches.
fn pages_of(offset: u64, len: u64) -> std::ops::Range<usize> {
    let page = CACHE_PAGE_BYTES as u64;
    (offset / page) as usize..(offset + len).div_ceil(page) as usize
}

/// A simulated file.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    live: Image,
    durable: Image,
    dirty: BTreeMap<usize, Vec<Slot>>,
    lost: BTreeSet<usize>,
    /// The cache may let go of lost pages at any read.
    fades: bool,
    /// Lengths it went through since the last sync.
    lens: Vec<u64>,
    /// Room was allocated since the last sync.
    allocated: bool,
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.live.len
    }

    /// Whether a power cut would change nothing.
    pub(super) fn is_settled(&self) -> bool {
        let is_clean = self.dirty.is_empty() && self.lost.is_empty() && self.lens.is_empty();
        is_clean && !self.allocated && !self.fades
    }

    /// Whether a failed sync has left pages in the cache that are not on disk.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Whether the next read may find that the cache has let go of something.
    pub(super) fn can_fade(&self) -> bool {
        self.fades && !self.lost.is_empty()
    }

    pub(super) fn pages_taken(&self) -> u64 {
        self.live.pages_taken()
    }

    /// Pages in the range that have no room on disk yet.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        let missing = |page: &usize| self.live.slots.get(*page).is_none_or(Slot::is_hole);
        pages_of(offset, len).filter(missing).count() as u64
    }

    /// What the cache shows; or, past it, what the disk gives.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64, past_cache: bool) -> usize {
        let left = self.live.len.saturating_sub(offset);
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut done = 0;
        while done < count {
            let (page, from) = place_of(offset + done as u64);
            let part = (CACHE_PAGE_BYTES - from).min(count - done);
            // Whoever reads past the cache has dirty pages written first.
            let image = match past_cache && self.lost.contains(&page) {
                true => &self.durable,
                false => &self.live,
            };
            let slot = image.slots.get(page).unwrap_or(&Slot::Hole);
            buffer[done..done + part].copy_from_slice(&slot.bytes()[from..from + part]);
            done += part;
        }
        count
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, from) = place_of(offset + done as u64);
            let part = (CACHE_PAGE_BYTES - from).min(bytes.len() - done);
            let part_bytes = &bytes[done..done + part];
            let new = match part_bytes.try_into() {
                Ok(whole) => Slot::of(whole),
                Err(_) => {
                    let mut new = *self.live.slots.get(page).unwrap_or(&Slot::Hole).bytes();
                    new[from..from + part].copy_from_slice(part_bytes);
                    Slot::of(&new)
                }
            };
            self.change(page, new);
            done += part;
        }
        self.grow(offset + bytes.len() as u64);
    }

    pub(super) fn allocate(&mut self, offset: u64, len: u64) {
        for page in pages_of(offset, len) {
            if self.live.slot(page).is_hole() {
                // Room is metadata: it is durable with the length, and reads as zeros before.
                self.live.set(page, Slot::Zero);
            }
        }
        self.allocated = true;
        self.grow(offset + len);
    }

    pub(super) fn truncate(&mut self, len: u64) {
        self.lens.push(self.live.len);
        if len < self.live.len {
            let (first, _) = place_of(len);
            for page in first..self.live.slots.len() {
                let slot = self.live.slot(page);
                self.change(page, slot);
            }
            self.live.cut(len);
        } else {
            self.live.len = len;
        }
    }

    fn change(&mut self, page: usize, new: Slot) {
        let old = self.live.slot(page);
        match self.dirty.get_mut(&page) {
            // The version before the first write is the durable one, or one that is lost.
            None => {
                self.dirty.insert(page, Vec::new());
            }
            Some(versions) => {
                if versions.len() == VERSIONS_MAX {
                    versions.remove(VERSIONS_MAX / 2);
                }
                versions.push(old);
            }
        }
        self.lost.remove(&page);
        self.live.set(page, new);
    }

    fn grow(&mut self, len: u64) {
        if len > self.live.len {
            self.lens.push(self.live.len);
            self.live.len = len;
        }
    }

    /// All that was written is on disk now.
    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty).into_keys() {
            self.durable.set(page, self.live.slot(page));
        }
        self.sync_len();
    }

    /// As `O_DSYNC` does after one write.
    pub(super) fn sync_range(&mut self, offset: u64, len: u64) {
        for page in pages_of(offset, len) {
            if self.dirty.remove(&page).is_some() {
                self.durable.set(page, self.live.slot(page));
            }
        }
        self.sync_len();
    }

    fn sync_len(&mut self) {
        self.lens.clear();
        self.durable.cut(self.live.len);
        if !std::mem::take(&mut self.allocated) {
            return;
        }
        for (page, slot) in self.live.slots.iter().enumerate() {
            if matches!(slot, Slot::Zero) && self.durable.slot(page).is_hole() {
                self.durable.set(page, Slot::Zero);
            }
        }
    }

    /// A sync that failed: some blocks got to the disk and some did not, and the cache holds all
    /// of them for clean.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng, block_pages: usize) {
        let mut fates = PerBlock::new(block_pages);
        for page in std::mem::take(&mut self.dirty).into_keys() {
            if fates.of(page, || rng.half()) {
                self.durable.set(page, self.live.slot(page));
            } else {
                self.lost.insert(page);
            }
        }
    }

    /// The process died and the machine did not: the cache stays, but may have let go of pages it
    /// holds for clean, and reads them again as the disk has them. It may do so later, too.
    pub(super) fn forget_lost(&mut self, rng: &mut Rng, block_pages: usize) {
        self.fades = true;
        if rng.half() {
            self.let_go(rng, block_pages, 2);
        }
    }

    /// Before a read: the cache may have needed the room of pages that it holds for clean.
    pub(super) fn fade(&mut self, rng: &mut Rng, block_pages: usize) {
        if self.can_fade() {
            self.let_go(rng, block_pages, 100);
        }
    }

    /// Lets go of one block of lost pages out of `odds`.
    fn let_go(&mut self, rng: &mut Rng, block_pages: usize, odds: u64) {
        let mut fates = PerBlock::new(block_pages);
        for page in std::mem::take(&mut self.lost) {
            if fates.of(page, || rng.below(odds) == 0) {
                self.live.set(page, self.durable.slot(page));
            } else {
                self.lost.insert(page);
            }
        }
    }

    /// The power went: what was not synced survives whole, not at all, or, on a disk whose blocks
    /// are single pages, by sectors; as `fate` says, if there is one, else as is drawn.
    pub(super) fn cut_power(&mut self, fate: Option<Fate>, rng: &mut Rng, block_pages: usize) {
        let fate = fate.unwrap_or_else(|| Fate::draw(rng));
        let mut fates = PerBlock::new(block_pages);
        let mut after = self.durable.clone();
        for (page, versions) in std::mem::take(&mut self.dirty) {
            let old = self.durable.slot(page);
            let new = self.live.slot(page);
            let fate = match fate {
                Fate::Mixed if block_pages > 1 => fates.of(page, || Fate::draw_whole(rng)),
                Fate::Mixed => Fate::draw(rng),
                whole => whole,
            };
            let slot = match fate {
                Fate::Lost => old,
                Fate::Kept => new,
                Fate::Mixed => tear(&old, &versions, &new, rng),
            };
            after.set(page, slot);
        }
        let len = match fate {
            Fate::Lost => self.durable.len,
            Fate::Kept => self.live.len,
            Fate::Mixed => {
                let choice = rng.below(self.lens.len() as u64 + 2) as usize;
                match choice.checked_sub(2) {
                    Some(index) => self.lens[index],
                    None if choice == 0 => self.durable.len,
                    None => self.live.len,
                }
            }
        };
        after.cut(len);
        *self = Contents {
            live: after.clone(),
            durable: after,
            ..Contents::default()
        };
    }

    /// Changes bytes on disk and in the cache behind everybody's back.
    pub(super) fn damage(&mut self, offset: u64, bytes: &[u8]) {
        self.write(bytes, offset);
        self.sync_range(offset, bytes.len() as u64);
    }

    /// Changes bytes on disk, while the cache goes on showing what was there. A page that is dirty
    /// will be written over them.
    pub(super) fn rot(&mut self, offset: u64, bytes: &[u8]) {
        self.part(offset, bytes, |contents| &mut contents.durable);
    }

    /// Changes bytes in the cache, while the disk keeps what it has. A page that is dirty takes them
    /// there.
    pub(super) fn rot_in_cache(&mut self, offset: u64, bytes: &[u8]) {
        self.part(offset, bytes, |contents| &mut contents.live);
    }

    /// Changes bytes in one of the images, so that cache and disk part.
    fn part(&mut self, offset: u64, bytes: &[u8], image: fn(&mut Contents) -> &mut Image) {
        for (at, byte) in (offset..).zip(bytes) {
            let (page, from) = place_of(at);
            let image = image(self);
            let mut rotten = *image.slot(page).bytes();
            rotten[from] = *byte;
            image.set(page, Slot::of(&rotten));
            if !self.dirty.contains_key(&page) {
                self.lost.insert(page);
            }
        }
    }
}

/// What becomes of unsynced writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Kept,
    Mixed,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Fate {
        match rng.below(4) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Mixed,
        }
    }

    /// Of a block that is written whole or not at all.
    fn draw_whole(rng: &mut Rng) -> Fate {
        if rng.half() { Fate::Lost } else { Fate::Kept }
    }
}

/// What becomes of each block: one and the same for all its pages, which come in order.
struct PerBlock<T> {
    block_pages: usize,
    last: Option<(usize, T)>,
}

impl<T: Copy> PerBlock<T> {
    fn new(block_pages: usize) -> PerBlock<T> {
        PerBlock {
            block_pages,
            last: None,
        }
    }

    /// The fate of the page's block; drawn with its first page.
    fn of(&mut self, page: usize, draw: impl FnOnce() -> T) -> T {
        let block = page / self.block_pages;
        match self.last {
            Some((last, fate)) if last == block => fate,
            _ => {
                let fate = draw();
                self.last = Some((block, fate));
                fate
            }
        }
    }
}

/// Each sector is of one of the versions the page went through.
fn tear(old: &Slot, between: &[Slot], new: &Slot, rng: &mut Rng) -> Slot {
    let mut page = *old.bytes();
    for from in (0..CACHE_PAGE_BYTES).step_by(SECTOR_BYTES) {
        let sector = from..from + SECTOR_BYTES;
        let version = match rng.below(between.len() as u64 + 4) as usize {
            0 | 1 => old,
            2 | 3 => new,
            index => &between[index - 4],
        };
        page[sector.clone()].copy_from_slice(&version.bytes()[sector]);
    }
    Slot::of(&page)
}

//! The pool as its users see it: fetch a page, pin, latch.

use super::clock::ClockWords;
use super::desc::{DIRTY, Descriptor, MAPPED, PIN, USAGE, USAGE_MAX, VALID};
use super::table::{PARTITIONS, Partition, Table, bucket_count};
use crate::shared::Sizes;
use rd_base::counters::Counter;
use rd_base::{FrameNo, Lsn, PageTag};
use rd_format::PageError;
use rd_sys::Shortage;
use rd_sys::atomic::{AtomicU32, Ordering};
use rd_sys::frame::{FrameRead, FrameWrite, Frames, FramesRegion, PageBytes};
use rd_sys::shm::{One, Plan, Region, Segment};
use std::io;
use std::ops::{Deref, DerefMut};

/// Where the pool lies in the segment.
#[derive(Clone, Copy)]
pub struct PoolRegions {
    frames: FramesRegion,
    descriptors: Region<Descriptor>,
    buckets: Region<AtomicU32>,
    partitions: Region<Partition>,
    clock: Region<ClockWords>,
}

impl PoolRegions {
    /// Reserves room for the pool.
    pub fn plan(plan: &mut Plan, sizes: &Sizes) -> PoolRegions {
        assert!(sizes.frames > 0 && sizes.frames < u32::MAX as usize);
        PoolRegions {
            frames: plan.reserve_frames(sizes.frames),
            descriptors: plan.reserve(sizes.frames),
            buckets: plan.reserve(bucket_count(sizes.frames)),
            partitions: plan.reserve(PARTITIONS),
            clock: plan.reserve(1),
        }
    }
}

/// Shared buffers.
#[derive(Clone)]
pub struct Pool {
    pub(super) frames: Frames,
    pub(super) table: Table,
    pub(super) clock: One<ClockWords>,
}

/// A page could not be brought into memory.
#[derive(Debug, thiserror::Error)]
pub enum PageReadError {
    /// The file could not be read.
    #[error("could not read {tag} (file \"{path}\"): {error}")]
    Io {
        /// Which page.
        tag: PageTag,
        /// The file, relative to the data directory.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The file ends before the page.
    #[error("{tag} lies beyond the end of file \"{path}\": the file was cut or restored")]
    BeyondEnd {
        /// Which page.
        tag: PageTag,
        /// The file, relative to the data directory.
        path: String,
    },
    /// The page is not what was written there.
    #[error("in file \"{path}\": {error}")]
    Damaged {
        /// Which page.
        tag: PageTag,
        /// The file, relative to the data directory.
        path: String,
        /// What is wrong with it.
        error: PageError,
    },
    /// The page is whole, but no record of this log can have made it so.
    #[error(
        "in file \"{path}\": {tag} has page LSN {page_lsn}, but the write-ahead log has come to \
         {end} only: the page is of another server, or the log was lost that it came from"
    )]
    BeyondLog {
        /// Which page.
        tag: PageTag,
        /// The file, relative to the data directory.
        path: String,
        /// What the page says.
        page_lsn: Lsn,
        /// The insert position.
        end: Lsn,
    },
}

impl PageReadError {
    /// Which page.
    pub fn tag(&self) -> PageTag {
        match self {
            PageReadError::Io { tag, .. }
            | PageReadError::BeyondEnd { tag, .. }
            | PageReadError::Damaged { tag, .. }
            | PageReadError::BeyondLog { tag, .. } => *tag,
        }
    }

    /// What there was too little of; `None` if the page itself, or its disk, is to blame.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            PageReadError::Io { error, .. } => Shortage::of(error),
            _ => None,
        }
    }
}

/// Where pages come from, and whom to ask when no frame is clean.
pub trait PageSource {
    /// Reads the page `tag` into `page` and checks it (B10).
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written there.
    fn read_page(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError>;

    /// Wakes the checkpointer, which cleans frames ahead of the hand.
    fn ask_for_supply(&self);

    /// Counts one `counter` for this process.
    fn note(&self, _counter: Counter) {}
}

impl Pool {
    /// Opens the pool.
    pub fn open(segment: &Segment, regions: &PoolRegions, sizes: &Sizes) -> Pool {
        let pool = Pool {
            frames: segment.frames(regions.frames),
            table: Table {
                buckets: segment.area(regions.buckets),
                partitions: segment.area(regions.partitions),
                descriptors: segment.area(regions.descriptors),
            },
            clock: segment.one(regions.clock),
        };
        assert_eq!(pool.frame_count(), sizes.frames);
        pool
    }

    /// How many frames there are.
    pub fn frame_count(&self) -> usize {
        self.table.descriptors.len()
    }

    /// Pins the page `tag`, reading it from its file if it is not in memory. Sleeps while another
    /// process reads it in, or while no frame is clean.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged; the error names it.
    #[inline]
    pub fn fetch<S>(&self, source: &S, tag: PageTag) -> Result<Pin<'_>, PageReadError>
    where
        S: PageSource + ?Sized,
    {
        if let Some(pin) = self.get_resident(tag) {
            return Ok(pin);
        }
        self.fetch_slowly(source, tag, false)
    }

    /// Pins the page `tag` if it is in memory. Sleeps while another process reads it in.
    #[inline]
    pub fn get_resident(&self, tag: PageTag) -> Option<Pin<'_>> {
        match self.table.pin_quickly(tag, 1) {
            Some((frame, state)) if state.has(VALID) => Some(Pin { pool: self, frame }),
            Some((frame, _)) => {
                let pin = Pin { pool: self, frame };
                if pin.wait_until_valid() {
                    Some(pin)
                } else {
                    self.get_resident_slowly(tag)
                }
            }
            None => self.get_resident_slowly(tag),
        }
    }

    /// First step of looking at a page ahead: asks for what tells where the page `tag` is to be
    /// brought into the processor's caches.
    #[inline]
    pub fn prefetch_place(&self, tag: PageTag) {
        self.table.prefetch_bucket(tag);
    }

    /// Second step, when the first has had its time: asks for the page's descriptor, its latch and
    /// its first `bytes`.
    #[inline]
    pub fn prefetch_page(&self, tag: PageTag, bytes: usize) {
        if let Some(frame) = self.table.prefetch_descriptor(tag) {
            self.frames.prefetch(frame, bytes);
        }
    }

    /// Whether the page `tag` is in memory, as far as that can be told without waiting or pinning.
    pub fn is_likely_resident(&self, tag: PageTag) -> bool {
        self.table.find_quickly(tag).is_some()
    }

    /// Third step: lets `look` see the page, unless it is not in memory or that means waiting. It
    /// does not count as a use of the page.
    #[inline]
    pub fn glance<R>(&self, tag: PageTag, look: impl FnOnce(&PageBytes) -> R) -> Option<R> {
        let (frame, state) = self.table.pin_quickly(tag, 0)?;
        let pin = Pin { pool: self, frame };
        if !state.has(VALID) {
            return None;
        }
        let page = pin.try_read()?;
        Some(look(&page))
    }

    #[cold]
    fn get_resident_slowly(&self, tag: PageTag) -> Option<Pin<'_>> {
        loop {
            let (frame, state) = self.table.lock(tag).pin()?;
            let pin = Pin { pool: self, frame };
            if state.has(VALID) || pin.wait_until_valid() {
                return Some(pin);
            }
        }
    }

    /// Pins a frame for the page `tag`, whose every byte the caller is about to make anew. The
    /// file is not read: the bytes are zeros, or what is in memory already.
    pub fn fetch_new<S>(&self, source: &S, tag: PageTag) -> Pin<'_>
    where
        S: PageSource + ?Sized,
    {
        match self.get_resident(tag) {
            Some(pin) => pin,
            None => {
                let pin = self.fetch_slowly(source, tag, true);
                pin.expect("nothing is read, so nothing can fail")
            }
        }
    }

    /// Pins the page `tag` for a record's redo. With `whole_page` the record carries the whole
    /// page, and the file is not read: what is there may be zeros, cut off, or torn.
    ///
    /// # Errors
    /// As [`Pool::fetch`]; never with `whole_page`.
    pub fn fetch_for_redo<S>(
        &self,
        source: &S,
        tag: PageTag,
        whole_page: bool,
    ) -> Result<Pin<'_>, PageReadError>
    where
        S: PageSource + ?Sized,
    {
        if whole_page {
            Ok(self.fetch_new(source, tag))
        } else {
            self.fetch(source, tag)
        }
    }

    #[cold]
    fn fetch_slowly<S>(&self, source: &S, tag: PageTag, new: bool) -> Result<Pin<'_>, PageReadError>
    where
        S: PageSource + ?Sized,
    {
        loop {
            let frame = self.claim(source);
            // Nobody pins a claimed frame, so nobody has its latch; readers will wait for it (B9).
            let mut bytes = self.frames.write(frame);
            let chain = self.table.lock(tag);
            if let Some((other, state)) = chain.pin() {
                drop(chain);
                drop(bytes);
                self.unclaim(frame);
                let pin = Pin {
                    pool: self,
                    frame: other,
                };
                if state.has(VALID) || pin.wait_until_valid() {
                    return Ok(pin);
                }
                continue;
            }
            chain.insert(frame);
            drop(chain);
            let pin = Pin { pool: self, frame };
            let read = if new {
                bytes.fill(0);
                Ok(())
            } else {
                source.read_page(tag, &mut bytes)
            };
            if read.is_ok() {
                pin.descriptor().state.fetch_or(VALID, Ordering::Release);
            } else {
                self.unmap(frame, tag);
            }
            // B2: the latch goes before the pin.
            drop(bytes);
            return read.map(|()| pin);
        }
    }

    /// Takes a frame whose reading failed out of the table. Those who wait for it see that it is
    /// not valid; the last pin leaves it free.
    fn unmap(&self, frame: FrameNo, tag: PageTag) {
        let chain = self.table.lock(tag);
        chain.unlink(frame);
        let flags = MAPPED | (USAGE * USAGE_MAX);
        self.table
            .descriptor(frame)
            .state
            .fetch_and(!flags, Ordering::Release);
    }

    /// Pins that are held on the page of `frame`; for tests and diagnostics.
    pub fn pins(&self, frame: FrameNo) -> u64 {
        self.table.descriptor(frame).load().pins()
    }

    /// The page that `frame` holds at the moment, if it holds one.
    pub(super) fn tag_of(&self, frame: FrameNo) -> Option<PageTag> {
        let descriptor = self.table.descriptor(frame);
        descriptor.load().has(VALID).then(|| descriptor.page_tag())
    }

    /// What the frames hold at the moment, counted one by one: that takes its time in a large pool.
    pub fn count_frames(&self) -> FrameCounts {
        let mut counts = FrameCounts::default();
        for descriptor in self.table.descriptors.iter() {
            let state = descriptor.load();
            counts.used += usize::from(state.has(MAPPED));
            counts.dirty += usize::from(state.has(DIRTY));
        }
        counts
    }

    /// Frames that are dirty at the moment, counted as by [`Pool::count_frames`].
    pub fn dirty_frames(&self) -> usize {
        self.count_frames().dirty
    }

    /// Frames that hold a page at the moment, counted as by [`Pool::count_frames`].
    pub fn used_frames(&self) -> usize {
        self.count_frames().used
    }
}

/// How many frames there are of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// That hold a page.
    pub used: usize,
    /// Whose page is dirty.
    pub dirty: usize,
}

/// A page that stays in its frame while this lives (B1).
#[must_use = "the page may leave memory at once"]
pub struct Pin<'p> {
    pub(super) pool: &'p Pool,
    pub(super) frame: FrameNo,
}

impl<'p> Pin<'p> {
    #[inline]
    fn descriptor(&self) -> &'p Descriptor {
        self.pool.table.descriptor(self.frame)
    }

    /// Waits for the process that reads the page in; false if it failed (B9).
    #[cold]
    fn wait_until_valid(&self) -> bool {
        drop(self.pool.frames.read(self.frame));
        self.descriptor().load().has(MAPPED | VALID)
    }

    /// The frame.
    #[inline]
    pub fn frame(&self) -> FrameNo {
        self.frame
    }

    /// The page.
    #[inline]
    pub fn tag(&self) -> PageTag {
        self.descriptor().page_tag()
    }

    /// Latches the page shared, waiting for a writer.
    #[inline]
    pub fn read(&self) -> PageRead<'_> {
        PageRead {
            bytes: self.pool.frames.read(self.frame),
        }
    }

    /// Latches the page exclusively, waiting for everybody.
    #[inline]
    pub fn write(&self) -> PageWrite<'_> {
        PageWrite {
            descriptor: self.descriptor(),
            bytes: self.pool.frames.write(self.frame),
        }
    }

    /// Latches the page shared unless that means waiting.
    #[inline]
    pub fn try_read(&self) -> Option<PageRead<'_>> {
        Some(PageRead {
            bytes: self.pool.frames.try_read(self.frame)?,
        })
    }

    /// Latches the page exclusively unless that means waiting.
    #[inline]
    pub fn try_write(&self) -> Option<PageWrite<'_>> {
        let bytes = self.pool.frames.try_write(self.frame)?;
        Some(PageWrite {
            descriptor: self.descriptor(),
            bytes,
        })
    }

    /// Latches the page shared; the guard takes the pin with it.
    #[inline]
    pub fn into_read(self) -> PinnedRead<'p> {
        PinnedRead {
            page: PageRead {
                bytes: self.pool.frames.read(self.frame),
            },
            pin: self,
        }
    }

    /// Latches the page exclusively; the guard takes the pin with it.
    #[inline]
    pub fn into_write(self) -> PinnedWrite<'p> {
        let bytes = self.pool.frames.write(self.frame);
        PinnedWrite {
            page: PageWrite {
                descriptor: self.descriptor(),
                bytes,
            },
            pin: self,
        }
    }

    /// As [`Pin::into_write`], unless that means waiting: then gives the pin back.
    #[inline]
    pub fn try_into_write(self) -> Result<PinnedWrite<'p>, Pin<'p>> {
        match self.pool.frames.try_write(self.frame) {
            Some(bytes) => {
                let page = PageWrite {
                    descriptor: self.descriptor(),
                    bytes,
                };
                Ok(PinnedWrite { page, pin: self })
            }
            None => Err(self),
        }
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.descriptor().unpin();
    }
}

/// A page latched shared.
#[must_use = "the latch is let go at once"]
pub struct PageRead<'a> {
    bytes: FrameRead<'a>,
}

impl Deref for PageRead<'_> {
    type Target = PageBytes;
    #[inline]
    fn deref(&self) -> &PageBytes {
        &self.bytes
    }
}

/// A page latched exclusively.
#[must_use = "the latch is let go at once"]
pub struct PageWrite<'a> {
    descriptor: &'a Descriptor,
    bytes: FrameWrite<'a>,
}

impl<'a> PageWrite<'a> {
    /// Says that the page is about to be changed by a record that will be reserved at or after
    /// `rec_lsn`: the insert position, read just before (B3).
    #[inline]
    pub fn mark_dirty(&self, rec_lsn: Lsn) {
        if self.is_dirty() {
            return;
        }
        self.descriptor
            .rec_lsn
            .store(rec_lsn.get(), Ordering::Relaxed);
        // Publishes the rec LSN to the checkpointer's scan.
        self.descriptor.state.fetch_or(DIRTY, Ordering::Release);
    }

    /// Whether the page is newer than its copy.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        self.descriptor.load().has(DIRTY)
    }

    /// The bytes, for a change that no record speaks of and that may be lost (B11).
    #[inline]
    pub fn unlogged(&mut self) -> &mut PageBytes {
        &mut self.bytes
    }

    /// The page.
    #[inline]
    pub fn tag(&self) -> PageTag {
        self.descriptor.page_tag()
    }

    /// Lets readers in and goes on as one of them.
    pub fn downgrade(self) -> PageRead<'a> {
        PageRead {
            bytes: self.bytes.downgrade(),
        }
    }
}

impl Deref for PageWrite<'_> {
    type Target = PageBytes;
    #[inline]
    fn deref(&self) -> &PageBytes {
        &self.bytes
    }
}

impl DerefMut for PageWrite<'_> {
    /// The bytes, for a logged change.
    #[inline]
    fn deref_mut(&mut self) -> &mut PageBytes {
        debug_assert!(
            self.is_dirty(),
            "B3: {} is changed before mark_dirty",
            self.tag()
        );
        &mut self.bytes
    }
}

/// A page latched shared, with its pin.
#[must_use = "the latch is let go at once"]
pub struct PinnedRead<'p> {
    // Dropped in this order: latch, then pin (B2).
    page: PageRead<'p>,
    pin: Pin<'p>,
}

impl<'p> PinnedRead<'p> {
    /// Lets go of the latch and keeps the pin.
    pub fn unlatch(self) -> Pin<'p> {
        let PinnedRead { page, pin } = self;
        drop(page);
        pin
    }

    /// The pin.
    pub fn pin(&self) -> &Pin<'p> {
        &self.pin
    }
}

impl Deref for PinnedRead<'_> {
    type Target = PageBytes;
    #[inline]
    fn deref(&self) -> &PageBytes {
        &self.page
    }
}

/// A page latched exclusively, with its pin.
#[must_use = "the latch is let go at once"]
pub struct PinnedWrite<'p> {
    // Dropped in this order: latch, then pin (B2).
    page: PageWrite<'p>,
    pin: Pin<'p>,
}

impl<'p> PinnedWrite<'p> {
    /// Lets go of the latch and keeps the pin.
    pub fn unlatch(self) -> Pin<'p> {
        let PinnedWrite { page, pin } = self;
        drop(page);
        pin
    }

    /// Lets readers in and goes on as one of them.
    pub fn downgrade(self) -> PinnedRead<'p> {
        let PinnedWrite { page, pin } = self;
        PinnedRead {
            page: page.downgrade(),
            pin,
        }
    }

    /// The pin.
    pub fn pin(&self) -> &Pin<'p> {
        &self.pin
    }
}

impl<'p> Deref for PinnedWrite<'p> {
    type Target = PageWrite<'p>;
    #[inline]
    fn deref(&self) -> &PageWrite<'p> {
        &self.page
    }
}

impl<'p> DerefMut for PinnedWrite<'p> {
    #[inline]
    fn deref_mut(&mut self) -> &mut PageWrite<'p> {
        &mut self.page
    }
}

const _: () = assert!(PIN == 1);

//! Page frames: 8 KiB each, reached only under their latch.
//!
//! Invariant: a reference to the bytes of a frame exists only within a guard that holds the
//! frame's latch, shared for `&`, exclusive for `&mut`. The latches of a frames region are reached
//! by nothing else, guards stay on their thread, and a process that holds one cannot fork.

use crate::held;
use crate::latch::RwLatch;
use crate::prefetch::{LINE_BYTES, prefetch, prefetch_at};
use crate::shm::{Area, Place, Region, Segment};
use rd_base::FrameNo;
use rd_base::limits::PAGE_BYTES;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use zerocopy::{FromBytes, KnownLayout};

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES];

/// A latch on a cache line of its own: neighbouring frames have nothing to do with one another.
#[derive(FromBytes, KnownLayout, Debug)]
#[repr(C, align(64))]
pub(crate) struct FrameLatch {
    latch: RwLatch,
    _reserved: [u8; 60],
}

/// A place in a plan for page frames and their latches.
#[derive(Clone, Copy, Debug)]
pub struct FramesRegion {
    bytes: Place,
    latches: Region<FrameLatch>,
}

impl FramesRegion {
    pub(crate) fn new(bytes: Place, latches: Region<FrameLatch>) -> Self {
        Self { bytes, latches }
    }
}

/// In debug builds, ends the process if this thread holds a frame although it is about to wait for
/// `what`, whose holders wait for frames.
#[inline(always)]
pub fn assert_none_held(what: &str) {
    if cfg!(debug_assertions) && held::frames() > 0 {
        crate::crash::panic_abort(&format!("{what} was asked for while a page is latched"));
    }
}

/// The page frames of a segment.
#[derive(Clone)]
pub struct Frames {
    bytes: NonNull<PageBytes>,
    /// Keeps the mapping alive for `bytes` too.
    latches: Area<FrameLatch>,
}

// SAFETY: the bytes are reached only under a latch that works across threads and processes.
unsafe impl Send for Frames {}
// SAFETY: as for `Send`.
unsafe impl Sync for Frames {}

impl Frames {
    pub(crate) fn new(segment: &Segment, region: FramesRegion) -> Self {
        let bytes = segment.resolve(region.bytes).cast::<PageBytes>();
        Self {
            bytes,
            latches: segment.area(region.latches),
        }
    }

    /// How many frames there are.
    pub fn count(&self) -> usize {
        self.latches.len()
    }

    /// Waits until no writer has the frame, and reads it.
    ///
    /// # Panics
    /// These four panic if there is no such frame.
    #[inline]
    pub fn read(&self, frame: FrameNo) -> FrameRead<'_> {
        let latch = self.latch(frame);
        latch.raw().read();
        self.read_guard(frame, latch)
    }

    /// Waits until nobody has the frame, and has it alone.
    #[inline]
    pub fn write(&self, frame: FrameNo) -> FrameWrite<'_> {
        let latch = self.latch(frame);
        latch.raw().write();
        self.write_guard(frame, latch)
    }

    /// Reads the frame unless that means waiting.
    #[inline]
    pub fn try_read(&self, frame: FrameNo) -> Option<FrameRead<'_>> {
        let latch = self.latch(frame);
        latch
            .raw()
            .try_read()
            .then(|| self.read_guard(frame, latch))
    }

    /// Has the frame alone unless that means waiting.
    #[inline]
    pub fn try_write(&self, frame: FrameNo) -> Option<FrameWrite<'_>> {
        let latch = self.latch(frame);
        latch
            .raw()
            .try_write()
            .then(|| self.write_guard(frame, latch))
    }

    /// Asks for the frame's latch and the first `bytes` of its page to be brought into the
    /// processor's caches.
    ///
    /// # Panics
    /// If there is no such frame.
    #[inline]
    pub fn prefetch(&self, frame: FrameNo, bytes: usize) {
        prefetch(self.latch(frame));
        let page = self.page(frame).cast::<u8>().as_ptr();
        for line in 0..bytes.min(PAGE_BYTES).div_ceil(LINE_BYTES) {
            prefetch_at(page.wrapping_add(line * LINE_BYTES));
        }
    }

    #[inline]
    fn latch(&self, frame: FrameNo) -> &RwLatch {
        &self.latches[frame.get() as usize].latch
    }

    /// The frame's bytes; its number was checked when its latch was found.
    #[inline]
    fn page(&self, frame: FrameNo) -> NonNull<PageBytes> {
        assert!((frame.get() as usize) < self.latches.len());
        // SAFETY: there are as many pages as latches, and the number is below that.
        unsafe { self.bytes.add(frame.get() as usize) }
    }

    /// The latch must be held shared.
    #[inline]
    fn read_guard<'a>(&'a self, frame: FrameNo, latch: &'a RwLatch) -> FrameRead<'a> {
        held::enter_frame();
        FrameRead {
            page: self.page(frame),
            latch,
            frame,
            stays_on_thread: PhantomData,
        }
    }

    /// The latch must be held alone.
    #[inline]
    fn write_guard<'a>(&'a self, frame: FrameNo, latch: &'a RwLatch) -> FrameWrite<'a> {
        held::enter_frame();
        FrameWrite {
            page: self.page(frame),
            latch,
            frame,
            stays_on_thread: PhantomData,
        }
    }
}

/// A frame that does not change while this lives.
#[must_use = "the frame is let go at once"]
pub struct FrameRead<'a> {
    page: NonNull<PageBytes>,
    latch: &'a RwLatch,
    frame: FrameNo,
    stays_on_thread: PhantomData<*const ()>,
}

impl FrameRead<'_> {
    /// Which frame it is.
    #[inline]
    pub fn frame(&self) -> FrameNo {
        self.frame
    }
}

impl Deref for FrameRead<'_> {
    type Target = PageBytes;

    #[inline]
    fn deref(&self) -> &PageBytes {
        // SAFETY: the page lies in the mapping that the borrowed `Frames` keeps alive, any bytes
        // are valid, and the shared latch that we hold keeps every writer out.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for FrameRead<'_> {
    #[inline]
    fn drop(&mut self) {
        held::leave_frame();
        self.latch.raw().unlock_read();
    }
}

/// A frame that nobody else sees while this lives.
#[must_use = "the frame is let go at once"]
pub struct FrameWrite<'a> {
    page: NonNull<PageBytes>,
    latch: &'a RwLatch,
    frame: FrameNo,
    stays_on_thread: PhantomData<*const ()>,
}

impl<'a> FrameWrite<'a> {
    /// Which frame it is.
    #[inline]
    pub fn frame(&self) -> FrameNo {
        self.frame
    }

    /// Lets readers in, and goes on as one of them; no writer comes in between.
    pub fn downgrade(self) -> FrameRead<'a> {
        let FrameWrite {
            page, latch, frame, ..
        } = self;
        // The count of held frames goes over to the new guard.
        mem::forget(self);
        latch.raw().downgrade();
        FrameRead {
            page,
            latch,
            frame,
            stays_on_thread: PhantomData,
        }
    }
}

impl Deref for FrameWrite<'_> {
    type Target = PageBytes;

    #[inline]
    fn deref(&self) -> &PageBytes {
        // SAFETY: as in `FrameRead`, with the exclusive latch.
        unsafe { self.page.as_ref() }
    }
}

impl DerefMut for FrameWrite<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut PageBytes {
        // SAFETY: as in `FrameRead`; the exclusive latch keeps everybody else out, and the borrow
        // of the guard keeps this one alone.
        unsafe { self.page.as_mut() }
    }
}

impl Drop for FrameWrite<'_> {
    #[inline]
    fn drop(&mut self) {
        held::leave_frame();
        self.latch.raw().unlock_write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Plan;
    use std::thread;

    /// Miri, which keeps an account of each byte, takes its time.
    const TURNS: u32 = if cfg!(miri) { 20 } else { 2_000 };
    const LOOKED_AT: usize = if cfg!(miri) { 64 } else { PAGE_BYTES };

    fn frames(count: usize) -> Frames {
        let mut plan = Plan::new();
        plan.reserve::<u8>(1);
        let region = plan.reserve_frames(count);
        Segment::anonymous(&plan).expect("memory").frames(region)
    }

    #[test]
    fn frames_are_zero_apart_and_counted() {
        let frames = frames(3);
        frames.write(FrameNo::new(1)).fill(0xAB);
        assert!(frames.read(FrameNo::new(0)).iter().all(|byte| *byte == 0));
        assert!(frames.read(FrameNo::new(2)).iter().all(|byte| *byte == 0));
        let read = frames.read(FrameNo::new(1));
        assert_eq!((read.frame().get(), read[PAGE_BYTES - 1]), (1, 0xAB));
        assert_eq!(read.as_ptr() as usize % PAGE_BYTES % 4096, 0);
        assert!(frames.try_write(FrameNo::new(1)).is_none());
        assert!(frames.try_read(FrameNo::new(1)).is_some());
        assert_eq!(held::frames(), 1);
        drop(read);
        let mut write = frames.try_write(FrameNo::new(1)).expect("free");
        write[0] = 1;
        let read = write.downgrade();
        assert!(
            frames
                .try_read(FrameNo::new(1))
                .is_some_and(|again| again[0] == 1)
        );
        drop(read);
        assert_eq!(held::frames(), 0);
    }

    #[test]
    fn a_page_is_never_seen_half_written() {
        let frames = frames(1);
        thread::scope(|scope| {
            for number in 0..2u8 {
                let frames = &frames;
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        frames.write(FrameNo::new(0))[..LOOKED_AT].fill((turn as u8) ^ number);
                        let read = frames.read(FrameNo::new(0));
                        assert!(read[..LOOKED_AT].iter().all(|byte| *byte == read[0]));
                    }
                });
            }
        });
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn there_is_no_frame_beyond_the_last() {
        drop(frames(1).read(FrameNo::new(1)));
    }
}

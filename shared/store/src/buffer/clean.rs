//! The checkpointer's side of the pool: which frames are dirty, copies of their bytes, and what
//! becomes of a frame when its copy is in its place. One process calls this (B5), and nothing here
//! waits for a frame's latch (B8).

use super::desc::{CLAIMED, DIRTY, MAPPED, PIN, State, VALID, WRITING};
use super::pool::{Pin, Pool};
use rd_base::{FileNo, FrameNo, Lsn, PageTag};
use rd_format::page::page_lsn;
use rd_sys::atomic::Ordering;
use rd_sys::frame::PageBytes;

/// A frame that was dirty when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirtyFrame {
    /// The page it held. First, so that sorting is by file and block.
    pub tag: PageTag,
    /// The frame.
    pub frame: FrameNo,
    /// Its rec LSN.
    pub rec_lsn: Lsn,
}

/// What a copy was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The frame, which is writing until [`Pool::written`] or [`Pool::restore_dirty`].
    pub frame: FrameNo,
    /// The page.
    pub tag: PageTag,
    /// The first LSN that is not in the page's file; the checkpointer answers for it until the
    /// file is synced (B5).
    pub rec_lsn: Lsn,
}

/// What came of [`Pool::copy_dirty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOutcome {
    /// The bytes were copied.
    Copied(Copied),
    /// The frame is not dirty, or holds another page: there is nothing to write.
    Clean,
    /// Somebody has the page latched exclusively: come back later.
    Busy,
}

/// A page as memory has it, see [`Pool::copy_resident`].
pub enum Resident<'p> {
    /// It is not in memory.
    Absent,
    /// It is being read in, made or changed: come back later.
    Busy,
    /// The copy is newer than what is in the page's file, or may be.
    Unwritten(Pin<'p>),
    /// The page was read from its file, or written to it, and not changed by any record since.
    Settled(Pin<'p>),
}

impl Pool {
    /// Copies the page `tag` into `copy` if it is in memory; the pin keeps it there. Does not count
    /// as a use of the page.
    pub fn copy_resident(&self, tag: PageTag, copy: &mut PageBytes) -> Resident<'_> {
        let found = self.table.pin_quickly(tag, 0);
        let Some((frame, state)) = found.or_else(|| {
            // B12: only under the latch does finding nothing prove something.
            let _chain = self.table.lock(tag);
            self.table.pin_quickly(tag, 0)
        }) else {
            return Resident::Absent;
        };
        let pin = Pin { pool: self, frame };
        let Some(bytes) = self.frames.try_read(frame) else {
            return Resident::Busy;
        };
        // Marks need the exclusive latch, so this is the state of these bytes.
        let now = self.table.descriptor(frame).load();
        if !state.has(VALID) || !now.has(VALID) {
            return Resident::Busy;
        }
        copy.copy_from_slice(&bytes[..]);
        drop(bytes);
        if now.has_any(DIRTY | WRITING) {
            Resident::Unwritten(pin)
        } else if page_lsn(copy) == Lsn::ZERO {
            // Whoever makes it anew has not begun.
            Resident::Busy
        } else {
            Resident::Settled(pin)
        }
    }

    /// Collects the frames that are dirty since before `limit` into `found`. B4: `limit` is an
    /// insert position that was read before this is called.
    pub fn dirty_before(&self, limit: Lsn, found: &mut Vec<DirtyFrame>) {
        for (frame, state) in self.states() {
            if !state.has(MAPPED | DIRTY) {
                continue;
            }
            let descriptor = self.table.descriptor(frame);
            let rec_lsn = Lsn::new(descriptor.rec_lsn.load(Ordering::Relaxed));
            if rec_lsn < limit {
                // A dirty frame keeps its page until this process has written it (B5, B7).
                found.push(DirtyFrame {
                    tag: descriptor.page_tag(),
                    frame,
                    rec_lsn,
                });
            }
        }
    }

    /// The least rec LSN of all dirty frames; those being written are the caller's business.
    pub fn least_rec_lsn(&self) -> Option<Lsn> {
        let dirty = self.states().filter(|(_, state)| state.has(MAPPED | DIRTY));
        let rec_lsn =
            dirty.map(|(frame, _)| self.table.descriptor(frame).rec_lsn.load(Ordering::Relaxed));
        rec_lsn.min().map(Lsn::new)
    }

    fn states(&self) -> impl Iterator<Item = (FrameNo, State)> {
        let descriptors = self.table.descriptors.iter().enumerate();
        descriptors.map(|(index, descriptor)| (FrameNo::new(index as u32), descriptor.load()))
    }

    /// Copies the bytes of `frame` into `copy` if it is dirty and holds the page `tag`; the frame
    /// is then writing, and no longer dirty (B5). Does not count as a use of the page.
    pub fn copy_dirty(&self, frame: FrameNo, tag: PageTag, copy: &mut PageBytes) -> CopyOutcome {
        let descriptor = self.table.descriptor(frame);
        let Some(state) = descriptor.pin_if(tag.to_u64(), 0) else {
            return CopyOutcome::Clean;
        };
        let pin = Pin { pool: self, frame };
        if !state.has(DIRTY) {
            return CopyOutcome::Clean;
        }
        if state.has(WRITING) {
            return CopyOutcome::Busy;
        }
        let Some(bytes) = self.frames.try_read(frame) else {
            return CopyOutcome::Busy;
        };
        debug_assert!(
            descriptor.load().has(VALID | DIRTY),
            "B5: only this process cleans"
        );
        copy.copy_from_slice(&bytes[..]);
        let rec_lsn = Lsn::new(descriptor.rec_lsn.load(Ordering::Relaxed));
        // Only marks, pins and usage change beside us, and marks need the exclusive latch.
        let before = descriptor
            .state
            .fetch_xor(DIRTY | WRITING, Ordering::AcqRel);
        assert!(
            State(before).has(DIRTY) && !State(before).has(WRITING),
            "B5: {tag}"
        );
        drop(bytes);
        drop(pin);
        CopyOutcome::Copied(Copied {
            frame,
            tag,
            rec_lsn,
        })
    }

    /// Says that the copy of `frame` is in its place: the frame may be reused (B7).
    pub fn written(&self, frame: FrameNo) {
        let before = self
            .table
            .descriptor(frame)
            .state
            .fetch_and(!WRITING, Ordering::Release);
        assert!(
            State(before).has(WRITING),
            "B7: frame {frame} was not being written"
        );
    }

    /// Says that the copy could not be written: the frame is as dirty as before. False if its
    /// latch is taken; it then stays writing, and the caller comes back (B8).
    pub fn restore_dirty(&self, copied: &Copied) -> bool {
        let descriptor = self.table.descriptor(copied.frame);
        // Keeps markers out. A frame that is writing keeps its page (B7), so no pin is needed.
        let Some(bytes) = self.frames.try_read(copied.frame) else {
            return false;
        };
        let rec_lsn = copied.rec_lsn.get();
        if descriptor.load().has(DIRTY) {
            descriptor.rec_lsn.fetch_min(rec_lsn, Ordering::Relaxed);
        } else {
            descriptor.rec_lsn.store(rec_lsn, Ordering::Relaxed);
            descriptor.state.fetch_or(DIRTY, Ordering::Release);
        }
        descriptor.state.fetch_and(!WRITING, Ordering::Release);
        drop(bytes);
        true
    }

    /// Whether the hand is near the end of what was cleaned, or somebody sleeps for want of a
    /// frame.
    pub fn wants_supply(&self) -> bool {
        let hand = self.clock.hand.load(Ordering::Relaxed);
        let ahead = self
            .clock
            .supplied_to
            .load(Ordering::Relaxed)
            .saturating_sub(hand);
        ahead < self.supply_low() || self.starving()
    }

    /// How short clean frames are: 0 while there are enough ahead of the hand, 1 when there is none.
    pub fn supply_shortage(&self) -> f64 {
        if self.starving() {
            return 1.0;
        }
        let hand = self.clock.hand.load(Ordering::Relaxed);
        let supplied_to = self.clock.supplied_to.load(Ordering::Relaxed);
        let ahead = supplied_to.saturating_sub(hand).min(self.supply_low());
        1.0 - ahead as f64 / self.supply_low() as f64
    }

    /// Whether somebody sleeps for want of a clean frame.
    pub fn starving(&self) -> bool {
        self.clock.starving.load(Ordering::SeqCst) > 0
    }

    /// Collects up to `max` dirty frames ahead of the hand that should be written so that they can
    /// be reused, and moves the supply up to the last one looked at. Pinned frames are left out,
    /// and, unless somebody starves, those in frequent use.
    ///
    /// Gives true when all frames up to the high-water mark have been looked at.
    pub fn plan_supply(&self, max: usize, found: &mut Vec<DirtyFrame>) -> bool {
        let frames = self.frame_count() as u64;
        let hand = self.clock.hand.load(Ordering::Relaxed);
        let starving = self.starving();
        let (from, until, usage_max) = if starving {
            (hand, hand + frames, u64::MAX)
        } else {
            let done = self.clock.supplied_to.load(Ordering::Relaxed);
            let until = hand + self.supply_high();
            // The hand may have overtaken the supply, or, after a long sweep, lapped it.
            (done.clamp(hand, until), until, 1)
        };
        let mut at = from;
        while at < until && found.len() < max {
            let frame = FrameNo::new((at % frames) as u32);
            at += 1;
            let descriptor = self.table.descriptor(frame);
            let state = descriptor.load();
            let wanted = state.has(MAPPED | DIRTY)
                && !state.has_any(WRITING | CLAIMED)
                && state.pins() == 0
                && state.usage() <= usage_max;
            if wanted {
                let rec_lsn = Lsn::new(descriptor.rec_lsn.load(Ordering::Relaxed));
                found.push(DirtyFrame {
                    tag: descriptor.page_tag(),
                    frame,
                    rec_lsn,
                });
            }
        }
        self.clock.supplied_to.fetch_max(at, Ordering::Relaxed);
        at == until
    }

    /// Wakes those who sleep for want of a clean frame: some have become clean.
    pub fn supplied(&self) {
        self.clock.supply.wake_all();
    }

    /// Frees every frame that holds a page of `file`, whose pages nobody needs any more. False if
    /// some of them are pinned or being written: come back later.
    pub fn discard(&self, file: FileNo) -> bool {
        let mut all = true;
        for index in 0..self.frame_count() {
            let frame = FrameNo::new(index as u32);
            let descriptor = self.table.descriptor(frame);
            let tag = descriptor.page_tag();
            if tag.file != file || descriptor.pin_if(tag.to_u64(), 0).is_none() {
                continue;
            }
            let chain = self.table.lock(tag);
            let state = descriptor.load();
            let alone = state.pins() == 1 && !state.has(WRITING);
            if alone && descriptor.swap(state, CLAIMED | PIN) {
                chain.unlink(frame);
                drop(chain);
                self.unclaim(frame);
            } else {
                drop(chain);
                descriptor.unpin();
                all = false;
            }
        }
        all
    }
}

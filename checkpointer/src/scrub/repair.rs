//! Repairs: where the last version of a damaged page is, how it comes to its place again, and what is
//! said of it.
//!
//! Invariants:
//! - The copies of pages that are repaired together are all fetched before the first is written, and
//!   written as one batch: each batch may be written over copies in the double-write area that others
//!   need.

use super::{Again, BUSY_NAP, Refused, SHORTAGE_NAP, Verdict};
use crate::turn::nanos;
use crate::writer::complete_header;
use crate::{Checkpointer, Failure};
use rd_base::PageTag;
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_format::bitmap;
use rd_format::doublewrite::DW_BATCH_PAGES_MAX;
use rd_format::page::{self, PageBytes};
use rd_store::buffer::{Pool, Resident};
use rd_sys::storage::DirectBuffer;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before a repair that the disk has refused is tried again; twice as long after
/// each try.
const REFUSED_NAP: Duration = Duration::from_secs(1);
/// How often it is tried in a row. Each time takes a slot of the double-write area, and the last copy
/// of some other page may be in that.
const REFUSED_TRIES_MAX: u32 = 8;

/// A damaged page, and what is known of its repair before it is written.
struct Damaged<'p> {
    tag: PageTag,
    what: String,
    source: &'static str,
    /// How often the disk has refused it so far.
    tries: u32,
    /// Pinned until it is written: whoever reads it in meanwhile would find it half-written.
    _resident: Resident<'p>,
}

/// The page that says whether this one is in use.
fn bitmap_of(tag: PageTag) -> PageTag {
    let (block, _) = bitmap::covering(tag.block);
    PageTag::new(tag.file, block)
}

/// What there is to repair a page with.
enum Found<'p> {
    /// Its last version, from there.
    Copy(&'static str, Resident<'p>),
    /// Nothing, because of this.
    None(&'static str),
    /// Somebody is at it.
    Later,
}

impl Checkpointer {
    /// Looks at pages once more, and repairs what is damaged; gives those that it could not look at.
    pub(super) fn look_at(&mut self, tags: Vec<PageTag>) -> Again {
        let mut again = Again::default();
        for tags in tags.chunks(DW_BATCH_PAGES_MAX) {
            self.look_at_some(tags, &mut again);
        }
        again
    }

    /// The same, of no more pages than a batch can have.
    fn look_at_some(&mut self, tags: &[PageTag], again: &mut Again) {
        let shared = Arc::clone(&self.store.shared);
        let mut damaged = Vec::new();
        let mut pages: Vec<(PageTag, PageBytes)> = Vec::new();
        for tag in tags.iter().copied() {
            let mut verdict = self.judge(tag);
            let is_among = |other: PageTag| pages.iter().any(|(tag, _)| *tag == other);
            // Whether it may be empty cannot be told before its bitmap is mended.
            if matches!(verdict, Verdict::Good) && is_among(bitmap_of(tag)) {
                verdict = Verdict::Later;
            }
            let Verdict::Bad(what) = verdict else {
                self.judged(tag, &verdict, again);
                continue;
            };
            let mut page = [0; PAGE_BYTES];
            let verdict = match self.find_copy(&shared.pool, tag, &mut page) {
                Ok(Found::Copy(source, resident)) => {
                    let refused = self.scrub.refused.get(&tag);
                    damaged.push(Damaged {
                        tag,
                        what,
                        source,
                        tries: refused.map_or(0, |refused| refused.tries),
                        _resident: resident,
                    });
                    pages.push((tag, page));
                    continue;
                }
                Ok(Found::Later) => Verdict::Later,
                Ok(Found::None(why)) => {
                    self.scrub.refused.remove(&tag);
                    self.give_up(tag, what, why)
                }
                Err(failure) if failure.shortage().is_some() => Verdict::Short,
                Err(failure) => {
                    self.scrub.refused.remove(&tag);
                    self.give_up(tag, what, &failure.to_string())
                }
            };
            self.judged(tag, &verdict, again);
        }
        if pages.is_empty() {
            return;
        }
        // If the batch is refused for one of them, the others are not to be.
        let are_written = pages.len() > 1 && self.write_repairs(&pages).is_ok();
        for (damaged, page) in damaged.into_iter().zip(&pages) {
            let written = match are_written {
                true => Ok(()),
                false => self.write_repairs(slice::from_ref(page)),
            };
            let tag = damaged.tag;
            let verdict = self.conclude(damaged, written);
            self.judged(tag, &verdict, again);
        }
    }

    /// Takes note of what a look at a page has come to.
    fn judged(&mut self, tag: PageTag, verdict: &Verdict, again: &mut Again) {
        let nap = match verdict {
            Verdict::Good => {
                let shared = &self.store.shared.scrub;
                self.scrub.forget_bad(shared, |bad| *bad == tag);
                return;
            }
            Verdict::Bad(_) => return,
            Verdict::Later => BUSY_NAP,
            Verdict::Short => SHORTAGE_NAP,
        };
        again.0.insert(tag, self.now_ns() + nanos(nap));
    }

    /// Says what has become of a repair that was written, or refused.
    fn conclude(&mut self, damaged: Damaged<'_>, written: Result<(), Failure>) -> Verdict {
        let Damaged {
            tag, what, source, ..
        } = damaged;
        match written {
            Ok(()) => {
                if matches!(self.judge(tag), Verdict::Bad(_)) {
                    let why = format!("written anew from {source}, it is damaged again");
                    return self.give_up(tag, what, &why);
                }
                log::warn!("scrub: {what}; repaired from {source}");
                self.found_bad(true);
                Verdict::Good
            }
            Err(failure) if failure.shortage().is_some() => Verdict::Short,
            Err(failure) => {
                let tries = damaged.tries + 1;
                self.try_again(tag, tries);
                if tries > 1 {
                    // It has been told of.
                    return Verdict::Bad(what);
                }
                self.give_up(
                    tag,
                    what,
                    &format!(
                        "{failure}; it is tried again for two minutes, and then by each round: see \
                         to that first"
                    ),
                )
            }
        }
    }

    /// Names a page that cannot be repaired, or not now.
    fn give_up(&mut self, tag: PageTag, what: String, why: &str) -> Verdict {
        log::error!(
            "scrub: {what}; it cannot be repaired: {why}; reads of it fail, all else works: \
             restore the data directory from a backup (rd_verify tells what else is damaged)"
        );
        self.found_bad(false);
        self.scrub.bad.insert(tag);
        self.scrub.publish_bad(&self.store.shared.scrub);
        Verdict::Bad(what)
    }

    /// Sees to it that a repair is tried again that the disk has refused so often now, or no more.
    fn try_again(&mut self, tag: PageTag, tries: u32) {
        if tries >= REFUSED_TRIES_MAX {
            self.scrub.refused.remove(&tag);
            return;
        }
        let due_ns = self.now_ns() + (nanos(REFUSED_NAP) << (tries - 1));
        self.scrub.refused.insert(tag, Refused { tries, due_ns });
    }

    fn found_bad(&mut self, is_repaired: bool) {
        self.store.count(Counter::ScrubBad);
        self.store
            .add(Counter::ScrubRepaired, u64::from(is_repaired));
        if let Some(round) = &mut self.scrub.round {
            round.bad += 1;
            round.repaired += u64::from(is_repaired);
        }
    }

    /// Copies the last version of a damaged page, from wherever it is, as it is to be written.
    fn find_copy<'p>(
        &self,
        pool: &'p Pool,
        tag: PageTag,
        page: &mut PageBytes,
    ) -> Result<Found<'p>, Failure> {
        let resident = pool.copy_resident(tag, page);
        let source = match &resident {
            Resident::Busy => return Ok(Found::Later),
            Resident::Unwritten(_) | Resident::Settled(_) => {
                if page::verify_image(page, tag).is_err() {
                    return Ok(Found::None("what shared buffers have of it is damaged"));
                }
                "shared buffers"
            }
            Resident::Absent => match self.copy_elsewhere(tag, page)? {
                Some(source) => source,
                None => {
                    return Ok(Found::None(
                        "it is not in shared buffers, the double-write area has no copy that is \
                         known to be the last, and neither the system's cache nor the disk has one \
                         that is whole",
                    ));
                }
            },
        };
        complete_header(&self.store.shared.files, tag, page);
        Ok(Found::Copy(source, resident))
    }

    /// Copies what was last written of a page that is not in shared buffers, if it is to be had, and
    /// says from where. What the system's cache has of it is as good as what anybody would read next;
    /// where that is damaged alone, the disk has what was written.
    fn copy_elsewhere(
        &self,
        tag: PageTag,
        page: &mut PageBytes,
    ) -> Result<Option<&'static str>, Failure> {
        if let (Some(area), Some(since)) = (&self.area, self.scrub.copies_since)
            && let Some(copy) = area.last_copy(tag, since)?
        {
            *page = *copy;
            return Ok(Some("the double-write area"));
        }
        match self.read_cached(tag, page) {
            Ok(()) => return Ok(Some("the system's cache")),
            Err(error) if error.shortage().is_some() => return Err(error.into()),
            Err(_) => {}
        }
        let mut memory = DirectBuffer::default();
        let (there, read) = self.scrub.read_page(tag, &mut memory);
        match read.and_then(|()| self.store.check_page_lsn(tag, there)) {
            Ok(()) => {
                *page = *there;
                Ok(Some("the disk, past the system's cache"))
            }
            Err(error) if error.shortage().is_some() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }
}

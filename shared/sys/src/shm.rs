//! The shared segment: a plan of regions, the mapping, and typed areas of it.
//!
//! Invariants:
//!
//! * S1 Regions are made by a [`Plan`] alone, one behind the other, so two regions never overlap;
//!   a region opened in a segment of another plan is refused.
//! * S2 What lies in an area is [`ShmSafe`]: valid whatever its bytes are, without pointers,
//!   changed through atomics only. It is zero when the segment is made and is never dropped.
//! * S3 A mapping stays where it is until the last handle to it is gone, so references into it are
//!   good for as long as the handle that gave them.

use crate::frame::{Frames, FramesRegion};
#[cfg(miri)]
use crate::heap::{MmapOptions, MmapRaw, memfd_create};
#[cfg(not(miri))]
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};
use nix::sys::memfd::MFdFlags;
#[cfg(not(miri))]
use nix::sys::memfd::memfd_create;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::Mode;
use nix::unistd::ftruncate;
use rd_base::limits::PAGE_BYTES;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;
use std::os::fd::OwnedFd;
#[cfg(feature = "sim")]
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromBytes;

/// Regions begin at multiples of this, so that no two share a cache line.
pub const CACHE_LINE_BYTES: usize = 64;
/// The least page size of any machine we run on.
const MACHINE_PAGE_BYTES: usize = 4096;

/// Data that may lie in shared memory: plain numbers and atomics, of any bit pattern.
///
/// There is nothing to implement: `#[derive(FromBytes, KnownLayout)] #[repr(C)]` on a struct of
/// atomics is enough. `FromBytes` keeps out pointers, `bool`, enums and everything else with
/// forbidden values; `Sync` keeps out cells.
pub trait ShmSafe: FromBytes + Sync + 'static {}

impl<T: FromBytes + Sync + 'static> ShmSafe for T {}

/// The layout of a segment, settled before the segment exists.
#[derive(Debug)]
pub struct Plan {
    id: u64,
    len: usize,
}

/// A place in a plan for `count` values of `T`.
#[derive(Debug)]
pub struct Region<T> {
    place: Place,
    count: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Region<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Region<T> {}

impl<T> Region<T> {
    /// How many values it has room for.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Where a region lies, and by whose plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    plan: u64,
    offset: usize,
    bytes: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// An empty plan, told apart from all others of this process and its children.
    pub fn new() -> Plan {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Plan {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            len: 0,
        }
    }

    /// Sets room aside for `count` values.
    ///
    /// A `T` without size, one that needs dropping, and one aligned beyond a machine page do not
    /// compile.
    ///
    /// # Panics
    /// If the plan outgrows the address space.
    pub fn reserve<T: ShmSafe>(&mut self, count: usize) -> Region<T> {
        const {
            assert!(
                size_of::<T>() > 0,
                "a type without size has no place in memory"
            );
            assert!(!mem::needs_drop::<T>(), "shared memory is never dropped");
            // A mapping begins at a page of the machine; a stricter alignment could not be kept.
            assert!(
                align_of::<T>() <= MACHINE_PAGE_BYTES,
                "alignment above that of a page"
            );
        }
        let align = align_of::<T>().max(CACHE_LINE_BYTES);
        let place = self.reserve_bytes(size_of::<T>(), count, align);
        Region {
            place,
            count,
            kind: PhantomData,
        }
    }

    /// Sets room aside for `count` page frames, each with its latch.
    pub fn reserve_frames(&mut self, count: usize) -> FramesRegion {
        let bytes = self.reserve_bytes(PAGE_BYTES, count, PAGE_BYTES);
        FramesRegion::new(bytes, self.reserve(count))
    }

    /// Bytes of the segment so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was reserved yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn reserve_bytes(&mut self, size: usize, count: usize, align: usize) -> Place {
        let offset = self.len.next_multiple_of(align);
        let bytes = size
            .checked_mul(count)
            .expect("a region larger than memory was planned");
        let end = offset
            .checked_add(bytes)
            .filter(|end| *end <= isize::MAX as usize);
        self.len = end.expect("a segment larger than memory was planned");
        Place {
            plan: self.id,
            offset,
            bytes,
        }
    }
}

/// Why there is no segment.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The name is taken, or `/dev/shm` is not there or not ours.
    #[error("could not create the shared memory segment \"/dev/shm{name}\": {source}")]
    Create {
        /// Its name in `/dev/shm`.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Something of the segment's name is not ours.
    #[error(
        "could not remove \"/dev/shm{name}\", which is in the way of the shared memory segment: \
         {error}\n\
         HINT: No server runs on this data directory: remove it as its owner or as root."
    )]
    InTheWay {
        /// Its name in `/dev/shm`.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// `/dev/shm` has too little room.
    #[error(
        "could not get {bytes} bytes of shared memory for \"{name}\": {source} \
         (enlarge /dev/shm, or lower shared_buffers or wal_buffers)"
    )]
    Space {
        /// Its name in `/dev/shm`.
        name: String,
        /// Bytes asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The memory could not be mapped.
    #[error("could not map {bytes} bytes of shared memory \"{name}\": {source}")]
    Map {
        /// Its name in `/dev/shm`.
        name: String,
        /// Bytes asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// A mapped segment; clones are handles to the same mapping.
#[derive(Clone)]
pub struct Segment {
    mapping: Arc<Mapping>,
}

struct Mapping {
    raw: MmapRaw,
    plan: u64,
    len: usize,
}

impl Segment {
    /// Makes the segment in `/dev/shm`, readable by this user alone, and maps it. All its memory
    /// is taken at once, so that a lack of it is an error here and not a SIGBUS later. Unless
    /// `keep_name` is set the name is gone when this returns.
    pub fn create(plan: &Plan, name: &str, keep_name: bool) -> Result<Segment, ShmError> {
        let failed = |source: Errno| ShmError::Create {
            name: name.to_owned(),
            source: source.into(),
        };
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let file = shm_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        let segment = Self::fill(plan, &file, name);
        if !keep_name || segment.is_err() {
            shm_unlink(name).map_err(failed)?;
        }
        segment
    }

    /// A segment without a name, whose memory is taken as it is used: for tests and simulation.
    pub fn anonymous(plan: &Plan) -> Result<Segment, ShmError> {
        const NAME: &str = "anonymous";
        let failed = |source: Errno| ShmError::Create {
            name: NAME.to_owned(),
            source: source.into(),
        };
        let file = memfd_create("redoubt-test", MFdFlags::MFD_CLOEXEC).map_err(failed)?;
        let len = libc::off_t::try_from(plan.mapped_len()).map_err(|_| failed(Errno::EFBIG))?;
        ftruncate(&file, len).map_err(failed)?;
        Self::map(plan, &file, NAME)
    }

    /// The same memory for another server of the same plan, all zero again; none while there is
    /// another handle to it. Cheaper than a new one for a simulation that makes many.
    #[cfg(feature = "sim")]
    pub fn into_zeroed(mut self) -> Option<Segment> {
        /// Of memory, on every machine that this runs on.
        const PAGE: usize = 4096;
        let mapping = Arc::get_mut(&mut self.mapping)?;
        let (start, len) = (mapping.raw.as_mut_ptr(), mapping.raw.len());
        let mapped = pages_mapped(start as usize / PAGE, len.div_ceil(PAGE));
        for page in 0..len.div_ceil(PAGE) {
            // What was never touched is zero.
            if mapped.as_ref().is_ok_and(|mapped| !mapped[page]) {
                continue;
            }
            let bytes = PAGE.min(len - page * PAGE);
            // SAFETY: the page lies in the mapping.
            let at = unsafe { start.add(page * PAGE) };
            // SAFETY: the mapping is writable; this is the only handle to it, and whoever reaches into
            // it holds one.
            unsafe { at.write_bytes(0, bytes) };
        }
        Some(self)
    }

    /// Removes the name that an earlier server left behind; true if there was one. Only for whoever
    /// holds the lock of the data directory the name belongs to.
    pub fn remove_name(name: &str) -> Result<bool, ShmError> {
        match shm_unlink(name) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(error) => Err(ShmError::InTheWay {
                name: name.to_owned(),
                error: error.into(),
            }),
        }
    }

    fn fill(plan: &Plan, file: &OwnedFd, name: &str) -> Result<Segment, ShmError> {
        let bytes = plan.mapped_len();
        let failed = |source| ShmError::Space {
            name: name.to_owned(),
            bytes,
            source,
        };
        let len = libc::off_t::try_from(bytes).map_err(|_| failed(Errno::EFBIG.into()))?;
        loop {
            match posix_fallocate(file, 0, len) {
                Ok(()) => return Self::map(plan, file, name),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    fn map(plan: &Plan, file: &OwnedFd, name: &str) -> Result<Segment, ShmError> {
        let len = plan.mapped_len();
        let raw = MmapOptions::new()
            .len(len)
            .map_raw(file)
            .map_err(|source| ShmError::Map {
                name: name.to_owned(),
                bytes: len,
                source,
            })?;
        Ok(Segment {
            mapping: Arc::new(Mapping {
                raw,
                plan: plan.id,
                len,
            }),
        })
    }

    /// The values of a region. May be called any number of times, in any process.
    ///
    /// # Panics
    /// If the region comes from another plan, or was added after the segment was made.
    pub fn area<T: ShmSafe>(&self, region: Region<T>) -> Area<T> {
        let start = self.resolve(region.place).cast::<T>();
        Area {
            start,
            count: region.count,
            segment: self.clone(),
        }
    }

    /// The value of a region of one.
    ///
    /// # Panics
    /// As [`Segment::area`], and if the region does not hold exactly one value.
    pub fn one<T: ShmSafe>(&self, region: Region<T>) -> One<T> {
        assert_eq!(region.count, 1, "a region of one value is needed");
        self.area(region).one(0)
    }

    /// The page frames of a region.
    ///
    /// # Panics
    /// As [`Segment::area`].
    pub fn frames(&self, region: FramesRegion) -> Frames {
        Frames::new(self, region)
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Whether it holds nothing; it never does, a mapping has at least a page.
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// The first byte of a place, after checking that it lies in this segment.
    pub(crate) fn resolve(&self, place: Place) -> NonNull<u8> {
        assert_eq!(
            place.plan, self.mapping.plan,
            "a region was opened with another plan's segment"
        );
        let end = place.offset + place.bytes;
        assert!(
            end <= self.mapping.len,
            "a region was planned after its segment was made"
        );
        let base = self.mapping.raw.as_mut_ptr();
        // SAFETY: the offset was just checked to be within the mapping.
        let start = unsafe { base.add(place.offset) };
        NonNull::new(start).expect("a mapping never begins at address 0")
    }
}

impl Plan {
    /// A mapping cannot be empty.
    fn mapped_len(&self) -> usize {
        self.len.max(1).next_multiple_of(PAGE_BYTES)
    }
}

/// The values of a region, as a slice.
pub struct Area<T> {
    start: NonNull<T>,
    count: usize,
    segment: Segment,
}

impl<T> Clone for Area<T> {
    fn clone(&self) -> Self {
        Self {
            start: self.start,
            count: self.count,
            segment: self.segment.clone(),
        }
    }
}

// SAFETY: an area gives out `&T` only, and `T` is `Sync` wherever an area can be made; the mapping
// it keeps alive does not belong to a thread.
unsafe impl<T: Sync> Send for Area<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync> Sync for Area<T> {}

impl<T: ShmSafe> Area<T> {
    /// The value at `index` as a handle of its own.
    ///
    /// # Panics
    /// If there are no more than `index` values.
    pub fn one(&self, index: usize) -> One<T> {
        One {
            at: NonNull::from(&self[index]),
            segment: self.segment.clone(),
        }
    }
}

impl<T: ShmSafe> Deref for Area<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the region is aligned for `T`, within the mapping, which `self` keeps alive (S3),
        // overlaps no other (S1), holds valid values and is never borrowed exclusively (S2).
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// One value of a region.
pub struct One<T> {
    at: NonNull<T>,
    segment: Segment,
}

impl<T> Clone for One<T> {
    fn clone(&self) -> Self {
        Self {
            at: self.at,
            segment: self.segment.clone(),
        }
    }
}

// SAFETY: as for `Area`.
unsafe impl<T: Sync> Send for One<T> {}
// SAFETY: as for `Area`.
unsafe impl<T: Sync> Sync for One<T> {}

impl<T: ShmSafe> Deref for One<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as for `Area`, of which this is one element.
        unsafe { self.at.as_ref() }
    }
}

/// Which of `count` pages of this process's memory, from the page of number `first` on, are mapped to
/// some: those that were touched. An order of magnitude faster than `mincore`, which looks up each
/// page that is not mapped in the file of the mapping.
#[cfg(feature = "sim")]
fn pages_mapped(first: usize, count: usize) -> io::Result<Vec<bool>> {
    /// An entry of `/proc/self/pagemap`.
    const ENTRY_BYTES: usize = size_of::<u64>();
    /// In memory, or swapped out.
    const THERE: u64 = 3 << 62;
    let mut entries = vec![0_u8; count * ENTRY_BYTES];
    let pagemap = std::fs::File::open("/proc/self/pagemap")?;
    pagemap.read_exact_at(&mut entries, (first * ENTRY_BYTES) as u64)?;
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    let is_there = |entry: &[u8; ENTRY_BYTES]| u64::from_ne_bytes(*entry) & THERE != 0;
    Ok(entries.iter().map(is_there).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use zerocopy::KnownLayout;

    #[derive(FromBytes, KnownLayout)]
    #[repr(C)]
    struct Pair {
        left: AtomicU64,
        right: AtomicU32,
        _reserved: [u8; 4],
    }

    #[test]
    fn regions_are_zero_aligned_and_apart() {
        let mut plan = Plan::new();
        let bytes = plan.reserve::<u8>(3);
        let pairs = plan.reserve::<Pair>(5);
        let frames = plan.reserve_frames(2);
        let last = plan.reserve::<AtomicU64>(1);
        let segment = Segment::anonymous(&plan).expect("memory");
        let (bytes, pairs) = (segment.area(bytes), segment.area(pairs));
        assert_eq!((&bytes[..], pairs.len()), (&[0u8; 3][..], 5));
        assert_eq!(pairs.as_ptr() as usize % CACHE_LINE_BYTES, 0);
        for (index, pair) in pairs.iter().enumerate() {
            assert_eq!(pair.left.swap(index as u64 + 1, Ordering::Relaxed), 0);
            assert_eq!(pair.right.swap(u32::MAX, Ordering::Relaxed), 0);
        }
        assert_eq!(segment.frames(frames).count(), 2);
        let last = segment.one(last);
        assert_eq!(
            last.load(Ordering::Relaxed),
            0,
            "neighbours must not show through"
        );
        assert_eq!(pairs.one(4).left.load(Ordering::Relaxed), 5);
        assert_eq!(bytes[..], [0u8; 3]);
    }

    #[cfg(feature = "sim")]
    #[test]
    fn memory_that_is_used_again_is_zero_wherever_it_was_touched() {
        const PAGES: usize = 40;
        let mut plan = Plan::new();
        let words = plan.reserve::<AtomicU64>(PAGES * 512);
        let mut segment = Segment::anonymous(&plan).expect("memory");
        for step in [7, 3, 1] {
            let area = segment.area(words);
            for word in area.iter().step_by(step * 512 + 5) {
                word.store(u64::MAX, Ordering::Relaxed);
            }
            assert!(segment.clone().into_zeroed().is_none(), "it is in use");
            drop(area);
            segment = segment.into_zeroed().expect("the only handle");
            let area = segment.area(words);
            assert!(area.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn handles_keep_the_mapping() {
        let mut plan = Plan::new();
        let region = plan.reserve::<AtomicU64>(1);
        let segment = Segment::anonymous(&plan).expect("memory");
        let (first, second) = (segment.one(region), segment.one(region));
        drop(segment);
        first.store(7, Ordering::Relaxed);
        drop(first);
        assert_eq!(second.load(Ordering::Relaxed), 7);
    }

    #[test]
    #[should_panic(expected = "another plan's segment")]
    fn a_foreign_region_is_refused() {
        let (mut ours, theirs) = (Plan::new(), Plan::new());
        let region = ours.reserve::<AtomicU64>(1);
        Segment::anonymous(&theirs).expect("memory").area(region);
    }

    #[test]
    #[should_panic(expected = "planned after its segment")]
    fn a_later_region_is_refused() {
        let mut plan = Plan::new();
        let segment = Segment::anonymous(&plan).expect("memory");
        let region = plan.reserve_frames(1);
        segment.frames(region);
    }

    /// A name of this process. One that had its number may have been killed and left it behind.
    fn free_name(suffix: &str) -> String {
        let name = format!("/redoubt-test-{}{suffix}", std::process::id());
        let _ = Segment::remove_name(&name);
        name
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /dev/shm")]
    fn a_named_segment_is_exclusive_and_leaves_no_name() {
        let name = free_name("");
        let mut plan = Plan::new();
        plan.reserve::<AtomicU64>(1);
        let kept = Segment::create(&plan, &name, true).expect("memory");
        assert!(matches!(
            Segment::create(&plan, &name, false),
            Err(ShmError::Create { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists
        ));
        drop(kept);
        assert!(
            Segment::remove_name(&name).expect("removable"),
            "keep_name keeps it"
        );
        drop(Segment::create(&plan, &name, false).expect("memory"));
        assert!(
            !Segment::remove_name(&name).expect("no error"),
            "the name is gone at once"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /dev/shm")]
    fn a_segment_too_large_is_an_error_that_says_what_to_do() {
        let name = free_name("-large");
        let mut plan = Plan::new();
        plan.reserve::<u8>(1 << 50);
        let error = Segment::create(&plan, &name, true)
            .err()
            .expect("no machine has a petabyte");
        assert!(error.to_string().contains("shared_buffers"), "{error}");
        assert!(
            !Segment::remove_name(&name).expect("no error"),
            "a failure leaves no name"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no /dev/shm")]
    fn what_is_in_the_way_is_named_with_what_to_do() {
        let name = format!("/redoubt-test-{}-foreign", std::process::id());
        let path = format!("/dev/shm{name}");
        let _ = std::fs::remove_dir(&path);
        // Even root cannot unlink a directory.
        std::fs::create_dir(&path).expect("made");
        let error = Segment::remove_name(&name).expect_err("not ours");
        std::fs::remove_dir(&path).expect("removed");
        let text = error.to_string();
        for part in [&*path, "in the way", "remove it"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

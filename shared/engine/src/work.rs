//! What one process keeps between operations: buffers that are used again, so that the hot path
//! does not allocate, and what is left to be tidied up.
//!
//! Nothing in here is needed for correctness: a process that dies with chores undone leaves splits
//! unfinished (whoever meets the mark finishes them), and versions or leaves that take room until
//! somebody writes to the same keys again: a writer who needs room on a leaf drops what lies there,
//! and notes a chore for what takes more than that.

use crate::btree::ahead::Ahead;
use crate::btree::room::RoomWaits;
use crate::btree::search::MarksMet;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::NodeRef;
use rd_format::catalog::CATALOG_FILE;
use rd_format::page::PageBytes;
use rd_format::wal_record::RecordBuilder;
use rd_store::files::GrowthTicket;
use rd_store::namespaces::{NAMESPACES_MAX, NamespaceId};
use rd_store::{Obstacle, Points, Published, Snapshots, Store};
use std::collections::{BTreeMap, VecDeque};

/// Splits to be finished that are remembered; more are left to whoever meets the marks.
const MARKS_MAX: usize = 256;
/// Bytes of chores that are remembered; when there are more some are forgotten: [`Work::forget_some`].
const CHORE_BYTES_MAX: usize = 4 << 20;
/// Growths that are remembered; more than there are namespaces, and few of them grow at a time.
const GROWTHS_MAX: usize = 2 * NAMESPACES_MAX;
/// A record buffer larger than this is given back after use.
const RECORD_BYTES_KEPT: usize = 1 << 20;

/// Something to be tidied up around a key, once the log is durable up to an LSN.
#[derive(Clone, Debug)]
pub(crate) struct Chore {
    pub(crate) namespace: NamespaceId,
    pub(crate) file: FileNo,
    pub(crate) key: Box<[u8]>,
    /// Before this is durable there is nothing to be done.
    pub(crate) after: Lsn,
}

impl Chore {
    fn bytes(&self) -> usize {
        size_of::<Chore>() + self.key.len()
    }
}

/// Pages of the trees under work that have the mark of an unfinished split.
pub(crate) struct Marks {
    /// The tree in which pages are met.
    file: FileNo,
    met: Vec<PageTag>,
}

impl MarksMet for Marks {
    fn met(&mut self, block: BlockNo) {
        let tag = PageTag::new(self.file, block);
        if self.met.len() < MARKS_MAX && !self.met.contains(&tag) {
            self.met.push(tag);
        }
    }
}

impl Marks {
    /// Takes one out.
    pub(crate) fn take(&mut self) -> Option<PageTag> {
        self.met.pop()
    }

    /// The pages met from now on are of `file`.
    pub(crate) fn turn_to(&mut self, file: FileNo) {
        self.file = file;
    }
}

/// What the versions wait for that a chore has left behind, some of them for something else than
/// others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Obstacles {
    /// This LSN to be durable.
    log: Option<Lsn>,
    /// Of the snapshots that each of them waits for, the oldest and the youngest: those that began
    /// first often end first, and a few stay for long. There is no use in watching them all.
    oldest_and_youngest: Option<(Published, Published)>,
}

impl Obstacles {
    pub(crate) fn add(&mut self, obstacle: Obstacle) {
        match obstacle {
            Obstacle::Log(lsn) => self.log = self.log.max(Some(lsn)),
            Obstacle::Snapshot(one) => {
                let (oldest, youngest) = self.oldest_and_youngest.unwrap_or((one, one));
                self.oldest_and_youngest = Some((oldest.min(one), youngest.max(one)));
            }
        }
    }
}

/// Chores that are to be looked at again when a snapshot is withdrawn: each once, by file and key.
struct Waiting {
    until_end_of: Published,
    chores: BTreeMap<(FileNo, Box<[u8]>), Chore>,
}

/// Buffers and chores of a process.
pub(crate) struct Work {
    pub(crate) record: RecordBuilder,
    pub(crate) points: Points,
    pub(crate) left_image: Box<PageBytes>,
    pub(crate) right_image: Box<PageBytes>,
    pub(crate) root_image: Box<PageBytes>,
    pub(crate) marks: Marks,
    pub(crate) room_waits: RoomWaits,
    /// Where the keys are that operations will ask for next.
    pub(crate) ahead: Ahead,
    /// In the order in which they are done.
    chores: VecDeque<Chore>,
    /// Those that snapshots are in the way of; one entry for each snapshot.
    waiting: Vec<Waiting>,
    /// Bytes of all chores, those that wait included.
    chore_bytes: usize,
    /// A chore met a log that cannot grow: none is begun before it can.
    pub(crate) stopped_by_full_disk: bool,
    /// What is under work.
    pub(crate) namespace: NamespaceId,
    /// The wall clock when the operation began, or when its keys were latched, in microseconds since 1970.
    pub(crate) now_us: u64,
    /// The growths that operations are parked for; one for each file, so that operations on several
    /// files each get their answer.
    growths: Vec<(FileNo, GrowthTicket)>,
}

impl Work {
    pub(crate) fn new() -> Work {
        let page = || Box::new([0; PAGE_BYTES]);
        Work {
            record: RecordBuilder::new(),
            points: Points::default(),
            left_image: page(),
            right_image: page(),
            root_image: page(),
            marks: Marks {
                file: CATALOG_FILE,
                met: Vec::new(),
            },
            room_waits: RoomWaits::default(),
            ahead: Ahead::new(),
            chores: VecDeque::new(),
            waiting: Vec::new(),
            chore_bytes: 0,
            stopped_by_full_disk: false,
            namespace: NamespaceId::DB0,
            now_us: 0,
            growths: Vec::new(),
        }
    }

    /// Begins with an operation on `namespace`, which lies in `file`.
    pub(crate) fn begin(&mut self, store: &Store, namespace: NamespaceId, file: FileNo) {
        self.turn_to(namespace, file);
        self.ask_clock(store);
    }

    /// As [`Work::begin`], for who asks the clock later.
    pub(crate) fn turn_to(&mut self, namespace: NamespaceId, file: FileNo) {
        self.namespace = namespace;
        self.marks.met.clear();
        self.marks.turn_to(file);
    }

    /// From now on it is the time that it is.
    pub(crate) fn ask_clock(&mut self, store: &Store) {
        self.now_us = store.clock.wall_us();
    }

    /// Takes out what was asked for to make `file` longer, by an operation that was parked then.
    pub(crate) fn take_growth(&mut self, file: FileNo) -> Option<GrowthTicket> {
        let at = self.growths.iter().position(|(asked, _)| *asked == file)?;
        Some(self.growths.swap_remove(at).1)
    }

    /// Remembers what was asked for to make `file` longer, as the operation parks.
    pub(crate) fn keep_growth(&mut self, file: FileNo, ticket: GrowthTicket) {
        if self.growths.len() == GROWTHS_MAX {
            self.growths.remove(0);
        }
        self.growths.push((file, ticket));
    }

    /// Gives memory back that only a very large record needed.
    pub(crate) fn shrink(&mut self) {
        self.record.shrink(RECORD_BYTES_KEPT);
    }

    /// How many chores there are.
    pub(crate) fn chore_count(&self) -> usize {
        self.chores.len()
    }

    /// Whether the oldest chore can be done when the log is durable up to `durable`.
    pub(crate) fn is_due(&self, durable: Lsn) -> bool {
        self.chores
            .front()
            .is_some_and(|chore| chore.after <= durable)
    }

    /// Looks at what readers may still ask for.
    pub(crate) fn collect_points(&mut self, store: &Store) {
        store
            .shared
            .snapshots
            .collect(&store.shared.wal, &mut self.points);
    }

    /// Remembers to tidy up around `key`.
    pub(crate) fn note_chore(&mut self, file: FileNo, key: &[u8], after: Lsn) {
        if let Some(last) = self.chores.back_mut()
            && last.file == file
            && *last.key == *key
        {
            last.after = last.after.max(after);
            return;
        }
        let namespace = self.namespace;
        self.push_chore(Chore {
            namespace,
            file,
            key: key.into(),
            after,
        });
    }

    /// Puts a chore at the end of the queue.
    pub(crate) fn push_chore(&mut self, chore: Chore) {
        self.chore_bytes += chore.bytes();
        self.chores.push_back(chore);
        self.forget_some();
    }

    /// Puts a chore aside until what stands in its way has changed. With nothing in its way it is
    /// done.
    pub(crate) fn put_aside(&mut self, mut chore: Chore, obstacles: Obstacles) {
        if let Some(lsn) = obstacles.log {
            chore.after = lsn;
            self.push_chore(chore);
        } else if let Some((oldest, youngest)) = obstacles.oldest_and_youngest {
            if oldest != youngest {
                self.wait_for(chore.clone(), oldest);
            }
            self.wait_for(chore, youngest);
            self.forget_some();
        }
    }

    fn wait_for(&mut self, chore: Chore, until_end_of: Published) {
        let same = |waiting: &Waiting| waiting.until_end_of == until_end_of;
        let at = self.waiting.iter().position(same).unwrap_or_else(|| {
            self.waiting.push(Waiting {
                until_end_of,
                chores: BTreeMap::new(),
            });
            self.waiting.len() - 1
        });
        let bytes = chore.bytes();
        let by = (chore.file, chore.key.clone());
        if self.waiting[at].chores.insert(by, chore).is_none() {
            self.chore_bytes += bytes;
        }
    }

    /// Takes up again the chores whose snapshots have been withdrawn. It takes one look at each of
    /// these snapshots.
    pub(crate) fn resume_chores(&mut self, snapshots: &Snapshots) {
        let chores = &mut self.chores;
        self.waiting.retain_mut(|waiting| {
            let stays = snapshots.is_published(&waiting.until_end_of);
            if !stays {
                chores.extend(std::mem::take(&mut waiting.chores).into_values());
            }
            stays
        });
    }

    /// Forgets chores while there are too many: first those that wait for a snapshot. What can be done at
    /// once keeps the files from growing under keys that are written again and again; what waits is, for each
    /// of them, no more than what that snapshot sees.
    fn forget_some(&mut self) {
        while self.chore_bytes > CHORE_BYTES_MAX {
            let Some(waiting) = self.waiting.first_mut() else {
                if self.take_chore().is_none() {
                    return;
                }
                continue;
            };
            match waiting.chores.pop_first() {
                Some((_, chore)) => self.chore_bytes -= chore.bytes(),
                None => drop(self.waiting.remove(0)),
            }
        }
    }

    /// Takes the oldest chore out of the queue.
    pub(crate) fn take_chore(&mut self) -> Option<Chore> {
        let chore = self.chores.pop_front()?;
        self.chore_bytes -= chore.bytes();
        Some(chore)
    }

    /// Puts a chore back where it was taken from.
    pub(crate) fn put_back(&mut self, chore: Chore) {
        self.chore_bytes += chore.bytes();
        self.chores.push_front(chore);
    }

    /// Remembers the keys on a leaf whose versions in overflow pages nobody can ask for any more,
    /// or that may have newer ones on the leaf before. The points must have been collected.
    pub(crate) fn note_needless_overflow(&mut self, file: FileNo, leaf: &PageBytes) {
        let node = NodeRef::new(leaf);
        let mut newer: Option<(&[u8], Lsn)> = None;
        for slot in 0..node.count() {
            let entry = node.leaf_entry(slot);
            let newer_stamp = newer
                .filter(|(key, _)| *key == entry.key)
                .map(|(_, stamp)| stamp);
            let may_go = match newer_stamp {
                Some(newer) => !self.points.needs(entry.stamp, newer),
                None => slot == 0,
            };
            if may_go && entry.owns_overflow() {
                self.note_chore(file, entry.key, Lsn::ZERO);
            }
            newer = Some((entry.key, entry.stamp));
        }
    }
}

//! Redo by hand: the log applied to pages as a checkpointer may have left them.

use super::{Rig, SEGMENT_BYTES, rig_start};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount, Timeline};
use rd_engine::apply::redo_block;
use rd_engine::verify::{Pages, verify};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::page::{self, PageBytes};
use rd_format::{NodeRef, Payload, overflow};
use rd_store::relation::RelationFiles;
use rd_store::wal::{ReadFrom, WalReader};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pages that were "written": copies of durable ones, taken at any time.
#[derive(Clone)]
pub struct Disk {
    pages: BTreeMap<PageTag, Box<PageBytes>>,
    /// Up to here the log was redone on them.
    redone: Lsn,
}

/// The pages of one file of a disk.
struct FileOn<'a> {
    disk: &'a Disk,
    file: FileNo,
    blocks: u32,
}

impl Pages for FileOn<'_> {
    fn page(&self, block: BlockNo) -> Result<Box<PageBytes>, String> {
        let tag = PageTag::new(self.file, block);
        self.disk
            .pages
            .get(&tag)
            .cloned()
            .ok_or_else(|| format!("{tag} was never written"))
    }

    fn blocks(&self) -> u32 {
        self.blocks
    }
}

impl Disk {
    /// The pages of a new data directory.
    pub fn new(rig: &Rig) -> Disk {
        let relations = RelationFiles::writer(Arc::clone(&rig.storage));
        let mut disk = Disk {
            pages: BTreeMap::new(),
            redone: rig_start(),
        };
        for file in [1, 2].map(FileNo::new) {
            for block in [0, 1, 2].map(BlockNo::new) {
                let tag = PageTag::new(file, block);
                let mut page = Box::new([0; PAGE_BYTES]);
                relations.read_page(tag, &mut page).expect("a first page");
                disk.pages.insert(tag, page);
            }
        }
        disk
    }

    /// Writes the page of `tag`, if it is in memory and durable.
    pub fn write(&mut self, rig: &Rig, tag: PageTag) {
        let Some(pin) = rig.shared.pool.get_resident(tag) else {
            return;
        };
        let page = pin.read();
        if page::page_lsn(&page) <= rig.durable() && !page::is_zero(&page) {
            self.pages.insert(tag, Box::new(*page));
        }
    }

    /// Redoes the log on these pages, all of it or what has come since the last time.
    pub fn redo(&mut self, rig: &Rig) {
        let from = ReadFrom {
            lsn: self.redone,
            timeline: Timeline::new(1),
            segment_bytes: SEGMENT_BYTES,
            system_id: rig.shared.wal.system_id(),
            start_count: StartCount::new(0),
        };
        let mut reader = WalReader::new(Arc::clone(&rig.storage), from);
        while let Some(record) = reader.next().expect("the disk works") {
            record.view.verify().expect("a good record");
            for block in record.view.blocks() {
                let block = block.expect("a good record");
                let new = || Box::new([0; PAGE_BYTES]);
                let page = self.pages.entry(block.tag).or_insert_with(new);
                assert!(
                    block.image.is_some() || !page::is_zero(page),
                    "{}",
                    block.tag
                );
                if page::page_lsn(page) < record.end {
                    redo_block(page, &block, record.end).expect("record and page go together");
                }
            }
            self.redone = record.end;
        }
        assert_eq!(self.redone, rig.durable(), "all of the log was read");
    }

    /// Checks `file`, and gives its newest values.
    pub fn content(&self, rig: &Rig, file: FileNo) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pages = FileOn {
            disk: self,
            file,
            blocks: rig.shared.files.blocks(file),
        };
        let report = verify(&pages);
        assert!(report.is_clean(), "after redo: {:#?}", report.problems);
        let get = |block| pages.page(block).expect("it was checked");
        let mut block = ROOT_BLOCK;
        while !NodeRef::new(&get(block)).is_leaf() {
            block = NodeRef::new(&get(block)).inner_entry(0).1;
        }
        let mut content = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        loop {
            let page = get(block);
            let node = NodeRef::new(&page);
            for slot in 0..node.count() {
                let entry = node.leaf_entry(slot);
                if last.as_deref() == Some(entry.key) {
                    continue;
                }
                last = Some(entry.key.to_vec());
                let value = match entry.payload {
                    Payload::Tombstone => continue,
                    Payload::Inline(value) => value.to_vec(),
                    Payload::Overflow(stub) => {
                        let mut value = Vec::new();
                        let mut next = Some(stub.first);
                        while let Some(block) = next {
                            let page = get(block);
                            value.extend_from_slice(overflow::data(&page));
                            next = overflow::next(&page);
                        }
                        value
                    }
                };
                content.push((entry.key.to_vec(), value));
            }
            match node.right_link() {
                Some(right) => block = right,
                None => return content,
            }
        }
    }
}

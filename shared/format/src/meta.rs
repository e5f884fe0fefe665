//! Block 0 of each relation file: whose file it is, and which checkpoint covered it last, so
//! that start-up can hold it against `pg_control` and refuse a file from another time by name.

use crate::layout::on_disk;
use crate::node::NodeError;
use crate::page::{self, PageBytes, PageHeader, PageKind};
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn, PageTag};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

on_disk! {
    /// What follows the page header on the meta page (block 0) of a relation file.
    pub struct MetaBody: 64 {
        /// The data directory that the file belongs to.
        0 system_identifier: U64,
        /// The file's own number.
        8 file: U32,
        /// Bytes of a page.
        12 page_bytes: U32,
        /// End LSN of the record that created the file.
        16 created_lsn: U64,
        /// Number of the last checkpoint (heartbeats included) that covered the file.
        24 checkpoint_count: U64,
        /// The file is complete up to here: redo point of that checkpoint, or where the log ended
        /// when it began if it was of this file alone.
        32 checkpoint_scn: U64,
        /// Where the log ended when the namespace was made read only or taken offline: the file is
        /// unchanged since. 0 while it can be written.
        40 stop_scn: U64,
        /// While a closed file is being opened: the stop SCN that it had. 0 before anybody writes to it.
        48 opened_from: U64,
        /// Zero.
        56 reserved: [u8; 8],
    }
}

/// The meta page's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The data directory that the file belongs to.
    pub system_identifier: u64,
    /// The file's own number.
    pub file: FileNo,
    /// End LSN of the record that created the file.
    pub created_lsn: Lsn,
    /// Number of the last checkpoint (heartbeats included) that covered the file.
    pub checkpoint_count: u64,
    /// The file is complete up to here.
    pub checkpoint_scn: Lsn,
    /// Since when the file is closed; zero while it can be written.
    pub stop_scn: Lsn,
    /// The stop SCN of a closed file that was to be opened; zero when it is open.
    pub opened_from: Lsn,
}

const BODY: std::ops::Range<usize> = PageHeader::BYTES..PageHeader::BYTES + MetaBody::BYTES;

/// Makes `page` the meta page that says `meta`.
pub fn init(page: &mut PageBytes, meta: &Meta) {
    page::init(page, PageKind::Meta);
    write(page, meta);
}

/// Writes `meta` into an existing meta page, leaving its header alone.
pub fn write(page: &mut PageBytes, meta: &Meta) {
    let mut body = MetaBody::zeroed();
    body.system_identifier.set(meta.system_identifier);
    body.file.set(meta.file.get());
    body.page_bytes.set(PAGE_BYTES as u32);
    body.created_lsn.set(meta.created_lsn.get());
    body.checkpoint_count.set(meta.checkpoint_count);
    body.checkpoint_scn.set(meta.checkpoint_scn.get());
    body.stop_scn.set(meta.stop_scn.get());
    body.opened_from.set(meta.opened_from.get());
    page[BODY].copy_from_slice(body.as_bytes());
}

/// What the meta page says. The page's kind is the caller's to check.
pub fn read(page: &PageBytes) -> Meta {
    let body = body(page);
    Meta {
        system_identifier: body.system_identifier.get(),
        file: FileNo::new(body.file.get()),
        created_lsn: Lsn::new(body.created_lsn.get()),
        checkpoint_count: body.checkpoint_count.get(),
        checkpoint_scn: Lsn::new(body.checkpoint_scn.get()),
        stop_scn: Lsn::new(body.stop_scn.get()),
        opened_from: Lsn::new(body.opened_from.get()),
    }
}

/// Checks that the page says it is block 0 of the file it was read from.
pub(crate) fn verify(page: &PageBytes, tag: PageTag) -> Result<(), NodeError> {
    let body = body(page);
    if tag.block != crate::bitmap::META_BLOCK {
        return Err(NodeError::Misplaced("meta"));
    }
    if body.file.get() != tag.file.get() {
        return Err(NodeError::OtherFile {
            says: FileNo::new(body.file.get()),
        });
    }
    if body.page_bytes.get() as usize != PAGE_BYTES {
        return Err(NodeError::PageSize {
            says: body.page_bytes.get(),
        });
    }
    Ok(())
}

fn body(page: &PageBytes) -> MetaBody {
    MetaBody::read_from_bytes(&page[BODY]).expect("the range has the struct's length")
}

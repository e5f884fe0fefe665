//! `docs/formats.md`, printed from the declarations in this crate, so that it cannot drift.

use crate::bitmap::{BITMAP_BITS, BITMAP_START};
use crate::catalog::CatalogValueBytes;
use crate::control::{self, ControlBytes, DropRowBytes, FileRowBytes, checkpoint_flags};
use crate::doublewrite::{self, DwEntryBytes, DwHeader};
use crate::history::{self, CheckpointRowBytes, RecoveryRowBytes};
use crate::layout::Table;
use crate::meta::MetaBody;
use crate::node::{InnerCell, LeafCell, OverflowStubCell, Slot};
use crate::overflow::{OVERFLOW_DATA_BYTES, OverflowHeader};
use crate::page::PageHeader;
use crate::wal_page::{WAL_PAGE_USABLE, WalPageHeaderBytes};
use crate::wal_record::{
    BlockRef, CheckpointDataBytes, EndOfRecoveryDataBytes, FileDeltaBytes, FileNumberBytes,
    ImageHeader, OpHeader, PageOp, RecordHeaderBytes, RecordKind,
};
use rd_base::limits::{INLINE_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES};
use std::fmt::Write;

/// The whole document.
pub fn formats_md() -> String {
    let mut out = String::from(
        "# Formats on disk\n\n\
         This file is printed from `shared/format` (`table.rs`); a test compares the two.\n\n\
         Integers are little-endian and not aligned. Checksums are CRC-32C (Castagnoli). Reserved \
         bytes are zero when written and ignored when read. Numbers of kinds and flags are never \
         used again.\n",
    );
    relation_files(&mut out);
    nodes(&mut out);
    wal(&mut out);
    records(&mut out);
    control_file(&mut out);
    double_write(&mut out);
    history(&mut out);
    out
}

/// Writing to a `String` cannot fail; the results are dropped for that reason.
fn relation_files(out: &mut String) {
    let _ = write!(
        out,
        "\n## Relation files: `base/`\n\n\
         A relation file is a row of pages of {PAGE_BYTES} bytes, each with the header below. \
         Block 0 is the meta page, block 1 the first bitmap page, block 2 the root of the tree, \
         which never moves.\n"
    );
    table(out, &PageHeader::TABLE);
    table(out, &MetaBody::TABLE);
    let _ = write!(
        out,
        "\n### Bitmap pages\n\n\
         From byte {BITMAP_START} on, one bit for each of {BITMAP_BITS} blocks, the least \
         significant bit of a byte first; set is in use. The bitmap of region r (blocks from \
         r × {BITMAP_BITS} on) lies at its first block, that of region 0 at block 1.\n"
    );
    table(out, &OverflowHeader::TABLE);
    let _ = write!(
        out,
        "\nUp to {OVERFLOW_DATA_BYTES} bytes of data follow; every piece of a value but its last \
         is full.\n"
    );
}

fn nodes(out: &mut String) {
    let _ = write!(
        out,
        "\n## Tree pages\n\n\
         Slots follow the page header in order; cells lie at the page's end, in any order. \
         Entries are ordered by key, then by stamp, *newest first*; each version of a key is an \
         entry of its own, and the versions of a key may lie on several leaves. A page holds the \
         entries below its high key: (k, s) is below (bk, bs) if k < bk, or k = bk and s > bs. A \
         bound without a stamp is before every version of its key. The first cell of an inner \
         page stands for minus infinity and has an empty key. Keys have up to {KEY_BYTES_MAX} \
         bytes; key and value stay in the leaf up to {INLINE_BYTES_MAX} bytes together.\n"
    );
    table(out, &Slot::TABLE);
    table(out, &LeafCell::TABLE);
    table(out, &OverflowStubCell::TABLE);
    table(out, &InnerCell::TABLE);
    let _ = write!(
        out,
        "\nRelation file 1 is the catalog: its keys are the names of namespaces, its values are:\n"
    );
    table(out, &CatalogValueBytes::TABLE);
}

fn wal(out: &mut String) {
    let _ = write!(
        out,
        "\n## The write-ahead log: `wal/`\n\n\
         An LSN is a byte position in the log. Segment files have 24 hexadecimal digits for a \
         name: timeline, high and low number, as in PostgreSQL. Every page of 8192 bytes begins \
         with the header below and leaves {WAL_PAGE_USABLE} bytes to records, which go on behind \
         the next page's header where they do not fit. A record starts at a multiple of 8. A \
         record that ends with a page ends at the page boundary.\n"
    );
    table(out, &WalPageHeaderBytes::TABLE);
}

fn records(out: &mut String) {
    table(out, &RecordHeaderBytes::TABLE);
    let _ = write!(
        out,
        "\nThe body is `block_count` block references, each with its data, then the record data; \
         zeros fill the record up to a multiple of 8.\n\n\
         | kind | name | meaning |\n| ---: | --- | --- |\n"
    );
    for kind in RecordKind::ALL {
        let _ = writeln!(
            out,
            "| {} | {} | {} |",
            *kind as u8,
            kind.name(),
            prose(kind.doc())
        );
    }
    table(out, &BlockRef::TABLE);
    table(out, &ImageHeader::TABLE);
    table(out, &OpHeader::TABLE);
    out.push_str("\n| op | meaning |\n| ---: | --- |\n");
    for (number, meaning) in PageOp::LIST {
        let _ = writeln!(out, "| {number} | {meaning} |");
    }
    table(out, &FileDeltaBytes::TABLE);
    table(out, &FileNumberBytes::TABLE);
    table(out, &CheckpointDataBytes::TABLE);
    table(out, &EndOfRecoveryDataBytes::TABLE);
}

fn control_file(out: &mut String) {
    let _ = write!(
        out,
        "\n## `global/pg_control`\n\n\
         Two slots of {} bytes, written in turn; of the valid ones that with the higher sequence \
         counts.\n",
        control::SLOT_BYTES
    );
    table(out, &ControlBytes::TABLE);
    out.push_str("\n| bit value in `checkpoint_flags` | word |\n| ---: | --- |\n");
    for (bit, word) in checkpoint_flags::LIST {
        let _ = writeln!(out, "| {bit} | {word} |");
    }
    table(out, &FileRowBytes::TABLE);
    table(out, &DropRowBytes::TABLE);
}

fn double_write(out: &mut String) {
    let _ = write!(
        out,
        "\n## `global/doublewrite`\n\n\
         A ring of slots of {} bytes: a header page, then up to {} pages as they stand in their \
         files. Batch n is in slot n modulo the number of slots.\n",
        doublewrite::DW_SLOT_BYTES,
        doublewrite::DW_BATCH_PAGES_MAX
    );
    table(out, &DwHeader::TABLE);
    table(out, &DwEntryBytes::TABLE);
}

fn history(out: &mut String) {
    let _ = write!(
        out,
        "\n## `global/history`\n\n\
         The last {} checkpoints, then the last {} recoveries: two rings of records of {} bytes. \
         Record n is in slot n modulo the length of its ring. The checkpointer writes and syncs a \
         record when what it tells of has ended. A record that fails its checksum is reported and \
         passed over; a file that is missing is made anew.\n",
        history::CHECKPOINTS_KEPT,
        history::RECOVERIES_KEPT,
        history::RECORD_BYTES
    );
    table(out, &CheckpointRowBytes::TABLE);
    table(out, &RecoveryRowBytes::TABLE);
}

/// The table of one fixed struct.
fn table(out: &mut String, table: &Table) {
    let _ = write!(
        out,
        "\n### {} ({} bytes)\n\n{}\n\n| offset | bytes | field | meaning |\n\
         | ---: | ---: | --- | --- |\n",
        table.name,
        table.bytes,
        prose(table.doc)
    );
    for field in table.fields {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            field.offset,
            field.bytes,
            field.name,
            prose(field.doc)
        );
    }
}

/// The lines of a doc comment as one.
fn prose(doc: &[&str]) -> String {
    doc.iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_every_struct_leave_no_gap() {
        for table in [
            PageHeader::TABLE,
            MetaBody::TABLE,
            OverflowHeader::TABLE,
            Slot::TABLE,
            LeafCell::TABLE,
            OverflowStubCell::TABLE,
            InnerCell::TABLE,
            WalPageHeaderBytes::TABLE,
            RecordHeaderBytes::TABLE,
            BlockRef::TABLE,
            ImageHeader::TABLE,
            OpHeader::TABLE,
            FileDeltaBytes::TABLE,
            FileNumberBytes::TABLE,
            CheckpointDataBytes::TABLE,
            EndOfRecoveryDataBytes::TABLE,
            ControlBytes::TABLE,
            FileRowBytes::TABLE,
            DropRowBytes::TABLE,
            DwHeader::TABLE,
            DwEntryBytes::TABLE,
            CheckpointRowBytes::TABLE,
            RecoveryRowBytes::TABLE,
        ] {
            let mut at = 0;
            for field in table.fields {
                assert_eq!(field.offset, at, "{}.{}", table.name, field.name);
                at += field.bytes;
            }
            assert_eq!(at, table.bytes, "{}", table.name);
        }
    }

    /// With `RD_WRITE_DOCS=1` in the environment the document is written anew.
    #[test]
    fn the_document_is_what_the_code_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats.md");
        let printed = formats_md();
        if std::env::var_os("RD_WRITE_DOCS").is_some() {
            std::fs::write(path, &printed).expect("docs/ is there");
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == printed,
            "docs/formats.md is not current: RD_WRITE_DOCS=1 cargo test"
        );
    }
}

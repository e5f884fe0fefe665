//! Whole files, as the tools that show them find them: segments of the log, `global/pg_control`,
//! `global/history`.
//!
//! Each input begins with a few bytes that are options of the tool and facts of the files; the rest are
//! patches of sound files.

use super::disk::{SYSTEM, seal_record, tag};
use super::{patch, sealed};
use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::{FileNo, Lsn, Role, StartCount, Timeline};
use rd_format::control::{ControlBytes, ControlFile, FileRow, PendingDrop, SLOT_BYTES, used_bytes};
use rd_format::history::{
    CheckpointRow, HISTORY_BYTES, RECORD_BYTES, RecoveryRow, Requester, Row, Word,
};
use rd_format::node::Payload;
use rd_format::wal_page::{
    self, WAL_HEADER_BYTES, WAL_PAGE_USABLE, WalPageHeader, lsn_to_pos, pos_to_start_lsn,
};
use rd_format::wal_record::{
    CheckpointData, RECORD_HEADER_BYTES, RecordBuilder, RecordHeader, RecordKind, Upsert,
};
use rd_store::history::HISTORY_PATH;
use rd_tools::controldata::{Wanted, shown};
use rd_tools::datadir::CONTROL_FILE;
use rd_tools::waldump::dump::{self, Arguments, Detail};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Bytes of a segment of the log: two pages, the least that there is.
const SEGMENT_BYTES: usize = 2 * WAL_PAGE_BYTES;
/// Segments at most.
const SEGMENTS: usize = 3;
/// Bytes of an input of [`waldump`] before the patches: options, then two for each segment.
const DUMP_HEAD: usize = 16 + 2 * SEGMENTS;

/// Segments 1 to 3 of a sound log, some of whose records cross pages and segments.
static LOG: LazyLock<Vec<u8>> = LazyLock::new(sound_log);

fn sound_log() -> Vec<u8> {
    let begin = lsn_to_pos(Lsn::new(SEGMENT_BYTES as u64));
    let mut builder = RecordBuilder::new();
    let mut usable = Vec::new();
    // Of each page, the usable byte before which nothing begins.
    let mut continued = [0; 2 * SEGMENTS];
    for number in 0u64.. {
        let long = [b'v'; 1900];
        match number % 4 {
            0 => {
                builder.start(RecordKind::Checkpoint, 7);
                builder.checkpoint(&CheckpointData {
                    redo_lsn: Lsn::new(SEGMENT_BYTES as u64),
                    checkpoint_count: number,
                    causes: 9,
                    timeline: Timeline::new(1),
                });
            }
            _ => {
                builder.start(RecordKind::Commit, 1_700_000_000_000_000);
                builder.block(tag(2, 2));
                builder.upsert(&Upsert {
                    key: b"key",
                    expiry_ms: Some(7),
                    payload: Payload::Inline(&long[..600 * (number % 4) as usize]),
                });
            }
        }
        let len = builder.seal();
        let at = usable.len();
        if at + len > (2 * SEGMENTS - 1) * WAL_PAGE_USABLE {
            break;
        }
        let lsn = pos_to_start_lsn(begin + at as u64);
        usable.extend_from_slice(builder.finish(lsn, StartCount::new(1)));
        // None is longer than a page.
        let last = (at + len - 1) / WAL_PAGE_USABLE;
        if last > at / WAL_PAGE_USABLE {
            continued[last] = at + len - last * WAL_PAGE_USABLE;
        }
    }
    usable.resize(2 * SEGMENTS * WAL_PAGE_USABLE, 0);
    let pages = usable.chunks(WAL_PAGE_USABLE).zip(continued).enumerate();
    let pages = pages.map(|(index, (bytes, remaining))| {
        let header = WalPageHeader {
            timeline: Timeline::new(1),
            address: Lsn::new((SEGMENT_BYTES + index * WAL_PAGE_BYTES) as u64),
            remaining: remaining as u32,
            durable_lsn: Lsn::new((SEGMENT_BYTES + index * 1000) as u64),
            system_identifier: SYSTEM,
        };
        [&header.encode()[..], bytes].concat()
    });
    pages.collect::<Vec<_>>().concat()
}

/// Makes the checksums of page headers right, and those of the records that follow each other from
/// the first one of the file on.
fn seal_segment(bytes: &mut [u8]) {
    let mut usable = Vec::new();
    for page in bytes.chunks_mut(WAL_PAGE_BYTES) {
        let Some((header, rest)) = page.split_first_chunk_mut::<WAL_HEADER_BYTES>() else {
            continue;
        };
        if header.iter().any(|byte| *byte != 0) {
            header[20..24].fill(0);
            let crc = crc32c::crc32c(header);
            header[20..24].copy_from_slice(&crc.to_le_bytes());
        }
        usable.extend_from_slice(rest);
    }
    let remaining = bytes.get(16..20).and_then(|bytes| bytes.first_chunk());
    let mut at = remaining.map_or(0, |bytes| u32::from_le_bytes(*bytes)) as usize;
    while at + RECORD_HEADER_BYTES <= usable.len() {
        let Ok(header) = RecordHeader::decode(&usable[at..]) else {
            break;
        };
        let Some(record) = usable.get_mut(at..at + header.total_len) else {
            break;
        };
        seal_record(record, None);
        at += header.padded_len();
    }
    let mut sealed = &usable[..];
    for page in bytes.chunks_mut(WAL_PAGE_BYTES) {
        if let Some((_, rest)) = page.split_first_chunk_mut::<WAL_HEADER_BYTES>() {
            let (of_page, others) = sealed.split_at(rest.len());
            rest.copy_from_slice(of_page);
            sealed = others;
        }
    }
}

/// What stands for a segment in the directory.
struct Segment {
    name: String,
    is_directory: bool,
    bytes: usize,
}

impl Segment {
    /// By two bytes of the input; its first content, sound or zeros, goes behind `contents`.
    fn new(what: u8, size: u8, contents: &mut Vec<u8>) -> Segment {
        let number = 1 + usize::from(what % 4);
        let timeline = Timeline::new(1 + u32::from(what >> 2 & 1));
        let odd = what >> 4;
        let mut name = wal_page::segment_name(timeline, number as u64, SEGMENT_BYTES as u64);
        match odd {
            1 => name = "F".repeat(24),
            2 => name.make_ascii_lowercase(),
            3 => name.insert(8, 'F'),
            _ => {}
        }
        let lengths = [
            0,
            40,
            WAL_PAGE_BYTES,
            SEGMENT_BYTES - 1,
            20_000,
            2 * SEGMENT_BYTES,
        ];
        let bytes = *lengths.get(usize::from(size)).unwrap_or(&SEGMENT_BYTES);
        let from = contents.len();
        let sound = LOG.get((number - 1) * SEGMENT_BYTES..).unwrap_or(&[]);
        if what & 8 == 0 {
            contents.extend_from_slice(&sound[..bytes.min(sound.len())]);
        }
        contents.resize(from + bytes, 0);
        Segment {
            name,
            is_directory: odd == 4,
            bytes,
        }
    }
}

/// A number of the log that three bytes and a shift choose: small ones, and those at the end of all.
fn lsn(bytes: &[u8], shift: u8) -> Lsn {
    let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    Lsn::new(u64::from(number) << (shift % 64))
}

/// Files of a directory of the log, whatever is in them, through `rd_waldump` with any of its options
/// but the one with which it never ends.
pub fn waldump(input: &[u8]) {
    dumped(input);
}

/// What is dumped, and whether all went well.
fn dumped(input: &[u8]) -> Option<(String, bool)> {
    let (seal, rest) = sealed(input);
    let (head, patches) = rest.split_first_chunk::<DUMP_HEAD>()?;
    let mut contents = Vec::new();
    let segments: Vec<Segment> = head[16..]
        .chunks(2)
        .map(|two| Segment::new(two[0], two[1], &mut contents))
        .collect();
    patch::apply(&mut contents, patches);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let wal = dir.path().join("wal");
    fs::create_dir(&wal).expect("a directory of ours");
    let mut rest = &mut contents[..];
    for segment in &segments {
        let (bytes, others) = rest.split_at_mut(segment.bytes);
        rest = others;
        if seal {
            seal_segment(bytes);
        }
        let path = wal.join(&segment.name);
        // One may have the name of another.
        let _ = match segment.is_directory {
            true => fs::create_dir(path),
            false => fs::write(path, bytes),
        };
    }
    let options = u16::from_le_bytes([head[0], head[1]]);
    let has = |bit: u32| options >> bit & 1 == 1;
    if has(8) {
        let mut control = ControlFile::initial(SYSTEM, SEGMENT_BYTES as u32, Lsn::new(16 << 10));
        control.durable_lsn = lsn(&head[11..14], head[14]);
        // A control file's own bytes are for another target.
        let control = control.encode();
        write_control(dir.path(), &[&control, &control]);
    }
    let segment = |choice: u8| {
        let name = segments.get(usize::from(choice));
        let name = name.map_or("x", |segment| &segment.name);
        match has(9) {
            true => wal.join(name),
            false => PathBuf::from(name),
        }
    };
    let kind = |number: u8| match RecordKind::ALL.get(usize::from(number)) {
        Some(kind) => kind.name().to_owned(),
        None => ["list", "no kind"][usize::from(number) % 2].to_owned(),
    };
    let limit = has(2).then_some(u64::from(head[8] % 8));
    let arguments = Arguments {
        start: has(0).then(|| lsn(&head[2..5], head[10])),
        end: has(1).then(|| lsn(&head[5..8], head[10])),
        limit,
        path: Some(if has(10) {
            dir.path().to_owned()
        } else {
            wal.clone()
        }),
        timeline: has(3).then_some(u32::from(head[9] % 4)),
        kind: has(4).then(|| kind(head[8] / 8)),
        follow: false,
        stats: match (has(5), has(6)) {
            (true, true) => Some(Detail::Record),
            (true, false) => Some(Detail::Kind),
            (false, _) => None,
        },
        quiet: has(7),
        help: None,
        first: has(11).then(|| segment(head[15] % 4)),
        last: has(12).then(|| segment(head[15] / 4 % 4)),
    };
    let lists_kinds = arguments.kind.as_deref() == Some("list");
    let has_lines = arguments.stats.is_none() && !lists_kinds;
    let mut out = Vec::new();
    let outcome = dump::run(arguments, &mut out, &mut |text| assert!(!text.is_empty()));
    let is_well = outcome.is_ok();
    match outcome {
        Ok(end) => assert!(end.is_none_or(|end| !end.reason.to_string().is_empty())),
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
    let text = String::from_utf8(out).expect("a dump is text");
    if let (Some(limit), true) = (limit, has_lines) {
        // One more says that something was skipped.
        assert!(text.lines().count() as u64 <= limit + 1, "{text}");
    }
    Some((text, is_well))
}

/// Writes the beginnings of the slots of a control file; zeros are behind them.
fn write_control(dir: &Path, slots: &[&[u8]; 2]) {
    let path = dir.join(CONTROL_FILE);
    fs::create_dir_all(path.parent().expect("it has one")).expect("a directory of ours");
    let file = File::create(path).expect("a file of ours");
    file.set_len(2 * SLOT_BYTES as u64).expect("a file of ours");
    for (at, slot) in [0, SLOT_BYTES as u64].into_iter().zip(slots) {
        file.write_all_at(slot, at).expect("a file of ours");
    }
}

fn sound_control() -> ControlFile {
    let mut control = ControlFile::initial(SYSTEM, SEGMENT_BYTES as u32, Lsn::new(16 << 10));
    control.files = (1..3)
        .map(|file| FileRow {
            file: FileNo::new(file),
            access: rd_format::Access::READ_WRITE,
            checkpoint_count: 4,
            scn: Lsn::new(5),
            stop_scn: Lsn::new(6),
            key_count: 7,
            blocks: 8,
        })
        .collect();
    control.pending_drops = vec![PendingDrop {
        file: FileNo::new(9),
        last_lsn: Lsn::new(3),
    }];
    control
}

/// What of a slot patches reach.
const SLOT_HEAD: usize = 1024;

/// The whole of `global/pg_control`, two slots, through `rd_controldata`. The second byte chooses how
/// it is printed, how long the file is, and what the slots are before they are patched.
pub fn control(input: &[u8]) {
    shown_control(input);
}

fn shown_control(input: &[u8]) -> Option<String> {
    let (seal, rest) = sealed(input);
    let (options, patches) = rest.split_first()?;
    let mut heads = [0; 2 * SLOT_HEAD];
    let mut control = sound_control();
    for (slot, head) in heads.chunks_mut(SLOT_HEAD).enumerate() {
        if options >> (1 + slot) & 1 == 0 {
            control.sequence += 1;
            let bytes = control.encode();
            head[..bytes.len()].copy_from_slice(&bytes);
        }
    }
    patch::apply(&mut heads, patches);
    for head in heads.chunks_mut(SLOT_HEAD) {
        let mut slot = vec![0; SLOT_BYTES];
        slot[..SLOT_HEAD].copy_from_slice(head);
        if seal {
            slot[16..20].fill(0);
            let used = used_bytes(&slot).clamp(ControlBytes::BYTES, SLOT_BYTES);
            let crc = crc32c::crc32c(&slot[..used]);
            slot[16..20].copy_from_slice(&crc.to_le_bytes());
            head.copy_from_slice(&slot[..SLOT_HEAD]);
        }
        if let Ok(control) = ControlFile::decode(&slot) {
            let again = ControlFile::decode(&control.encode());
            assert_eq!(again.as_ref(), Ok(&control));
        }
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (first, second) = heads.split_at(SLOT_HEAD);
    write_control(dir.path(), &[first, second]);
    let lengths = [2 * SLOT_BYTES, SLOT_BYTES + 100, SLOT_BYTES, 100];
    let length = lengths[usize::from(options >> 3 & 3)];
    if options & 0x80 != 0 {
        let file = File::options()
            .write(true)
            .open(dir.path().join(CONTROL_FILE));
        let cut = file.and_then(|file| file.set_len(length as u64));
        cut.expect("a file of ours");
    }
    let wanted = Wanted {
        json: options & 1 == 1,
        // There is none.
        history: options & 0x60 == 0x60,
    };
    show(dir.path(), wanted)
}

/// What is shown, unless it is an error.
fn show(dir: &Path, wanted: Wanted) -> Option<String> {
    match shown(dir, wanted, &mut |warning| assert!(!warning.is_empty())) {
        Ok(text) => {
            assert!(text.ends_with('\n'));
            Some(text)
        }
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            None
        }
    }
}

/// The records of a history that patches reach: the first of either ring.
const CHECKPOINTS: usize = 8;
const RECOVERIES: usize = 4;

/// Where the records lie in the file.
fn history_offsets() -> impl Iterator<Item = u64> {
    let of = |start: u64, count: usize| {
        (0..count as u64).map(move |slot| start + slot * RECORD_BYTES as u64)
    };
    of(CheckpointRow::START, CHECKPOINTS).chain(of(RecoveryRow::START, RECOVERIES))
}

fn sound_history() -> Vec<u8> {
    let mut bytes = vec![0; (CHECKPOINTS + RECOVERIES) * RECORD_BYTES];
    // The first two records of either ring; slot 0 is for later ones.
    for number in 1..3 {
        let checkpoint = CheckpointRow {
            number,
            flags: 0x802,
            error: (number == 1).then(|| Word::new("no room on the disk")),
            namespace: (number == 2).then(|| Word::new("orders")),
            requester: Requester::connection(Role::Backend(3), 17, "CHECKPOINT"),
            requests: 2,
            began_us: 5,
            ended_us: 9,
            redo_lsn: Lsn::new(1000),
            checkpoint_lsn: Lsn::new(1008),
            wal_bytes: 7,
            pages_found: 70,
            pages_written: 69,
            bytes_written: 69 * 8192,
            files_synced: 3,
            write_us: 100,
            sync_us: 50,
            longest_sync_us: 40,
            estimate_before_us: 2_000_000,
            estimate_after_us: 300_000,
            segments_retired: 1,
            commits_slowed_us: 12,
        };
        let recovery = RecoveryRow {
            number,
            state: 6,
            unfinished_starts: 1,
            began_us: 1,
            ended_us: 2,
            predicted_us: 3,
            actual_us: 4,
            redo_us: 5,
            redo_lsn: Lsn::new(6),
            end_lsn: Lsn::new(7),
            redo_bytes: 8,
            records: 9,
            pages_changed: 10,
            pages_skipped: 11,
            pages_read: 12,
            workers: 13,
            torn_pages: 14,
        };
        let at = number as usize * RECORD_BYTES;
        bytes[at..at + RECORD_BYTES].copy_from_slice(&checkpoint.encode(SYSTEM));
        let at = at + CHECKPOINTS * RECORD_BYTES;
        bytes[at..at + RECORD_BYTES].copy_from_slice(&recovery.encode(SYSTEM));
    }
    bytes
}

/// The whole of `global/history`, beside a sound control file, through `rd_controldata --history`. The
/// second byte chooses how it is printed and how long the file is.
pub fn history(input: &[u8]) {
    shown_history(input);
}

fn shown_history(input: &[u8]) -> Option<String> {
    let (seal, rest) = sealed(input);
    let (options, patches) = rest.split_first()?;
    let mut bytes = sound_history();
    patch::apply(&mut bytes, patches);
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Two good slots, or the tool would read again and again, as beside a server that writes one.
    let control = sound_control().encode();
    write_control(dir.path(), &[&control, &control]);
    let file = File::create(dir.path().join(HISTORY_PATH)).expect("a file of ours");
    for (record, at) in bytes.chunks_mut(RECORD_BYTES).zip(history_offsets()) {
        if seal && record.iter().any(|byte| *byte != 0) {
            record[4..8].fill(0);
            let crc = crc32c::crc32c(record);
            record[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        file.write_all_at(record, at).expect("a file of ours");
    }
    let lengths = [HISTORY_BYTES, HISTORY_BYTES + 999, HISTORY_BYTES - 100, 700];
    let length = lengths[usize::from(options >> 1 & 3)];
    file.set_len(length).expect("a file of ours");
    let wanted = Wanted {
        json: options & 1 == 1,
        history: true,
    };
    show(dir.path(), wanted)
}

pub(super) fn waldump_seeds() -> Vec<Vec<u8>> {
    // Options, three segments, patches.
    let seed = |options: u16, segments: [u8; 6], patches: &[u8]| {
        let mut head = [0; 16];
        head[..2].copy_from_slice(&options.to_le_bytes());
        // From the middle of the first segment to the third, or from the first to the second.
        head[3] = 0x50;
        head[6] = 0xC0;
        (head[8], head[9], head[12], head[15]) = (5, 1, 0x60, 4);
        [&[0][..], &head, &segments, patches].concat()
    };
    let whole = [0, 0xFF, 1, 0xFF, 2, 0xFF];
    let mut seeds = vec![seed(0, whole, &[])];
    for options in [3, 0x14, 0x20, 0x60, 0x80, 0x108, 0x501, 0x1800, 0x1A00] {
        seeds.push(seed(options, whole, &[]));
    }
    // Segments that are missing, of another timeline, of zeros, of other lengths, with other names.
    for segments in [
        [0, 0xFF, 2, 0xFF, 2, 0xFF],
        [0, 0xFF, 5, 0xFF, 6, 0xFF],
        [0, 0xFF, 9, 0xFF, 3, 0xFF],
        [0, 0xFF, 1, 2, 2, 4],
        [0, 5, 1, 5, 2, 5],
        [0, 0xFF, 0x11, 0xFF, 0x42, 0xFF],
    ] {
        seeds.push(seed(0, segments, &[]));
    }
    // How much is left of a record; a durable LSN; the length and the body of one.
    for at in [16, WAL_PAGE_BYTES + 16, 24, 40, 60, WAL_PAGE_BYTES + 2000] {
        let at = (at as u32).to_le_bytes();
        let patches = [at[0], at[1], at[2], 2, 0x48, 0x01];
        seeds.push(seed(0, whole, &patches));
    }
    seeds
}

pub(super) fn control_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [0, 1, 2, 4, 6, 0x60, 0x88, 0x90, 0x98]
        .iter()
        .map(|options| vec![0, *options])
        .collect();
    // How much is used; a state; the number of rows; a row; its other slot.
    for at in [12, 32, 300, 330, SLOT_HEAD + 100] {
        let at = (at as u32).to_le_bytes();
        seeds.push(vec![0, 0, at[0], at[1], at[2], 2, 0x48, 0x01]);
    }
    seeds
}

pub(super) fn history_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..8).map(|options| vec![0, options]).collect();
    // A number, the flags, the texts of a checkpoint; times of a recovery.
    for at in [8, 24, 184, CHECKPOINTS * RECORD_BYTES + 40] {
        let at = ((at + RECORD_BYTES) as u32).to_le_bytes();
        seeds.push(vec![0, 0, at[0], at[1], at[2], 3, 0xC3, 0x28, 0x0A]);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else mutations would be of something that is refused at once.
    #[test]
    fn sound_inputs_come_through_to_the_end() {
        let seeds = waldump_seeds();
        let (text, is_well) = dumped(&seeds[0]).expect("long enough");
        assert!(is_well && text.lines().count() > 30, "{text}");
        // With a patch inside a record all is read, too.
        let (patched, is_well) = dumped(&seeds[seeds.len() - 1]).expect("long enough");
        assert!(is_well && patched.lines().count() == text.lines().count());
        // But not without checksums.
        let odd = [&[1], &seeds[seeds.len() - 1][1..]].concat();
        let (torn, _) = dumped(&odd).expect("long enough");
        assert!(torn.lines().count() < text.lines().count());

        let text = shown_control(&control_seeds()[0]).expect("sound");
        assert!(text.contains("Dropped relation file 9") && !text.contains("INVALID"));
        let text = shown_history(&history_seeds()[0]).expect("sound");
        assert!(text.contains("no room on the disk") && text.contains("14 torn pages"));
    }
}

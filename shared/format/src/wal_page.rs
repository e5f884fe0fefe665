//! Pages and segments of the write-ahead log, and the arithmetic between positions and LSNs.
//!
//! Invariants:
//! - An LSN is a byte position in the log, page headers included. A *usable position* counts the
//!   bytes between the headers only: records lie in usable space, one after another, so that a
//!   record's place is one `fetch_add`.
//! - Every page begins with its header, the first of a segment included. A page's header says how
//!   many bytes of a record that began earlier are still to come, so reading can start at any page.
//! - A record's end that falls on the end of a page *is* the page boundary, not the first usable
//!   byte behind the next header: nothing of the next page need exist for it to be durable.

use crate::layout::on_disk;
use rd_base::limits::{LOG_BYTES_MAX, WAL_PAGE_BYTES};
use rd_base::{Lsn, Timeline};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

on_disk! {
    /// Header of every page of the write-ahead log.
    pub struct WalPageHeaderBytes: 40 {
        /// 0x7D0B in format 1; the next format takes another.
        0 magic: U16,
        /// Bits: 1 the page begins inside a record.
        2 flags: U16,
        /// The timeline that the page was written on.
        4 timeline: U32,
        /// The page's own LSN.
        8 address: U64,
        /// Bytes still to come of a record that began before this page, padding included.
        16 remaining: U32,
        /// CRC-32C over the header with this field zero.
        20 crc: U32,
        /// The durable LSN known when the header was written.
        24 durable_lsn: U64,
        /// The data directory that the log belongs to.
        32 system_identifier: U64,
    }
}

/// First two bytes of every page of the log, format 1.
pub const WAL_MAGIC: u16 = 0x7D0B;
/// Bytes of a page header.
pub const WAL_HEADER_BYTES: usize = WalPageHeaderBytes::BYTES;
/// Bytes of a page that records can use.
pub const WAL_PAGE_USABLE: usize = WAL_PAGE_BYTES - WAL_HEADER_BYTES;
/// Records begin at usable positions, and so at LSNs, that this divides.
pub const RECORD_ALIGN: usize = 8;
/// The flag: the page begins inside a record.
pub const CONTINUES: u16 = 1;

const PAGE: u64 = WAL_PAGE_BYTES as u64;
const HEADER: u64 = WAL_HEADER_BYTES as u64;
const USABLE: u64 = WAL_PAGE_USABLE as u64;

// So an aligned usable position is an aligned LSN, and a record header never straddles less than
// eight bytes.
const _: () = assert!(WAL_PAGE_USABLE.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(WAL_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));

/// What a page header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// The timeline that the page was written on.
    pub timeline: Timeline,
    /// The page's own LSN; a multiple of the page size.
    pub address: Lsn,
    /// Bytes still to come of a record that began before this page; 0 if a record begins at the
    /// first usable byte, or none does yet.
    pub remaining: u32,
    /// The durable LSN known when the header was written.
    pub durable_lsn: Lsn,
    /// The data directory that the log belongs to.
    pub system_identifier: u64,
}

/// Why bytes are no page header, or not the one expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalPageError {
    /// Nothing was ever written there.
    #[error("the page header is all zeros")]
    Zero,
    /// Shorter than a header.
    #[error("only {0} bytes are left where a page header of {WAL_HEADER_BYTES} belongs")]
    Short(usize),
    /// The first two bytes are not the magic number.
    #[error("magic number {0:04X} in place of {WAL_MAGIC:04X}")]
    Magic(u16),
    /// The header's own checksum fails.
    #[error("page header checksum: stored {stored:08X}, computed {computed:08X}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of what was read.
        computed: u32,
    },
    /// The page is from another place in the log: a recycled segment's old content.
    #[error("the page says that it is {found}")]
    Address {
        /// The address it gives.
        found: Lsn,
    },
    /// The page belongs to another data directory.
    #[error("the page belongs to the system {found}, not to this one")]
    System {
        /// The system identifier it gives.
        found: u64,
    },
    /// The flag and the count of remaining bytes contradict each other, or no record has that count.
    #[error("flags {flags:04X} and {remaining} remaining bytes contradict each other")]
    Flags {
        /// The flags found.
        flags: u16,
        /// The count found.
        remaining: u32,
    },
}

impl WalPageHeader {
    /// The header as it stands on disk, checksum included.
    pub fn encode(&self) -> [u8; WAL_HEADER_BYTES] {
        let mut bytes = WalPageHeaderBytes {
            magic: U16::new(WAL_MAGIC),
            flags: U16::new(if self.remaining > 0 { CONTINUES } else { 0 }),
            timeline: U32::new(self.timeline.get()),
            address: U64::new(self.address.get()),
            remaining: U32::new(self.remaining),
            crc: U32::new(0),
            durable_lsn: U64::new(self.durable_lsn.get()),
            system_identifier: U64::new(self.system_identifier),
        };
        let crc = crc32c::crc32c(bytes.as_bytes());
        bytes.crc.set(crc);
        zerocopy::transmute!(bytes)
    }

    /// Reads and checks the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, WalPageError> {
        let (mut header, _) = WalPageHeaderBytes::read_from_prefix(bytes)
            .map_err(|_| WalPageError::Short(bytes.len()))?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Err(WalPageError::Zero);
        }
        if header.magic.get() != WAL_MAGIC {
            return Err(WalPageError::Magic(header.magic.get()));
        }
        let stored = header.crc.get();
        header.crc.set(0);
        let computed = crc32c::crc32c(header.as_bytes());
        if stored != computed {
            return Err(WalPageError::Checksum { stored, computed });
        }
        let (flags, remaining) = (header.flags.get(), header.remaining.get());
        let aligned = (remaining as usize).is_multiple_of(RECORD_ALIGN);
        if (flags & CONTINUES != 0) != (remaining > 0) || !aligned {
            return Err(WalPageError::Flags { flags, remaining });
        }
        Ok(Self {
            timeline: Timeline::new(header.timeline.get()),
            address: Lsn::new(header.address.get()),
            remaining,
            durable_lsn: Lsn::new(header.durable_lsn.get()),
            system_identifier: header.system_identifier.get(),
        })
    }

    /// [`WalPageHeader::decode`], and checks that the page is the one at `address` of the system.
    pub fn decode_at(
        bytes: &[u8],
        address: Lsn,
        system_identifier: u64,
    ) -> Result<Self, WalPageError> {
        let header = Self::decode(bytes)?;
        if header.system_identifier != system_identifier {
            return Err(WalPageError::System {
                found: header.system_identifier,
            });
        }
        if header.address != address {
            return Err(WalPageError::Address {
                found: header.address,
            });
        }
        Ok(header)
    }
}

/// Where the usable byte number `position` lies: the LSN of a record that starts there.
#[inline]
pub const fn pos_to_start_lsn(position: u64) -> Lsn {
    Lsn::new(position / USABLE * PAGE + HEADER + position % USABLE)
}

/// The LSN of the end of a record that ends before the usable byte number `position`. At the end
/// of a page it is the page boundary.
#[inline]
pub const fn pos_to_end_lsn(position: u64) -> Lsn {
    let rest = position % USABLE;
    let page = position / USABLE * PAGE;
    Lsn::new(if rest == 0 {
        page
    } else {
        page + HEADER + rest
    })
}

/// The usable position of a start or end LSN. An LSN inside a page header counts as the first
/// usable byte behind it.
#[inline]
pub const fn lsn_to_pos(lsn: Lsn) -> u64 {
    let (page, rest) = (lsn.get() / PAGE, lsn.get() % PAGE);
    page * USABLE + rest.saturating_sub(HEADER)
}

/// The LSN where a record starts that follows one which ended at `end`: behind the page header if
/// `end` is a page boundary. `end` must be aligned, as ends of padded records are.
#[inline]
pub const fn start_after(end: Lsn) -> Lsn {
    pos_to_start_lsn(lsn_to_pos(end))
}

/// The start of the page that holds the byte at `lsn`.
#[inline]
pub const fn page_start(lsn: Lsn) -> Lsn {
    Lsn::new(lsn.get() / PAGE * PAGE)
}

/// The number of the segment that holds the byte at `lsn`.
#[inline]
pub const fn segment_of(lsn: Lsn, segment_bytes: u64) -> u64 {
    lsn.get() / segment_bytes
}

/// The first LSN of a segment; `Lsn::MAX` for one that no log has.
#[inline]
pub const fn segment_start(segment: u64, segment_bytes: u64) -> Lsn {
    Lsn::new(segment.saturating_mul(segment_bytes))
}

/// Segments for which the last part of the name counts: those of 4 GiB of log. At least one, so
/// that no size can be divided by zero.
const fn segments_per_name(segment_bytes: u64) -> u64 {
    match (1u64 << 32).checked_div(segment_bytes) {
        None | Some(0) => 1,
        Some(segments) => segments,
    }
}

/// Name of a segment's file: timeline, high and low number, in eight hexadecimal digits each,
/// as in PostgreSQL. The numbers count segments within each 4 GiB of log.
pub fn segment_name(timeline: Timeline, segment: u64, segment_bytes: u64) -> String {
    let per_name = segments_per_name(segment_bytes);
    format!(
        "{:08X}{:08X}{:08X}",
        timeline.get(),
        segment / per_name,
        segment % per_name
    )
}

/// Timeline and number of the segment with this file name; `None` if it is no segment's name at
/// this segment size, or of one beyond every log.
pub fn parse_segment_name(name: &str, segment_bytes: u64) -> Option<(Timeline, u64)> {
    let digits = name.len() == 24
        && name
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    if !digits {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(name.get(at..at + 8)?, 16).ok();
    let per_name = segments_per_name(segment_bytes);
    let (high, low) = (u64::from(part(8)?), u64::from(part(16)?));
    let number = high.checked_mul(per_name)?.checked_add(low)?;
    let end = number.checked_add(1)?.checked_mul(segment_bytes)?;
    (low < per_name && end <= LOG_BYTES_MAX).then_some((Timeline::new(part(0)?), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn positions_and_lsns_are_inverse() {
        let interesting = (0..4 * USABLE).step_by(7).chain((1..5).flat_map(|page| {
            let edge = page * USABLE;
            edge - 9..edge + 9
        }));
        for position in interesting {
            let (start, end) = (pos_to_start_lsn(position), pos_to_end_lsn(position));
            assert_eq!(lsn_to_pos(start), position);
            assert_eq!(lsn_to_pos(end), position);
            assert!(
                start.get() % PAGE >= HEADER,
                "a record never starts in a header"
            );
            assert!(end <= start);
            assert_eq!(end == start, position % USABLE != 0);
            assert_eq!(start_after(end), start);
        }
    }

    #[test]
    fn positions_grow_with_lsns_by_hand() {
        assert_eq!(pos_to_start_lsn(0), Lsn::new(40));
        assert_eq!(pos_to_end_lsn(0), Lsn::new(0));
        assert_eq!(pos_to_end_lsn(8152), Lsn::new(8192));
        assert_eq!(pos_to_start_lsn(8152), Lsn::new(8232));
        assert_eq!(pos_to_end_lsn(8160), Lsn::new(8240));
        assert_eq!(lsn_to_pos(Lsn::new(8192 + 3)), 8152, "inside a header");
    }

    #[test]
    fn segment_names_are_postgresqls() {
        let timeline = Timeline::new(1);
        for (segment, name) in [
            (0, "000000010000000000000000"),
            (1, "000000010000000000000001"),
            (255, "0000000100000000000000FF"),
            (256, "000000010000000100000000"),
        ] {
            assert_eq!(segment_name(timeline, segment, SEGMENT), name);
            assert_eq!(parse_segment_name(name, SEGMENT), Some((timeline, segment)));
        }
        for bad in [
            "",
            "00000001000000000000000",
            "0000000100000000000000001",
            "000000010000000000000100",
            "00000001000000000000000a",
            "+0000001000000000000000F",
            "pg_internal.init.tmp.000",
        ] {
            assert_eq!(parse_segment_name(bad, SEGMENT), None, "{bad}");
        }
    }

    #[test]
    fn no_name_and_no_size_leads_beyond_the_numbers() {
        let timeline = Timeline::new(u32::MAX);
        for segment_bytes in [0, 1, 16 << 10, SEGMENT, 1 << 30, 1 << 31, 1 << 33, u64::MAX] {
            for name in ["F", "0", "7", "8"].map(|digit| digit.repeat(24)) {
                if let Some((_, number)) = parse_segment_name(&name, segment_bytes) {
                    let end = segment_start(number + 1, segment_bytes);
                    assert!(end.get() <= LOG_BYTES_MAX, "{name} at {segment_bytes}");
                }
            }
            for segment in [0, 1, u64::MAX] {
                let _ = segment_name(timeline, segment, segment_bytes);
                let _ = segment_start(segment, segment_bytes);
            }
        }
        for lsn in [0, 1, LOG_BYTES_MAX, u64::MAX - 8191, u64::MAX].map(Lsn::new) {
            let _ = (start_after(lsn), page_start(lsn), lsn_to_pos(lsn));
        }
    }

    #[test]
    fn header_round_trips_and_every_flipped_bit_is_named() {
        let header = WalPageHeader {
            timeline: Timeline::new(3),
            address: Lsn::new(0x1_0000_2000),
            remaining: 80,
            durable_lsn: Lsn::new(0x1_0000_1000),
            system_identifier: 0xFEED_BEEF_0BAD_CAFE,
        };
        let bytes = header.encode();
        assert_eq!(WalPageHeader::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(WalPageHeader::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(WalPageHeader::decode(&[0; 40]), Err(WalPageError::Zero));
        assert_eq!(
            WalPageHeader::decode(&bytes[..39]),
            Err(WalPageError::Short(39))
        );
        let elsewhere = WalPageHeader::decode_at(&bytes, Lsn::new(0), header.system_identifier);
        assert_eq!(
            elsewhere,
            Err(WalPageError::Address {
                found: header.address
            })
        );
        let other = WalPageHeader::decode_at(&bytes, header.address, 1);
        assert!(matches!(other, Err(WalPageError::System { .. })));
    }
}

//! Identifiers as types, so that a block number never passes for a frame number.
//!
//! Invariant: the inner number is private; whoever needs it says so by `get()`.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the number.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }
            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Number of a relation file under `base/`; never used again after a drop. 0 is no file.
    FileNo(u32)
);
number!(
    /// Index of a page within a relation file.
    BlockNo(u32)
);
number!(
    /// Index of a frame in shared buffers.
    FrameNo(u32)
);
number!(
    /// A line of WAL history; the first is 1.
    Timeline(u32)
);
number!(
    /// How many times the server has been started for writing; part of every WAL record.
    StartCount(u32)
);
number!(
    /// Number of a double-write batch; grows without end.
    BatchNo(u64)
);

/// A byte position in the endless write-ahead log.
///
/// Printed as PostgreSQL prints it: high and low half in hex, `1/6B374D8`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every record; "none yet".
    pub const ZERO: Lsn = Lsn(0);
    /// After every record.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Wraps a byte position.
    pub const fn new(position: u64) -> Self {
        Self(position)
    }
    /// The byte position.
    pub const fn get(self) -> u64 {
        self.0
    }
    /// Bytes from `earlier` to here; 0 if `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not of the form `HIGH/LOW` in hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLsn(pub String);

impl fmt::Display for BadLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not an LSN: expected two hexadecimal numbers, as in 1/6B374D8",
            self.0
        )
    }
}

impl std::error::Error for BadLsn {}

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |digits: &str| {
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            if !plain {
                None
            } else {
                u32::from_str_radix(digits, 16).ok()
            }
        };
        match (half(high), half(low)) {
            (Some(high), Some(low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            _ => Err(bad()),
        }
    }
}

/// Which page: its relation file and block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageTag {
    /// The relation file.
    pub file: FileNo,
    /// The block in it.
    pub block: BlockNo,
}

impl PageTag {
    /// The page `block` of `file`.
    pub const fn new(file: FileNo, block: BlockNo) -> Self {
        Self { file, block }
    }
    /// Both numbers in one word, file high; orders as the pair does.
    pub const fn to_u64(self) -> u64 {
        (self.file.0 as u64) << 32 | self.block.0 as u64
    }
    /// The inverse of [`PageTag::to_u64`].
    pub const fn from_u64(word: u64) -> Self {
        Self {
            file: FileNo((word >> 32) as u32),
            block: BlockNo(word as u32),
        }
    }
}

impl fmt::Display for PageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} block {}", self.file, self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_prints_and_parses_as_postgresql_does() {
        for (number, text) in [
            (0, "0/0"),
            (0x1_06B3_74D8, "1/6B374D8"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn::new(number).to_string(), text);
            assert_eq!(text.parse::<Lsn>(), Ok(Lsn::new(number)));
        }
        for bad in ["", "/", "1", "1/", "/1", "+1/2", "1/100000000", "g/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} must not parse");
        }
    }

    #[test]
    fn page_tag_word_round_trips_and_orders() {
        let low = PageTag::new(FileNo::new(1), BlockNo::new(u32::MAX));
        let high = PageTag::new(FileNo::new(2), BlockNo::new(0));
        assert!(low < high && low.to_u64() < high.to_u64());
        assert_eq!(PageTag::from_u64(low.to_u64()), low);
    }
}

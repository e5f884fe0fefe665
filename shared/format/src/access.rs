//! Whether a namespace can be read and written: as the catalog and `pg_control` say it.

use std::fmt;

/// What may be done with a namespace. Its file is *closed* while it cannot be written: complete on
/// disk, and unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// It is read and written.
    pub const READ_WRITE: Access = Access(0);
    /// It is read only.
    pub const READ_ONLY: Access = Access(1);
    /// It is neither read nor written, and its file may be away.
    pub const OFFLINE: Access = Access(2);

    /// The access with this number; 3 is that of a namespace that is read only once it is online.
    pub fn from_bits(bits: u32) -> Option<Access> {
        (bits <= 3).then_some(Access(bits as u8))
    }

    /// Its number.
    pub fn bits(self) -> u32 {
        u32::from(self.0)
    }

    /// Both restrictions.
    #[must_use]
    pub fn with(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    /// Without this restriction.
    #[must_use]
    pub fn without(self, other: Access) -> Access {
        Access(self.0 & !other.0)
    }

    /// Whether it cannot even be read.
    pub fn is_offline(self) -> bool {
        self.0 & Access::OFFLINE.0 != 0
    }

    /// Whether it is to be read only, if online.
    pub fn is_read_only(self) -> bool {
        self.0 & Access::READ_ONLY.0 != 0
    }

    /// Whether it can be written.
    pub fn is_writable(self) -> bool {
        self == Access::READ_WRITE
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "read write",
            1 => "read only",
            _ => "offline",
        })
    }
}

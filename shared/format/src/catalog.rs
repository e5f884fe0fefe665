//! The values of the catalog: relation file 1 maps the names of namespaces to these.

use crate::access::Access;
use crate::layout::on_disk;
use rd_base::FileNo;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

/// The relation file of the catalog.
pub const CATALOG_FILE: FileNo = FileNo::new(1);
/// The relation file of the first database when a data directory is made.
pub const FIRST_FILE: FileNo = FileNo::new(2);

on_disk! {
    /// Value of a catalog entry; its key is the namespace's name.
    pub struct CatalogValueBytes: 16 {
        /// The relation file that the namespace lies in; 0 if it has none.
        0 file: U32,
        /// The file that it lay in before this entry was written: dropped by the same record. 0 is
        /// none.
        4 previous: U32,
        /// The namespace's place in the table in shared memory.
        8 index: U16,
        /// 1 if the namespace is empty and has no file, else 0.
        10 is_empty: u8,
        /// What may be done with it: 0 read and write, 1 read only, 2 offline, 3 offline and then read
        /// only.
        11 access: u8,
        /// Zero.
        12 reserved: [u8; 4],
    }
}

/// What the catalog says of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogValue {
    /// The relation file that the namespace lies in; none if it is empty.
    pub file: Option<FileNo>,
    /// The file that it lay in before this entry was written: dropped by the same record.
    pub previous: Option<FileNo>,
    /// The namespace's place in the table in shared memory.
    pub index: u16,
    /// What may be done with it.
    pub access: Access,
}

impl CatalogValue {
    /// The value as it stands in the leaf.
    pub fn encode(&self) -> [u8; CatalogValueBytes::BYTES] {
        let value = CatalogValueBytes {
            file: U32::new(self.file.map_or(0, FileNo::get)),
            previous: U32::new(self.previous.map_or(0, FileNo::get)),
            index: U16::new(self.index),
            is_empty: u8::from(self.file.is_none()),
            access: self.access.bits() as u8,
            reserved: [0; 4],
        };
        let mut bytes = [0; CatalogValueBytes::BYTES];
        bytes.copy_from_slice(value.as_bytes());
        bytes
    }

    /// Reads a value; `None` if it is none.
    pub fn decode(bytes: &[u8]) -> Option<CatalogValue> {
        let value = CatalogValueBytes::read_from_bytes(bytes).ok()?;
        let file = |number: U32| Some(FileNo::new(number.get())).filter(|file| file.get() != 0);
        // The catalog is no namespace, and behind the last number there is no file.
        let numbers = [value.file.get(), value.previous.get()];
        let is_file = |number: &u32| {
            *number != CATALOG_FILE.get() && *number <= rd_base::limits::GROWING_U32_MAX
        };
        if !numbers.iter().all(is_file) {
            return None;
        }
        if file(value.file).is_none() != (value.is_empty == 1) || value.is_empty > 1 {
            return None;
        }
        Some(CatalogValue {
            file: file(value.file),
            previous: file(value.previous),
            index: value.index.get(),
            access: Access::from_bits(u32::from(value.access))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back_and_others_do_not() {
        let files = [None, Some(FileNo::new(7))];
        for (file, previous) in files
            .iter()
            .flat_map(|file| files.map(|other| (*file, other)))
        {
            let value = CatalogValue {
                file,
                previous,
                index: 3,
                access: Access::OFFLINE,
            };
            assert_eq!(CatalogValue::decode(&value.encode()), Some(value));
        }
        assert_eq!(CatalogValue::decode(&[0; 16]), None);
        assert_eq!(CatalogValue::decode(&[1; 15]), None);
        for number in [1, u32::MAX] {
            let file = Some(FileNo::new(number));
            for (file, previous) in [(file, None), (Some(FIRST_FILE), file)] {
                let value = CatalogValue {
                    file,
                    previous,
                    index: 3,
                    access: Access::READ_WRITE,
                };
                assert_eq!(CatalogValue::decode(&value.encode()), None, "{value:?}");
            }
        }
    }
}

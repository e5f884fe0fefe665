//! How a fixed on-disk struct is declared: fields with their offsets and a sentence each, from
//! which come the struct, the compile-time assertions and the table in the documents.

/// One field of a fixed struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Offset from the start of the struct, in bytes.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
    /// The field's name in the code.
    pub name: &'static str,
    /// What it holds, one line per element.
    pub doc: &'static [&'static str],
}

/// The description of a fixed struct.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The struct's name in the code.
    pub name: &'static str,
    /// Its length in bytes.
    pub bytes: usize,
    /// What it is, one line per element.
    pub doc: &'static [&'static str],
    /// Its fields in order, without gaps.
    pub fields: &'static [Field],
}

/// Declares a fixed on-disk struct: `offset name: type` for each field.
macro_rules! on_disk {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident: $bytes:literal {
            $( $(#[doc = $field_doc:literal])+ $offset:literal $field:ident: $kind:ty, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $( $(#[doc = $field_doc])+ pub $field: $kind, )+
        }

        const _: () = {
            assert!(std::mem::size_of::<$name>() == $bytes);
            $( assert!(std::mem::offset_of!($name, $field) == $offset); )+
        };

        impl $name {
            /// Length on disk.
            pub const BYTES: usize = $bytes;
            /// The layout, for the documents.
            pub const TABLE: crate::layout::Table = crate::layout::Table {
                name: stringify!($name),
                bytes: $bytes,
                doc: &[$($doc),+],
                fields: &[$( crate::layout::Field {
                    offset: $offset,
                    bytes: std::mem::size_of::<$kind>(),
                    name: stringify!($field),
                    doc: &[$($field_doc),+],
                } ),+],
            };

            /// All bytes zero.
            pub fn zeroed() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}

pub(crate) use on_disk;

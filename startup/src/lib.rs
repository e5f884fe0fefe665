//! Placeholder; the crate's purpose is written here as it is built.

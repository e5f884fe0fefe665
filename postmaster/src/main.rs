//! The postmaster: births, deaths, signals, admission. It touches no page and takes no latch.

mod restart;
mod state;

fn main() {}

//! Fuzzing of `rd_tests::fuzz::history`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rd_tests::fuzz::history(input));

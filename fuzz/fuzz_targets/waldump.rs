//! Fuzzing of `rd_tests::fuzz::waldump`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rd_tests::fuzz::waldump(input));

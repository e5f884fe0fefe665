//! Hints to the processor: what will be wanted soon is brought into its caches while it does
//! something else. A miss costs as much as hundreds of instructions, so whoever knows of several
//! places in advance asks for all of them before he goes to the first.

/// Bytes that a cache fetches at a time.
pub const LINE_BYTES: usize = 64;

/// Asks for the cache line in which `place` begins.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    prefetch_at(std::ptr::from_ref(place).cast());
}

/// Asks for the cache line of the byte `at` of `bytes`; for none if there is no such byte.
#[inline(always)]
pub fn prefetch_byte(bytes: &[u8], at: usize) {
    if let Some(byte) = bytes.get(at) {
        prefetch(byte);
    }
}

/// Asks for the cache line at `address`, which may be any.
#[inline(always)]
pub(crate) fn prefetch_at(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing that a program can see, faults at no address, and every
    // x86-64 processor has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

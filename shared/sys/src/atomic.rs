//! The atomics of shared memory: what processes see of one another, they see through these.
//!
//! In the server they are the standard library's. Under the feature `sim` they are wrappers of the
//! same layout, and before each operation the logical process that runs ([`crate::simproc`]) takes a
//! step: after as many as its scheduler gave it, it pauses there, and others go on. So a simulated
//! server is interleaved wherever one of its processes can see what another has done.
//!
//! This is what the crate shuttle does with atomics and threads of its own. Its atomics keep a state
//! beside the number, on the heap, and so cannot lie in shared memory, which is plain numbers and
//! valid when zero; its ways of choosing who goes on are in `simsched`, for our own processes.
//!
//! Invariant: who runs on one thread in turn sees memory in one order, so what is explored is every
//! interleaving and no reordering. Orders that are too weak are for the model checks to find: of latches
//! and events (`model.rs`), and of what is written against [`Number`] (`store/src/reorderings.rs`).

pub use std::sync::atomic::{Ordering, fence};

#[cfg(not(feature = "sim"))]
pub use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

#[cfg(feature = "sim")]
pub use stepping::{AtomicI64, AtomicU32, AtomicU64};

/// An atomic number, as protocols see it that the model checker runs too, on numbers of its own.
pub trait Number {
    /// The number.
    fn load(&self, order: Ordering) -> u64;
    /// Makes it `value`.
    fn store(&self, value: u64, order: Ordering);
    /// Adds `value`; gives what it was.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Raises it to `value`, if it is less; gives what it was.
    fn fetch_max(&self, value: u64, order: Ordering) -> u64;
    /// Orders all before it against all after it, stores against loads too.
    fn full_fence();
}

impl Number for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
    #[inline(always)]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_add(self, value, order)
    }
    #[inline(always)]
    fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_max(self, value, order)
    }
    #[inline(always)]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(feature = "sim")]
mod stepping {
    use crate::simproc::step;
    use std::fmt;
    use std::sync::atomic::Ordering;
    use zerocopy::{FromBytes, KnownLayout};

    /// Operations that take a number and give the one before.
    macro_rules! exchanging {
        ($number:ty, $($operation:ident)*) => {
            $(
                #[inline(always)]
                pub fn $operation(&self, value: $number, order: Ordering) -> $number {
                    step();
                    self.0.$operation(value, order)
                }
            )*
        };
    }

    macro_rules! stepping {
        ($name:ident, $number:ty) => {
            /// As the standard library's, and each operation is a step of the logical process.
            #[derive(FromBytes, KnownLayout, Default)]
            #[repr(transparent)]
            pub struct $name(std::sync::atomic::$name);

            const _: () = assert!(
                size_of::<$name>() == size_of::<$number>()
                    && align_of::<$name>() == align_of::<std::sync::atomic::$name>()
            );

            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Debug::fmt(&self.0, f)
                }
            }

            #[allow(missing_docs)]
            impl $name {
                pub const fn new(value: $number) -> Self {
                    Self(std::sync::atomic::$name::new(value))
                }

                pub const fn into_inner(self) -> $number {
                    self.0.into_inner()
                }

                /// Where it lies; no step.
                pub const fn as_ptr(&self) -> *mut $number {
                    self.0.as_ptr()
                }

                #[inline(always)]
                pub fn load(&self, order: Ordering) -> $number {
                    step();
                    self.0.load(order)
                }

                #[inline(always)]
                pub fn store(&self, value: $number, order: Ordering) {
                    step();
                    self.0.store(value, order);
                }

                #[inline(always)]
                pub fn compare_exchange(
                    &self,
                    now: $number,
                    new: $number,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    step();
                    self.0.compare_exchange(now, new, success, failure)
                }

                #[inline(always)]
                pub fn compare_exchange_weak(
                    &self,
                    now: $number,
                    new: $number,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$number, $number> {
                    step();
                    // One that fails by chance would not be the same twice.
                    self.0.compare_exchange(now, new, success, failure)
                }

                exchanging!($number, swap fetch_add fetch_sub fetch_and fetch_or fetch_xor);
                exchanging!($number, fetch_max fetch_min);

                pub fn fetch_update(
                    &self,
                    set: Ordering,
                    fetch: Ordering,
                    mut update: impl FnMut($number) -> Option<$number>,
                ) -> Result<$number, $number> {
                    let mut now = self.load(fetch);
                    while let Some(new) = update(now) {
                        match self.compare_exchange(now, new, set, fetch) {
                            Ok(before) => return Ok(before),
                            Err(other) => now = other,
                        }
                    }
                    Err(now)
                }
            }
        };
    }

    stepping!(AtomicU32, u32);
    stepping!(AtomicU64, u64);
    stepping!(AtomicI64, i64);
}

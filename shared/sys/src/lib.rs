//! The one room that may hold `unsafe`: what Redoubt needs from the operating system, behind an
//! interface that is safe and has no hidden contract.
//!
//! * [`shm`], [`frame`]: the shared segment, its plan, typed areas and page frames;
//! * [`atomic`]: the atomics that it holds;
//! * [`latch`], [`futex`], [`event`]: waiting and waking across processes;
//! * [`prefetch`]: hints to the processor's caches;
//! * [`fork`], [`process`], [`signals`], [`crash`], [`title`], [`fdpass`], [`lockfile`],
//!   [`deathwatch`]: the life of a process;
//! * [`cpu`]: how busy the processors are;
//! * [`storage`], [`clock`], [`random`], [`fault`]: seams that a test can take hold of;
//!   [`shortage`]: errors that say nothing about a file;
//!   `simdisk`, `simproc`, `simsched`, `watchdog`, `memory`: for tests.
//!
//! Invariants of the whole crate:
//!
//! * No public function or type can be misused from safe code so that memory is shared wrongly:
//!   regions come from one [`shm::Plan`], so they never overlap; the bytes of a frame are reached
//!   only through a guard of its latch; shared types hold plain numbers and atomics.
//! * Every `unsafe` block holds one operation and says why it is sound.
//! * What waits can be killed: futex waits end at a signal whose handler leaves the process.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod atomic;
pub mod clock;
pub mod cpu;
pub mod crash;
pub mod deathwatch;
pub mod event;
pub mod fault;
pub mod fdpass;
pub mod fork;
pub mod frame;
pub mod futex;
#[cfg(miri)]
mod heap;
mod held;
pub mod latch;
pub mod lockfile;
#[cfg(feature = "sim")]
pub mod memory;
#[cfg(all(test, feature = "loom"))]
mod model;
pub mod prefetch;
pub mod process;
pub mod random;
mod rawcondition;
mod rawlatch;
pub mod shm;
pub mod shortage;
pub mod signals;
#[cfg(feature = "sim")]
pub mod simdisk;
#[cfg(feature = "sim")]
pub mod simproc;
#[cfg(feature = "sim")]
pub mod simsched;
pub mod storage;
pub mod title;
#[cfg(feature = "sim")]
pub mod watchdog;
mod word;

pub use event::{Event, EventCell};
pub use frame::{FrameRead, FrameWrite, Frames, FramesRegion, PageBytes};
pub use futex::Condition;
pub use latch::{Latch, RwLatch};
pub use shm::{Area, One, Plan, Region, Segment, ShmError, ShmSafe};
pub use shortage::Shortage;

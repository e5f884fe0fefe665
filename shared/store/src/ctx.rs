//! What a process holds: its context as the postmaster hands it over at the fork, and the store,
//! which is all that the engine needs of it.

use crate::checkpoint::StopOrder;
use crate::control_file::GLOBAL_DIR;
use crate::procs::SlotNo;
use crate::relation::{BASE_DIR, RelationFiles};
use crate::shared::Shared;
use crate::wal::WAL_DIR;
use rd_base::counters::Counter;
use rd_base::{Config, Role, logline};
use rd_sys::clock::Clock;
use rd_sys::deathwatch::DeathWatch;
use rd_sys::fdpass::Channel;
use rd_sys::storage::{RealStorage, Storage};
use std::path::PathBuf;
use std::sync::Arc;

/// The directories in which a server makes names.
const DIRECTORIES: [&str; 3] = [BASE_DIR, GLOBAL_DIR, WAL_DIR];

/// Logged of a signal to stop that came from somebody else.
pub const STRAY_STOP: &str = "ignoring a signal to stop that the postmaster has not sent";

/// What the postmaster gives to a child that it forks.
pub struct ChildContext {
    /// What the child is for.
    pub role: Role,
    /// The data directory, as the child reaches it.
    pub data_dir: PathBuf,
    /// The configuration at the time of the fork.
    pub config: Arc<Config>,
    /// [`Shared::file_reads`] of that configuration.
    pub file_reads: u64,
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// A backend's socket to the postmaster, over which its connections come.
    pub connections: Option<Channel>,
    /// Tells when the postmaster is gone.
    pub death_watch: DeathWatch,
}

impl ChildContext {
    /// The child's slot in shared memory.
    pub fn slot(&self) -> SlotNo {
        SlotNo::of(self.role).expect("every child has a slot")
    }

    /// Whether the SIGTERM that has come is the postmaster's order to leave. If it is not, the log says
    /// that it is ignored.
    pub fn is_told_to_leave(&self) -> bool {
        let order = match self.role {
            Role::Walwriter => StopOrder::LastFlush,
            _ => StopOrder::Leave,
        };
        let is_ordered = self.shared.checkpoint.is_stop_ordered(order);
        if !is_ordered {
            log::warn!("{STRAY_STOP}");
        }
        is_ordered
    }

    /// Takes the slot and opens the store of this process, on the real disk and the real clock.
    pub fn store(&self) -> Store {
        let slot = self.slot();
        self.shared.procs.set_pid(slot, std::process::id());
        let data_dir = self.data_dir.clone();
        let storage: Arc<dyn Storage> = match self.role {
            // They make no names.
            Role::Backend(_) => Arc::new(RealStorage::new(data_dir)),
            _ => Arc::new(RealStorage::holding(data_dir, &DIRECTORIES)),
        };
        let shared = Arc::clone(&self.shared);
        Store::new(shared, storage, Clock::Real, slot, Arc::clone(&self.config))
    }

    /// Takes up the configuration that has changed, what is logged included, as SIGHUP says: what CONFIG
    /// SET has set, and the files if the postmaster has read them again. What is wrong with them it has logged.
    pub fn reload(&mut self) -> Arc<Config> {
        let file_reads = self.shared.file_reads();
        let overrides = self.shared.overrides();
        let reloaded = if file_reads == self.file_reads {
            self.config.with_overrides(&overrides)
        } else {
            self.config.reload(&overrides)
        };
        self.file_reads = file_reads;
        self.config = Arc::new(reloaded.config);
        logline::set_level(self.config.log_min_messages());
        Arc::clone(&self.config)
    }
}

/// One process's hold on what is shared and what lies on disk.
#[derive(Clone)]
pub struct Store {
    /// Shared memory.
    pub shared: Arc<Shared>,
    /// The data directory.
    pub storage: Arc<dyn Storage>,
    /// The clock.
    pub clock: Clock,
    /// This process's slot.
    pub slot: SlotNo,
    /// The configuration; replaced whole by whoever owns the store when it changes.
    pub config: Arc<Config>,
    /// This process's open relation files, to be read.
    pub relations: Arc<RelationFiles>,
}

impl Store {
    /// The store of the process in `slot`.
    pub fn new(
        shared: Arc<Shared>,
        storage: Arc<dyn Storage>,
        clock: Clock,
        slot: SlotNo,
        config: Arc<Config>,
    ) -> Store {
        let relations = Arc::new(RelationFiles::reader(Arc::clone(&storage)));
        Store {
            shared,
            storage,
            clock,
            slot,
            config,
            relations,
        }
    }

    /// Counts one `counter` for this process.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.shared.stats.add(self.slot, counter, 1);
    }

    /// Adds `count` to `counter` for this process.
    #[inline]
    pub fn add(&self, counter: Counter, count: u64) {
        self.shared.stats.add(self.slot, counter, count);
    }
}

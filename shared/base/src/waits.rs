//! What a process can wait for: one table, shown per process in `CLIENT LIST` and reports.

macro_rules! waits {
    ($( $id:ident $name:literal $help:literal; )*) => {
        /// Why a process sleeps. The number lies in its slot of shared memory.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Wait { $( #[doc = $help] $id, )* }

        impl Wait {
            /// All reasons; [`Wait::None`] is the first.
            pub const ALL: &[Wait] = &[$( Wait::$id, )*];
            /// The word for reports.
            pub const fn name(self) -> &'static str {
                match self { $( Wait::$id => $name, )* }
            }
            /// One line of explanation.
            pub const fn help(self) -> &'static str {
                match self { $( Wait::$id => $help, )* }
            }
        }
    };
}

waits! {
    None "none" "Running, not waiting.";
    Idle "idle" "Waiting for a client, a request or the next turn of the loop.";
    Latch "latch" "Waiting for a latch that another process holds.";
    WalFlush "wal_flush" "Waiting for the log to become durable.";
    WalWrite "wal_write" "Writing the log.";
    WalSync "wal_sync" "Forcing the log to disk.";
    WalRing "wal_ring" "Waiting for room in the log's ring.";
    WalSegment "wal_segment" "Waiting for a log segment to be created.";
    CommitCredit "commit_credit" "A commit waits for credit: log, ring, or pages.";
    CleanFrame "clean_frame" "Waiting for a clean frame of shared buffers.";
    PageRead "page_read" "Reading a page.";
    PageWrite "page_write" "Writing a page.";
    FileSync "file_sync" "Forcing a relation file to disk.";
    FileExtend "file_extend" "Growing a relation file.";
    DoubleWrite "double_write" "Writing or forcing the double-write area.";
    ControlFile "control_file" "Writing pg_control.";
    CheckpointPace "checkpoint_pace" "Spreading the writes of a checkpoint.";
    CheckpointDone "checkpoint_done" "Waiting for a checkpoint to be complete.";
    RecoveryRead "recovery_read" "Reading the log to replay it.";
}

impl Wait {
    /// The inverse of `as u8`.
    pub fn from_number(number: u8) -> Option<Wait> {
        Wait::ALL.get(usize::from(number)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_back_and_names_differ() {
        for (index, wait) in Wait::ALL.iter().copied().enumerate() {
            assert_eq!(Wait::from_number(wait as u8), Some(wait));
            let others = &Wait::ALL[..index];
            assert!(others.iter().all(|other| other.name() != wait.name()));
        }
        assert_eq!(Wait::from_number(u8::MAX), None);
    }
}

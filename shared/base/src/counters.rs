//! What the server counts: one table. Statistics in shared memory are an array of `u64` in its
//! order, one array for each process; `INFO` and the documentation are made from it.
//!
//! The order may change with any version: the numbers live in memory only.

/// The section of `INFO` that shows a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InfoSection {
    /// Redis's section of the same name, with Redis's field names.
    Stats,
    /// The write-ahead log.
    Wal,
    /// Checkpoints and page writes.
    Checkpoint,
    /// Buffers, trees and transactions.
    Storage,
}

impl InfoSection {
    /// The name that `INFO` takes.
    pub const fn name(self) -> &'static str {
        match self {
            InfoSection::Stats => "stats",
            InfoSection::Wal => "wal",
            InfoSection::Checkpoint => "checkpoint",
            InfoSection::Storage => "storage",
        }
    }
}

macro_rules! counters {
    ($( $section:ident { $( $id:ident $name:literal $help:literal; )* } )*) => {
        /// A counter's place in the array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Counter { $( $( #[doc = $help] $id, )* )* }

        impl Counter {
            /// All counters, in the order of the array.
            pub const ALL: &[Counter] = &[$( $( Counter::$id, )* )*];
            /// How many there are.
            pub const COUNT: usize = Counter::ALL.len();
            /// The field's name in `INFO`.
            pub const fn name(self) -> &'static str {
                match self { $( $( Counter::$id => $name, )* )* }
            }
            /// Where `INFO` shows it.
            pub const fn section(self) -> InfoSection {
                match self { $( $( Counter::$id => InfoSection::$section, )* )* }
            }
            /// What it counts, in one line.
            pub const fn help(self) -> &'static str {
                match self { $( $( Counter::$id => $help, )* )* }
            }
        }
    };
}

counters! {
Stats {
    ConnectionsReceived "total_connections_received" "Connections accepted.";
    ConnectionsRejected "rejected_connections" "Connections refused: too many, or not serving.";
    CommandsProcessed "total_commands_processed" "Commands run.";
    NetInputBytes "total_net_input_bytes" "Bytes read from clients.";
    NetOutputBytes "total_net_output_bytes" "Bytes written to clients.";
    ErrorReplies "total_error_replies" "Error replies sent.";
    KeyspaceHits "keyspace_hits" "Keys looked up and found.";
    KeyspaceMisses "keyspace_misses" "Keys looked up and not found.";
    ExpiredKeys "expired_keys" "Keys removed because their time had come.";
    ProtocolErrors "protocol_errors" "Connections ended because of malformed input.";
    OutputPauses "client_output_pauses" "Times a connection reached client_output_max.";
    MemoryRefusals "backend_memory_refusals" "Commands refused by backend_memory_max.";
}
Wal {
    WalRecords "wal_records" "Records inserted.";
    WalBytes "wal_bytes" "Bytes of log inserted, page headers included.";
    WalBuffersFull "wal_buffers_full" "Times an insert waited because the ring was full.";
    WalWrites "wal_writes" "Writes of the log.";
    WalWriteBytes "wal_write_bytes" "Bytes written, pages written again included.";
    WalWriteMicros "wal_write_us" "Microseconds spent writing.";
    WalSyncs "wal_syncs" "Times the log was forced to disk.";
    WalSyncMicros "wal_sync_us" "Microseconds spent forcing.";
    FlushesByWalwriter "flushes_by_walwriter" "Flushes done by the walwriter.";
    FlushesByBackend "flushes_by_backend" "Flushes that backends did themselves.";
    FlushesByCheckpointer "flushes_by_checkpointer" "Flushes done by the checkpointer.";
    WalSegmentsCreated "wal_segments_created" "Segments made and filled with zeros.";
    WalSegmentsRecycled "wal_segments_recycled" "Old segments given a new name.";
    WalSegmentsRemoved "wal_segments_removed" "Old segments removed.";
}
Checkpoint {
    CheckpointsTimed "checkpoints_timed" "Checkpoints because of checkpoint_timeout.";
    CheckpointsWal "checkpoints_wal" "Checkpoints because of max_wal_size.";
    CheckpointsRequested "checkpoints_requested" "Checkpoints asked for by command.";
    CheckpointsBackup "checkpoints_backup" "Checkpoints asked for before a backup.";
    CheckpointsShutdown "checkpoints_shutdown" "Shutdown checkpoints.";
    CheckpointsRecovery "checkpoints_end_of_recovery" "End-of-recovery checkpoints.";
    CheckpointsNamespace "checkpoints_namespace" "Checkpoints of a single namespace.";
    CheckpointsFailed "checkpoints_failed" "Attempts that failed.";
    Heartbeats "checkpoint_heartbeats" "Times pg_control took up the durable LSN between two.";
    RedoAdvances "redo_point_advances" "Times the redo point advanced between two checkpoints.";
    CheckpointWriteMicros "checkpoint_write_us" "Microseconds of writing, pauses included.";
    CheckpointSyncMicros "checkpoint_sync_us" "Microseconds of forcing files to disk.";
    CheckpointRests "checkpoint_rests_for_commits" "Times a late checkpoint rested for commits.";
    CommitsSlowedWal "commits_slowed_wal" "Commits slowed because the log neared max_wal_size.";
    CommitsSlowedWalMicros "commits_slowed_wal_us" "Microseconds for which they were.";
    CommitsSlowedFrames "commits_slowed_frames" "Commits slowed because clean frames ran short.";
    CommitsSlowedFramesMicros "commits_slowed_frames_us" "Microseconds for which they were.";
    CommitsSlowedStop "commits_slowed_stop" "Commits slowed because the server was stopping.";
    CommitsSlowedStopMicros "commits_slowed_stop_us" "Microseconds for which they were.";
    PagesWrittenTimed "pages_written_timed" "Pages written for timed checkpoints.";
    PagesWrittenWal "pages_written_wal" "Pages written for checkpoints by log size.";
    PagesWrittenRequested "pages_written_requested" "Pages written for requested ones.";
    PagesWrittenShutdown "pages_written_shutdown" "Pages written for shutdown ones.";
    PagesWrittenRecovery "pages_written_end_of_recovery" "Pages written for those after recovery.";
    PagesWrittenIncremental "pages_written_incremental" "Pages written for the recovery time.";
    PagesWrittenSupply "pages_written_supply" "Pages written to keep clean frames in supply.";
    PagesWrittenScrub "pages_written_scrub" "Pages written because the scrub found them damaged.";
    PageWriteMicrosTimed "page_write_us_timed" "Microseconds of writing pages for timed checkpoints.";
    PageWriteMicrosWal "page_write_us_wal" "Microseconds of that for checkpoints by log size.";
    PageWriteMicrosRequested "page_write_us_requested" "Microseconds of that for requested ones.";
    PageWriteMicrosShutdown "page_write_us_shutdown" "Microseconds of that for shutdown ones.";
    PageWriteMicrosRecovery "page_write_us_end_of_recovery" "Microseconds of that after recovery.";
    PageWriteMicrosIncremental "page_write_us_incremental" "Microseconds of that for the recovery time.";
    PageWriteMicrosSupply "page_write_us_supply" "Microseconds of that to keep clean frames.";
    PageWriteMicrosScrub "page_write_us_scrub" "Microseconds of that for the scrub.";
    PageBytesWritten "page_bytes_written" "Bytes of pages written to their places.";
    DoubleWriteBatches "double_write_batches" "Batches written to the double-write area.";
    DoubleWriteSyncs "double_write_syncs" "Times the double-write area was forced to disk.";
    DoubleWriteBytes "double_write_bytes" "Bytes written to the double-write area.";
    DoubleWriteMicros "double_write_us" "Microseconds spent writing and forcing it.";
    ControlWrites "control_file_writes" "Times pg_control was written and forced to disk.";
    ControlBytes "control_file_write_bytes" "Bytes written to it.";
    ControlMicros "control_file_us" "Microseconds spent on that.";
    FileWritebacks "relation_file_writebacks" "Times the system was asked to begin writing one.";
    FileSyncs "relation_file_syncs" "Times a relation file was forced to disk.";
    FileSyncMicros "relation_file_sync_us" "Microseconds spent on that.";
}
Storage {
    Commits "commits" "Transactions committed that wrote something.";
    Conflicts "conflicts" "Transactions refused because another committed first.";
    TransactionsTimedOut "transactions_timed_out" "Open transactions ended by a time limit.";
    CommitRetries "commit_retries" "Commits that let go of their leaves and began again.";
    ParkedCommits "parked_commits" "Commits that waited for credit.";
    BufferHits "buffer_hits" "Pages found in shared buffers.";
    PagesRead "pages_read" "Pages read from relation files.";
    PageReadMicros "page_read_us" "Microseconds spent reading them.";
    PagesReadAhead "pages_read_ahead" "Pages that redo told the system it would read.";
    PagesAllocated "pages_allocated" "Pages newly taken into use.";
    PagesFreed "pages_freed" "Pages given back.";
    FileExtensions "file_extensions" "Times a relation file grew.";
    FramesEvicted "frames_evicted" "Frames that were given another page.";
    CleanFrameWaits "clean_frame_waits" "Times a process waited for a clean frame.";
    LeafSplits "leaf_splits" "Leaves split.";
    InnerSplits "inner_splits" "Inner pages split, roots included.";
    LeavesRemoved "leaves_removed" "Emptied leaves taken out of their tree.";
    VersionsPruned "versions_pruned" "Versions dropped because no snapshot sees them.";
    VersionsSpilled "versions_spilled" "Versions moved to overflow pages.";
    OverflowPages "overflow_pages_written" "Overflow pages filled with values.";
    ChecksumFailures "checksum_failures" "Pages that failed their checksum when read.";
    ScrubRounds "scrub_rounds" "Times the scrub has come through all relation files.";
    ScrubPages "scrub_pages_checked" "Pages that the scrub has read from disk and checked.";
    ScrubMicros "scrub_read_us" "Microseconds it spent reading them.";
    ScrubReports "scrub_pages_reported" "Pages that it looked at because a read of them had failed.";
    ScrubBad "scrub_pages_bad" "Pages that it found damaged.";
    ScrubRepaired "scrub_pages_repaired" "Of those, the ones that it wrote anew.";
}
}

impl Counter {
    /// The counters of a section, in order.
    pub fn of_section(section: InfoSection) -> impl Iterator<Item = Counter> {
        Counter::ALL
            .iter()
            .copied()
            .filter(move |counter| counter.section() == section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_list_and_names_differ() {
        for (index, counter) in Counter::ALL.iter().copied().enumerate() {
            assert_eq!(counter as usize, index);
            let others = &Counter::ALL[..index];
            assert!(
                others.iter().all(|other| other.name() != counter.name()),
                "{counter:?}"
            );
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(counter.name().chars().all(plain), "{counter:?}");
        }
    }
}

//! Parameters whose value is one of a few words: each an enum, declared with its words.

/// An enum of words that a parameter can take.
pub trait Words: Copy + 'static {
    /// The words, in the order of the enum's members.
    const WORDS: &'static [&'static str];
}

macro_rules! words {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$member_doc:meta])* $member:ident $word:literal, )*
    } )*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$member_doc])* $member, )* }

        impl $name {
            /// Every member.
            pub const ALL: &[$name] = &[$( $name::$member, )*];
            /// The word, as a file writes it.
            pub const fn word(self) -> &'static str {
                match self { $( $name::$member => $word, )* }
            }
        }

        impl Words for $name {
            const WORDS: &'static [&'static str] = &[$( $word, )*];
        }
    )* };
}

words! {
    /// How the log is forced to disk.
    WalSyncMethod {
        /// `fdatasync` after writing.
        Fdatasync "fdatasync",
        /// `fsync` after writing.
        Fsync "fsync",
        /// Files opened with `O_DSYNC`, and `O_DIRECT` where the file system can.
        OpenDatasync "open_datasync",
        /// Files opened with `O_SYNC`, and `O_DIRECT` where the file system can.
        OpenSync "open_sync",
    }
    /// What guards against pages of which a power cut wrote only a part.
    TornPageProtection {
        /// Pages go to the double-write area first.
        DoubleWrite "double_write",
        /// The file system is trusted to write 8 kB atomically.
        Off "off",
    }
    /// Whether clients wait for the checkpoint that follows recovery.
    EndOfRecoveryCheckpoint {
        /// Clients are let in at once.
        AfterOpen "after_open",
        /// Clients wait until it is complete.
        BeforeOpen "before_open",
    }
    /// Whether redo tells the system of the pages that it will soon read.
    RecoveryPrefetch {
        /// It does.
        On "on",
        /// It does not.
        Off "off",
        /// It does if reads are slow.
        Try "try",
    }
    /// Least severe messages that are logged.
    LogMinMessages {
        /// Everything.
        Debug2 "debug2",
        /// What helps to follow the server's work.
        Debug1 "debug1",
        /// What an administrator wants to know.
        Log "log",
        /// What an administrator should look at.
        Warning "warning",
        /// What failed.
        Error "error",
    }
}

impl LogMinMessages {
    /// The filter for the `log` crate.
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            LogMinMessages::Debug2 => log::LevelFilter::Trace,
            LogMinMessages::Debug1 => log::LevelFilter::Debug,
            LogMinMessages::Log => log::LevelFilter::Info,
            LogMinMessages::Warning => log::LevelFilter::Warn,
            LogMinMessages::Error => log::LevelFilter::Error,
        }
    }
}

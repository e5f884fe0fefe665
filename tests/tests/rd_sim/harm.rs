//! How a disk harms a server, beside crashes: I/Os that fail, room that runs out for a while, lies. And
//! what the server may say of it: an operation may be refused, a start too, and the server may end by a
//! PANIC, for the reason that the disk gave, by name, and for no other.

use rd_engine::EngineError;
use rd_format::control::SLOT_BYTES;
use rd_format::history::RECORD_BYTES;
use rd_store::buffer::PageReadError;
use rd_sys::simdisk::{Injection, IoKind, Lie, Rng, SimStorage};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// I/Os of a kind, on paths with this text, that fail with this error of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: IoKind,
    path: &'static str,
    errno: i32,
}

const fn fault(kind: IoKind, path: &'static str, errno: i32) -> Fault {
    Fault { kind, path, errno }
}

const FAULTS: [Fault; 24] = [
    fault(IoKind::Sync, "wal/", EIO),
    fault(IoKind::Sync, "global/doublewrite", EIO),
    fault(IoKind::Sync, "base/", EIO),
    fault(IoKind::Sync, "global/pg_control", EIO),
    fault(IoKind::Sync, "global/history", EIO),
    fault(IoKind::SyncDir, "", EIO),
    fault(IoKind::Write, "base/", EIO),
    fault(IoKind::Write, "wal/", EIO),
    fault(IoKind::Write, "global/doublewrite", EIO),
    fault(IoKind::Write, "global/pg_control", EIO),
    fault(IoKind::Write, "global/history", EIO),
    fault(IoKind::Write, "", ENOSPC),
    fault(IoKind::Allocate, "", ENOSPC),
    fault(IoKind::Allocate, "", EIO),
    fault(IoKind::Read, "base/", EIO),
    fault(IoKind::Read, "wal", EIO),
    fault(IoKind::Create, "base/", EIO),
    fault(IoKind::Create, "wal/", EIO),
    fault(IoKind::Create, "", ENOSPC),
    fault(IoKind::Rename, "wal/", EIO),
    fault(IoKind::Remove, "base/", EIO),
    fault(IoKind::Remove, "wal/", EIO),
    fault(IoKind::Truncate, "", EIO),
    fault(IoKind::Truncate, "", ENOSPC),
];

/// What a start does besides.
const FAULTS_OF_STARTS: [Fault; 6] = [
    fault(IoKind::Read, "base", EIO),
    fault(IoKind::Read, "wal", EIO),
    fault(IoKind::Read, "global/doublewrite", EIO),
    fault(IoKind::Read, "global/pg_control", EIO),
    fault(IoKind::Read, "global/history", EIO),
    fault(IoKind::Sync, "", EIO),
];

/// When it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum When {
    /// Beside the work.
    #[default]
    Work,
    /// When the server is stopped.
    Stop,
    /// In a start.
    Start,
}

/// Room that runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The pauses of the work from which, and until which, there is next to none.
    pub from: u64,
    pub until: u64,
    /// Bytes that are left then.
    left: u64,
}

/// What a disk may lie about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Pages,
    Log,
    Control,
    Copies,
    History,
}

/// Each as often as it stands there.
const SUBJECTS: [Subject; 9] = [
    Subject::Pages,
    Subject::Pages,
    Subject::Pages,
    Subject::Log,
    Subject::Log,
    Subject::Control,
    Subject::Copies,
    Subject::Copies,
    Subject::History,
];

/// One out of so many lies is a write that lands a second time; in the others a bit rots.
const DOUBLED_ODDS: u64 = 3;

impl Subject {
    /// All of them, in their order.
    pub const ALL: [Subject; 5] = [
        Subject::Pages,
        Subject::Log,
        Subject::Control,
        Subject::Copies,
        Subject::History,
    ];

    /// What is in the paths of its files.
    fn path(self) -> &'static str {
        match self {
            Subject::Pages => "base/",
            // Not what is zeroed ahead.
            Subject::Log => "wal/0",
            Subject::Control => "global/pg_control",
            Subject::Copies => "global/doublewrite",
            Subject::History => "global/history",
        }
    }

    /// Writes that a life makes of it, about.
    fn writes(self) -> u64 {
        match self {
            Subject::Pages | Subject::Log => 40,
            Subject::Copies => 8,
            Subject::Control => 5,
            Subject::History => 3,
        }
    }

    fn lie(self, rng: &mut Rng) -> Lie {
        if rng.below(DOUBLED_ODDS) > 0 {
            // Headers are as likely to be met as all that lies behind them.
            let among = [64, 512, 1 << 13, 1 << 20][rng.below(4) as usize];
            return Lie::Rot(rng.below(among));
        }
        let step = match self {
            Subject::Pages | Subject::Log | Subject::Copies => 8192,
            Subject::Control => SLOT_BYTES as i64,
            Subject::History => RECORD_BYTES as i64,
        };
        let steps = 1 + rng.below(12) as i64;
        Lie::Doubled(match self {
            Subject::Pages => step * steps,
            Subject::Control => step,
            _ if rng.half() => step * steps,
            _ => -step * steps,
        })
    }
}

/// All that a disk does to one server.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Harm {
    pub when: When,
    faults: Vec<Fault>,
    pub full: Option<Full>,
    /// A lie about a write, after so many true ones.
    lie: Option<(Subject, Lie, u64)>,
}

impl Harm {
    /// A disk as it should be.
    pub fn none() -> Harm {
        Harm::default()
    }

    /// What the disk lies about, if it does.
    pub fn lies_about(&self) -> Option<Subject> {
        self.lie.map(|(subject, ..)| subject)
    }

    fn lies_about_pages(&self) -> bool {
        self.lies_about() == Some(Subject::Pages)
    }

    pub fn is_none(&self) -> bool {
        *self == Harm::none()
    }

    /// What befalls one life out of four.
    pub fn of_a_life(rng: &mut Rng) -> Harm {
        let mut harm = Harm::none();
        if rng.below(4) > 0 {
            return harm;
        }
        harm.when = match rng.below(5) {
            0 => When::Stop,
            _ => When::Work,
        };
        harm.add_faults(&FAULTS, rng);
        if rng.below(6) == 0 {
            let from = 1 + rng.below(300);
            harm.full = Some(Full {
                from,
                until: from + rng.below(1_000),
                left: rng.below(80) * 4096,
            });
            harm.faults.truncate(rng.below(2) as usize);
        }
        harm
    }

    /// What befalls a start.
    pub fn of_a_start(rng: &mut Rng) -> Harm {
        let mut harm = Harm {
            when: When::Start,
            ..Harm::none()
        };
        if rng.below(8) == 0 {
            harm.full = Some(Full {
                from: 0,
                until: u64::MAX,
                left: rng.below(300) * 4096,
            });
        } else if rng.half() {
            harm.add_faults(&FAULTS_OF_STARTS, rng);
        } else {
            harm.add_faults(&FAULTS, rng);
        }
        harm
    }

    /// A lie, and nothing else.
    pub fn of_a_liar(rng: &mut Rng) -> Harm {
        let subject = SUBJECTS[rng.below(SUBJECTS.len() as u64) as usize];
        let lie = subject.lie(rng);
        Harm {
            lie: Some((subject, lie, rng.below(subject.writes()))),
            ..Harm::none()
        }
    }

    fn add_faults(&mut self, faults: &[Fault], rng: &mut Rng) {
        for _ in 0..1 + u64::from(rng.below(4) == 0) {
            self.faults
                .push(faults[rng.below(faults.len() as u64) as usize]);
        }
    }

    /// Both.
    pub fn and(&self, other: &Harm) -> Harm {
        let mut both = self.clone();
        both.faults.extend(&other.faults);
        both.full = both.full.or(other.full);
        both.lie = both.lie.or(other.lie);
        both
    }

    /// Lets the disk do it; but that room runs out is for [`Harm::fill`].
    pub fn inject(&self, disk: &SimStorage, rng: &mut Rng) {
        for fault in &self.faults {
            let skips = match fault.kind {
                IoKind::Read => 40,
                IoKind::Write | IoKind::Sync => 12,
                _ => 3,
            };
            disk.inject(Injection {
                kind: fault.kind,
                path_contains: fault.path.to_owned(),
                skip: rng.below(skips),
                times: match rng.below(8) {
                    0 => 30,
                    _ => 1 + rng.below(3),
                },
                errno: fault.errno,
            });
        }
        if let Some((subject, lie, skip)) = self.lie {
            disk.lie(lie, subject.path(), skip);
        }
    }

    /// Leaves next to no room on the disk.
    pub fn fill(&self, disk: &SimStorage) {
        let left = self.full.map(|full| disk.used_bytes() + full.left);
        disk.set_capacity(left);
    }

    fn errnos(&self) -> impl Iterator<Item = i32> {
        let of_full = self.full.map(|_| ENOSPC);
        let of_faults = self.faults.iter().map(|fault| fault.errno);
        of_faults.chain(of_full)
    }

    /// Whether the disk, harmed like this, may be why an operation is refused. What is not about the
    /// disk is no excuse, nor is damage, but for pages that a lie was told about.
    pub fn excuses(&self, error: &EngineError) -> bool {
        let may_be = |errno: i32| self.errnos().any(|one| one == errno);
        match error {
            EngineError::DiskFull { .. } => may_be(ENOSPC),
            EngineError::CannotGrow { .. } => may_be(EIO),
            // After checkpoints that failed.
            EngineError::ReadOnly => may_be(EIO) || may_be(ENOSPC),
            EngineError::Page(error @ PageReadError::Io { .. }) => {
                let is_read = |fault: &Fault| fault.kind == IoKind::Read;
                self.faults.iter().any(is_read) && self.explains(&error.to_string())
            }
            EngineError::Page(_) => self.lies_about_pages(),
            _ => false,
        }
    }

    /// Whether a process may say that this has ended it, or a start: what the system has said must be in
    /// it, and of what; or, if the disk lies, which page is not what it should be.
    pub fn explains(&self, text: &str) -> bool {
        // Of a file that cannot grow, its number is said.
        let is_named = |path: &str| {
            text.contains(path) || path.starts_with("base") && text.contains("relation file")
        };
        let names = |fault: &Fault| {
            text.contains(&format!("(os error {})", fault.errno)) && is_named(fault.path)
        };
        let is_full = self.full.is_some() && text.contains(&format!("(os error {ENOSPC})"));
        // Without its copy a torn page cannot be mended.
        let hides_copies =
            |fault: &Fault| fault.kind == IoKind::Read && fault.path == "global/doublewrite";
        let is_torn = self.faults.iter().any(hides_copies) && text.contains("in file \"base/");
        let is_lied_about = self.lies_about_pages() && text.contains("\"base/");
        self.faults.iter().any(names) || is_full || is_torn || is_lied_about
    }

    /// Whether pages may be there and cannot be read.
    pub fn hides_pages(&self) -> bool {
        let hides = |fault: &Fault| fault.kind == IoKind::Read && fault.path.starts_with("base");
        self.faults.iter().any(hides)
    }

    /// Whether what is remembered of checkpoints may suffer.
    pub fn reaches_history(&self) -> bool {
        let reaches = |fault: &Fault| "global/history".contains(fault.path);
        let is_lied_about = self.lies_about() == Some(Subject::History);
        self.full.is_some() || self.faults.iter().any(reaches) || is_lied_about
    }
}

//! A relation file's header held against what `pg_control` says of it: whether the file is the one
//! that the server has left there.

use crate::control::{ControlFile, DbState, FileRow};
use crate::meta::Meta;
use rd_base::{FileNo, Lsn};

/// What a header turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// As `pg_control` says.
    Same,
    /// Ahead by the one checkpoint that was under way when the server went down: a header is written
    /// first, and carries the number that `pg_control` is to have next.
    Ahead,
    /// That of a closed file which was to be opened, by an attempt that failed or was cut off: `pg_control`
    /// would say that it is open. Nobody has written to it since it was closed.
    HalfOpened,
    /// Of another data directory, which has this system identifier.
    Foreign(u64),
    /// Of another relation file.
    OtherFile(FileNo),
    /// A copy from before.
    TooOld,
    /// A copy from a time that `pg_control` knows nothing of.
    TooNew,
}

impl Held {
    /// Whether the server can go on with the file.
    pub fn is_good(self) -> bool {
        matches!(self, Held::Same | Held::Ahead | Held::HalfOpened)
    }
}

/// What is wrong with the file, in words, and what to do about it; of a header that is not good.
pub fn complaint(held: Held, meta: &Meta, row: &FileRow, control: &ControlFile) -> String {
    let path = format!("relation file \"base/{}\"", row.file);
    let (what, advice) = match held {
        Held::Same | Held::Ahead | Held::HalfOpened => return format!("{path} is as it should be"),
        Held::Foreign(found) => {
            let expected = control.system_identifier;
            return format!(
                "{path} is of another data directory: it has system identifier {found}, this one \
                 has {expected}; put the right file in its place"
            );
        }
        Held::OtherFile(found) => {
            return format!(
                "{path} is another file of a data directory: its header says relation file {found}; \
                 put the right file in its place"
            );
        }
        Held::TooOld => (
            "too old: a copy from before was put in its place",
            "put the newest file back",
        ),
        Held::TooNew => (
            "too new: it was written after \"global/pg_control\" was, or that is an old copy",
            "put the file back that goes with it",
        ),
    };
    let stop = |stop_scn: Lsn| match stop_scn {
        Lsn::ZERO => String::new(),
        stop_scn => format!(", closed at {stop_scn}"),
    };
    format!(
        "{path} is from another time than the rest: its header says checkpoint {} at {}{}, \
         \"global/pg_control\" says {} at {}{}, so the file is {what}; {advice}, or restore the data \
         directory as a whole from one backup (compare with rd_controldata)",
        meta.checkpoint_count,
        meta.checkpoint_scn,
        stop(meta.stop_scn),
        row.checkpoint_count,
        row.scn,
        stop(row.header_stop_scn()),
    )
}

/// Holds a header against the row of its file. After a clean stop no header is ahead. That of a closed file
/// never is: it is not written but to open the file, which may be tried in vain any number of times.
pub fn hold(meta: &Meta, row: &FileRow, control: &ControlFile) -> Held {
    if meta.system_identifier != control.system_identifier {
        return Held::Foreign(meta.system_identifier);
    }
    if meta.file != row.file {
        return Held::OtherFile(meta.file);
    }
    let found = (meta.checkpoint_count, meta.checkpoint_scn, meta.stop_scn);
    let expected = (row.checkpoint_count, row.scn, row.header_stop_scn());
    let next_count = control.checkpoint_count + 1;
    let is_ahead = !row.is_closed()
        && control.state != DbState::ShutDown
        && meta.checkpoint_count == next_count
        && meta.checkpoint_scn >= control.redo_lsn;
    let is_half_opened = row.is_closed()
        && meta.stop_scn == Lsn::ZERO
        && meta.opened_from == row.stop_scn
        && (row.checkpoint_count + 1..=next_count).contains(&meta.checkpoint_count);
    if found == expected {
        Held::Same
    } else if is_ahead {
        Held::Ahead
    } else if is_half_opened {
        Held::HalfOpened
    } else if found < expected {
        Held::TooOld
    } else {
        Held::TooNew
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    #[test]
    fn only_the_file_itself_is_good_and_others_are_told_apart() {
        let lsn = Lsn::new;
        let mut control = ControlFile::initial(7, 16 << 20, lsn(1 << 24));
        control.state = DbState::InProduction;
        control.checkpoint_count = 9;
        let row = FileRow {
            file: FileNo::new(3),
            access: Access::READ_ONLY,
            checkpoint_count: 5,
            scn: lsn(500),
            stop_scn: lsn(500),
            key_count: 0,
            blocks: 8,
        };
        let meta = Meta {
            system_identifier: 7,
            file: FileNo::new(3),
            created_lsn: lsn(1),
            checkpoint_count: 5,
            checkpoint_scn: lsn(500),
            stop_scn: lsn(500),
            opened_from: Lsn::ZERO,
        };
        let held = |change: fn(&mut Meta)| {
            let mut changed = meta;
            change(&mut changed);
            hold(&changed, &row, &control)
        };
        assert_eq!(held(|_| {}), Held::Same);
        assert_eq!(held(|meta| meta.system_identifier = 8), Held::Foreign(8));
        let other = held(|meta| meta.file = FileNo::new(4));
        assert_eq!(other, Held::OtherFile(FileNo::new(4)));
        assert_eq!(held(|meta| meta.checkpoint_count = 4), Held::TooOld);
        assert_eq!(
            held(|meta| meta.checkpoint_scn = Lsn::new(499)),
            Held::TooOld
        );
        assert_eq!(held(|meta| meta.stop_scn = Lsn::ZERO), Held::TooOld);
        assert_eq!(held(|meta| meta.checkpoint_count = 6), Held::TooNew);
        assert_eq!(held(|meta| meta.checkpoint_count = 10), Held::TooNew);
        let stopped = ControlFile {
            state: DbState::ShutDown,
            ..control.clone()
        };
        // One that was to be opened, now or earlier; but not one that was opened, here or elsewhere.
        let half_opened = |checkpoint_count| Meta {
            checkpoint_count,
            checkpoint_scn: lsn(700),
            stop_scn: Lsn::ZERO,
            opened_from: lsn(500),
            ..meta
        };
        for count in [6, 9, 10] {
            for control in [&control, &stopped] {
                assert_eq!(hold(&half_opened(count), &row, control), Held::HalfOpened);
            }
        }
        assert_eq!(hold(&half_opened(5), &row, &control), Held::TooNew);
        assert_eq!(hold(&half_opened(11), &row, &control), Held::TooNew);
        for opened_from in [Lsn::ZERO, lsn(499)] {
            let other = Meta {
                opened_from,
                ..half_opened(9)
            };
            assert_eq!(hold(&other, &row, &control), Held::TooNew);
        }
        // The stop SCN of a clean stop is in no header.
        let open = FileRow {
            access: Access::READ_WRITE,
            ..row
        };
        let written = Meta {
            stop_scn: Lsn::ZERO,
            ..meta
        };
        assert_eq!(hold(&written, &open, &stopped), Held::Same);
        // Ahead by the one checkpoint that was under way, and not below the redo point.
        let ahead = Meta {
            checkpoint_count: 10,
            checkpoint_scn: control.redo_lsn,
            ..written
        };
        assert_eq!(hold(&ahead, &open, &control), Held::Ahead);
        assert_eq!(hold(&ahead, &open, &stopped), Held::TooNew);
        for (count, scn) in [(11, ahead.checkpoint_scn), (10, lsn(700))] {
            let other = Meta {
                checkpoint_count: count,
                checkpoint_scn: scn,
                ..written
            };
            assert_eq!(hold(&other, &open, &control), Held::TooNew);
        }
        let text = complaint(Held::TooOld, &written, &row, &control);
        assert!(
            text.contains("base/3") && text.contains("too old"),
            "{text}"
        );
    }
}

//! `global/history` after a crash: its records are whole, follow each other without a gap, go forward
//! in the log, and say of the last checkpoint what `pg_control` says. A crash costs the record under
//! way at most; what a disk has refused may be missing besides.

use crate::machine::{Failure, Machine};
use rd_base::Lsn;
use rd_format::control::ControlFile;
use rd_store::Shared;
use rd_store::history::{self, CheckpointRow, RecoveryRow, Remembered, Row};
use rd_sys::simdisk::SimStorage;

/// What must be remembered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Numbers of the newest records that must be there.
    checkpoints: u64,
    recoveries: u64,
    /// The disk has refused something, so that records may be missing or damaged.
    has_gaps: bool,
    /// `pg_control` may be older than the newest record.
    is_ahead: bool,
}

impl Memory {
    /// The records that a server has made are there after any crash, but for the newest of each kind,
    /// which may be under way.
    pub fn promise(&mut self, shared: &Shared) {
        let settled = |newest: u64| newest.saturating_sub(1);
        let checkpoints = settled(shared.history.newest::<CheckpointRow>());
        let recoveries = settled(shared.history.newest::<RecoveryRow>());
        self.checkpoints = self.checkpoints.max(checkpoints);
        self.recoveries = self.recoveries.max(recoveries);
    }

    /// The disk may refuse to take, or to give, some of what is to be remembered.
    pub fn may_have_gaps(&mut self) {
        *self = Memory {
            has_gaps: true,
            ..Memory::default()
        };
    }

    /// The newest slot of `pg_control` may be lost.
    pub fn may_be_ahead(&mut self) {
        self.is_ahead = true;
    }

    /// Holds what is on a disk that has crashed against this; `control` is the newest slot there.
    ///
    /// # Errors
    /// When something is missing, or tells another story.
    pub fn check(&self, disk: &SimStorage, control: &ControlFile) -> Result<Remembered, Failure> {
        let wrong = |text: String| Failure(format!("global/history: {text}"));
        let found = history::read(disk, control.system_identifier)
            .map_err(|error| wrong(error.to_string()))?;
        if !self.has_gaps {
            if let Some(damage) = found.damaged.first() {
                return Err(wrong(damage.clone()));
            }
            follow_each_other(&found.checkpoints, self.checkpoints).map_err(wrong)?;
            follow_each_other(&found.recoveries, self.recoveries).map_err(wrong)?;
        }
        go_forward(&found).map_err(wrong)?;
        if !self.is_ahead {
            agree(&found, control).map_err(wrong)?;
        }
        Ok(found)
    }
}

fn follow_each_other<R: Row>(rows: &[R], promised: u64) -> Result<(), String> {
    let numbers: Vec<u64> = rows.iter().map(R::number).collect();
    let kind = R::KIND;
    let last = numbers.last().copied().unwrap_or(0);
    if last < promised {
        return Err(format!(
            "the last {kind:?} is number {last}, and {promised} was promised"
        ));
    }
    let first = (last + 1).saturating_sub(R::KEPT).max(1);
    if !numbers.iter().copied().eq(first..=last) {
        return Err(format!("a {kind:?} is missing between: {numbers:?}"));
    }
    Ok(())
}

/// Complete checkpoints of the whole server; one of a single namespace has no record in the log.
fn full(found: &Remembered) -> impl Iterator<Item = &CheckpointRow> {
    let is_full = |row: &&CheckpointRow| row.error.is_none() && row.namespace.is_none();
    found.checkpoints.iter().filter(is_full)
}

fn go_forward(found: &Remembered) -> Result<(), String> {
    let forward = |what: &str, lsns: Vec<Lsn>| match lsns.is_sorted() {
        true => Ok(()),
        false => Err(format!("{what} go back: {lsns:?}")),
    };
    let all = found.checkpoints.iter();
    forward("redo points", all.map(|row| row.redo_lsn).collect())?;
    forward(
        "checkpoints",
        full(found).map(|row| row.checkpoint_lsn).collect(),
    )?;
    let recoveries = found.recoveries.iter();
    forward("recoveries", recoveries.map(|row| row.end_lsn).collect())?;
    let is_good = |row: &CheckpointRow| row.redo_lsn <= row.checkpoint_lsn;
    if let Some(row) = full(found).find(|row| !is_good(row)) {
        return Err(format!("a checkpoint before its redo point: {row:?}"));
    }
    let is_good = |row: &RecoveryRow| {
        row.redo_lsn <= row.end_lsn && row.redo_bytes == row.end_lsn.bytes_since(row.redo_lsn)
    };
    match found.recoveries.iter().find(|row| !is_good(row)) {
        Some(row) => Err(format!("a recovery that cannot be: {row:?}")),
        None => Ok(()),
    }
}

/// A record is written when `pg_control` has what it says.
fn agree(found: &Remembered, control: &ControlFile) -> Result<(), String> {
    let Some(last) = full(found).last() else {
        return Ok(());
    };
    let is_ahead = last.checkpoint_lsn > control.checkpoint_lsn || last.redo_lsn > control.redo_lsn;
    let is_it = last.checkpoint_lsn == control.checkpoint_lsn;
    if is_ahead || (is_it && last.flags != control.checkpoint_flags) {
        return Err(format!(
            "it does not go with pg_control: {last:?}, {control:?}"
        ));
    }
    Ok(())
}

/// What a start whose log ended at `end` shows of what it has found, and of itself; it began with one of
/// `controls`. What it could not read is not shown, nor written on.
///
/// # Errors
/// When it shows something else.
pub fn check_shown(
    machine: &Machine,
    memory: &Memory,
    found: &Remembered,
    controls: &[&ControlFile],
    end: Lsn,
) -> Result<(), Failure> {
    if memory.has_gaps {
        return Ok(());
    }
    let new_checkpoints = shown(machine, &found.checkpoints)?;
    let new_recoveries = shown(machine, &found.recoveries)?;
    let is_last = |last: &RecoveryRow| {
        let began = (last.redo_lsn, last.unfinished_starts);
        let mut controls = controls.iter();
        last.end_lsn == end
            && controls.any(|control| (control.redo_lsn, control.unfinished_starts) == began)
    };
    let wrong = |text: String| Err(Failure(format!("history: {text}")));
    if new_recoveries.len() > 1 || !new_recoveries.iter().all(is_last) {
        return wrong(format!("up to {end} from {controls:?}: {new_recoveries:?}"));
    }
    if let Some(last) = found.recoveries.last().filter(|last| last.end_lsn > end) {
        return wrong(format!(
            "the log ends at {end}, and ended later once: {last:?}"
        ));
    }
    let redo_lsn = controls.iter().map(|control| control.redo_lsn).min();
    let too_old = |row: &&CheckpointRow| row.error.is_none() && Some(row.redo_lsn) < redo_lsn;
    match new_checkpoints.iter().find(too_old) {
        Some(row) => wrong(format!(
            "a checkpoint before this start's redo point: {row:?}"
        )),
        None => Ok(()),
    }
}

/// The records that a server shows behind those that were there when it started. They are loaded by the
/// checkpointer beside the first clients.
fn shown<R: Row + PartialEq + std::fmt::Debug>(
    machine: &Machine,
    found: &[R],
) -> Result<Vec<R>, Failure> {
    let mut rows: Vec<R> = machine.shared.history.last(u64::MAX);
    rows.reverse();
    if rows.is_empty() {
        return Ok(rows);
    }
    if !rows.starts_with(found) {
        let text = format!("history shows {rows:?} of {found:?}");
        return Err(Failure(text));
    }
    Ok(rows.split_off(found.len()))
}

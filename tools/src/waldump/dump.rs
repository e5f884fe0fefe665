//! All that `rd_waldump` does between its command line and what it says last: the records that are
//! wanted, as lines or as counts, and what the end of the log means.
//!
//! Invariant: it writes to whatever it is given, and says what is to be said to whoever that is, and writes
//! to nothing else, so that hostile files can be fed
//! to it by the thousand.

use super::source::{Log, Wanted};
use super::stats::Stats;
use crate::cli;
use anyhow::{Result, anyhow, bail};
use clap::{ArgAction, Parser, ValueEnum};
use rd_base::{Lsn, StartCount, Timeline};
use rd_format::describe::describe;
use rd_format::wal_page::start_after;
use rd_format::wal_record::RecordKind;
use rd_store::wal::{LogEnd, ReadFrom, Record, WalReader};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The tool.
pub const NAME: &str = "rd_waldump";
/// With -f: how often the end of the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// With -f: looks without a new record before the rest of the log is searched for damage.
const LOOKS_BEFORE_CHECK: u32 = 25;
/// Behind the options in the help.
const NOTES: &str = "\
Begins at -s, or with STARTSEG, or with the oldest segment there is. The server may be running.\n\
Exit code: 0 at the end of the log, a torn record that nobody was promised included; 1 if log\n\
that was durable cannot be read, or the log ends before the wanted end.";

/// Decodes and displays the write-ahead log of Redoubt.
#[derive(Default, Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
pub struct Arguments {
    /// Start reading at this LSN
    #[arg(short = 's', long, value_name = "LSN")]
    pub start: Option<Lsn>,
    /// Stop reading at this LSN
    #[arg(short = 'e', long, value_name = "LSN")]
    pub end: Option<Lsn>,
    /// Number of records to display
    #[arg(short = 'n', long, value_name = "N")]
    pub limit: Option<u64>,
    /// Directory of the segment files, or a data directory [default: ., ./wal, RDDATA]
    #[arg(short = 'p', long, alias = "rddata", value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Timeline to read [default: that of STARTSEG or of pg_control, or 1]
    #[arg(short = 't', long, value_name = "TLI")]
    pub timeline: Option<u32>,
    /// Only records of this kind; "list" prints the kinds
    #[arg(short = 'r', long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Keep trying after the end of the log
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Show statistics in place of records; -z=record by what records do to pages
    #[arg(short = 'z', long, value_enum, value_name = "record")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "kind")]
    pub stats: Option<Detail>,
    /// Print nothing but errors
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    pub help: Option<bool>,
    /// First segment's file
    #[arg(value_name = "STARTSEG")]
    pub first: Option<PathBuf>,
    /// Last segment's file
    #[arg(value_name = "ENDSEG")]
    pub last: Option<PathBuf>,
}

/// What statistics count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// Records, by their kinds.
    Kind,
    /// What records do to pages, too.
    Record,
}

/// Dumps the log to `out`; `say` takes what people should know of it. Gives its end, if that was come to
/// and is to be told.
///
/// # Errors
/// When the log cannot be found or read, or ends where it must not.
pub fn run(
    arguments: Arguments,
    mut out: impl Write,
    say: &mut dyn FnMut(&str),
) -> Result<Option<LogEnd>> {
    if arguments.kind.as_deref() == Some("list") {
        for kind in RecordKind::ALL {
            writeln!(out, "{}", kind.name())?;
        }
        out.flush()?;
        return Ok(None);
    }
    let kind = arguments.kind.as_deref().map(kind_of).transpose()?;
    let log = Log::find(&Wanted {
        path: arguments.path,
        timeline: arguments.timeline.map(Timeline::new),
        start: arguments.start,
        end: arguments.end,
        first_segment: arguments.first,
        last_segment: arguments.last,
    })?;
    let mut dump = Dump {
        log,
        kind,
        left: arguments.limit.unwrap_or(u64::MAX),
        stats: arguments
            .stats
            .map(|detail| Stats::new(detail == Detail::Record)),
        quiet: arguments.quiet,
        out,
        first: None,
        reached: Lsn::ZERO,
        start_count: StartCount::new(0),
    };
    let outcome = dump.run(arguments.follow, say);
    let finished = dump.finish();
    // Damage that was found is told, whoever reads the rest.
    let end = outcome?;
    finished?;
    Ok(end.filter(|_| !dump.quiet))
}

fn kind_of(name: &str) -> Result<RecordKind> {
    let kind = RecordKind::ALL.iter().find(|kind| kind.name() == name);
    kind.copied().ok_or_else(|| {
        anyhow!("unknown kind of record \"{name}\"\nHINT: \"{NAME} -r list\" prints the kinds.")
    })
}

/// A dump under way.
struct Dump<W> {
    log: Log,
    kind: Option<RecordKind>,
    /// Records that may still be displayed.
    left: u64,
    stats: Option<Stats>,
    quiet: bool,
    out: W,
    /// Start of the first record.
    first: Option<Lsn>,
    /// End of the last record.
    reached: Lsn,
    /// Its start count: a record with a lower one does not follow it.
    start_count: StartCount,
}

impl<W: Write> Dump<W> {
    /// Until the wanted end (none), or that of the log.
    fn run(&mut self, follow: bool, say: &mut dyn FnMut(&str)) -> Result<Option<LogEnd>> {
        let storage = Arc::clone(&self.log.storage);
        let mut reader = WalReader::first_from(storage, self.log.from)?;
        let mut idle = 0;
        loop {
            let before = self.reached;
            if self.records(&mut reader)? {
                return Ok(None);
            }
            if let Some(redo) = self.needed_behind(reader.lsn()) {
                // Once: what no server has written may be no place of a record.
                self.log.redo = None;
                self.log.from = redo;
                self.start_count = redo.start_count;
                let end = reader.finish()?;
                if !self.quiet {
                    say(&format!(
                        "the log before the redo point is left over and not needed; going on there, at \
                         {}: {end}",
                        redo.lsn
                    ));
                }
                reader = WalReader::new(Arc::clone(&self.log.storage), redo);
                continue;
            }
            let wanted = self.log.from.lsn;
            idle = if self.reached == before { idle + 1 } else { 0 };
            if self.first.is_none() && self.log.start_is_wanted && !follow {
                let end = reader.finish()?;
                let (file, offset) = self.log.place(end.at);
                bail!(
                    "could not find a valid record at or after {wanted}: {}\n\
                     DETAIL: In \"{}\", at offset {offset}.",
                    end.reason,
                    file.display()
                );
            }
            let here = if self.first.is_some() {
                reader.lsn()
            } else {
                wanted
            };
            if !follow || idle == LOOKS_BEFORE_CHECK {
                match self.judge(reader) {
                    Ok(end) if !follow => return self.ended(end).map(Some),
                    Ok(_) => {}
                    // A running server writes while we read: the log has only grown if what was
                    // missing can be read now.
                    Err(damage) if !self.goes_on(here)? => return Err(damage),
                    Err(_) => {}
                }
            }
            if follow {
                self.out.flush()?;
                std::thread::sleep(LOOK_EVERY);
            }
            reader = self.reader_at(here)?;
        }
    }

    /// Where to go on if the log cannot be read on at `lsn`, below the redo point, and nobody has asked for
    /// that: what is left of segments that were to be removed may have gaps, or have been replaced by a
    /// log that was begun anew.
    fn needed_behind(&self, lsn: Lsn) -> Option<ReadFrom> {
        let (redo, start_count) = self.log.redo?;
        let is_needed =
            self.log.start_is_wanted || self.is_beyond(redo) || start_after(lsn) >= redo;
        (!is_needed).then_some(ReadFrom {
            lsn: redo,
            start_count,
            ..self.log.from
        })
    }

    /// Prints records until there is none (false), or no more is wanted (true).
    fn records(&mut self, reader: &mut WalReader) -> Result<bool> {
        while self.left > 0 && !self.is_beyond(start_after(reader.lsn())) {
            match reader.next()? {
                None => return Ok(false),
                Some(record) => self.record(&record)?,
            }
        }
        Ok(true)
    }

    /// Whether a record that starts there is no longer wanted.
    fn is_beyond(&self, start: Lsn) -> bool {
        self.log.end.is_some_and(|end| start >= end)
    }

    fn record(&mut self, record: &Record<'_>) -> Result<()> {
        if self.first.is_none() {
            self.first = Some(record.start);
            let wanted = start_after(self.log.from.lsn);
            if record.start > wanted && !self.quiet && self.stats.is_none() {
                let skipped = record.start.bytes_since(wanted);
                writeln!(
                    self.out,
                    "first record is after {wanted}, at {}, skipping over {skipped} bytes",
                    record.start
                )?;
            }
        }
        self.reached = record.end;
        self.start_count = record.view.header().start_count;
        if self.kind.is_some_and(|kind| kind != record.view.kind()) {
            return Ok(());
        }
        self.left -= 1;
        match &mut self.stats {
            Some(stats) => stats.count(&record.view),
            None if self.quiet => {}
            None => writeln!(self.out, "{}", describe(&record.view))?,
        }
        Ok(())
    }

    /// What the end of the log means.
    fn judge(&self, reader: WalReader) -> Result<LogEnd> {
        let end = reader.finish()?;
        if let Err(damage) = end.check(self.log.durable, "pg_control") {
            let (file, offset) = self.log.place(end.at);
            return Err(anyhow!(
                "invalid record at {}: {}\n\
                 DETAIL: In \"{}\", at offset {offset} ({offset:#x}).\n\
                 DETAIL: {damage}",
                end.at,
                end.reason,
                file.display(),
            ));
        }
        Ok(end)
    }

    /// Whether the end of the log is late enough.
    fn ended(&self, end: LogEnd) -> Result<LogEnd> {
        match self.log.end {
            Some(wanted) if end.lsn < wanted => {
                bail!(
                    "the log ends at {}, before {wanted}: {}",
                    end.lsn,
                    end.reason
                )
            }
            _ => Ok(end),
        }
    }

    fn reader_at(&self, lsn: Lsn) -> Result<WalReader> {
        let storage = Arc::clone(&self.log.storage);
        let from = ReadFrom {
            lsn,
            start_count: self.start_count,
            ..self.log.from
        };
        if self.first.is_some() {
            return Ok(WalReader::new(storage, from));
        }
        Ok(WalReader::first_from(storage, from)?)
    }

    fn goes_on(&self, lsn: Lsn) -> Result<bool> {
        Ok(self.reader_at(lsn)?.next()?.is_some())
    }

    fn finish(&mut self) -> Result<()> {
        if let (Some(stats), Some(first), false) = (&self.stats, self.first, self.quiet) {
            self.out
                .write_all(stats.table(first, self.reached).as_bytes())?;
        }
        Ok(self.out.flush()?)
    }
}

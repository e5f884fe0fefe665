//! STAT: what the server does and has done. `INFO` shows the same.
//!
//! Each answer is a map, or an array of maps, from names to numbers and words; a name ends with the
//! unit of its number.

use super::Call;
use crate::dispatch::{Flow, Outcome};
use crate::server::Server;
use rd_base::Role;
use rd_base::counters::{Counter, InfoSection};
use rd_base::limits::{PAGE_BYTES, PROCESSES_MAX};
use rd_store::SlotNo;
use rd_store::history::{CheckpointRow, RecoveryRow, Row, Value};
use rd_wire::num::parse_i64;
use rd_wire::{ReplyWriter, texts};

/// Records returned if no number is given.
const RECORDS: u64 = 10;

/// Fields of an answer, in order.
pub type Fields = Vec<(&'static str, Value)>;

/// Writes a map.
pub fn write_fields(reply: &mut ReplyWriter<'_>, fields: &Fields) {
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        match value {
            Value::Number(number) => reply.integer(*number as i64),
            Value::Text(text) => reply.bulk(text.as_bytes()),
        }
    }
}

/// The newest records of a kind, as many as the request asks for.
fn records<R: Row>(call: &mut Call<'_>, fields: fn(&R) -> Fields) -> Outcome {
    if call.args.len() > 3 {
        return Err(texts::SYNTAX.into());
    }
    let count = match call.args.get(2) {
        None => RECORDS,
        Some(text) => parse_i64(text)
            .and_then(|count| u64::try_from(count).ok())
            .ok_or(texts::NOT_AN_INTEGER)?,
    };
    let rows = call.server.store.shared.history.last::<R>(count);
    let mut reply = call.reply();
    reply.array(rows.len());
    for row in &rows {
        write_fields(&mut reply, &fields(row));
    }
    Ok(Flow::Done)
}

/// STAT CHECKPOINTS [count].
pub fn checkpoints(call: &mut Call<'_>) -> Outcome {
    records(call, CheckpointRow::fields)
}

/// STAT RECOVERIES [count].
pub fn recoveries(call: &mut Call<'_>) -> Outcome {
    records(call, RecoveryRow::fields)
}

fn number(value: u64) -> Value {
    Value::Number(value)
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn is(value: bool) -> Value {
    number(u64::from(value))
}

/// Answers with one map.
fn answer(call: &mut Call<'_>, fields: fn(&Server) -> Fields) -> Outcome {
    let fields = fields(call.server);
    write_fields(&mut call.reply(), &fields);
    Ok(Flow::Done)
}

/// Answers with an array of maps.
fn answer_rows(call: &mut Call<'_>, rows: fn(&Server) -> Vec<Fields>) -> Outcome {
    let rows = rows(call.server);
    let mut reply = call.reply();
    reply.array(rows.len());
    for fields in &rows {
        write_fields(&mut reply, fields);
    }
    Ok(Flow::Done)
}

/// STAT CHECKPOINT.
pub fn checkpoint(call: &mut Call<'_>) -> Outcome {
    answer(call, checkpoint_fields)
}

/// STAT RECOVERY.
pub fn recovery(call: &mut Call<'_>) -> Outcome {
    answer(call, recovery_fields)
}

/// STAT WAL.
pub fn wal(call: &mut Call<'_>) -> Outcome {
    answer(call, wal_fields)
}

/// STAT BUFFERS.
pub fn buffers(call: &mut Call<'_>) -> Outcome {
    answer(call, buffer_fields)
}

/// STAT IO.
pub fn io(call: &mut Call<'_>) -> Outcome {
    answer_rows(call, io_rows)
}

/// STAT SCRUB.
pub fn scrub(call: &mut Call<'_>) -> Outcome {
    answer(call, scrub_fields)
}

/// STAT PROCESSES.
pub fn processes(call: &mut Call<'_>) -> Outcome {
    answer_rows(call, process_rows)
}

/// The checkpoint under way.
pub fn checkpoint_fields(server: &Server) -> Fields {
    let checkpoint = &server.store.shared.checkpoint;
    let (is_under_way, progress) = (checkpoint.is_under_way(), checkpoint.progress());
    let outstanding = checkpoint.outstanding();
    let now_us = server.wall_us();
    let mut fields = vec![
        ("in_progress", is(is_under_way)),
        ("phase", text(progress.phase.name())),
        ("outstanding_requests", number(outstanding.len() as u64)),
        (
            "outstanding_namespace_requests",
            number(checkpoint.file_requests()),
        ),
    ];
    if is_under_way {
        let elapsed_us = now_us.saturating_sub(progress.began_us);
        let eta = progress.eta_us(now_us).map_or(text("unknown"), number);
        fields.extend([
            ("cause", text(progress.flags)),
            ("began_us", number(progress.began_us)),
            ("elapsed_us", number(elapsed_us)),
            ("pages_done", number(progress.pages_done)),
            ("pages_total", number(progress.pages_total)),
            ("eta_us", eta),
        ]);
    }
    if let Some(first) = outstanding.first() {
        fields.extend([
            ("requester", text(first.requester)),
            ("target_lsn", text(first.target)),
        ]);
    }
    fields
}

/// How long recovery would take, and why.
pub fn recovery_fields(server: &Server) -> Fields {
    let now = server.store.shared.checkpoint.recovery_now();
    let has_target = now.target_us > 0;
    let is_kept = !has_target || now.estimate_us <= now.target_us;
    let allowed = if has_target {
        number(now.redo_bytes_allowed)
    } else {
        text("unlimited")
    };
    vec![
        ("recovery_estimate_us", number(now.estimate_us)),
        ("recovery_target_us", number(now.target_us)),
        ("recovery_within_target", is(is_kept)),
        ("recovery_limited_by", text(now.limit())),
        ("recovery_redo_bytes", number(now.redo_bytes)),
        ("recovery_redo_bytes_allowed", allowed),
        ("recovery_dirty_pages", number(now.dirty_pages)),
        ("recovery_unsynced_pages", number(now.unsynced_pages)),
        ("recovery_wal_bytes_per_s", number(now.wal_bytes_per_s)),
        ("recovery_fixed_us", number(now.fixed_us)),
        ("recovery_redo_bytes_per_s", number(now.bytes_per_s)),
        ("recovery_redo_pages_per_s", number(now.pages_per_s)),
        ("recovery_rates_measured", is(now.is_measured)),
    ]
}

/// The counters of a section.
fn counted(server: &Server, section: InfoSection) -> impl Iterator<Item = (&'static str, Value)> {
    let stats = &server.store.shared.stats;
    Counter::of_section(section).map(|counter| (counter.name(), number(stats.get(counter))))
}

/// The log.
fn wal_fields(server: &Server) -> Fields {
    let shared = &server.store.shared;
    let (insert, redo) = (shared.wal.insert_lsn(), shared.checkpoint.redo_lsn());
    let mut fields = vec![
        ("insert_lsn", text(insert)),
        ("written_lsn", text(shared.wal.written_lsn())),
        ("durable_lsn", text(shared.wal.durable_lsn())),
        ("redo_lsn", text(redo)),
        ("timeline", number(u64::from(shared.wal.timeline().get()))),
        (
            "redo_bytes",
            number(insert.get().saturating_sub(redo.get())),
        ),
        ("segment_bytes", number(shared.wal.segment_bytes())),
        ("max_wal_size", number(server.config.max_wal_size_bytes())),
        (
            "wal_bytes_per_s",
            number(shared.checkpoint.recovery_now().wal_bytes_per_s),
        ),
    ];
    fields.extend(counted(server, InfoSection::Wal));
    fields
}

/// Shared buffers.
pub fn buffer_fields(server: &Server) -> Fields {
    let shared = &server.store.shared;
    let count = |counter| shared.stats.get(counter);
    let frames = shared.pool.frame_count() as u64;
    let counted = shared.pool.count_frames();
    let used = counted.used as u64;
    let (hits, reads) = (count(Counter::BufferHits), count(Counter::PagesRead));
    let ratio = 100.0 * hits as f64 / (hits + reads).max(1) as f64;
    vec![
        ("buffers_total", number(frames)),
        ("buffers_used", number(used)),
        ("buffers_free", number(frames.saturating_sub(used))),
        ("buffers_dirty", number(counted.dirty as u64)),
        ("buffers_hits", number(hits)),
        ("buffers_reads", number(reads)),
        ("buffers_hit_percent", text(format_args!("{ratio:.2}"))),
        ("buffers_read_us", number(count(Counter::PageReadMicros))),
        ("buffers_read_ahead", number(count(Counter::PagesReadAhead))),
        ("buffers_evicted", number(count(Counter::FramesEvicted))),
        (
            "buffers_clean_waits",
            number(count(Counter::CleanFrameWaits)),
        ),
        (
            "buffers_written_for_supply",
            number(count(Counter::PagesWrittenSupply)),
        ),
    ]
}

/// The scrub of relation files.
pub fn scrub_fields(server: &Server) -> Fields {
    let shared = &server.store.shared;
    let count = |counter| number(shared.stats.get(counter));
    let seen = shared.scrub.seen();
    let names: Vec<String> = seen.bad.iter().map(ToString::to_string).collect();
    vec![
        ("scrub_in_progress", is(seen.is_under_way)),
        ("scrub_began_us", number(seen.began_us)),
        ("scrub_ended_us", number(seen.ended_us)),
        ("scrub_pages_done", number(seen.pages_done)),
        ("scrub_pages_total", number(seen.pages_total)),
        ("scrub_rounds", count(Counter::ScrubRounds)),
        ("scrub_pages_checked", count(Counter::ScrubPages)),
        ("scrub_read_us", count(Counter::ScrubMicros)),
        ("scrub_pages_reported", count(Counter::ScrubReports)),
        ("scrub_pages_bad", count(Counter::ScrubBad)),
        ("scrub_pages_repaired", count(Counter::ScrubRepaired)),
        ("scrub_unrepaired", number(seen.bad_count)),
        ("scrub_unrepaired_pages", text(names.join(", "))),
    ]
}

/// The kind of process that has a slot.
fn kind(slot: SlotNo) -> &'static str {
    match slot.role() {
        Role::Postmaster => "postmaster",
        Role::Startup => "startup",
        Role::Checkpointer => "checkpointer",
        Role::Walwriter => "walwriter",
        Role::Backend(_) => "backend",
    }
}

/// One line of STAT IO: an object, why it is read or written, and the counters of it.
struct Io {
    object: &'static str,
    cause: &'static str,
    reads: [Option<Counter>; 2],
    writes: [Option<Counter>; 3],
    syncs: [Option<Counter>; 2],
}

const NOTHING: Io = Io {
    object: "",
    cause: "",
    reads: [None, None],
    writes: [None, None, None],
    syncs: [None, None],
};

/// Pages written to their places, by cause. A page's bytes are not counted apart.
const fn pages(cause: &'static str, pages: Counter, micros: Counter) -> Io {
    Io {
        object: "relation files",
        cause,
        writes: [Some(pages), None, Some(micros)],
        ..NOTHING
    }
}

use Counter as C;
const IO: [Io; 14] = [
    Io {
        object: "relation files",
        cause: "read",
        reads: [Some(C::PagesRead), Some(C::PageReadMicros)],
        ..NOTHING
    },
    pages("time", C::PagesWrittenTimed, C::PageWriteMicrosTimed),
    pages("wal", C::PagesWrittenWal, C::PageWriteMicrosWal),
    pages(
        "requested",
        C::PagesWrittenRequested,
        C::PageWriteMicrosRequested,
    ),
    pages(
        "shutdown",
        C::PagesWrittenShutdown,
        C::PageWriteMicrosShutdown,
    ),
    pages(
        "end-of-recovery",
        C::PagesWrittenRecovery,
        C::PageWriteMicrosRecovery,
    ),
    pages(
        "incremental",
        C::PagesWrittenIncremental,
        C::PageWriteMicrosIncremental,
    ),
    pages("supply", C::PagesWrittenSupply, C::PageWriteMicrosSupply),
    Io {
        object: "relation files",
        cause: "scrub",
        reads: [Some(C::ScrubPages), Some(C::ScrubMicros)],
        ..NOTHING
    },
    pages(
        "scrub-repair",
        C::PagesWrittenScrub,
        C::PageWriteMicrosScrub,
    ),
    Io {
        object: "relation files",
        cause: "sync",
        syncs: [Some(C::FileSyncs), Some(C::FileSyncMicros)],
        ..NOTHING
    },
    Io {
        object: "double-write area",
        cause: "pages",
        writes: [
            Some(C::DoubleWriteBatches),
            Some(C::DoubleWriteBytes),
            Some(C::DoubleWriteMicros),
        ],
        syncs: [Some(C::DoubleWriteSyncs), None],
        ..NOTHING
    },
    Io {
        object: "log",
        cause: "flush",
        writes: [
            Some(C::WalWrites),
            Some(C::WalWriteBytes),
            Some(C::WalWriteMicros),
        ],
        syncs: [Some(C::WalSyncs), Some(C::WalSyncMicros)],
        ..NOTHING
    },
    Io {
        object: "pg_control",
        cause: "redo point",
        writes: [
            Some(C::ControlWrites),
            Some(C::ControlBytes),
            Some(C::ControlMicros),
        ],
        syncs: [Some(C::ControlWrites), None],
        ..NOTHING
    },
];

/// Microseconds that writing pages to their places took, whatever the cause.
pub fn page_write_us(server: &Server) -> u64 {
    let stats = &server.store.shared.stats;
    let micros = IO.iter().filter(|io| io.object == "relation files");
    micros
        .filter_map(|io| io.writes[2])
        .map(|counter| stats.get(counter))
        .sum()
}

/// Reads, writes and syncs, by kind of process, object and cause; without those that there were
/// none of.
pub fn io_rows(server: &Server) -> Vec<Fields> {
    let stats = &server.store.shared.stats;
    let mut rows = Vec::new();
    let slots: Vec<SlotNo> = (0..PROCESSES_MAX).map(SlotNo::new).collect();
    for slots in slots.chunk_by(|one, next| kind(*one) == kind(*next)) {
        let sum = |counter: Option<Counter>| -> u64 {
            let of = |slot| counter.map_or(0, |counter| stats.of(slot, counter));
            slots.iter().copied().map(of).sum()
        };
        for io in &IO {
            let (reads, writes, syncs) = (sum(io.reads[0]), sum(io.writes[0]), sum(io.syncs[0]));
            if reads + writes + syncs == 0 {
                continue;
            }
            let write_bytes = match (io.writes[1], io.object) {
                (None, "relation files") => writes * PAGE_BYTES as u64,
                (bytes, _) => sum(bytes),
            };
            rows.push(vec![
                ("process", text(kind(slots[0]))),
                ("object", text(io.object)),
                ("cause", text(io.cause)),
                ("reads", number(reads)),
                ("read_bytes", number(reads * PAGE_BYTES as u64)),
                ("read_us", number(sum(io.reads[1]))),
                ("writes", number(writes)),
                ("write_bytes", number(write_bytes)),
                ("write_us", number(sum(io.writes[2]))),
                ("syncs", number(syncs)),
                ("sync_us", number(sum(io.syncs[1]))),
            ]);
        }
    }
    rows
}

/// The processes that there are, with what each has done.
pub fn process_rows(server: &Server) -> Vec<Fields> {
    let shared = &server.store.shared;
    let slots = (0..PROCESSES_MAX).map(SlotNo::new);
    // Startup has ended when anybody can ask.
    let lives = |slot: &SlotNo| slot.role() != Role::Startup && shared.procs.pid(*slot) != 0;
    let row = |slot: SlotNo| -> Fields {
        let count = |counter| number(shared.stats.of(slot, counter));
        vec![
            ("process", text(slot.role())),
            ("pid", number(u64::from(shared.procs.pid(slot)))),
            ("connections", number(shared.clients.count_of(slot) as u64)),
            ("waits_for_lsn", text(shared.procs.wait_lsn(slot))),
            ("is_parked", is(shared.procs.is_parked(slot))),
            ("commands", count(Counter::CommandsProcessed)),
            ("commits", count(Counter::Commits)),
            ("net_input_bytes", count(Counter::NetInputBytes)),
            ("net_output_bytes", count(Counter::NetOutputBytes)),
            ("buffer_hits", count(Counter::BufferHits)),
            ("pages_read", count(Counter::PagesRead)),
            ("wal_bytes", count(Counter::WalBytes)),
            ("wal_syncs", count(Counter::WalSyncs)),
            ("page_bytes_written", count(Counter::PageBytesWritten)),
        ]
    };
    slots.filter(lives).map(row).collect()
}

//! STAT ADVICE: what other settings would cost under the present load, and which to change.
//! CHECKPOINT EXPLAIN: what a checkpoint would do and cost, without making one.

use super::Call;
use super::stat::{Fields, page_write_us, write_fields};
use crate::dispatch::{Flow, Outcome};
use crate::server::Server;
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::units::{print_duration, print_size};
use rd_store::advice::{Cost, Load, Settings};
use rd_store::checkpoint::RecoveryNow;
use rd_store::history::Value;
use rd_store::recovery_time::{AIM, RedoWork};
use rd_store::relation::PIECE_BLOCKS;
use std::collections::BTreeSet;
use std::time::Duration;

/// Frames that are looked at: so few that no other client feels it.
const SAMPLES: usize = 8192;
/// Rounds of incremental writing by which the redo point stays behind, beside the heartbeat.
const ROUNDS: Duration = Duration::from_secs(1);
/// Targets that are tried, in seconds; 0 is none.
const TARGETS_S: [u64; 11] = [1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 0];
/// By how much `max_wal_size` is tried, as powers of two.
const SIZES: std::ops::RangeInclusive<i32> = -3..=5;
/// The least log that a server can be given, in segments.
const SEGMENTS_MIN: u64 = 2;
/// A change is worth while if it saves at least this part of the page writes.
const WORTH_WHILE: f64 = 0.2;
/// Below so many bytes of log in a second there is no load to speak of.
const LOAD_BYTES_PER_S: f64 = 10e3;

/// What advice is given from.
struct Present {
    now: RecoveryNow,
    load: Load,
    settings: Settings,
    cost: Cost,
}

fn present(server: &Server) -> Present {
    let (shared, config) = (&server.store.shared, &server.config);
    let now = shared.checkpoint.recovery_now();
    let insert = shared.wal.insert_lsn();
    let (lsns, scale) = shared.pool.sample_page_lsns(SAMPLES);
    let load = Load::of(insert, now.wal_bytes_per_s as f64, &lsns, scale);
    let settings = Settings {
        recovery_time_target: config.recovery_time_target(),
        max_wal_bytes: config.max_wal_size_bytes(),
        checkpoint_timeout: config.checkpoint_timeout(),
        completion_target: config.checkpoint_completion_target(),
        segment_bytes: shared.wal.segment_bytes(),
        lag: config.checkpoint_heartbeat() + ROUNDS,
    };
    let cost = load.cost(&now.speeds(), &settings);
    Present {
        now,
        load,
        settings,
        cost,
    }
}

impl Present {
    fn cost_of(&self, settings: &Settings) -> Cost {
        self.load.cost(&self.now.speeds(), settings)
    }

    fn with_target(&self, seconds: u64) -> (Duration, Cost) {
        let target = Duration::from_secs(seconds);
        let settings = Settings {
            recovery_time_target: target,
            ..self.settings
        };
        (target, self.cost_of(&settings))
    }

    fn with_size(&self, max_wal_bytes: u64) -> Cost {
        self.cost_of(&Settings {
            max_wal_bytes,
            ..self.settings
        })
    }

    /// Sizes that are tried.
    fn sizes(&self) -> impl Iterator<Item = u64> {
        let (present, segment) = (self.settings.max_wal_bytes, self.settings.segment_bytes);
        let scaled = move |power: i32| match u32::try_from(power) {
            Ok(power) => present.saturating_mul(1 << power),
            Err(_) => present >> power.unsigned_abs(),
        };
        SIZES
            .map(scaled)
            .filter(move |size| *size >= SEGMENTS_MIN * segment)
    }

    fn saves(&self, cost: &Cost) -> bool {
        cost.pages_per_s < (1.0 - WORTH_WHILE) * self.cost.pages_per_s
    }

    /// What to change, to what, and why.
    fn advice(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.load.wal_bytes_per_s < LOAD_BYTES_PER_S {
            advice.push("hardly anything is written now: ask again under load".to_owned());
            return advice;
        }
        let seconds = |us: u64| us as f64 / 1e6;
        let (now, target_us) = (
            &self.now,
            self.settings.recovery_time_target.as_micros() as u64,
        );
        // No log at all is allowed then.
        if target_us > 0 && now.fixed_us as f64 >= AIM * target_us as f64 {
            advice.push(format!(
                "a start takes {:.1} s before it redoes anything: set recovery_time_target to {} \
                 or more, else pages are written again and again in vain",
                seconds(now.fixed_us),
                rounded_up(2 * now.fixed_us),
            ));
        } else if target_us > 0 && now.estimate_us > target_us {
            advice.push(format!(
                "recovery would take {:.1} s now, longer than recovery_time_target: the disk does \
                 not keep up; set recovery_time_target to {} or more, or write less",
                seconds(now.estimate_us),
                rounded_up(now.estimate_us),
            ));
        }
        if self.cost.distance_s < self.settings.checkpoint_timeout.as_secs_f64() {
            let present = self.settings.max_wal_bytes;
            let found = self
                .sizes()
                .filter(|size| *size > present)
                .map(|size| (size, self.with_size(size)))
                .find(|(_, cost)| self.saves(cost));
            if let Some((size, cost)) = found {
                advice.push(format!(
                    "max_wal_size makes a checkpoint every {:.0} s: set max_wal_size to {}, and one \
                     comes every {:.0} s, with {:.0} page writes a second in place of {:.0}",
                    self.cost.distance_s,
                    print_size(size),
                    cost.distance_s,
                    cost.pages_per_s,
                    self.cost.pages_per_s,
                ));
            }
        }
        let longer = TARGETS_S
            .into_iter()
            .filter(|seconds| Duration::from_secs(*seconds).as_micros() as u64 > target_us)
            .map(|seconds| self.with_target(seconds))
            .find(|(_, cost)| target_us > 0 && self.saves(cost));
        if let Some((target, cost)) = longer {
            advice.push(format!(
                "if a recovery may take {} s, set recovery_time_target to {}: {:.0} page writes a \
                 second in place of {:.0}",
                target.as_secs(),
                print_duration(target),
                cost.pages_per_s,
                self.cost.pages_per_s,
            ));
        }
        if advice.is_empty() {
            advice.push("the settings suit the present load".to_owned());
        }
        advice
    }
}

/// A time in whole seconds, as a setting.
fn rounded_up(us: u64) -> String {
    print_duration(Duration::from_secs(us.div_ceil(1_000_000)))
}

fn number(value: f64) -> Value {
    Value::Number(value as u64)
}

/// What a setting would come to.
fn cost_fields(setting: String, is_present: bool, cost: &Cost, present: &Cost) -> Fields {
    let percent = 100.0 * cost.pages_per_s / present.pages_per_s.max(f64::MIN_POSITIVE);
    let allowed = match cost.redo_bytes_allowed {
        u64::MAX => Value::Text("unlimited".to_owned()),
        bytes => Value::Number(bytes),
    };
    vec![
        ("setting", Value::Text(setting)),
        ("is_present", Value::Number(u64::from(is_present))),
        ("redo_bytes_allowed", allowed),
        ("checkpoint_every_s", number(cost.distance_s)),
        ("page_writes_per_s", number(cost.pages_per_s.round())),
        (
            "write_bytes_per_s",
            number(cost.pages_per_s * PAGE_BYTES as f64),
        ),
        ("percent_of_present", number(percent.min(1e6).round())),
    ]
}

/// STAT ADVICE.
pub fn advice(call: &mut Call<'_>) -> Outcome {
    let present = present(call.server);
    let target = present.settings.recovery_time_target;
    let by_target = TARGETS_S.map(|seconds| {
        let (tried, cost) = present.with_target(seconds);
        cost_fields(print_duration(tried), tried == target, &cost, &present.cost)
    });
    let by_size: Vec<Fields> = present
        .sizes()
        .map(|size| {
            let is_present = size == present.settings.max_wal_bytes;
            let cost = present.with_size(size);
            cost_fields(print_size(size), is_present, &cost, &present.cost)
        })
        .collect();
    let now = cost_fields(print_duration(target), true, &present.cost, &present.cost);
    let advice = present.advice();
    let mut reply = call.reply();
    reply.map(5);
    reply.bulk(b"wal_bytes_per_s");
    reply.integer(present.load.wal_bytes_per_s as i64);
    reply.bulk(b"present");
    write_fields(&mut reply, &now);
    for (name, rows) in [
        ("recovery_time_target", &by_target[..]),
        ("max_wal_size", &by_size),
    ] {
        reply.bulk(name.as_bytes());
        reply.array(rows.len());
        for fields in rows {
            write_fields(&mut reply, fields);
        }
    }
    reply.bulk(b"advice");
    reply.array(advice.len());
    for line in advice {
        reply.bulk(line.as_bytes());
    }
    Ok(Flow::Done)
}

/// Microseconds that it takes to write a page to the double-write area and to its place, and to sync
/// a file, as measured since the counters were set to 0; none before there was anything to measure.
fn measured_us(server: &Server) -> Option<(f64, f64)> {
    let stats = &server.store.shared.stats;
    let micros = page_write_us(server) + stats.get(Counter::DoubleWriteMicros);
    let pages = stats.get(Counter::PageBytesWritten) / PAGE_BYTES as u64;
    let (syncs, sync_us) = (
        stats.get(Counter::FileSyncs),
        stats.get(Counter::FileSyncMicros),
    );
    (pages > 0 && syncs > 0).then(|| (micros as f64 / pages as f64, sync_us as f64 / syncs as f64))
}

/// CHECKPOINT EXPLAIN: nothing is written.
pub fn explain(call: &mut Call<'_>) -> Outcome {
    let server = &*call.server;
    let shared = &server.store.shared;
    let present = present(server);
    let redo = shared.checkpoint.redo_lsn();
    // Read before the descriptors are, as a checkpoint does.
    let insert = shared.wal.insert_lsn();
    let mut dirty = Vec::new();
    shared.pool.dirty_before(Lsn::MAX, &mut dirty);
    let pieces = dirty.iter().map(|page| {
        let tag = page.tag;
        (tag.file, tag.block.get() / PIECE_BLOCKS)
    });
    let files = pieces.collect::<BTreeSet<_>>().len() as u64;
    let pages = dirty.len() as u64;
    let fast_us = measured_us(server)
        .map(|(page_us, sync_us)| pages as f64 * page_us + files as f64 * sync_us);
    let spread_s = present.settings.completion_target * present.cost.distance_s;
    // What comes meanwhile is left to be redone.
    let bytes = present.load.wal_bytes_per_s * fast_us.unwrap_or(0.0) / 1e6;
    let after = present.now.speeds().estimate_us(RedoWork {
        bytes: bytes as u64,
        pages: present.load.pages_within(bytes) as u64,
    });
    let unknown = || Value::Text("not measured yet".to_owned());
    let text = |value: &dyn ToString| Value::Text(value.to_string());
    let fields = vec![
        ("pages", Value::Number(pages)),
        ("files", Value::Number(files)),
        ("bytes", Value::Number(pages * PAGE_BYTES as u64)),
        (
            "seconds_fast",
            fast_us.map_or_else(unknown, |us| text(&format_args!("{:.3}", us / 1e6))),
        ),
        ("seconds_spread", text(&format_args!("{spread_s:.0}"))),
        ("redo_lsn", text(&redo)),
        ("redo_lsn_after", text(&insert)),
        (
            "redo_advance_bytes",
            Value::Number(insert.get().saturating_sub(redo.get())),
        ),
        ("estimate_us", Value::Number(present.now.estimate_us)),
        ("estimate_after_us", Value::Number(after)),
        (
            "outstanding_requests",
            Value::Number(shared.checkpoint.outstanding().len() as u64),
        ),
    ];
    write_fields(&mut call.reply(), &fields);
    Ok(Flow::Done)
}

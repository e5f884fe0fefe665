//! INFO: the server described in sections, with Redis's names where Redis has the section or the
//! field.

use super::{Call, stat};
use crate::dispatch::{Flow, Outcome};
use crate::server::Server;
use rd_base::counters::{Counter, InfoSection};
use rd_base::{REDIS_COMPAT, VERSION};
use rd_store::history::{CheckpointRow, Value};
use rd_wire::num::is_word;
use std::fmt::{self, Write};

/// A section: its name, whether it is shown by default, and what writes it.
struct Section {
    name: &'static str,
    write: fn(&Server, &mut String) -> fmt::Result,
}

const SECTIONS: &[Section] = &[
    Section {
        name: "Server",
        write: server,
    },
    Section {
        name: "Clients",
        write: clients,
    },
    Section {
        name: "Memory",
        write: memory,
    },
    Section {
        name: "Persistence",
        write: persistence,
    },
    Section {
        name: "Stats",
        write: stats,
    },
    Section {
        name: "Replication",
        write: replication,
    },
    Section {
        name: "CPU",
        write: cpu,
    },
    Section {
        name: "Wal",
        write: wal,
    },
    Section {
        name: "Checkpoint",
        write: checkpoint,
    },
    Section {
        name: "Recovery",
        write: recovery,
    },
    Section {
        name: "Storage",
        write: storage,
    },
    Section {
        name: "Buffers",
        write: buffers,
    },
    Section {
        name: "Io",
        write: io,
    },
    Section {
        name: "Processes",
        write: processes,
    },
    Section {
        name: "Cluster",
        write: cluster,
    },
    Section {
        name: "Keyspace",
        write: keyspace,
    },
];

/// INFO [section …].
pub fn info(call: &mut Call<'_>) -> Outcome {
    let asked = call.args.skip(1);
    let all = ["default", "all", "everything"];
    let wants_all = asked.is_empty()
        || asked
            .iter()
            .any(|word| all.iter().any(|known| is_word(word, known)));
    let mut text = String::new();
    for section in SECTIONS {
        if wants_all || asked.iter().any(|word| is_word(word, section.name)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            // Writing to a String cannot fail.
            let _ = write!(text, "# {}\r\n", section.name);
            let _ = (section.write)(call.server, &mut text);
        }
    }
    if !wants_all && asked.iter().any(|word| is_word(word, "keyspace")) {
        // But what tells of everything tells of a disk that stands still, too: that waits for nothing.
        call.depends_on_all();
    }
    call.reply().verbatim(*b"txt", text.as_bytes());
    Ok(Flow::Done)
}

macro_rules! fields {
    ($out:expr, $( $name:literal : $value:expr ),* $(,)?) => {{
        $( write!($out, "{}:{}\r\n", $name, $value)?; )*
        Ok(())
    }};
}

fn server(server: &Server, out: &mut String) -> fmt::Result {
    let uname = nix::sys::utsname::uname().ok();
    let os = uname.map(|name| {
        let part = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        format!(
            "{} {} {}",
            part(name.sysname()),
            part(name.release()),
            part(name.machine())
        )
    });
    let up_s = server
        .wall_us()
        .saturating_sub(server.store.shared.made_at_us())
        / 1_000_000;
    let data_dir = server
        .config
        .data_dir()
        .map(|dir| dir.display().to_string());
    fields!(out,
        "redis_version": REDIS_COMPAT,
        "redoubt_version": VERSION,
        "redis_mode": "standalone",
        "os": os.unwrap_or_default(),
        "arch_bits": usize::BITS,
        "multiplexing_api": "epoll",
        "process_id": nix::unistd::getppid(),
        "backend_id": server.role,
        "backend_pid": std::process::id(),
        "system_identifier": server.store.shared.wal.system_id(),
        "tcp_port": server.config.port(),
        "server_time_usec": server.wall_us(),
        "uptime_in_seconds": up_s,
        "uptime_in_days": up_s / 86_400,
        "executable": std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_default(),
        "data_directory": data_dir.clone().unwrap_or_default(),
        "config_file": data_dir.map(|dir| format!("{dir}/redoubt.conf")).unwrap_or_default(),
    )
}

fn clients(server: &Server, out: &mut String) -> fmt::Result {
    fields!(out,
        "connected_clients": server.store.shared.clients.count(),
        "maxclients": server.config.max_connections(),
        "backends": server.config.backends(),
    )
}

fn memory(server: &Server, out: &mut String) -> fmt::Result {
    let shared = server.store.shared.bytes();
    fields!(out,
        "used_memory": shared + server.memory_bytes,
        "shared_memory": shared,
        "shared_buffers": server.config.shared_buffers_bytes(),
        "backend_client_memory": server.memory_bytes,
        "backend_memory_max": server.memory_bytes_max(),
        "maxmemory": 0,
        "maxmemory_policy": "noeviction",
    )
}

/// Redis's fields; a checkpoint stands for its RDB file, the log for its AOF.
fn persistence(server: &Server, out: &mut String) -> fmt::Result {
    let shared = &server.store.shared;
    let checkpoint = &shared.checkpoint;
    let status = |failed| if failed { "err" } else { "ok" };
    let is_under_way = checkpoint.is_under_way();
    let seconds = |us: u64| (us / 1_000_000) as i64;
    let began_us = checkpoint.progress().began_us;
    let elapsed_us = server.wall_us().saturating_sub(began_us);
    let last = shared.history.last::<CheckpointRow>(1).pop();
    let last_s = last.map_or(-1, |row| seconds(row.ended_us.saturating_sub(row.began_us)));
    fields!(out,
        "loading": 0,
        "async_loading": 0,
        "rdb_bgsave_in_progress": u8::from(is_under_way),
        "rdb_last_save_time": checkpoint.last_done_us() / 1_000_000,
        "rdb_last_bgsave_status": status(checkpoint.last_failed()),
        "rdb_last_bgsave_time_sec": last_s,
        "rdb_current_bgsave_time_sec": if is_under_way { seconds(elapsed_us) } else { -1 },
        "rdb_saves": checkpoint.done(),
        "aof_enabled": 1,
        "aof_rewrite_in_progress": 0,
        "aof_last_write_status": "ok",
    )
}

/// The fields of a STAT command, a line each.
fn lines(out: &mut String, fields: &stat::Fields) -> fmt::Result {
    for (name, value) in fields {
        write!(out, "{name}:{}\r\n", shown(value))?;
    }
    Ok(())
}

/// One line of fields, as Redis shows statistics of commands.
fn line(out: &mut String, name: &str, fields: &[(&'static str, Value)]) -> fmt::Result {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", shown(value)))
        .collect();
    write!(out, "{name}:{}\r\n", fields.join(","))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text.clone(),
    }
}

fn recovery(server: &Server, out: &mut String) -> fmt::Result {
    lines(out, &stat::recovery_fields(server))
}

fn buffers(server: &Server, out: &mut String) -> fmt::Result {
    lines(out, &stat::buffer_fields(server))
}

fn io(server: &Server, out: &mut String) -> fmt::Result {
    for (index, fields) in stat::io_rows(server).iter().enumerate() {
        line(out, &format!("io{index}"), fields)?;
    }
    Ok(())
}

fn processes(server: &Server, out: &mut String) -> fmt::Result {
    for (index, fields) in stat::process_rows(server).iter().enumerate() {
        line(out, &format!("process{index}"), fields)?;
    }
    Ok(())
}

fn counters(server: &Server, out: &mut String, section: InfoSection) -> fmt::Result {
    for counter in Counter::ALL
        .iter()
        .filter(|counter| counter.section() == section)
    {
        let value = server.store.shared.stats.get(*counter);
        write!(out, "{}:{}\r\n", counter.name(), value)?;
    }
    Ok(())
}

fn stats(server: &Server, out: &mut String) -> fmt::Result {
    counters(server, out, InfoSection::Stats)
}

fn storage(server: &Server, out: &mut String) -> fmt::Result {
    counters(server, out, InfoSection::Storage)?;
    let seen = server.store.shared.scrub.seen();
    fields!(out,
        "scrub_in_progress": u8::from(seen.is_under_way),
        "scrub_unrepaired": seen.bad_count,
    )
}

fn replication(_: &Server, out: &mut String) -> fmt::Result {
    fields!(out, "role": "master", "connected_slaves": 0)
}

fn cpu(_: &Server, out: &mut String) -> fmt::Result {
    use nix::sys::resource::{UsageWho, getrusage};
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return Ok(());
    };
    let seconds =
        |time: nix::sys::time::TimeVal| format!("{}.{:06}", time.tv_sec(), time.tv_usec());
    fields!(out,
        "used_cpu_sys": seconds(usage.system_time()),
        "used_cpu_user": seconds(usage.user_time()),
    )
}

fn wal(server: &Server, out: &mut String) -> fmt::Result {
    let shared = &server.store.shared;
    write!(out, "insert_lsn:{}\r\n", shared.wal.insert_lsn())?;
    write!(out, "durable_lsn:{}\r\n", shared.wal.durable_lsn())?;
    write!(out, "redo_lsn:{}\r\n", shared.checkpoint.redo_lsn())?;
    write!(out, "timeline:{}\r\n", shared.wal.timeline())?;
    counters(server, out, InfoSection::Wal)
}

fn checkpoint(server: &Server, out: &mut String) -> fmt::Result {
    let shared = &server.store.shared;
    let checkpoint = &shared.checkpoint;
    write!(out, "checkpoints_started:{}\r\n", checkpoint.started())?;
    write!(out, "checkpoints_done:{}\r\n", checkpoint.done())?;
    let by_cause = [
        ("time", Counter::CheckpointsTimed),
        ("wal", Counter::CheckpointsWal),
        ("manual", Counter::CheckpointsRequested),
        ("backup", Counter::CheckpointsBackup),
        ("shutdown", Counter::CheckpointsShutdown),
        ("end-of-recovery", Counter::CheckpointsRecovery),
        ("namespace", Counter::CheckpointsNamespace),
    ];
    let causes: Vec<String> = by_cause
        .iter()
        .map(|(name, counter)| format!("{name}={}", shared.stats.get(*counter)))
        .collect();
    write!(out, "checkpoints_by_cause:{}\r\n", causes.join(","))?;
    let brake = shared.brake.state();
    let cause = brake.map_or("off", |brake| brake.cause.name());
    let bytes_per_s = brake.map_or(0, |brake| brake.bytes_per_s);
    write!(out, "commit_brake:{cause}\r\n")?;
    write!(out, "commit_brake_bytes_per_s:{bytes_per_s}\r\n")?;
    let pages_per_s = shared.brake.pages_per_s();
    write!(out, "checkpoint_pages_per_s:{pages_per_s}\r\n")?;
    for (name, value) in stat::checkpoint_fields(server) {
        write!(out, "checkpoint_{name}:{}\r\n", shown(&value))?;
    }
    counters(server, out, InfoSection::Checkpoint)
}

fn cluster(_: &Server, out: &mut String) -> fmt::Result {
    fields!(out, "cluster_enabled": 0)
}

fn keyspace(server: &Server, out: &mut String) -> fmt::Result {
    for info in server.engine.namespaces().result {
        if info.keys > 0 {
            let name = String::from_utf8_lossy(&info.name);
            write!(out, "{name}:keys={},expires=0,avg_ttl=0\r\n", info.keys)?;
        }
    }
    Ok(())
}

//! Other processes as `/proc` shows them, and limits that they are given while they run.

use super::cluster::send;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A process of a server: its id and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Process id.
    pub pid: u32,
    /// Its role, as in its title: `checkpointer`, `backend 3`.
    pub role: String,
}

/// The parent and the state letter of a process; `None` if there is no such process.
pub fn parent_and_state(pid: u32) -> Option<(u32, char)> {
    read_stat(Path::new(&format!("/proc/{pid}/stat")))
}

/// Whether a process, with all its threads, is stopped by a signal.
pub fn is_stopped(pid: u32) -> bool {
    is_in_state(pid, 'T')
}

/// Whether a process, with all its threads, sleeps: it waits neither for a processor nor for the disk.
pub fn is_asleep(pid: u32) -> bool {
    is_in_state(pid, 'S')
}

fn is_in_state(pid: u32, wanted: char) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut stats = threads.filter_map(|thread| Some(thread.ok()?.path().join("stat")));
    stats.all(|stat| read_stat(&stat).is_some_and(|(_, state)| state == wanted))
}

/// A process that is stopped, which goes on when this is dropped: nothing that fails meanwhile leaves it behind.
#[derive(Debug)]
pub struct Held(pub u32);

impl Drop for Held {
    fn drop(&mut self) {
        send(self.0, Signal::SIGCONT);
    }
}

fn read_stat(path: &Path) -> Option<(u32, char)> {
    let stat = fs::read_to_string(path).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

/// Whether a process exists and is no zombie. One whose first thread has ended may have others that are still
/// ending, and hold what it has open.
pub fn is_alive(pid: u32) -> bool {
    let has_others = || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|all| all.count() > 1);
    parent_and_state(pid).is_some_and(|(_, state)| state != 'Z' || has_others())
}

/// The title that a process shows.
pub fn title(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(
        String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .replace('\0', " "),
    )
}

/// The living children of `parent` that have a title of ours.
pub fn children_of(parent: u32) -> Vec<Child> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let child = |pid: u32| {
        let (its_parent, state) = parent_and_state(pid)?;
        let role = title(pid)?.strip_prefix("redoubt: ")?.to_owned();
        (its_parent == parent && state != 'Z').then_some(Child { pid, role })
    };
    let mut children: Vec<Child> = pids.filter_map(child).collect();
    children.sort_by(|a, b| a.role.cmp(&b.role));
    children
}

/// Sets a limit of a process that runs, as the program `prlimit` takes it (`--nofile=3:` is the soft one alone).
/// False if there is no such program, or no such process.
pub fn limit(pid: u32, option: &str) -> bool {
    let status = Command::new("prlimit")
        .arg(format!("--pid={pid}"))
        .arg(option)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The soft limit of a process that `/proc` calls so, as `prlimit` takes it.
pub fn soft_limit(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next().map(str::to_owned)
}

/// Bytes of addresses that a process has in use.
pub fn address_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Resident memory that belongs to a process alone, in bytes: what it shares with nobody, without
/// the pages of shared memory that happen to be in no other process's tables yet.
pub fn private_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let mut is_shared_mapping = false;
    let mut kilobytes = 0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        match first {
            "Private_Clean:" | "Private_Dirty:" if !is_shared_mapping => {
                kilobytes += second.parse::<u64>().ok()?;
            }
            // The line that opens a mapping: `start-end rwxs offset device inode path`.
            _ if !first.ends_with(':') => is_shared_mapping = second.ends_with('s'),
            _ => {}
        }
    }
    Some(kilobytes * 1024)
}

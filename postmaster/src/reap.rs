//! The reaper: which of our children have ended, and how. SIGCHLD says only that there are some.

use crate::children::Children;
use rd_base::Role;
use rd_sys::process::{Exit, reap};
use rd_sys::signals::QUIT_EXIT_CODE;

/// All children that have ended since the last call; they are no longer among `children`.
pub fn ended(children: &mut Children) -> Vec<(Role, Exit)> {
    let mut ended = Vec::new();
    while let Some((pid, exit)) = reap() {
        match children.remove(pid) {
            Some(role) => {
                let expected = [Exit::Code(0), Exit::Code(QUIT_EXIT_CODE)].contains(&exit);
                let level = if expected {
                    log::Level::Debug
                } else {
                    log::Level::Info
                };
                log::log!(level, "{role} (PID {pid}) {exit}");
                ended.push((role, exit));
            }
            None => log::warn!("a process that the server has not made (PID {pid}) {exit}"),
        }
    }
    ended
}

//! Whom to kill, and how.

use super::Random;
use crate::support::cluster::{Cluster, send};
use nix::sys::signal::Signal;

/// Who is killed with SIGKILL in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Postmaster and all children at once.
    Server,
    /// The same, while a checkpoint is under way.
    ServerInCheckpoint,
    /// The postmaster alone; its children must leave by themselves.
    Postmaster,
    /// The checkpointer.
    Checkpointer,
    /// The walwriter.
    Walwriter,
    /// One of the backends.
    Backend,
    /// Nobody: an immediate stop by SIGQUIT.
    ImmediateStop,
    /// Nobody: a fast stop, with its checkpoint.
    FastStop,
}

impl Victim {
    const ALL: [Victim; 10] = [
        Victim::Server,
        Victim::Server,
        Victim::ServerInCheckpoint,
        Victim::Postmaster,
        Victim::Checkpointer,
        Victim::Checkpointer,
        Victim::Walwriter,
        Victim::Backend,
        Victim::ImmediateStop,
        Victim::FastStop,
    ];

    /// Draws one.
    pub fn choose(random: &mut Random) -> Victim {
        Victim::ALL[random.below(Victim::ALL.len() as u64) as usize]
    }

    /// For the report.
    pub fn name(self) -> &'static str {
        match self {
            Victim::Server => "server",
            Victim::ServerInCheckpoint => "server in checkpoint",
            Victim::Postmaster => "postmaster",
            Victim::Checkpointer => "checkpointer",
            Victim::Walwriter => "walwriter",
            Victim::Backend => "backend",
            Victim::ImmediateStop => "none (immediate stop)",
            Victim::FastStop => "none (fast stop)",
        }
    }

    /// Whether the server has to be started again by hand afterwards.
    pub fn ends_server(self) -> bool {
        !matches!(
            self,
            Victim::Checkpointer | Victim::Walwriter | Victim::Backend
        )
    }

    /// Does it.
    pub fn kill(self, cluster: &mut Cluster, random: &mut Random) {
        match self {
            Victim::Server => cluster.kill_all(),
            Victim::ServerInCheckpoint => {
                if let Ok(mut client) = rd_wire::Client::connect_unix(cluster.socket()) {
                    // Whether it is refused or not: the kill comes either way.
                    let _ = client.cmd(&[b"CHECKPOINT", b"NOWAIT", b"FAST"]);
                }
                std::thread::sleep(std::time::Duration::from_micros(random.below(20_000)));
                cluster.kill_all();
            }
            Victim::Postmaster => {
                let children = cluster.children();
                cluster.signal(Signal::SIGKILL);
                cluster.wait_exit();
                crate::support::wait_for("the orphans to leave", || {
                    let alive = |pid| crate::support::process::is_alive(pid);
                    (!children.iter().any(|child| alive(child.pid))).then_some(())
                });
            }
            Victim::Checkpointer => kill_one(cluster, "checkpointer", random),
            Victim::Walwriter => kill_one(cluster, "walwriter", random),
            Victim::Backend => kill_one(cluster, "backend", random),
            Victim::ImmediateStop => {
                cluster.stop(Signal::SIGQUIT);
            }
            Victim::FastStop => {
                cluster.stop(Signal::SIGINT);
            }
        }
    }
}

fn kill_one(cluster: &Cluster, role: &str, random: &mut Random) {
    let children = cluster.children();
    let mut of_role: Vec<u32> = children
        .iter()
        .filter(|c| c.role.starts_with(role))
        .map(|c| c.pid)
        .collect();
    if !of_role.is_empty() {
        let index = random.below(of_role.len() as u64) as usize;
        send(of_role.swap_remove(index), Signal::SIGKILL);
    }
}

/// Kills the startup process, if there is one now.
pub fn kill_startup(cluster: &Cluster) -> bool {
    let startup = cluster
        .children()
        .into_iter()
        .find(|child| child.role == "startup");
    if let Some(startup) = &startup {
        send(startup.pid, Signal::SIGKILL);
    }
    startup.is_some()
}

//! The names of a simulated disk: directories as programs see them, as the disk holds them, and
//! the operations in between.
//!
//! Invariant: applying `pending` in order to `durable` gives `live`. A power cut may lose any of
//! the pending ones, but none whose name an earlier lost one touched.

use super::Rng;
use super::image::Fate;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The number of a file, whatever its names.
pub(super) type Inode = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Inode),
    Dir,
}

type Tree = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
enum Change {
    Made(String, Node),
    Removed(String),
    Renamed(String, String, Node),
}

impl Change {
    fn names(&self) -> [&str; 2] {
        match self {
            Change::Made(name, _) | Change::Removed(name) => [name, name],
            Change::Renamed(from, to, _) => [from, to],
        }
    }

    fn apply(&self, tree: &mut Tree) {
        match self {
            Change::Made(name, node) => {
                tree.insert(name.clone(), *node);
            }
            Change::Removed(name) => {
                tree.remove(name);
            }
            Change::Renamed(from, to, node) => {
                tree.remove(from);
                tree.insert(to.clone(), *node);
            }
        }
    }
}

/// The directory a path lies in.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: Tree,
    durable: Tree,
    pending: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &str) -> Option<Node> {
        if path.is_empty() {
            Some(Node::Dir)
        } else {
            self.live.get(path).copied()
        }
    }

    pub(super) fn file(&self, path: &str) -> io::Result<Inode> {
        match self.get(path) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn require_dir(&self, path: &str) -> io::Result<()> {
        match self.get(path) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn make(&mut self, path: &str, node: Node) -> io::Result<()> {
        self.require_dir(parent(path))?;
        if self.get(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Made(path.to_owned(), node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Removed(path.to_owned()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let inode = self.file(from)?;
        self.require_dir(parent(to))?;
        if self.get(to) == Some(Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(Change::Renamed(
                from.to_owned(),
                to.to_owned(),
                Node::File(inode),
            ));
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    pub(super) fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.require_dir(dir)?;
        let inside = self.live.keys().filter(|path| parent(path) == dir);
        Ok(inside
            .map(|path| path.rsplit('/').next().unwrap_or(path).to_owned())
            .collect())
    }

    pub(super) fn sync(&mut self, dir: &str) -> io::Result<()> {
        self.require_dir(dir)?;
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let here = change.names().iter().any(|name| parent(name) == dir);
            if here {
                change.apply(durable);
            }
            !here
        });
        Ok(())
    }

    pub(super) fn cut_power(&mut self, fate: Option<Fate>, rng: &mut Rng) {
        let fate = fate.unwrap_or_else(|| match rng.below(3) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Mixed,
        });
        let mut lost: BTreeSet<String> = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            let unlucky = match fate {
                Fate::Lost => true,
                Fate::Kept => false,
                Fate::Mixed => rng.half(),
            };
            if unlucky || change.names().iter().any(|name| lost.contains(*name)) {
                lost.extend(change.names().map(str::to_owned));
            } else {
                change.apply(&mut self.durable);
            }
        }
        self.drop_orphans();
        self.live = self.durable.clone();
    }

    /// What lies in a directory that was lost is lost with it.
    fn drop_orphans(&mut self) {
        let is_dir =
            |tree: &Tree, path: &str| path.is_empty() || tree.get(path) == Some(&Node::Dir);
        // Parents come before what is in them.
        let paths: Vec<String> = self.durable.keys().cloned().collect();
        for path in paths {
            if !is_dir(&self.durable, parent(&path)) {
                self.durable.remove(&path);
            }
        }
    }

    /// All files that can be reached, or could be after a power cut.
    pub(super) fn inodes(&self) -> BTreeSet<Inode> {
        let renamed = self.pending.iter().filter_map(|change| match change {
            Change::Made(_, node) | Change::Renamed(_, _, node) => Some(*node),
            Change::Removed(_) => None,
        });
        let nodes = self
            .live
            .values()
            .chain(self.durable.values())
            .copied()
            .chain(renamed);
        nodes
            .filter_map(|node| {
                if let Node::File(inode) = node {
                    Some(inode)
                } else {
                    None
                }
            })
            .collect()
    }

    /// The files that have a name at this moment.
    pub(super) fn live_inodes(&self) -> impl Iterator<Item = Inode> + '_ {
        self.live.values().filter_map(|node| match node {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        })
    }
}

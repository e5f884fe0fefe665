//! What was committed and what snapshots showed, held against one another.

use crate::server::Server;
use rd_base::{Lsn, Role};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Engine, NamespaceId};
use rd_sys::simsched::Crew;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;

/// All that a namespace holds.
pub type Content<V> = BTreeMap<u64, V>;

/// What one commit did to a key.
#[derive(Debug)]
pub struct Step<V> {
    pub key: u64,
    /// What it saw of it, if it looked.
    pub before: Option<Option<V>>,
    /// What it made of it, if it changed it.
    pub after: Option<Option<V>>,
}

/// What one commit did.
pub enum Change<V> {
    Keys(Vec<Step<V>>),
    /// It took all keys away.
    Flush,
}

/// All that was committed and all that snapshots showed; held against one another at the end, when
/// all is known.
pub struct Ledger<V> {
    commits: RefCell<Vec<(Lsn, Change<V>)>>,
    seen: RefCell<Vec<(Lsn, Content<V>)>>,
}

impl<V> Default for Ledger<V> {
    fn default() -> Self {
        Ledger {
            commits: RefCell::default(),
            seen: RefCell::default(),
        }
    }
}

/// Where all of it happens.
pub fn namespace() -> NamespaceId {
    NamespaceId::database(0).expect("there is one")
}

/// A key that begins with so many bytes that say nothing: of long ones few fit a page.
pub fn key_bytes(filling: usize, key: u64) -> Vec<u8> {
    let mut bytes = vec![b'k'; filling];
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes
}

pub fn key_of(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.last_chunk().expect("as it was made"))
}

impl<V: Copy + PartialEq + Debug> Ledger<V> {
    /// Something was committed; at no LSN if there was nothing to be changed.
    pub fn note(&self, lsn: Lsn, change: Change<V>) {
        if lsn > Lsn::ZERO {
            self.commits.borrow_mut().push((lsn, change));
        }
    }

    /// A snapshot has shown this.
    pub fn see(&self, lsn: Lsn, content: Content<V>) {
        self.seen.borrow_mut().push((lsn, content));
    }

    /// Holds everything against the order of the log.
    fn check(&self) -> Result<(), String> {
        let mut commits = self.commits.take();
        commits.sort_by_key(|(lsn, _)| *lsn);
        let mut seen = self.seen.take();
        seen.sort_by_key(|(lsn, _)| *lsn);
        let mut seen = seen.into_iter().peekable();
        let mut content = Content::new();
        let mut commits = commits.into_iter().peekable();
        loop {
            let next = commits.peek().map(|(lsn, _)| *lsn);
            while let Some((lsn, shown)) = seen.next_if(|(lsn, _)| next.is_none_or(|at| *lsn < at))
            {
                if shown != content {
                    return Err(format!(
                        "a snapshot at {lsn} shows {shown:?} in place of {content:?}"
                    ));
                }
            }
            match commits.next() {
                Some((lsn, Change::Keys(steps))) => redo(&mut content, lsn, steps)?,
                Some((_, Change::Flush)) => content.clear(),
                None => return Ok(()),
            }
        }
    }
}

/// Carries out what a commit did. All of its looks came before all of its changes.
fn redo<V: Copy + PartialEq + Debug>(
    content: &mut Content<V>,
    lsn: Lsn,
    steps: Vec<Step<V>>,
) -> Result<(), String> {
    for step in &steps {
        let now = content.get(&step.key).copied();
        if step.before.is_some_and(|before| before != now) {
            return Err(format!(
                "the commit at {lsn} saw {step:?}, which was {now:?}"
            ));
        }
    }
    for step in steps {
        match step.after {
            Some(Some(value)) => drop(content.insert(step.key, value)),
            Some(None) => drop(content.remove(&step.key)),
            None => {}
        }
    }
    Ok(())
}

/// At the end, when nobody else runs: the tree is whole, what it holds is counted right, and everything
/// agrees with the ledger.
///
/// # Errors
/// In words, what does not.
pub fn finish<V: Copy + PartialEq + Debug + 'static>(
    server: &Rc<Server>,
    mut crew: Crew,
    ledger: &Rc<Ledger<V>>,
    read_all: fn(&Engine) -> Content<V>,
) -> Result<u64, String> {
    let (store, seen) = (server.store(Role::Backend(7)), Rc::clone(ledger));
    crew.add("checker", move || {
        let engine = Engine::open(store);
        let content = read_all(&engine);
        let count = engine.count(namespace()).expect("there is one").result;
        assert_eq!(count, content.len() as u64, "keys are counted wrong");
        let store = engine.store();
        seen.see(store.shared.wal.insert_lsn(), content);
        if let Some(file) = store.shared.namespaces.entry(namespace()).file() {
            let report = verify(&LivePages { store, file });
            assert!(report.is_clean(), "{:#?}", report.problems);
        }
        engine.rest();
    });
    crew.run(&mut |_, _| {})?;
    ledger.check()?;
    Ok(crew.trace())
}

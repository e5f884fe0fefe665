//! What a logical backend asks of one namespace's file: that it is closed or opened, as the namespace is
//! made read only or taken offline and back, and a checkpoint of it alone. The steps are those of the
//! commands (`backend/src/commands/namespaces.rs`).

use crate::content::{Change, SPACES, id_of, name_of};
use crate::parking::wait_until_durable;
use crate::work::Backend;
use rd_base::{FileNo, Lsn};
use rd_engine::{Engine, EngineError, NamespaceId};
use rd_store::checkpoint::{FileRequest, Requester, TicketState};
use rd_store::namespaces::{Access, AccessChange};

impl Backend {
    /// Makes the namespace read only or takes it offline, if `closes`, else back. Gives the LSN of what
    /// was committed.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn change_access(
        &self,
        engine: &mut Engine,
        number: usize,
        restriction: Access,
        closes: bool,
    ) -> Result<Lsn, EngineError> {
        let Some((id, change)) = self.begin_access_change(engine, number)? else {
            return Ok(Lsn::ZERO);
        };
        let (before, file) = match engine.access(id) {
            // Dropped by somebody who was faster.
            Err(EngineError::NoNamespace) => return Ok(Lsn::ZERO),
            access => access?,
        };
        if before.is_offline() && !restriction.is_offline() {
            return Ok(Lsn::ZERO);
        }
        self.ledger.borrow_mut().access_changes.begun += 1;
        let done = if closes {
            self.close(engine, (number, id), before.with(restriction))
        } else {
            self.open(engine, (number, id), (before, file), restriction)
        };
        self.ledger.borrow_mut().access_changes.ended += 1;
        drop(change);
        done
    }

    fn begin_access_change(
        &self,
        engine: &Engine,
        number: usize,
    ) -> Result<Option<(NamespaceId, AccessChange)>, EngineError> {
        let Some(id) = id_of(&self.store.shared.namespaces, number) else {
            return Ok(None);
        };
        match engine.begin_access_change(id) {
            Err(EngineError::NamespaceChanging(_)) => Ok(None),
            change => Ok(Some((id, change?))),
        }
    }

    /// First nobody is let in any more, then the file is brought to disk and closed.
    fn close(
        &self,
        engine: &mut Engine,
        (number, id): (usize, NamespaceId),
        access: Access,
    ) -> Result<Lsn, EngineError> {
        let (lsn, file) = self.set_access(engine, (number, id), access)?;
        if let Some(file) = file
            && self.ask_of_file(engine, file, Some(access))
        {
            let files = &self.store.shared.files;
            let closed = files.closed(file).map(|(access, _)| access);
            if files.live().contains(&file) && closed != Some(access) {
                let text = format!("file {file} was to be closed as {access:?}, and is {closed:?}");
                self.orders.fail(text);
            }
        }
        Ok(lsn)
    }

    /// First the file is looked at and opened, then whoever it is for is let in.
    fn open(
        &self,
        engine: &mut Engine,
        (number, id): (usize, NamespaceId),
        (before, file): (Access, Option<FileNo>),
        restriction: Access,
    ) -> Result<Lsn, EngineError> {
        let access = before.without(restriction);
        if let Some(file) = file
            && !self.ask_of_file(engine, file, Some(access))
        {
            self.request(file, Some(before));
            return Ok(Lsn::ZERO);
        }
        let set = self.set_access(engine, (number, id), access);
        if let (Err(_), Some(file)) = (&set, file) {
            self.request(file, Some(before));
        }
        set.map(|(lsn, _)| lsn)
    }

    /// Gives what was committed, and the namespace's file.
    fn set_access(
        &self,
        engine: &mut Engine,
        (number, id): (usize, NamespaceId),
        access: Access,
    ) -> Result<(Lsn, Option<FileNo>), EngineError> {
        let mut file = None;
        let lsn = self.commit(engine, Change::Access(number, access), |engine| {
            self.ledger.borrow_mut().note_found(self.number, number, id);
            let set = engine.set_access(id, access)?;
            file = set.result;
            Ok(set.lsn)
        })?;
        Ok((lsn, file))
    }

    /// Brings all namespaces online. Gives the LSN up to which the log is durable then, and what each was
    /// before; none, and a failure told, if that does not go.
    pub fn bring_online(&self) -> Option<(Lsn, [Access; SPACES])> {
        let mut engine = Engine::open(self.store.clone());
        let namespaces = &self.store.shared.namespaces;
        let access = |number| id_of(namespaces, number).map(|id| namespaces.entry(id).access());
        let before = std::array::from_fn(|number| access(number).unwrap_or_default());
        for (number, access) in before
            .iter()
            .enumerate()
            .filter(|(_, one)| one.is_offline())
        {
            let done = self.change_access(&mut engine, number, Access::OFFLINE, false);
            let there = id_of(namespaces, number).map(|id| namespaces.entry(id).access());
            if done.is_err() || there != Some(access.without(Access::OFFLINE)) {
                let text = format!("{} does not come online: {done:?}", name_of(number));
                self.orders.fail(text);
                return None;
            }
        }
        engine.rest();
        let end = self.store.shared.wal.insert_lsn();
        wait_until_durable(&self.store, end);
        Some((end, before))
    }

    /// Brings what was written there to the namespace's file, and notes that it must be there.
    pub fn checkpoint_of(&self, engine: &Engine, number: usize) {
        let shared = &self.store.shared;
        let Some(id) = id_of(&shared.namespaces, number) else {
            return;
        };
        let Some(file) = shared.namespaces.entry(id).file() else {
            return;
        };
        let asked_at = shared.wal.insert_lsn();
        let changes = self.ledger.borrow().access_changes;
        let was_closed = shared.files.closed(file).is_some();
        let is_done = self.ask_of_file(engine, file, None);
        // One that is closed is left as it is, with all that it will have, also if it was so for a moment; and
        // so is one that is dropped, which a crash may bring back.
        let is_closed = was_closed || shared.files.closed(file).is_some();
        let is_there = shared.files.live().contains(&file);
        // Others go on at each look at shared memory, so there is none while the ledger is held.
        let mut ledger = self.ledger.borrow_mut();
        let was_left_alone = changes.are_over() && changes == ledger.access_changes;
        if is_done && is_there && !is_closed && was_left_alone {
            ledger.promise_file(file, asked_at);
        }
    }

    fn request(&self, file: FileNo, access: Option<Access>) -> rd_store::checkpoint::FileTicket {
        let shared = &self.store.shared;
        let request = FileRequest {
            file,
            access,
            requester: Requester::process(self.store.slot.role(), "rd_sim"),
        };
        let asked = shared.checkpoint.request_file(&shared.procs, &request);
        asked.expect("there is room for more than there are backends")
    }

    /// Asks the checkpointer, and sleeps until it has answered; whether it has done it.
    fn ask_of_file(&self, engine: &Engine, file: FileNo, access: Option<Access>) -> bool {
        let ticket = self.request(file, access);
        // It may wait until nobody reads the file.
        engine.rest();
        let procs = &self.store.shared.procs;
        let event = procs.event(self.store.slot);
        let state = loop {
            event.take();
            procs.set_parked(self.store.slot, true);
            match self.store.shared.checkpoint.file_state(&ticket) {
                TicketState::Pending => drop(event.wait(None)),
                state => break state,
            }
        };
        procs.set_parked(self.store.slot, false);
        match state {
            TicketState::Failed(why) if !self.harm.explains(&why) => {
                let text = format!("file {file} for {access:?}: {why}");
                self.orders.fail(text);
                false
            }
            state => state == TicketState::Done,
        }
    }
}

//! The workers, and what is under way with them.
//!
//! A batch goes to all workers at once, its parts to each. A page is always the same worker's, and
//! each takes its parts in the order in which they come: so a page sees its records in the order of
//! the log, however far one worker is ahead of another. A batch counts as done when all its parts
//! are, and all batches before it.
//!
//! Without threads a part is done when it is given, or, in a simulation, when its seed says so.

use super::batch::{Batch, Task};
use super::worker::{Failed, Pages, Tally, Worker};
use super::{RecoveryError, RedoHands, RedoSteps};
use rd_store::Store;
use rd_sys::Shortage;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Scope};
use std::time::Duration;

/// Batches under way above which the reader waits.
pub(super) const UNDER_WAY_MAX: usize = 3;
/// Batches kept to be filled again.
const SPARE_MAX: usize = 8;

/// A part of a batch.
struct Job {
    batch: Arc<Batch>,
    part: Vec<Task>,
}

/// What came of a job.
struct Answer {
    job: Job,
    number: u64,
    done: Result<Tally, Failed>,
}

/// What a thread does.
type Work<'scope> = Box<dyn FnOnce() + Send + 'scope>;

enum Hands {
    Threads(Vec<Sender<(u64, Job)>>),
    Here(Worker, Sender<Answer>),
    Steps(Steps),
}

/// Workers that take turns on the thread of whoever waits for them.
struct Steps {
    desks: Vec<Desk>,
    outbox: Sender<Answer>,
    choose: Box<dyn FnMut(usize) -> usize>,
}

/// A worker, and what it was given.
struct Desk {
    worker: Worker,
    jobs: VecDeque<(u64, Job)>,
}

impl Steps {
    /// Has parts done until none is left, or, if `may_rest`, none is chosen.
    fn run(&mut self, may_rest: bool) {
        loop {
            let ready = self.desks.iter_mut().filter(|desk| !desk.jobs.is_empty());
            let mut ready: Vec<_> = ready.collect();
            let choices = ready.len() + usize::from(may_rest);
            if choices == 0 {
                return;
            }
            let chosen = (self.choose)(choices);
            let Some(desk) = ready.get_mut(chosen) else {
                return;
            };
            let (number, job) = desk.jobs.pop_front().expect("it is ready");
            let answer = desk.worker.answer(number, job);
            self.outbox.send(answer).expect("the other end is here");
            if !may_rest {
                return;
            }
        }
    }
}

/// A batch under way.
struct Flight {
    batch: Arc<Batch>,
    parts_left: usize,
}

/// The workers.
pub(super) struct Crew {
    hands: Hands,
    workers: usize,
    answers: Receiver<Answer>,
    /// Batches that were given and are not done, in the order of the log.
    flights: VecDeque<Flight>,
    /// The number of the first of them.
    first: u64,
    /// Of batches that were done.
    spare: Vec<Batch>,
    spare_parts: Vec<Vec<Task>>,
    tally: Tally,
    failed: Option<Failed>,
}

impl Crew {
    /// Makes the workers that `hands` asks for, threads in `scope`, or as many of those as can be made; one
    /// without a thread, if that is none.
    pub fn new<'scope>(
        scope: &'scope Scope<'scope, '_>,
        store: &Store,
        pages: Pages,
        hands: RedoHands,
    ) -> Crew {
        let threads = match hands {
            RedoHands::Threads(threads) => threads,
            RedoHands::Steps(steps) => return Crew::of_steps(store, pages, steps),
        };
        let spawn = |number, work: Work<'scope>| {
            let builder = thread::Builder::new().name(format!("redo {number}"));
            builder.spawn_scoped(scope, work).map(|_| ())
        };
        Crew::made_by(spawn, store, pages, threads)
    }

    /// As [`Crew::new`], with threads from `spawn`.
    fn made_by<'scope>(
        spawn: impl Fn(usize, Work<'scope>) -> io::Result<()>,
        store: &Store,
        pages: Pages,
        threads: usize,
    ) -> Crew {
        let (outbox, answers) = mpsc::channel();
        let mut inboxes = Vec::new();
        for number in 0..threads {
            let (inbox, jobs) = mpsc::channel();
            let (worker, outbox) = (Worker::new(store, pages), outbox.clone());
            let work = move || work(worker, &jobs, &outbox);
            if let Err(error) = spawn(number, Box::new(work)) {
                log::warn!(
                    "only {number} of {threads} threads for redo could be made, which takes longer: {}",
                    Shortage::of_thread(&error)
                );
                break;
            }
            inboxes.push(inbox);
        }
        let workers = inboxes.len().max(1);
        let hands = if inboxes.is_empty() {
            Hands::Here(Worker::new(store, pages), outbox)
        } else {
            Hands::Threads(inboxes)
        };
        Crew::with(hands, workers, answers)
    }

    fn of_steps(store: &Store, pages: Pages, steps: RedoSteps) -> Crew {
        let (outbox, answers) = mpsc::channel();
        let desk = || Desk {
            worker: Worker::new(store, pages),
            jobs: VecDeque::new(),
        };
        let hands = Hands::Steps(Steps {
            desks: (0..steps.workers).map(|_| desk()).collect(),
            outbox,
            choose: steps.choose,
        });
        Crew::with(hands, steps.workers, answers)
    }

    fn with(hands: Hands, workers: usize, answers: Receiver<Answer>) -> Crew {
        Crew {
            hands,
            workers,
            answers,
            flights: VecDeque::new(),
            first: 0,
            spare: Vec::new(),
            spare_parts: Vec::new(),
            tally: Tally::default(),
            failed: None,
        }
    }

    /// A batch to be filled.
    pub fn batch(&mut self) -> Batch {
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.clear();
        let part = || self.spare_parts.pop().unwrap_or_default();
        batch.parts.resize_with(self.workers, part);
        batch
    }

    /// Takes back a batch that is not to be redone.
    pub fn take_back(&mut self, batch: Batch) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch);
        }
    }

    /// Gives `batch`, whose needs are met, to the workers.
    pub fn give(&mut self, mut batch: Batch) {
        let parts = std::mem::take(&mut batch.parts);
        let batch = Arc::new(batch);
        let number = self.first + self.flights.len() as u64;
        self.flights.push_back(Flight {
            batch: Arc::clone(&batch),
            parts_left: parts.len(),
        });
        for (worker, part) in parts.into_iter().enumerate() {
            let job = Job {
                batch: Arc::clone(&batch),
                part,
            };
            match &mut self.hands {
                // A thread that panics takes the process along, so it is there.
                Hands::Threads(inboxes) => inboxes[worker]
                    .send((number, job))
                    .expect("the thread lives as long as this"),
                Hands::Here(worker, outbox) => outbox
                    .send(worker.answer(number, job))
                    .expect("the other end is here"),
                Hands::Steps(steps) => steps.desks[worker].jobs.push_back((number, job)),
            }
        }
    }

    /// How many batches are under way.
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Waits for some worker to have done something, for at most `timeout`; then takes note of all
    /// that was done.
    pub fn wait(&mut self, timeout: Duration) {
        if let Hands::Steps(steps) = &mut self.hands {
            steps.run(false);
        }
        match self.answers.recv_timeout(timeout) {
            Ok(answer) => self.note(answer),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        self.look();
    }

    /// Takes note of what was done.
    pub fn look(&mut self) {
        if let Hands::Steps(steps) = &mut self.hands {
            steps.run(true);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.note(answer);
        }
    }

    fn note(&mut self, answer: Answer) {
        let Answer { job, number, done } = answer;
        let flight = &mut self.flights[(number - self.first) as usize];
        flight.parts_left -= 1;
        let Job { batch, mut part } = job;
        drop(batch);
        part.clear();
        self.spare_parts.push(part);
        match done {
            Ok(tally) => self.tally.add(&tally),
            Err(failed) => {
                // The first in the log is the one to look at.
                if self
                    .failed
                    .as_ref()
                    .is_none_or(|known| failed.at < known.at)
                {
                    self.failed = Some(failed);
                }
            }
        }
    }

    /// The next batch that is done, together with all before it.
    pub fn next_done(&mut self) -> Option<Batch> {
        if self.flights.front()?.parts_left > 0 {
            return None;
        }
        let flight = self.flights.pop_front()?;
        self.first += 1;
        Some(Arc::into_inner(flight.batch).expect("all jobs of the batch are answered"))
    }

    /// Whether something that was given is not done.
    pub fn is_at_work(&self) -> bool {
        self.flights.iter().any(|flight| flight.parts_left > 0)
    }

    /// Whether something stopped a worker, and others have not yet done what was under way then.
    pub fn is_failing(&self) -> bool {
        self.failed.is_some() && self.is_at_work()
    }

    /// What stopped a worker. The others have done then what was under way, so it is the first in
    /// the log of all that they met: see [`Crew::is_failing`].
    ///
    /// # Errors
    /// That.
    pub fn check(&mut self) -> Result<(), RecoveryError> {
        self.failed
            .take()
            .map_or(Ok(()), |failed| Err(failed.error))
    }

    /// All that was done so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// The life of a worker's thread.
fn work(mut worker: Worker, jobs: &Receiver<(u64, Job)>, outbox: &Sender<Answer>) {
    for (number, job) in jobs {
        if outbox.send(worker.answer(number, job)).is_err() {
            return;
        }
    }
}

impl Worker {
    fn answer(&mut self, number: u64, mut job: Job) -> Answer {
        // Behind a page that could not be redone nothing may be: its later records would hide it.
        let done = if self.has_failed {
            Ok(Tally::default())
        } else {
            self.redo(&job.batch, &mut job.part)
        };
        self.has_failed |= done.is_err();
        Answer { job, number, done }
    }
}

#[cfg(test)]
mod tests {
    use super::super::redo::tests::startup;
    use super::*;
    use std::cell::Cell;

    /// The limit of processes is reached: whoever has crashed must be able to start all the same.
    #[test]
    fn redo_goes_on_with_the_threads_that_could_be_made() {
        const EAGAIN: i32 = 11;
        for possible in 0..=3 {
            let (store, _) = startup();
            let asked = Cell::new(0);
            thread::scope(|scope| {
                let spawn = |number, work| {
                    asked.set(asked.get() + 1);
                    if number == possible {
                        return Err(io::Error::from_raw_os_error(EAGAIN));
                    }
                    thread::Builder::new().spawn_scoped(scope, work).map(|_| ())
                };
                let mut crew = Crew::made_by(spawn, &store, Pages::Repaired, 3);
                for _ in 0..5 {
                    let batch = crew.batch();
                    assert_eq!(batch.parts.len(), possible.max(1));
                    crew.give(batch);
                }
                for _ in 0..5 {
                    while crew.next_done().is_none() {
                        crew.wait(Duration::from_secs(10));
                    }
                }
                crew.check().expect("nothing was to be done");
            });
            assert_eq!(asked.get(), 3.min(possible + 1), "asked once too often");
        }
    }
}

//! Threads of the checkpointer, made after its fork: each does one kind of work that waits for the
//! disk (syncing relation files, making room in them, reading them back), so that clean frames are supplied
//! meanwhile.
//!
//! A worker can also be without a thread: then the work is done when it is given, in the order in
//! which it is given; or whenever somebody calls for the next piece of it, as a simulation does that
//! wants to choose when.

use rd_sys::Event;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// A kind of work: jobs in, answers out, both in order.
pub struct Worker<J, A> {
    hands: Hands<J>,
    answers: Receiver<A>,
    /// Jobs given and not answered.
    under_way: usize,
}

enum Hands<J> {
    Elsewhere(Sender<J>),
    Here(Box<dyn FnMut(J)>),
}

impl<J: Send + 'static, A: Send + 'static> Worker<J, A> {
    /// A worker that does `work` on a thread, and notifies `wake` of each answer.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn on_thread(
        name: &str,
        wake: Event,
        mut work: impl FnMut(J) -> A + Send + 'static,
    ) -> io::Result<Worker<J, A>> {
        let (jobs, inbox) = mpsc::channel::<J>();
        let (outbox, answers) = mpsc::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for job in inbox {
                    if outbox.send(work(job)).is_err() {
                        return;
                    }
                    wake.notify();
                }
            })?;
        Ok(Worker {
            hands: Hands::Elsewhere(jobs),
            answers,
            under_way: 0,
        })
    }

    /// A worker whose `work` is done, one job at a time, by whoever calls the function that comes
    /// with it, which says whether there was one; `wake` is notified of each answer.
    pub fn by_steps(
        wake: Event,
        mut work: impl FnMut(J) -> A + 'static,
    ) -> (Worker<J, A>, impl FnMut() -> bool + 'static) {
        let (jobs, inbox) = mpsc::channel::<J>();
        let (outbox, answers) = mpsc::channel();
        let worker = Worker {
            hands: Hands::Elsewhere(jobs),
            answers,
            under_way: 0,
        };
        let step = move || {
            let Ok(job) = inbox.try_recv() else {
                return false;
            };
            // Without the other end nobody wants to know.
            let _ = outbox.send(work(job));
            wake.notify();
            true
        };
        (worker, step)
    }

    /// A worker that does `work` when it is given.
    pub fn in_place(mut work: impl FnMut(J) -> A + 'static) -> Worker<J, A> {
        let (outbox, answers) = mpsc::channel();
        let hands = Box::new(move |job| {
            outbox
                .send(work(job))
                .expect("the worker holds the other end");
        });
        Worker {
            hands: Hands::Here(hands),
            answers,
            under_way: 0,
        }
    }

    /// Gives it a job.
    pub fn give(&mut self, job: J) {
        self.under_way += 1;
        match &mut self.hands {
            // A thread that panics takes the process along, so it is there.
            Hands::Elsewhere(jobs) => jobs.send(job).expect("the other end lives as long as this"),
            Hands::Here(work) => work(job),
        }
    }

    /// The next answer, if one is there.
    pub fn answer(&mut self) -> Option<A> {
        let answer = self.answers.try_recv().ok()?;
        self.under_way -= 1;
        Some(answer)
    }

    /// Whether there are jobs without an answer.
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_sys::{Plan, Segment};

    #[test]
    fn jobs_are_answered_in_order_on_a_thread_and_in_place() {
        let mut plan = Plan::new();
        let cell = plan.reserve(1);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let event = Event::create(segment.one(cell)).expect("a descriptor");
        let on_thread =
            Worker::on_thread("double", event.clone(), |n: u32| 2 * n).expect("a thread");
        for mut worker in [on_thread, Worker::in_place(|n: u32| 2 * n)] {
            (0..100).for_each(|n| worker.give(n));
            let mut answers = Vec::new();
            while worker.is_busy() {
                match worker.answer() {
                    Some(answer) => answers.push(answer),
                    // Without a limit: a wake-up that is lost would hang here.
                    None => _ = event.wait(None),
                }
            }
            assert_eq!(answers, (0..100).map(|n| 2 * n).collect::<Vec<_>>());
        }
    }
}

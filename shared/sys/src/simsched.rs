//! Who goes on in a simulation whose processes are interleaved at their atomics, and how far.
//!
//! Two ways of choosing, of which a seed draws one:
//!
//! * At random: each goes on for a random number of steps, then one of all goes on.
//! * By priorities that change at random points, PCT: S. Burckhardt, P. Kothari, M. Musuvathi,
//!   S. Nagarakatte, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS
//!   2010. The highest one goes on until it waits, or until a change point puts it below all others.
//!   So a process may stand still at an unlucky place while the others do very much, which is what
//!   random choice hardly ever does. As the length of a run is not known beforehand, change points
//!   come all through it, at random distances; who pauses by itself, for an I/O say, is given any
//!   priority anew; and who has gone on for very long without doing more than looking is put below,
//!   too, or one that looks until another has done something would do so for ever. So would several that
//!   pause between their looks, while he is below them all: who was passed over very often is given any
//!   priority anew.
//!
//! A process that sleeps and was not woken goes on only now and then, or if nobody else can; one whose
//! sleep has no limit does not go on at all. So a wake-up that is lost shows itself: nobody can go on.

use crate::simdisk::Rng;
use crate::simproc::{Pause, Process, Progress, Sleep};

/// Steps after which a process that does not pause by itself comes below the others.
const STEPS_AT_A_TIME_MAX: u64 = 20_000;
/// Times that a process which could go on is passed over before it is given another priority.
const PASSED_OVER_MAX: u64 = 100_000;
/// Pauses of a crew after which it is taken to go on for ever.
const PAUSES_MAX: u64 = 5_000_000;
/// Times in a row, for each of a crew, that one looks in vain after which all are taken to hang.
const IDLE_MAX: u64 = 2_000;

/// How it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// At random, each for so many steps on average.
    Random(u64),
    /// By priorities, with so many steps from one change to the next on average.
    Priorities(u64),
}

impl Policy {
    /// One of all that make sense.
    pub fn draw(rng: &mut Rng) -> Policy {
        let of = |rng: &mut Rng, all: [u64; 4]| all[rng.below(4) as usize];
        if rng.half() {
            Policy::Random(of(rng, [2, 12, 80, 600]))
        } else {
            Policy::Priorities(of(rng, [30, 200, 1_500, 10_000]))
        }
    }
}

#[derive(Clone, Copy)]
struct Member {
    priority: u64,
    /// Steps since it last paused by itself.
    steps: u64,
    /// Times in a row that it could go on, and another was chosen by his priority.
    passed_over: u64,
}

/// Chooses among processes, which it knows by the order in which they came.
pub struct Scheduler {
    rng: Rng,
    policy: Policy,
    members: Vec<Member>,
    /// Steps to the next change of priorities.
    to_change: u64,
    /// Steps given last.
    given: u64,
}

/// Above it are the priorities that processes come with.
const FIRST_PRIORITY: u64 = 1 << 32;

impl Scheduler {
    /// One that chooses as the seed says.
    pub fn new(policy: Policy, seed: u64) -> Scheduler {
        let mut scheduler = Scheduler {
            rng: Rng::new(seed),
            policy,
            members: Vec::new(),
            to_change: 0,
            given: 0,
        };
        scheduler.draw_change();
        scheduler
    }

    fn draw_change(&mut self) {
        if let Policy::Priorities(distance) = self.policy {
            self.to_change = 1 + self.rng.below(2 * distance);
        }
    }

    /// One of these.
    fn one_of(&mut self, candidates: &[usize]) -> Option<usize> {
        let count = candidates.len() as u64;
        (count > 0).then(|| candidates[self.rng.below(count) as usize])
    }

    /// The one with the highest priority.
    fn first_of(&mut self, awake: &[usize]) -> Option<usize> {
        for at in awake {
            let member = &mut self.members[*at];
            member.passed_over += 1;
            if member.passed_over == PASSED_OVER_MAX {
                member.passed_over = 0;
                member.priority = self.rng.below(2 * FIRST_PRIORITY);
            }
        }
        let priority = |at: &usize| self.members[*at].priority;
        let first = awake.iter().copied().max_by_key(priority)?;
        self.members[first].passed_over = 0;
        Some(first)
    }

    /// Who goes on, and for how many steps. `state` is what each does: none if it is over. None if
    /// nobody can go on.
    pub fn choose(&mut self, states: &[Option<Sleep>]) -> Option<(usize, u64)> {
        while self.members.len() < states.len() {
            let priority = FIRST_PRIORITY + self.rng.below(FIRST_PRIORITY);
            self.members.push(Member {
                priority,
                steps: 0,
                passed_over: 0,
            });
        }
        let with = |wanted: Sleep| {
            let is_such = move |(_, state): &(usize, &Option<Sleep>)| **state == Some(wanted);
            states.iter().enumerate().filter(is_such).map(|(at, _)| at)
        };
        let awake: Vec<usize> = with(Sleep::Awake).collect();
        let asleep: Vec<usize> = with(Sleep::Limited).collect();
        let look_odds = match self.policy {
            Policy::Random(_) => 8,
            Policy::Priorities(_) => 64,
        };
        let looks = awake.is_empty() || !asleep.is_empty() && self.rng.below(look_odds) == 0;
        let chosen = if looks {
            self.one_of(&asleep)?
        } else {
            match self.policy {
                Policy::Random(_) => self.one_of(&awake)?,
                Policy::Priorities(_) => self.first_of(&awake)?,
            }
        };
        self.given = match self.policy {
            Policy::Random(steps) => self.rng.below(2 * steps),
            Policy::Priorities(_) => self.to_change.min(STEPS_AT_A_TIME_MAX),
        };
        Some((chosen, self.given))
    }

    /// Says how far the process came that was chosen last.
    pub fn paused(&mut self, chosen: usize, progress: &Progress, steps_left: u64) {
        let is_stopped = *progress == Progress::Paused(Pause::Atomic);
        let done = match is_stopped {
            true => self.given,
            false => self.given.saturating_sub(steps_left),
        };
        let member = &mut self.members[chosen];
        member.steps = if is_stopped { member.steps + done } else { 0 };
        if !matches!(self.policy, Policy::Priorities(_)) {
            return;
        }
        self.to_change = self.to_change.saturating_sub(done);
        let is_long = member.steps >= STEPS_AT_A_TIME_MAX;
        if !is_stopped {
            member.priority = self.rng.below(2 * FIRST_PRIORITY);
        } else if self.to_change == 0 || is_long {
            member.steps = 0;
            member.priority = self.rng.below(FIRST_PRIORITY);
        }
        if self.to_change == 0 {
            self.draw_change();
        }
    }
}

/// One of a crew.
struct Hand {
    name: &'static str,
    process: Process,
    /// It goes on for ever, so nobody waits for its end.
    is_server: bool,
    /// Pauses after which it is dead: it stays where it is, with all that it holds, as after a kill.
    pauses_left: u64,
}

impl Hand {
    fn is_over(&self) -> bool {
        self.process.is_over() || self.pauses_left == 0
    }

    fn state(&self) -> Option<Sleep> {
        (!self.is_over()).then(|| self.process.sleep())
    }
}

/// Processes that run until those of them are over that do not go on for ever.
pub struct Crew {
    hands: Vec<Hand>,
    scheduler: Scheduler,
    /// Whom to tell that all wait for something to come by itself, as time does.
    at_rest: Box<dyn FnMut()>,
    seed: u64,
    trace: u64,
}

impl Crew {
    /// Nobody yet. The seed chooses the policy and the order.
    pub fn new(seed: u64) -> Crew {
        let mut crew = Crew::plain(seed);
        crew.interleave();
        crew
    }

    /// Nobody yet, and not interleaved at atomics before [`Crew::interleave`].
    pub fn plain(seed: u64) -> Crew {
        Crew {
            hands: Vec::new(),
            scheduler: Scheduler::new(Policy::Random(1 << 50), seed),
            at_rest: Box::new(|| {}),
            seed,
            trace: 0,
        }
    }

    /// From now on they are interleaved at atomics.
    pub fn interleave(&mut self) {
        let policy = Policy::draw(&mut Rng::new(self.seed ^ 0x9E37_79B9));
        self.scheduler = Scheduler::new(policy, self.seed);
    }

    /// A number that tells one run from another: of who did what in which order.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// What is to be done when all wait: time goes on, say.
    pub fn at_rest(&mut self, then: impl FnMut() + 'static) {
        self.at_rest = Box::new(then);
    }

    /// Adds a process that comes to an end.
    pub fn add(&mut self, name: &'static str, body: impl FnOnce() + 'static) {
        self.add_hand(name, false, u64::MAX, body);
    }

    /// Adds one that goes on for ever.
    pub fn add_server(&mut self, name: &'static str, body: impl FnOnce() + 'static) {
        self.add_hand(name, true, u64::MAX, body);
    }

    /// Adds one that is killed when it pauses for the `pauses`th time, if it does so often. Nobody
    /// waits for its end.
    pub fn add_mortal(&mut self, name: &'static str, pauses: u64, body: impl FnOnce() + 'static) {
        self.add_hand(name, true, pauses, body);
    }

    fn add_hand(
        &mut self,
        name: &'static str,
        is_server: bool,
        pauses_left: u64,
        body: impl FnOnce() + 'static,
    ) {
        self.hands.push(Hand {
            name,
            process: Process::new(body),
            is_server,
            pauses_left,
        });
    }

    /// Runs all. `seen` is told of every pause.
    ///
    /// # Errors
    /// In words, when nobody can go on, when it takes for ever, and when one of them ends the server.
    ///
    /// # Panics
    /// As its processes do.
    pub fn run(&mut self, seen: &mut dyn FnMut(&'static str, Pause)) -> Result<(), String> {
        let mut idle = 0;
        let idle_max = IDLE_MAX * self.hands.len() as u64;
        for _ in 0..PAUSES_MAX {
            if self.hands.iter().all(|one| one.is_server || one.is_over()) {
                return Ok(());
            }
            let states: Vec<_> = self.hands.iter().map(Hand::state).collect();
            let all_wait = !states.contains(&Some(Sleep::Awake));
            if all_wait {
                (self.at_rest)();
            }
            idle = if all_wait { idle + 1 } else { 0 };
            let chosen = self.scheduler.choose(&states);
            let Some((chosen, steps)) = chosen.filter(|_| idle < idle_max) else {
                return Err(format!("all wait for each other: {}", self.waiting()));
            };
            let hand = &mut self.hands[chosen];
            let progress = hand.process.resume_for(steps);
            hand.pauses_left -= 1;
            let left = hand.process.steps_left();
            self.scheduler.paused(chosen, &progress, left);
            self.trace = Rng::new(self.trace ^ (left << 8) ^ chosen as u64).next_u64();
            match progress {
                Progress::Paused(why) => seen(hand.name, why),
                Progress::Ended => {}
                Progress::Panicked(text) => return Err(format!("{}: PANIC: {text}", hand.name)),
            }
        }
        Err(format!("it does not come to an end: {}", self.waiting()))
    }

    fn waiting(&self) -> String {
        let left = self.hands.iter().filter(|hand| !hand.is_over());
        let words = left.map(|hand| format!("{} ({:?})", hand.name, hand.process.sleep()));
        words.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::{AtomicU32, Ordering::SeqCst};
    use crate::futex::Condition;
    use std::rc::Rc;

    /// Two that add one to a number in two steps; gives what they come to.
    fn lost_update(seed: u64) -> u32 {
        let number = Rc::new(AtomicU32::new(0));
        let mut crew = Crew::new(seed);
        for _ in 0..2 {
            let number = Rc::clone(&number);
            crew.add("adder", move || {
                let before = number.load(SeqCst);
                number.store(before + 1, SeqCst);
            });
        }
        crew.run(&mut |_, _| {}).expect("they end");
        number.load(SeqCst)
    }

    #[test]
    fn interleavings_are_found_and_repeated() {
        let sums: Vec<u32> = (0..300).map(lost_update).collect();
        assert!(sums.contains(&1) && sums.contains(&2));
        assert_eq!(sums, (0..300).map(lost_update).collect::<Vec<_>>());
    }

    /// One waits for another, who makes its condition true before or after he wakes; gives whether
    /// they came to an end.
    fn waits(seed: u64, wakes_first: bool) -> bool {
        let shared = Rc::new((Condition::new(), AtomicU32::new(0)));
        let mut crew = Crew::new(seed);
        let own = Rc::clone(&shared);
        crew.add("waiter", move || {
            let (condition, is_done) = &*own;
            loop {
                let ticket = condition.ticket();
                if is_done.load(SeqCst) != 0 {
                    return;
                }
                condition.wait(ticket, None);
            }
        });
        let own = Rc::clone(&shared);
        crew.add("changer", move || {
            let (condition, is_done) = &*own;
            if wakes_first {
                condition.wake_all();
            }
            is_done.store(1, SeqCst);
            if !wakes_first {
                condition.wake_all();
            }
        });
        crew.run(&mut |_, _| {}).is_ok()
    }

    #[test]
    fn a_lost_wake_up_is_seen() {
        assert!((0..300).all(|seed| waits(seed, false)));
        assert!(!(0..300).all(|seed| waits(seed, true)));
    }

    #[test]
    fn who_looks_until_another_has_done_something_does_not_keep_him_from_it() {
        for seed in 0..100 {
            let word = Rc::new(AtomicU32::new(0));
            let mut crew = Crew::new(seed);
            let own = Rc::clone(&word);
            crew.add("looker", move || while own.load(SeqCst) == 0 {});
            let own = Rc::clone(&word);
            crew.add("doer", move || own.store(1, SeqCst));
            crew.run(&mut |_, _| {}).expect("both end");
        }
    }
}

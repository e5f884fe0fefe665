//! Makes a plan that fails shorter, by halves, for as long as it still fails.

use crate::harm::Harm;
use crate::machine::Failure;
use crate::run::Plan;
use crate::text;

/// Runs that are spent on it, at most.
const RUNS_MAX: u32 = 300;

/// The shortest plan that was found to fail when it is run, and how it fails.
pub fn shrink(
    plan: Plan,
    failure: Failure,
    run: &dyn Fn(&Plan) -> Result<(), Failure>,
) -> (Plan, Failure) {
    let mut best = (plan, failure);
    let mut runs = 0;
    loop {
        let mut is_shorter = false;
        for candidate in shorter(&best.0) {
            runs += 1;
            if runs > RUNS_MAX {
                return best;
            }
            if let Err(failure) = run(&candidate) {
                best = (candidate, failure);
                is_shorter = true;
                break;
            }
        }
        if !is_shorter {
            return best;
        }
    }
}

/// Plans that lack something, those that lack much first.
fn shorter(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut add = |change: &dyn Fn(&mut Plan)| {
        let mut candidate = plan.clone();
        change(&mut candidate);
        plans.push(candidate);
    };
    for (number, life) in plan.lives.iter().enumerate() {
        if plan.lives.len() > 1 {
            add(&|plan| drop(plan.lives.remove(number)));
        }
        if life.backends.len() > 1 {
            for backend in 0..life.backends.len() {
                add(&|plan| drop(plan.lives[number].backends.remove(backend)));
            }
        }
        if !life.harm.is_none() {
            add(&|plan| plan.lives[number].harm = Harm::none());
        }
    }
    for (number, life) in plan.lives.iter().enumerate() {
        for (backend, ops) in life.backends.iter().enumerate() {
            let mut part = ops.len() / 2;
            while part > 0 {
                for from in (0..ops.len()).step_by(part) {
                    let until = (from + part).min(ops.len());
                    add(&|plan| drop(plan.lives[number].backends[backend].drain(from..until)));
                }
                part /= 2;
            }
        }
    }
    plans
}

/// A failure is planted in one operation of a plan, or two: what is made short of it has these alone, and
/// what is printed of that is the same plan again.
///
/// # Errors
/// When that is not so.
pub fn test(plan: &Plan) -> Result<(), Failure> {
    let all: Vec<u64> = ops(plan).collect();
    let picks = [vec![all[all.len() / 2]], vec![all[0], all[all.len() - 1]]];
    for planted in picks {
        let run = |plan: &Plan| {
            let is_there = |one: &u64| ops(plan).any(|other| other == *one);
            match planted.iter().all(is_there) {
                true => Err(Failure("planted".to_owned())),
                false => Ok(()),
            }
        };
        let failure = Failure("planted".to_owned());
        let (short, _) = shrink(plan.clone(), failure, &run);
        let text = text::print(&short);
        let again = text::parse(&text).map_err(Failure)?;
        let is_short = ops(&short).eq(planted.iter().copied());
        if !is_short || again.lives != short.lives || run(&again).is_ok() {
            return Err(Failure(format!("{planted:?} was made short to {text}")));
        }
    }
    Ok(())
}

fn ops(plan: &Plan) -> impl Iterator<Item = u64> + '_ {
    let backends = plan.lives.iter().flat_map(|life| &life.backends);
    backends.flatten().copied()
}

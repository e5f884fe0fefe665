//! Makes a plan that fails shorter, by halves, for as long as it still fails.

use crate::check::Tally;
use crate::machine::Failure;
use crate::run::{Harm, Plan};

/// Runs that are spent on it, at most.
const RUNS_MAX: u32 = 300;

/// The shortest plan that was found to fail, and how it fails.
pub fn shrink(plan: Plan, failure: Failure) -> (Plan, Failure) {
    let mut best = (plan, failure);
    let mut runs = 0;
    loop {
        let mut is_shorter = false;
        for candidate in shorter(&best.0) {
            runs += 1;
            if runs > RUNS_MAX {
                return best;
            }
            if let Err(failure) = candidate.run(&mut Tally::default()) {
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
        if life.harm != Harm::None {
            add(&|plan| plan.lives[number].harm = Harm::None);
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

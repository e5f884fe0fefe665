//! A plan in one line, to be printed and run again: its seed and size, and, of what they make, the lives
//! and operations that are left, and whether the disk does harm in each.
//!
//! `seed,lives,ops,crashes,interleaves,lies;life/harm/operations/operations;...`, an operation by its number.

use crate::harm::Harm;
use crate::run::{Life, Plan, Size};

/// The plan in words of this module.
pub fn print(plan: &Plan) -> String {
    let size = plan.size;
    let (interleaves, lies) = (u8::from(size.interleaves), u8::from(size.lies));
    let mut parts = vec![format!(
        "{},{},{},{},{interleaves},{lies}",
        plan.seed, size.lives, size.ops, size.variants
    )];
    parts.extend(plan.lives.iter().map(print_life));
    parts.join(";")
}

fn print_life(life: &Life) -> String {
    let has_harm = u8::from(!life.harm.is_none());
    let mut text = format!("{:x}/{has_harm}", life.seed);
    for ops in &life.backends {
        let ops: Vec<String> = ops.iter().map(|op| format!("{op:x}")).collect();
        text.push('/');
        text.push_str(&ops.join("."));
    }
    text
}

/// The plan that [`print`] has made this of.
///
/// # Errors
/// When it has not.
pub fn parse(text: &str) -> Result<Plan, String> {
    let mut parts = text.split(';');
    let first = parts.next().unwrap_or("");
    let numbers: Result<Vec<u64>, _> = first.split(',').map(str::parse).collect();
    let [seed, lives, ops, variants, interleaves, is_liar] = numbers
        .ok()
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| format!("\"{first}\" is no seed and size"))?;
    let size = Size {
        lives,
        ops,
        variants,
        interleaves: interleaves > 0,
        lies: is_liar > 0,
    };
    let mut plan = Plan::new(seed, size);
    let whole = std::mem::take(&mut plan.lives);
    for part in parts {
        let life = parse_life(part, &whole);
        plan.lives
            .push(life.ok_or_else(|| format!("\"{part}\" is no life of it"))?);
    }
    Ok(plan)
}

fn parse_life(text: &str, whole: &[Life]) -> Option<Life> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut parts = text.split('/');
    let seed = number(parts.next()?)?;
    let mut life = whole.iter().find(|life| life.seed == seed)?.clone();
    if parts.next()? == "0" {
        life.harm = Harm::none();
    }
    let ops = |part: &str| {
        part.split('.')
            .filter(|op| !op.is_empty())
            .map(number)
            .collect()
    };
    life.backends = parts.map(ops).collect::<Option<_>>()?;
    Some(life)
}

//! Inputs that are changes of something sound, wherever in it: so small inputs reach every byte of
//! what is large.
//!
//! A patch is three bytes that say where it goes, modulo the length of the whole; one byte that says how
//! long it is; and its bytes. One behind the other, as many as there are.

/// A patch is no longer, in bytes.
const LENGTH_MAX: usize = u8::MAX as usize;
/// Bytes that are the same are part of a patch if there are no more of them between two that differ: as
/// many as the head of another would take.
const GAP_MAX: usize = 4;

/// Applies patches. What of one lies behind the end is left out.
pub(super) fn apply(bytes: &mut [u8], mut patches: &[u8]) {
    while let Some(([low, middle, high, length], rest)) = patches.split_first_chunk::<4>() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let at = u32::from_le_bytes([*low, *middle, *high, 0]) as usize % bytes.len().max(1);
        for (place, byte) in bytes[at..].iter_mut().zip(piece) {
            *place = *byte;
        }
        patches = rest;
    }
}

/// The patches that make `new` of `old`.
pub(super) fn between(old: &[u8], new: &[u8]) -> Vec<u8> {
    let differs = |at: &usize| old[*at] != new[*at];
    let mut patches = Vec::new();
    let mut at = 0;
    while let Some(start) = (at..new.len()).find(differs) {
        let mut end = start + 1;
        let last = new.len().min(start + LENGTH_MAX);
        while let Some(next) = (end..last.min(end + GAP_MAX + 1)).find(differs) {
            end = next + 1;
        }
        patches.extend_from_slice(&(start as u32).to_le_bytes()[..3]);
        patches.push((end - start) as u8);
        patches.extend_from_slice(&new[start..end]);
        at = end;
    }
    patches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_between_two_make_one_of_the_other() {
        let old: Vec<u8> = (0..2000).map(|at| at as u8).collect();
        let mut new = old.clone();
        for at in [0, 5, 9, 10, 300, 1999] {
            new[at] ^= 1;
        }
        new[400..1000].fill(7);
        let mut patched = old.clone();
        apply(&mut patched, &between(&old, &new));
        assert_eq!(patched, new);
        assert!(between(&old, &old).is_empty());
        // What lies behind the end is left out, and nothing has no bytes.
        apply(&mut patched, &[0xCF, 7, 0, 3, 1, 2, 3, 9]);
        assert_eq!(patched[1999], 1);
        apply(&mut [], &[0, 0, 0, 1, 1]);
    }
}

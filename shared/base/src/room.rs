//! Memory of which a client decides how much it is: that there is not so much must not end the process.

use std::collections::TryReserveError;

/// Sees to room for `more` elements: the usual, so that it is moved seldom, or, if there is not so much
/// memory, no more than they take.
///
/// # Errors
/// When there is not even that.
pub fn make_room<T>(vec: &mut Vec<T>, more: usize) -> Result<(), TryReserveError> {
    vec.try_reserve(more)
        .or_else(|_| vec.try_reserve_exact(more))
}

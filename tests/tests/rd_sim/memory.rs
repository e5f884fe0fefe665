//! Shared memory of simulated servers, used again: to get it from the system takes longer than most lives.

use rd_store::{Shared, Sizes};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    /// Of servers that are gone.
    static GONE: RefCell<Vec<Arc<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Shared memory, zero; that of a server that is gone, if there is one. A program asks for one size only.
pub fn take(sizes: Sizes) -> Arc<Shared> {
    let shared = match GONE.with_borrow_mut(Vec::pop) {
        Some(old) => Shared::again(old),
        None => Shared::anonymous(sizes),
    };
    shared.expect("memory")
}

/// Keeps that of a server that goes.
pub fn give_back(shared: &Arc<Shared>) {
    GONE.with_borrow_mut(|gone| gone.push(Arc::clone(shared)));
}

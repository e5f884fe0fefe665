//! Servers to test, and waiting for what must come true.

pub mod arguments;
pub mod cluster;
pub mod conversation;
pub mod load;
pub mod log;
pub mod process;
pub mod raw;
pub mod script;

use std::time::{Duration, Instant};

/// Guards against hanging only; nothing that works takes this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
///
/// # Panics
/// When the deadline passes, naming `what` was waited for.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited for {what} in vain");
        // Between two looks at the condition, which may read files or `/proc`.
        std::thread::sleep(Duration::from_millis(2));
    }
}

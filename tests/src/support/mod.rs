//! Servers to test, and waiting for what must come true.

pub mod arguments;
pub mod cluster;
pub mod conversation;
pub mod load;
pub mod log;
pub mod process;
pub mod raw;
pub mod script;

use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::time::{Duration, Instant};

/// The variable that names the file in which tests note what they leave out.
const SKIPPED: &str = "RD_SKIPPED";

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

/// Notes that something is not tested here, and what is missing for it. It goes to the file that `RD_SKIPPED`
/// names besides, since cargo does not show what a test prints that passes.
#[track_caller]
pub fn skip(reason: &str) {
    let line = format!("{}: {reason}", Location::caller().file());
    println!("skipped: {line}");
    let Some(path) = std::env::var_os(SKIPPED) else {
        return;
    };
    let file = File::options().create(true).append(true).open(path);
    let noted = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    noted.expect("the file that RD_SKIPPED names takes a line");
}

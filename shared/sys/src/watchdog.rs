//! For tests of several threads: what would make them wait for each other for ever ends the program
//! instead, with a message.
//!
//! When one thread panics others may wait for what it was to do, or go on until it tells them to
//! stop; then the test would hang, and the panic's message, which the test runner holds back, would
//! never be seen.

use std::io::Write;
use std::process::abort;
use std::sync::{Arc, Condvar, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Watches over the program until it is dropped.
pub struct Watchdog {
    ended: Arc<(Mutex<bool>, Condvar)>,
}

/// Writes past the test runner, which shows what is printed only when a test ends.
fn tell(text: &str) {
    // There is nobody left to tell of an error.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

impl Watchdog {
    /// From now on a panic of any thread aborts the program, and so does a test that takes longer
    /// than `limit`, which only guards against hanging.
    pub fn start(limit: Duration) -> Watchdog {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("a thread without a name");
                tell(&format!(
                    "{name}: {info}\n{}",
                    std::backtrace::Backtrace::force_capture()
                ));
                before(info);
                abort()
            }));
        });
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let watched = Arc::clone(&ended);
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || watch(&name, &watched, limit));
        Watchdog { ended }
    }
}

fn watch(name: &str, (ended, change): &(Mutex<bool>, Condvar), limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut has_ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
    while !*has_ended {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tell(&format!("{name} has not ended after {limit:?}: it hangs"));
            abort()
        }
        let waited = change.wait_timeout(has_ended, left);
        has_ended = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let (ended, change) = &*self.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        change.notify_all();
    }
}

//! Waiting for a server, visibly: dots, or a moving line on a terminal, with the percentage and
//! the time left while it recovers.

use crate::cli::print;
use crate::pidfile::Progress;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How often the condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a dot is printed.
const DOT_EVERY: Duration = Duration::from_secs(1);
/// How long nothing but dots is printed before progress is told again, off a terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a look at the condition found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is as it should be, or never will be.
    Settled(T),
    /// Not yet; with the progress, if it is known.
    NotYet(Option<Progress>),
}

/// Looks until the condition is settled; none if that takes longer than `timeout`.
///
/// # Errors
/// Those of `look`.
pub fn until<T>(
    what: &str,
    silent: bool,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<Option<T>> {
    let mut display = Display::new(what, silent);
    let began = Instant::now();
    loop {
        match look()? {
            Look::Settled(outcome) => {
                display.finish();
                return Ok(Some(outcome));
            }
            Look::NotYet(progress) => display.show(progress.as_ref()),
        }
        if began.elapsed() >= timeout {
            display.finish();
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What is seen of the waiting. Ends without a line end, for `done` or its like to follow.
enum Display {
    Silent,
    Dots(Dots),
    Terminal { bar: ProgressBar, what: String },
}

struct Dots {
    next_dot: Instant,
    next_telling: Instant,
}

impl Display {
    fn new(what: &str, silent: bool) -> Display {
        if silent {
            return Display::Silent;
        }
        if io::stdout().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(spinner());
            bar.set_message(what.to_owned());
            return Display::Terminal {
                bar,
                what: what.to_owned(),
            };
        }
        print(&format!("{what}...."));
        let now = Instant::now();
        Display::Dots(Dots {
            next_dot: now + DOT_EVERY,
            next_telling: now,
        })
    }

    fn show(&mut self, progress: Option<&Progress>) {
        match self {
            Display::Silent => {}
            Display::Dots(dots) => dots.show(progress),
            Display::Terminal { bar, what } => {
                let percent = progress.and_then(|progress| progress.percent);
                if percent.is_some() && bar.length().is_none() {
                    bar.set_length(100);
                    bar.set_style(gauge());
                }
                if let Some(percent) = percent {
                    bar.set_position(u64::from(percent));
                }
                match progress {
                    Some(progress) => {
                        bar.set_message(format!("recovering: {}", progress.in_words()))
                    }
                    None => bar.set_message(what.clone()),
                }
                bar.tick();
            }
        }
    }

    fn finish(self) {
        if let Display::Terminal { bar, what } = self {
            bar.finish_and_clear();
            print(&format!("{what}...."));
        }
    }
}

impl Dots {
    fn show(&mut self, progress: Option<&Progress>) {
        let now = Instant::now();
        if now >= self.next_dot {
            self.next_dot = now + DOT_EVERY;
            print(".");
        }
        if let Some(progress) = progress
            && now >= self.next_telling
        {
            self.next_telling = now + TELL_EVERY;
            print(&format!(" (recovering: {}) ", progress.in_words()));
        }
    }
}

fn spinner() -> ProgressStyle {
    style("{msg} {spinner} {elapsed}")
}

fn gauge() -> ProgressStyle {
    style("[{bar:20}] {msg}").progress_chars("=> ")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is ours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_is_given_and_the_deadline_holds() {
        let mut looks = 0;
        let found = until("waiting", true, Duration::from_secs(60), || {
            looks += 1;
            Ok(if looks == 3 {
                Look::Settled(looks)
            } else {
                Look::NotYet(None)
            })
        });
        assert_eq!(found.expect("no error"), Some(3));
        let never = until("waiting", true, Duration::from_millis(1), || {
            Ok(Look::<()>::NotYet(None))
        });
        assert_eq!(never.expect("no error"), None);
        let failed: Result<Option<()>> = until("waiting", true, Duration::from_secs(60), || {
            anyhow::bail!("broken")
        });
        assert!(failed.is_err());
    }
}

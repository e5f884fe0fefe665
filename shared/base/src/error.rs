//! The three classes of error, which decide what happens to the process that meets one.

/// How far an error reaches. Each class is handled, and logged, in one place: where a command is
/// run, where a process's `main` ends, and where it aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A reply to the client; the connection lives.
    Reply,
    /// This process ends with status 1, and all it held is released in order.
    Fatal,
    /// What is in memory cannot be trusted any more, or can no longer be made durable: abort, and
    /// the server recovers from disk.
    Panic,
}

/// An error that knows its class.
pub trait Classified: std::error::Error {
    /// How far it reaches.
    fn class(&self) -> Class;
}

/// What `error` says, and behind it what its causes say, as far as that is not said yet: many an error
/// ends with the text of its cause.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Exit statuses of a child, as the postmaster reads them.
pub mod exit {
    /// The child did all it was to do.
    pub const OK: i32 = 0;
    /// FATAL: reported, and a retry would find the same. The postmaster stops if the startup
    /// process ends so; of any other child it is a crash, as every status but [`OK`] is.
    pub const FATAL: i32 = 1;
    /// Told by SIGQUIT to leave at once, or cut off from the postmaster.
    pub const QUIT: i32 = 2;
    /// The child was short of descriptors, memory or threads, which is reported, and may be over in a
    /// moment.
    pub const SHORTAGE: i32 = 3;

    /// Of a child that cannot go on: whether it is for want of something that may be there in a moment.
    pub fn for_want(is_short: bool) -> i32 {
        if is_short { SHORTAGE } else { FATAL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;
    use std::fmt;

    #[derive(Debug)]
    struct Failure(&'static str, Option<Box<Failure>>);

    impl fmt::Display for Failure {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failure {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_said_once() {
        let full = Failure("the disk is full", None);
        let said = Failure("could not write: the disk is full", Some(Box::new(full)));
        assert_eq!(with_causes(&said), "could not write: the disk is full");
        let unsaid = Failure("in vain", Some(Box::new(said)));
        let text = "in vain: could not write: the disk is full";
        assert_eq!(with_causes(&unsaid), text);
    }
}

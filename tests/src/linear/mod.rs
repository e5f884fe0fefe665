//! Histories of single commands on a few hot keys, and whether they are linearizable: whether each
//! command can be given one moment between its sending and its reply, such that commands carried
//! out one by one at these moments would have answered the same.
//!
//! [`record`] lets clients collide over sockets, with kill -9 in between; [`check`] looks for the
//! moments. [`Action`] is what a command does to a key: the model.
//!
//! **What a crash leaves open.** A command whose reply never came may have happened or not. If it
//! has, then not when its connection broke at the latest: its record may lie in the log, and another
//! process, not dead yet, makes it durable, which is when readers see it. But all of that is over
//! once the server serves again, so its moment, if it has one, lies before that. What the client
//! has sent after it on the same connection comes after it.

pub mod check;
pub mod record;

/// A key's value; `None` is a key that is not there.
pub type State = Option<Vec<u8>>;

/// What a command does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET.
    Get,
    /// STRLEN.
    Strlen,
    /// EXISTS.
    Exists,
    /// SET.
    Set(Vec<u8>),
    /// SET … GET, and GETSET.
    Swap(Vec<u8>),
    /// SETNX.
    SetNx(Vec<u8>),
    /// SET … XX GET.
    SwapIfThere(Vec<u8>),
    /// APPEND.
    Append(Vec<u8>),
    /// INCR.
    Incr,
    /// DEL.
    Del,
    /// GETDEL.
    GetDel,
    /// WATCH, GET, MULTI, SET, EXEC: sets the second value if the key holds the first.
    Replace(Option<Vec<u8>>, Vec<u8>),
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// OK.
    Done,
    /// A number.
    Number(i64),
    /// A value, or that there is none.
    Value(Option<Vec<u8>>),
    /// An error that says the value is of no use to the command.
    Unfit,
}

/// One command of a history.
#[derive(Clone, Debug)]
pub struct Op {
    /// The connection, with what was sent on it one after the other.
    pub session: usize,
    /// When it was sent, in nanoseconds since some moment.
    pub sent: u64,
    /// When its reply came, or the crash that broke its connection was over.
    pub ended: u64,
    /// What it does.
    pub action: Action,
    /// Its reply; `None` if none came.
    pub answer: Option<Answer>,
}

/// The commands of each key.
pub type History = Vec<Vec<Op>>;

impl Op {
    /// Whether its answer says that it left its key as it was.
    pub fn changed_nothing(&self) -> bool {
        use {Action as A, Answer as S};
        match (&self.action, &self.answer) {
            (_, None) => false,
            (A::Get | A::Strlen | A::Exists, _) => true,
            (A::SetNx(_) | A::Del, Some(S::Number(0))) => true,
            (A::SwapIfThere(_) | A::GetDel, Some(S::Value(None))) => true,
            (_, Some(answer)) => *answer == S::Unfit,
        }
    }
}

impl Action {
    /// Carries the action out on a key in `state`. Gives what it answers, and what the key holds
    /// then.
    pub fn apply(&self, state: &State) -> (Answer, State) {
        let old = || Answer::Value(state.clone());
        let same = || state.clone();
        let to = |value: &[u8]| Some(value.to_vec());
        let len = |state: &State| {
            let len = state.as_ref().map_or(0, Vec::len);
            Answer::Number(len as i64)
        };
        match self {
            Action::Get => (old(), same()),
            Action::Strlen => (len(state), same()),
            Action::Exists => (Answer::Number(state.is_some().into()), same()),
            Action::Set(value) => (Answer::Done, to(value)),
            Action::Swap(value) => (old(), to(value)),
            Action::SetNx(_) if state.is_some() => (Answer::Number(0), same()),
            Action::SetNx(value) => (Answer::Number(1), to(value)),
            Action::SwapIfThere(_) if state.is_none() => (old(), None),
            Action::SwapIfThere(value) => (old(), to(value)),
            Action::Append(value) => {
                let longer = [state.as_deref().unwrap_or_default(), value].concat();
                let longer = to(&longer);
                (len(&longer), longer)
            }
            Action::Incr => match number(state.as_deref().unwrap_or(b"0")) {
                Some(next) => (Answer::Number(next), to(next.to_string().as_bytes())),
                None => (Answer::Unfit, same()),
            },
            Action::Del => (Answer::Number(state.is_some().into()), None),
            Action::GetDel => (old(), None),
            Action::Replace(seen, value) if state.as_deref() == seen.as_deref() => {
                (Answer::Done, to(value))
            }
            // EXEC answers nil where the key has changed, which a model of one key cannot say.
            Action::Replace(..) => (Answer::Unfit, same()),
        }
    }
}

/// One more than the number that a value is.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    // Redis takes a number only in the form in which it would print it.
    (number.to_string() == text)
        .then_some(number)?
        .checked_add(1)
}

//! What the load consists of: operations, each one or several trips to the server and back.
//!
//! An operation is a small state machine: [`Operation::next`] takes what a trip has brought and
//! says what follows. It is the same for every server; the dialects only put each trip into bytes.
//! A conflict is never an error: the operation begins anew with the same keys, as a client would.

/// The balance that each account is given when it is made.
pub const BALANCE: i64 = 1000;
/// Amounts transferred are below this.
pub const AMOUNT_MAX: u64 = 10;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a key.
    Get(u64),
    /// Writes a key, whatever it was.
    Set(u64),
    /// Reads so many keys in order from one on.
    Range(u64, u32),
    /// An interactive transaction: reads two accounts, then writes both.
    Transfer(Transfer),
    /// The same sent at once, without looking at what was read.
    Exec(Transfer),
}

/// An amount that moves between two accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The account with the lower number.
    pub from: u64,
    /// The other one. Servers that lock rows are always asked in this order.
    pub to: u64,
    /// What moves.
    pub amount: i64,
    /// What both held when they were read.
    pub balances: [i64; 2],
}

/// The trip of an operation that is next, or under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The only one.
    Only,
    /// Opens a transaction.
    Begin,
    /// Reads the first account.
    ReadFirst,
    /// Reads the second account.
    ReadSecond,
    /// Writes the first account.
    WriteFirst,
    /// Writes the second account.
    WriteSecond,
    /// Makes it durable.
    Commit,
    /// [`Step::Begin`] and both reads, sent together.
    BeginAndRead,
    /// Both writes and [`Step::Commit`], sent together.
    WriteAndCommit,
    /// Leaves a transaction that has failed.
    Rollback,
}

impl Step {
    /// Whether the server ends the transaction with this trip, whatever comes of it.
    pub fn commits(self) -> bool {
        matches!(self, Step::Only | Step::Commit | Step::WriteAndCommit)
    }
}

/// One operation under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What it does.
    pub kind: Kind,
    /// Where it is.
    pub step: Step,
}

/// Why a trip did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another transaction was faster; the same can be tried again.
    Conflict,
    /// Anything else, in the server's words.
    Other(String),
}

/// What a trip has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Values that came, keys of ranges included.
    pub values: u32,
    /// Answers that there is no such key.
    pub missing: u32,
    /// The first values that are numbers, where the operation needs them.
    pub numbers: [Option<i64>; 2],
    /// The first refusal.
    pub refusal: Option<Refusal>,
    /// Whether the server holds a transaction open that has failed.
    pub is_failed_open: bool,
}

impl Outcome {
    /// Takes note of a value.
    pub fn value(&mut self, number: impl FnOnce() -> Option<i64>) {
        if let Some(place) = self.numbers.get_mut(self.values as usize) {
            *place = number();
        }
        self.values += 1;
    }

    /// Takes note of a refusal, unless there was one before.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }
}

/// What follows a trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The operation is complete.
    Done,
    /// Another trip; [`Operation::step`] says which.
    Trip,
    /// Another trip, the first of a new attempt after a conflict, or a rollback before it.
    Retry,
    /// The server has refused the operation.
    Failed(String),
}

impl Operation {
    /// An operation at its start; `batch`: with as few trips as its dependences allow.
    pub fn new(kind: Kind, batch: bool) -> Operation {
        let step = match (kind, batch) {
            (Kind::Transfer(_), false) => Step::Begin,
            (Kind::Transfer(_), true) => Step::BeginAndRead,
            _ => Step::Only,
        };
        Operation { kind, step }
    }

    /// Whether [`Outcome::numbers`] are looked at.
    pub fn wants_numbers(&self) -> bool {
        use Step::{BeginAndRead, ReadFirst, ReadSecond};
        matches!(self.step, BeginAndRead | ReadFirst | ReadSecond)
    }

    /// Takes what the trip of [`Self::step`] has brought.
    pub fn next(&mut self, outcome: &Outcome, batch: bool) -> Next {
        match &outcome.refusal {
            Some(Refusal::Other(text)) => return Next::Failed(text.clone()),
            Some(Refusal::Conflict) => {
                *self = Operation::new(self.kind, batch);
                if outcome.is_failed_open {
                    self.step = Step::Rollback;
                }
                return Next::Retry;
            }
            None if self.step == Step::Rollback => {
                *self = Operation::new(self.kind, batch);
                return Next::Trip;
            }
            None => {}
        }
        let Kind::Transfer(transfer) = &mut self.kind else {
            return Next::Done;
        };
        let absent = |account| Next::Failed(format!("account {account} is missing"));
        match (self.step, outcome.numbers) {
            (Step::ReadFirst, [Some(balance), _]) => transfer.balances[0] = balance,
            (Step::ReadFirst, _) => return absent(transfer.from),
            (Step::ReadSecond, [Some(balance), _]) => transfer.balances[1] = balance,
            (Step::ReadSecond, _) => return absent(transfer.to),
            (Step::BeginAndRead, [Some(first), Some(second)]) => {
                transfer.balances = [first, second];
            }
            (Step::BeginAndRead, [None, _]) => return absent(transfer.from),
            (Step::BeginAndRead, _) => return absent(transfer.to),
            _ => {}
        }
        self.step = match self.step {
            Step::Only | Step::Commit | Step::WriteAndCommit | Step::Rollback => {
                return Next::Done;
            }
            Step::Begin => Step::ReadFirst,
            Step::ReadFirst => Step::ReadSecond,
            Step::ReadSecond => Step::WriteFirst,
            Step::WriteFirst => Step::WriteSecond,
            Step::WriteSecond => Step::Commit,
            Step::BeginAndRead => Step::WriteAndCommit,
        };
        Next::Trip
    }
}

impl Transfer {
    /// What both accounts hold afterwards.
    pub fn result(&self) -> [i64; 2] {
        let [from, to] = self.balances;
        [from.wrapping_sub(self.amount), to.wrapping_add(self.amount)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer() -> Kind {
        Kind::Transfer(Transfer {
            from: 1,
            to: 2,
            amount: 3,
            balances: [0; 2],
        })
    }

    fn read(numbers: &[i64]) -> Outcome {
        let mut outcome = Outcome::default();
        for number in numbers {
            outcome.value(|| Some(*number));
        }
        outcome
    }

    fn conflict(is_failed_open: bool) -> Outcome {
        Outcome {
            refusal: Some(Refusal::Conflict),
            is_failed_open,
            ..Outcome::default()
        }
    }

    #[test]
    fn a_transfer_goes_through_its_trips() {
        let mut operation = Operation::new(transfer(), false);
        let brought = [&[][..], &[10], &[20], &[], &[]];
        let steps = [
            Step::ReadFirst,
            Step::ReadSecond,
            Step::WriteFirst,
            Step::WriteSecond,
            Step::Commit,
        ];
        for (numbers, step) in brought.into_iter().zip(steps) {
            assert_eq!(operation.next(&read(numbers), false), Next::Trip);
            assert_eq!(operation.step, step);
        }
        let Kind::Transfer(done) = operation.kind else {
            panic!("it changed its kind");
        };
        assert_eq!(done.result(), [7, 23]);
        assert_eq!(operation.next(&read(&[]), false), Next::Done);
    }

    #[test]
    fn a_batched_transfer_takes_two_trips() {
        let mut operation = Operation::new(transfer(), true);
        assert_eq!(operation.next(&read(&[10, 20]), true), Next::Trip);
        assert_eq!(operation.step, Step::WriteAndCommit);
        assert_eq!(operation.next(&read(&[]), true), Next::Done);
    }

    #[test]
    fn a_conflict_begins_anew_and_leaves_what_has_failed() {
        for batch in [false, true] {
            let first = Operation::new(transfer(), batch).step;
            let mut operation = Operation {
                kind: transfer(),
                step: Step::Commit,
            };
            assert_eq!(operation.next(&conflict(false), batch), Next::Retry);
            assert_eq!(operation.step, first);
            assert_eq!(operation.next(&conflict(true), batch), Next::Retry);
            assert_eq!(operation.step, Step::Rollback);
            assert_eq!(operation.next(&Outcome::default(), batch), Next::Trip);
            assert_eq!(operation.step, first);
        }
    }

    #[test]
    fn accounts_that_are_not_there_are_named() {
        let mut operation = Operation::new(transfer(), true);
        let failed = |what: &str| Next::Failed(what.to_owned());
        assert_eq!(
            operation.next(&read(&[]), true),
            failed("account 1 is missing")
        );
        assert_eq!(
            operation.next(&read(&[5]), true),
            failed("account 2 is missing")
        );
    }

    #[test]
    fn what_the_server_says_is_passed_on() {
        let mut operation = Operation::new(Kind::Get(1), false);
        let mut outcome = Outcome::default();
        outcome.refuse(Refusal::Other("no".to_owned()));
        outcome.refuse(Refusal::Conflict);
        assert_eq!(
            operation.next(&outcome, false),
            Next::Failed("no".to_owned())
        );
        assert_eq!(operation.next(&read(&[1]), false), Next::Done);
    }
}

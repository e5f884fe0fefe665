//! Tests of asking for checkpoints and of hearing of them.

use super::*;
use crate::procs::{ProcsRegions, SlotNo};
use std::sync::atomic::AtomicBool;
use std::thread;

/// A wake-up that is lost would be noticed.
const LONG: Duration = Duration::from_secs(3600);

fn checkpoints() -> (CheckpointShared, Procs) {
    let mut plan = Plan::new();
    let regions = (
        CheckpointRegions::plan(&mut plan),
        ProcsRegions::plan(&mut plan),
    );
    let segment = Segment::anonymous(&plan).expect("memory for a test");
    let procs = Procs::open(&segment, &regions.1).expect("descriptors for a test");
    (CheckpointShared::open(&segment, &regions.0), procs)
}

fn request(flags: Flags, target: u64) -> Request {
    Request::of_process(flags, Lsn::new(target), Role::Backend(1), "test")
}

#[test]
fn requests_are_merged_and_covered_by_one_that_begins_later() {
    let (checkpoints, procs) = checkpoints();
    let early = checkpoints.request(&procs, &request(Flags::CAUSE_MANUAL | Flags::FORCE, 100));
    assert!(
        procs
            .event(SlotNo::of(Role::Checkpointer).expect("a slot"))
            .take()
    );
    let other = checkpoints.request(
        &procs,
        &request(Flags::IMMEDIATE | Flags::CAUSE_MANUAL, 100),
    );
    let begun = checkpoints.begin(Flags::CAUSE_TIME);
    assert_eq!(
        begun.to_string(),
        "fast force time manual (asked for by backend 1, test; and 1 more)"
    );
    assert!(checkpoints.is_under_way() && checkpoints.wanted().is_empty());
    let late = checkpoints.request(&procs, &request(Flags::CAUSE_BACKUP, 200));
    checkpoints.succeed(&procs, Lsn::new(150), 5);
    assert!(!checkpoints.is_under_way());
    assert_eq!(checkpoints.state(&early), TicketState::Done);
    assert_eq!(checkpoints.state(&other), TicketState::Done);
    assert_eq!(
        checkpoints.state(&late),
        TicketState::Pending,
        "its redo point is too old"
    );
    assert_eq!(checkpoints.begin(Flags::NONE).flags, Flags::CAUSE_BACKUP);
    checkpoints.skip(&procs);
    assert_eq!(checkpoints.state(&late), TicketState::Done);
    assert_eq!((checkpoints.started(), checkpoints.done()), (2, 1));
    assert_eq!(checkpoints.last_done_us(), 5);
}

#[test]
fn a_failure_is_told_with_its_reason_until_a_later_one_succeeds() {
    let (checkpoints, procs) = checkpoints();
    let ticket = checkpoints.request(&procs, &request(Flags::CAUSE_MANUAL, 100));
    checkpoints.begin(Flags::NONE);
    // One byte too long, and cut inside a character of two.
    let long = "x".repeat(ERROR_BYTES_MAX - 1) + "é";
    checkpoints.fail(&procs, &long, true);
    let kept = "x".repeat(ERROR_BYTES_MAX - 1);
    assert_eq!(checkpoints.state(&ticket), TicketState::Failed(kept));
    assert!(checkpoints.last_failed() && checkpoints.refuses_writes());
    checkpoints.begin(Flags::NONE);
    checkpoints.fail(&procs, "no room", false);
    let failed = TicketState::Failed("no room".to_owned());
    assert_eq!(checkpoints.state(&ticket), failed);
    let waited = checkpoints.wait_for_attempt(&ticket, Duration::ZERO);
    assert_eq!(waited, failed, "it does not wait for ever");
    checkpoints.begin(Flags::NONE);
    checkpoints.succeed(&procs, Lsn::new(100), 1);
    let waited = checkpoints.wait_for_attempt(&ticket, LONG);
    assert_eq!(waited, TicketState::Done, "a later one covers it");
    assert!(!checkpoints.last_failed() && !checkpoints.refuses_writes());
    assert_eq!((checkpoints.done(), checkpoints.failed()), (1, 2));
}

#[test]
fn what_the_redo_point_has_passed_is_done_in_order_whoever_moved_it() {
    let (checkpoints, procs) = checkpoints();
    let ask = |flags, target| checkpoints.request(&procs, &request(flags, target));
    let state = |ticket| checkpoints.state(ticket);
    let (file, forced) = (Flags::CAUSE_NAMESPACE, Flags::CAUSE_MANUAL | Flags::FORCE);
    let early = ask(file, 100);
    let middle = ask(forced, 200);
    // Who has read the insert position first may come by the latch last.
    let late = ask(file, 150);
    checkpoints.passed(&procs, Lsn::new(99));
    assert_eq!(state(&early), TicketState::Pending);
    checkpoints.passed(&procs, Lsn::new(300));
    assert_eq!(state(&early), TicketState::Done);
    assert_eq!(
        state(&middle),
        TicketState::Pending,
        "it wants one of its own"
    );
    assert_eq!(state(&late), TicketState::Pending, "not before its turn");
    let outstanding = checkpoints.outstanding();
    let targets = outstanding.iter().map(|request| request.target.get());
    assert_eq!(targets.collect::<Vec<_>>(), [200, 200]);
    // What comes while one is under way is done with it, if its redo point gets so far.
    checkpoints.begin(Flags::NONE);
    let (near, far) = (ask(forced, 400), ask(forced, 600));
    assert_eq!(checkpoints.wanted(), forced);
    checkpoints.succeed(&procs, Lsn::new(500), 1);
    assert_eq!(state(&late), TicketState::Done);
    assert_eq!(state(&near), TicketState::Done);
    assert_eq!(state(&far), TicketState::Pending);
    assert_eq!(checkpoints.wanted(), forced, "of the one that is left");
    assert_eq!(checkpoints.begin(Flags::NONE).requests, 1);
    assert!(checkpoints.wanted().is_empty());
}

#[test]
fn more_requests_than_there_is_room_for_are_joined() {
    let (checkpoints, procs) = checkpoints();
    let ask = |target| checkpoints.request(&procs, &request(Flags::CAUSE_MANUAL, target));
    let first = ask(1);
    checkpoints.begin(Flags::NONE);
    let tickets: Vec<Ticket> = (2..=200).map(ask).collect();
    assert_eq!(checkpoints.outstanding().len(), 64);
    checkpoints.succeed(&procs, Lsn::new(50), 1);
    let done = |ticket: &&Ticket| checkpoints.state(ticket) == TicketState::Done;
    assert!(done(&&first));
    assert_eq!(tickets.iter().filter(done).count(), 49);
    assert_eq!(checkpoints.begin(Flags::NONE).requests, 150);
    checkpoints.succeed(&procs, Lsn::new(199), 1);
    assert!(!done(&tickets.last().expect("many")), "not its target");
    checkpoints.begin(Flags::NONE);
    checkpoints.succeed(&procs, Lsn::new(200), 1);
    assert_eq!(tickets.iter().filter(done).count(), 199);
}

const ASKERS: usize = 4;
const TURNS: u64 = 300;

/// What the askers and the checkpointer of the next test share: a position that only grows,
/// and the highest one that a checkpoint has covered.
struct Covering {
    checkpoints: CheckpointShared,
    procs: Procs,
    position: AtomicU64,
    covered: AtomicU64,
    over: AtomicBool,
}

impl Covering {
    fn ask(&self, number: usize) {
        let slot = SlotNo::of(Role::Backend(number as u16)).expect("a slot");
        for turn in 0..TURNS {
            let mine = self.position.fetch_add(1, Ordering::SeqCst) + 1;
            let asked = request(Flags::CAUSE_MANUAL, mine);
            let ticket = self.checkpoints.request(&self.procs, &asked);
            if turn % 2 == 0 {
                while self.checkpoints.wait_for_attempt(&ticket, LONG) != TicketState::Done {}
            } else {
                self.wait_parked(slot, &ticket);
            }
            let covered = self.covered.load(Ordering::SeqCst);
            assert!(
                covered >= mine,
                "{covered} < {mine}: it began before the request"
            );
        }
    }

    fn wait_parked(&self, slot: SlotNo, ticket: &Ticket) {
        self.procs.set_parked(slot, true);
        while self.checkpoints.state(ticket) == TicketState::Pending {
            // Without a limit: a wake-up that is lost would hang here.
            self.procs.event(slot).wait(None);
        }
        self.procs.set_parked(slot, false);
    }

    fn checkpointer(&self) {
        let own = SlotNo::of(Role::Checkpointer).expect("a slot");
        while !self.over.load(Ordering::SeqCst) {
            self.procs.event(own).wait(None);
            if !self.checkpoints.wanted().is_empty() {
                self.checkpoints.begin(Flags::NONE);
                let redo = self.position.load(Ordering::SeqCst);
                self.covered.store(redo, Ordering::SeqCst);
                self.checkpoints.succeed(&self.procs, Lsn::new(redo), redo);
            }
        }
    }
}

#[test]
fn who_asks_hears_of_one_that_began_afterwards() {
    let (checkpoints, procs) = checkpoints();
    let covering = Covering {
        checkpoints,
        procs,
        position: AtomicU64::new(0),
        covered: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let covering = &covering;
    thread::scope(|scope| {
        let ask = |number| scope.spawn(move || covering.ask(number));
        let askers: Vec<_> = (0..ASKERS).map(ask).collect();
        scope.spawn(|| covering.checkpointer());
        let failed = askers
            .into_iter()
            .filter_map(|asker| asker.join().err())
            .count();
        covering.over.store(true, Ordering::SeqCst);
        covering.procs.notify(Role::Checkpointer);
        assert_eq!(failed, 0);
    });
    assert_eq!(covering.checkpoints.done(), covering.checkpoints.started());
}

#[test]
fn pg_control_is_handed_over_with_what_is_known_of_the_log() {
    let (checkpoints, procs) = checkpoints();
    assert_eq!(
        (checkpoints.handover(), checkpoints.end_of_log()),
        (None, None)
    );
    checkpoints.hand_over(&procs, Lsn::new(800));
    assert_eq!(checkpoints.handover(), Some(Lsn::new(800)));
    assert_eq!(
        checkpoints.end_of_log(),
        None,
        "it is not known before redo"
    );
    let end = EndOfLog {
        lsn: Lsn::new(900),
        last_count: StartCount::new(7),
    };
    checkpoints.set_end_of_log(&end);
    assert_eq!(checkpoints.end_of_log(), Some(end));
    assert_eq!(checkpoints.redo_lsn(), Lsn::new(800));
}

#[test]
fn checkpoints_of_files_are_answered_in_their_order() {
    let (checkpoints, procs) = checkpoints();
    let request = |file| FileRequest {
        file: rd_base::FileNo::new(file),
        access: Some(rd_format::Access::OFFLINE),
        requester: Requester::connection(Role::Backend(1), 7, "CHECKPOINT"),
    };
    assert_eq!(checkpoints.next_file_request(), None);
    let ask = |file| checkpoints.request_file(&procs, &request(file));
    let first = ask(3).expect("room");
    let second = ask(4).expect("room");
    assert_eq!(checkpoints.file_requests(), 2);
    assert_eq!(checkpoints.next_file_request(), Some(request(3)));
    checkpoints.answer_file(&procs, Some("no room on the disk"));
    assert_eq!(checkpoints.next_file_request(), Some(request(4)));
    assert_eq!(checkpoints.file_state(&second), TicketState::Pending);
    let why = "no room on the disk".to_owned();
    assert_eq!(checkpoints.file_state(&first), TicketState::Failed(why));
    checkpoints.answer_file(&procs, None);
    assert_eq!(checkpoints.file_state(&second), TicketState::Done);
    // None of them has to do with the redo point.
    assert_eq!(
        (checkpoints.started(), checkpoints.outstanding()),
        (0, Vec::new())
    );
    let mut asked = 0;
    while ask(5).is_ok() {
        asked += 1;
    }
    assert_eq!(checkpoints.file_requests(), asked);
    for _ in 0..asked {
        checkpoints.answer_file(&procs, None);
    }
    ask(6).expect("room again");
    // The entry of the first was used again: nobody may take another's answer for his.
    let lost = checkpoints.file_state(&first);
    assert!(matches!(lost, TicketState::Failed(_)), "{lost:?}");
}

//! What is short after a crash may be there in a moment: a restart waits for that, and is counted.

use super::*;

/// Whichever child lacks something, the tries that the restart policy allows do not come at the same
/// moment.
#[test]
fn a_restart_for_want_of_something_is_put_off() {
    let serving = [Event::LockAcquired, Event::MemoryReady, ok(SU)];
    let again = [killed(CP), killed(WW), killed(B0), killed(B1)];
    let in_restart = [&again[..], &[Event::MemoryReady]].concat();
    let cases = [
        (CP, vec![], vec![WW, B0, B1]),
        (WW, vec![], vec![CP, B0, B1]),
        (B1, vec![], vec![CP, WW, B0]),
        (CP, in_restart.clone(), vec![SU]),
        (SU, in_restart, vec![CP]),
    ];
    for (role, before, others) in cases {
        for (exit, is_put_off) in [(Exit::Code(exit::SHORTAGE), true), (Exit::Signal(9), false)] {
            let begun = run(&[&serving[..], &before].concat()).0;
            let policy = RestartPolicy {
                restarts_max: 9,
                ..POLICY
            };
            let begun = State { policy, ..begun };
            let mut step = next(&begun, &exited(role, exit));
            for &other in &others {
                assert_eq!(step.0.phase, Phase::WaitDeadEnd);
                step = next(&step.0, &killed(other));
            }
            let is_armed = step.1.contains(&Action::ArmRestartTimer);
            let is_reset = step.1.contains(&Action::ResetSharedMemory);
            assert_eq!(
                (is_armed, is_reset),
                (is_put_off, !is_put_off),
                "{role} {exit}"
            );
        }
    }
}

/// A segment that cannot be made ends a first start, and puts off one after a crash, as often as the
/// restart policy allows.
#[test]
fn a_want_of_shared_memory_puts_a_restart_off() {
    let failed = Event::MemoryFailed { now_ms: 0 };
    let (state, actions) = run(&[Event::LockAcquired, failed.clone()]);
    assert_eq!(state.outcome, Some(Outcome::NoSharedMemory));
    assert_eq!(actions.last(), Some(&Action::Exit(Outcome::NoSharedMemory)));

    let serving = [Event::LockAcquired, Event::MemoryReady, ok(SU)];
    let dead = [killed(CP), killed(WW), killed(B0), killed(B1)];
    let policy = RestartPolicy {
        restarts_max: 3,
        ..POLICY
    };
    let mut state = run(&[&serving[..], &dead].concat()).0;
    state.policy = policy;
    for _ in 1..policy.restarts_max {
        assert!(state.memory_asked, "{state:?}");
        let (after, actions) = next(&state, &failed);
        assert!(actions.contains(&Action::ArmRestartTimer), "{actions:?}");
        state = next(&after, &Event::RestartTimerExpired).0;
    }
    let outcome = next(&state, &failed).0.outcome;
    assert!(
        matches!(outcome, Some(Outcome::StaysDown(_))),
        "{outcome:?}"
    );
}

/// Who has just found no process finds none at once.
#[test]
fn a_restart_for_want_of_a_process_takes_its_time() {
    let short = Event::ForkFailed {
        role: WW,
        now_ms: 0,
    };
    let life = [
        Event::MemoryReady,
        ok(SU),
        short,
        killed(CP),
        killed(B0),
        killed(B1),
    ];
    let mut events = vec![Event::LockAcquired];
    events.extend(life.clone());
    let (state, actions) = run(&events);
    assert!(!state.memory_asked);
    assert_eq!(actions.last(), Some(&Action::ArmRestartTimer));
    events.push(Event::RestartTimerExpired);
    let (state, actions) = run(&events);
    assert!(state.memory_asked);
    assert_eq!(actions.last(), Some(&Action::ResetSharedMemory));
    // The policy counts it as any other.
    events.extend(life.clone());
    events.push(Event::RestartTimerExpired);
    events.extend(life);
    assert!(matches!(
        run(&events).0.outcome,
        Some(Outcome::StaysDown(_))
    ));
}

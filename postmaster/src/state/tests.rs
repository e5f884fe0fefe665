//! Every state against every event, held against a table written by hand; every reachable state
//! explored; the documentation printed from the machine and compared.
//!
//! After a deliberate change: `RD_WRITE_DOCS=1 cargo test -p rd-postmaster` rewrites
//! `docs/postmaster-states.md`.

mod shortage;

use super::*;
use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;

const POLICY: RestartPolicy = RestartPolicy {
    restart_after_crash: true,
    restarts_max: 2,
    window_ms: 60_000,
};
const CP: Role = Role::Checkpointer;
const SU: Role = Role::Startup;
const WW: Role = Role::Walwriter;
const B0: Role = Role::Backend(0);
const B1: Role = Role::Backend(1);
const ROLES: [Role; 5] = [CP, SU, WW, B0, B1];

fn exited(role: Role, exit: Exit) -> Event {
    Event::ChildExited {
        role,
        exit,
        now_ms: 0,
    }
}

fn ok(role: Role) -> Event {
    exited(role, Exit::Code(0))
}

fn killed(role: Role) -> Event {
    exited(role, Exit::Signal(9))
}

/// Every event there is, times left out of account.
fn all_events() -> Vec<Event> {
    let mut events = vec![
        Event::LockAcquired,
        Event::MemoryReady,
        Event::MemoryFailed { now_ms: 0 },
        Event::RedoStarted,
        Event::Shutdown(Shutdown::Smart),
        Event::Shutdown(Shutdown::Fast),
        Event::Shutdown(Shutdown::Immediate),
        Event::DirectoryMoved,
        Event::Reload,
        Event::ConfigurationRead(POLICY),
        Event::NoClients,
        Event::Cleaned,
        Event::KillTimerExpired,
        Event::RestartTimerExpired,
    ];
    for role in ROLES {
        events.push(ok(role));
        events.push(exited(role, Exit::Code(1)));
        events.push(killed(role));
        events.push(exited(role, Exit::Signal(15)));
        events.push(exited(role, Exit::Code(exit::SHORTAGE)));
        events.push(Event::ForkFailed { role, now_ms: 0 });
    }
    events
}

fn event_name(event: &Event) -> String {
    match event {
        Event::LockAcquired => "lock acquired".to_owned(),
        Event::MemoryReady => "memory ready".to_owned(),
        Event::MemoryFailed { .. } => "memory failed".to_owned(),
        Event::ChildExited { role, exit, .. } => match exit {
            Exit::Code(code) => format!("{role} exits {code}"),
            Exit::Signal(signal) => format!("{role} dies by signal {signal}"),
        },
        Event::ForkFailed { role, .. } => format!("fork of {role} fails"),
        Event::RedoStarted => "redo started".to_owned(),
        Event::Shutdown(Shutdown::Smart) => "SIGTERM".to_owned(),
        Event::Shutdown(Shutdown::Fast) => "SIGINT".to_owned(),
        Event::Shutdown(Shutdown::Immediate) => "SIGQUIT".to_owned(),
        Event::DirectoryMoved => "directory moved".to_owned(),
        Event::Reload => "SIGHUP".to_owned(),
        Event::ConfigurationRead(_) => "configuration read".to_owned(),
        Event::NoClients => "no clients left".to_owned(),
        Event::Cleaned => "cleaned".to_owned(),
        Event::KillTimerExpired => "kill timer expires".to_owned(),
        Event::RestartTimerExpired => "restart timer expires".to_owned(),
    }
}

/// Actions without their log lines, equal verbs gathered: `SIGTERM backend 0, backend 1`.
fn describe(actions: &[Action]) -> String {
    let mut parts: Vec<(String, Vec<String>)> = Vec::new();
    for action in actions {
        let (verb, object) = match action {
            Action::Log(..) => continue,
            Action::ResetSharedMemory => ("reset shared memory".to_owned(), None),
            Action::Fork(role) => ("fork".to_owned(), Some(role.to_string())),
            Action::Signal(role, signal) => (signal.to_string(), Some(role.to_string())),
            Action::Admit(Admission::Loading) => ("admit: loading".to_owned(), None),
            Action::Admit(Admission::Open) => ("admit: open".to_owned(), None),
            Action::Admit(Admission::ShuttingDown) => ("admit: shutting down".to_owned(), None),
            Action::Status(word) => (format!("status {word:?}").to_lowercase(), None),
            Action::ArmKillTimer => ("arm kill timer".to_owned(), None),
            Action::DisarmKillTimer => ("disarm kill timer".to_owned(), None),
            Action::ArmRestartTimer => ("arm restart timer".to_owned(), None),
            Action::ReadConfiguration => ("read configuration".to_owned(), None),
            Action::Exit(outcome) => (format!("exit {}", outcome.status()), None),
        };
        match parts.last_mut() {
            Some((last, objects)) if *last == verb && object.is_some() => objects.extend(object),
            _ => parts.push((verb, object.into_iter().collect())),
        }
    }
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(verb, objects)| match objects.is_empty() {
            true => verb,
            false => format!("{verb} {}", objects.join(", ")),
        })
        .collect();
    parts.join("; ")
}

fn run(events: &[Event]) -> (State, Vec<Action>) {
    let mut state = State::new(2, POLICY);
    let mut all = Vec::new();
    for event in events {
        let (after, actions) = next(&state, event);
        state = after;
        all.extend(actions);
    }
    (state, all)
}

/// A place in the postmaster's life, the children that live there, and what every child's
/// unexpected end leads to.
struct Pose {
    name: &'static str,
    state: State,
    living: &'static [Role],
}

fn poses() -> Vec<Pose> {
    use Event::{LockAcquired, MemoryReady, RedoStarted};
    let sigint = || Event::Shutdown(Shutdown::Fast);
    let recovery = || vec![LockAcquired, MemoryReady, RedoStarted];
    let serving = || [recovery(), vec![ok(SU)]].concat();
    let from = |mut base: Vec<Event>, more: Vec<Event>| {
        base.extend(more);
        run(&base).0
    };
    let pose = |name, state, living| Pose {
        name,
        state,
        living,
    };
    let smart = || Event::Shutdown(Shutdown::Smart);
    let quit = Event::Shutdown(Shutdown::Immediate);
    let all_die = || vec![killed(B0), killed(B1), killed(WW), killed(CP)];
    let stopped = vec![sigint(), Event::Cleaned, ok(B0), ok(B1), ok(WW), ok(CP)];
    vec![
        pose("Init", from(vec![], vec![]), &[]),
        pose("Init, lock held", from(vec![LockAcquired], vec![]), &[]),
        pose(
            "Startup",
            from(vec![LockAcquired, MemoryReady], vec![]),
            &[SU, CP],
        ),
        pose("Recovery", from(recovery(), vec![]), &[SU, CP]),
        pose("Run", from(serving(), vec![]), &[CP, WW, B0, B1]),
        pose(
            "Run, smart shutdown",
            from(serving(), vec![smart()]),
            &[CP, WW, B0, B1],
        ),
        pose(
            "Run, smart shutdown, cleaned",
            from(serving(), vec![smart(), Event::Cleaned]),
            &[CP, WW, B0, B1],
        ),
        pose(
            "Run, fast shutdown",
            from(serving(), vec![sigint()]),
            &[CP, WW, B0, B1],
        ),
        pose(
            "StopBackends",
            from(serving(), vec![sigint(), Event::Cleaned]),
            &[CP, WW, B0, B1],
        ),
        pose(
            "StopBackends, in recovery",
            from(recovery(), vec![sigint()]),
            &[SU, CP],
        ),
        pose(
            "WaitBackends",
            from(serving(), vec![sigint(), Event::Cleaned, ok(B0), ok(B1)]),
            &[CP, WW],
        ),
        pose(
            "ShutdownCheckpoint",
            from(serving(), vec![sigint(), sigint(), ok(B0), ok(B1), ok(WW)]),
            &[CP],
        ),
        pose(
            "WaitDeadEnd, crash",
            from(serving(), vec![killed(B0)]),
            &[CP, WW, B1],
        ),
        pose(
            "WaitDeadEnd, crash and SIGINT",
            from(serving(), vec![killed(B0), sigint()]),
            &[CP, WW, B1],
        ),
        pose(
            "WaitDeadEnd, immediate",
            from(serving(), vec![quit]),
            &[CP, WW, B0, B1],
        ),
        pose(
            "WaitDeadEnd, startup failed",
            from(recovery(), vec![exited(SU, Exit::Code(1))]),
            &[CP],
        ),
        pose(
            "WaitDeadEnd, in recovery",
            from(recovery(), vec![sigint(), exited(SU, Exit::Code(1))]),
            &[CP],
        ),
        pose(
            "Recovery, after a crash",
            from(
                serving(),
                [all_die(), vec![MemoryReady, RedoStarted]].concat(),
            ),
            &[SU, CP],
        ),
        pose(
            "NoChildren, to start again",
            from(serving(), all_die()),
            &[],
        ),
        pose(
            "NoChildren, to start again in a moment",
            from(
                serving(),
                vec![
                    Event::ForkFailed {
                        role: B0,
                        now_ms: 0,
                    },
                    killed(B1),
                    killed(WW),
                    killed(CP),
                ],
            ),
            &[],
        ),
        pose("NoChildren, over", from(serving(), stopped), &[]),
    ]
}

/// Abbreviations of the table below.
const SHORT: &[(&str, &str)] = &[
    ("$STOPPING", "admit: shutting down; status stopping"),
    (
        "$START",
        "admit: loading; status starting; fork checkpointer, startup",
    ),
    (
        "$SERVE",
        "fork walwriter, backend 0, backend 1; admit: open; status ready",
    ),
    (
        "$QUIT_ALL",
        "SIGQUIT checkpointer, walwriter, backend 0, backend 1; arm kill timer",
    ),
    (
        "$QUIT_BOTH",
        "SIGQUIT startup, checkpointer; arm kill timer",
    ),
    ("$QUIT_CP", "SIGQUIT checkpointer; arm kill timer"),
    ("$KILL_REST", "SIGKILL checkpointer, walwriter, backend 1"),
    (
        "$KILL_ALL",
        "SIGKILL checkpointer, walwriter, backend 0, backend 1",
    ),
    (
        "$HUP_ALL",
        "SIGHUP checkpointer, walwriter, backend 0, backend 1",
    ),
];

/// What every pair leads to: pose, event, phase, actions. What is not here, and is not the
/// unexpected end of a living child (see `expected`), is ignored.
#[rustfmt::skip]
const EXPECTED: &[(&str, &str, &str, &str)] = &[
    ("Init", "lock acquired", "Init", "reset shared memory"),
    ("Init", "SIGTERM", "NoChildren", "$STOPPING; exit 0"),
    ("Init", "SIGINT", "NoChildren", "$STOPPING; exit 0"),
    ("Init", "SIGQUIT", "NoChildren", "$STOPPING; exit 0"),
    ("Init", "SIGHUP", "Init", "read configuration"),
    ("Init, lock held", "memory ready", "Startup", "$START"),
    ("Init, lock held", "memory failed", "NoChildren", "exit 1"),
    ("Init, lock held", "SIGTERM", "NoChildren", "$STOPPING; exit 0"),
    ("Init, lock held", "SIGINT", "NoChildren", "$STOPPING; exit 0"),
    ("Init, lock held", "SIGQUIT", "NoChildren", "$STOPPING; exit 0"),
    ("Init, lock held", "SIGHUP", "Init", "read configuration"),

    ("Startup", "redo started", "Recovery", "status recovering"),
    ("Startup", "startup exits 0", "Run", "$SERVE"),
    ("Startup", "startup exits 1", "WaitDeadEnd", "$STOPPING; $QUIT_CP"),
    ("Startup", "startup exits 3", "WaitDeadEnd", "$STOPPING; $QUIT_CP"),
    ("Startup", "SIGTERM", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Startup", "SIGINT", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Startup", "SIGQUIT", "WaitDeadEnd", "$STOPPING; $QUIT_BOTH"),
    ("Startup", "SIGHUP", "Startup", "read configuration"),
    ("Startup", "configuration read", "Startup", "SIGHUP startup, checkpointer"),

    ("Recovery", "startup exits 0", "Run", "$SERVE"),
    ("Recovery", "startup exits 1", "WaitDeadEnd", "$STOPPING; $QUIT_CP"),
    ("Recovery", "startup exits 3", "WaitDeadEnd", "$STOPPING; $QUIT_CP"),
    ("Recovery", "SIGTERM", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Recovery", "SIGINT", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Recovery", "SIGQUIT", "WaitDeadEnd", "$STOPPING; $QUIT_BOTH"),
    ("Recovery", "SIGHUP", "Recovery", "read configuration"),
    ("Recovery", "configuration read", "Recovery", "SIGHUP startup, checkpointer"),

    ("Recovery, after a crash", "startup exits 0", "Run", "$SERVE"),
    ("Recovery, after a crash", "startup exits 1", "WaitDeadEnd", "$STOPPING; $QUIT_CP"),
    ("Recovery, after a crash", "SIGTERM", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Recovery, after a crash", "SIGINT", "StopBackends", "$STOPPING; SIGTERM startup"),
    ("Recovery, after a crash", "SIGQUIT", "WaitDeadEnd", "$STOPPING; $QUIT_BOTH"),
    ("Recovery, after a crash", "SIGHUP", "Recovery", "read configuration"),
    ("Recovery, after a crash", "configuration read", "Recovery", "SIGHUP startup, checkpointer"),

    ("Run", "SIGTERM", "Run", "$STOPPING; SIGUSR1 checkpointer"),
    ("Run", "SIGINT", "Run", "status stopping; SIGUSR1 checkpointer"),
    ("Run", "SIGQUIT", "WaitDeadEnd", "$STOPPING; $QUIT_ALL"),
    ("Run", "SIGHUP", "Run", "read configuration"),
    ("Run", "configuration read", "Run", "$HUP_ALL"),

    ("Run, smart shutdown", "no clients left", "StopBackends", "SIGTERM backend 0, backend 1"),
    ("Run, smart shutdown", "cleaned", "Run", ""),
    ("Run, smart shutdown", "SIGINT", "Run", ""),
    ("Run, smart shutdown", "SIGQUIT", "WaitDeadEnd", "$QUIT_ALL"),
    ("Run, smart shutdown", "SIGHUP", "Run", "read configuration"),
    ("Run, smart shutdown", "configuration read", "Run", "$HUP_ALL"),

    ("Run, smart shutdown, cleaned", "no clients left", "StopBackends", "SIGTERM backend 0, backend 1"),
    ("Run, smart shutdown, cleaned", "SIGINT", "StopBackends", "admit: shutting down; SIGTERM backend 0, backend 1"),
    ("Run, smart shutdown, cleaned", "SIGQUIT", "WaitDeadEnd", "$QUIT_ALL"),
    ("Run, smart shutdown, cleaned", "SIGHUP", "Run", "read configuration"),
    ("Run, smart shutdown, cleaned", "configuration read", "Run", "$HUP_ALL"),

    ("Run, fast shutdown", "cleaned", "StopBackends", "admit: shutting down; SIGTERM backend 0, backend 1"),
    ("Run, fast shutdown", "SIGINT", "StopBackends", "admit: shutting down; SIGTERM backend 0, backend 1"),
    ("Run, fast shutdown", "SIGQUIT", "WaitDeadEnd", "admit: shutting down; $QUIT_ALL"),
    ("Run, fast shutdown", "SIGHUP", "Run", "read configuration"),
    ("Run, fast shutdown", "configuration read", "Run", "$HUP_ALL"),

    ("StopBackends", "backend 0 exits 0", "StopBackends", ""),
    ("StopBackends", "backend 1 exits 0", "StopBackends", ""),
    ("StopBackends", "SIGQUIT", "WaitDeadEnd", "$QUIT_ALL"),

    ("StopBackends, in recovery", "startup exits 0", "WaitDeadEnd", "$QUIT_CP"),
    ("StopBackends, in recovery", "startup exits 1", "WaitDeadEnd", "$QUIT_CP"),
    ("StopBackends, in recovery", "startup exits 3", "WaitDeadEnd", "$QUIT_CP"),
    ("StopBackends, in recovery", "startup dies by signal 15", "WaitDeadEnd", "$QUIT_CP"),
    ("StopBackends, in recovery", "SIGQUIT", "WaitDeadEnd", "$QUIT_BOTH"),

    ("WaitBackends", "walwriter exits 0", "ShutdownCheckpoint", "SIGUSR2 checkpointer"),
    ("WaitBackends", "SIGQUIT", "WaitDeadEnd", "SIGQUIT checkpointer, walwriter; arm kill timer"),

    ("ShutdownCheckpoint", "checkpointer exits 0", "NoChildren", "exit 0"),
    ("ShutdownCheckpoint", "checkpointer *", "NoChildren", "disarm kill timer; exit 1"),
    ("ShutdownCheckpoint", "SIGQUIT", "WaitDeadEnd", "$QUIT_CP"),

    ("WaitDeadEnd, crash", "kill timer expires", "WaitDeadEnd", "$KILL_REST"),
    ("WaitDeadEnd, crash", "SIGTERM", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, crash", "SIGINT", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, crash", "SIGQUIT", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, crash", "SIGHUP", "WaitDeadEnd", "read configuration"),
    ("WaitDeadEnd, crash and SIGINT", "kill timer expires", "WaitDeadEnd", "$KILL_REST"),
    ("WaitDeadEnd, immediate", "kill timer expires", "WaitDeadEnd", "$KILL_ALL"),

    ("WaitDeadEnd, startup failed", "kill timer expires", "WaitDeadEnd", "SIGKILL checkpointer"),
    ("WaitDeadEnd, startup failed", "SIGTERM", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, startup failed", "SIGINT", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, startup failed", "SIGQUIT", "WaitDeadEnd", "$STOPPING"),
    ("WaitDeadEnd, startup failed", "SIGHUP", "WaitDeadEnd", "read configuration"),
    ("WaitDeadEnd, startup failed", "checkpointer *", "NoChildren", "disarm kill timer; exit 1"),
    ("WaitDeadEnd, in recovery", "kill timer expires", "WaitDeadEnd", "SIGKILL checkpointer"),
    ("WaitDeadEnd, in recovery", "checkpointer *", "NoChildren", "disarm kill timer; exit 0"),

    ("NoChildren, to start again", "memory ready", "Startup", "$START"),
    ("NoChildren, to start again", "memory failed", "NoChildren", "arm restart timer"),
    ("NoChildren, to start again", "SIGTERM", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again", "SIGINT", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again", "SIGQUIT", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again", "SIGHUP", "NoChildren", "read configuration"),

    ("NoChildren, to start again in a moment", "restart timer expires", "NoChildren", "reset shared memory"),
    ("NoChildren, to start again in a moment", "SIGTERM", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again in a moment", "SIGINT", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again in a moment", "SIGQUIT", "NoChildren", "$STOPPING; exit 1"),
    ("NoChildren, to start again in a moment", "SIGHUP", "NoChildren", "read configuration"),
];

/// The living child whose end, or failed birth, this event is.
fn ended(event: &Event, living: &[Role]) -> Option<Role> {
    match event {
        Event::ChildExited { role, .. } | Event::ForkFailed { role, .. } => {
            living.contains(role).then_some(*role)
        }
        _ => None,
    }
}

fn expected(pose: &Pose, event: &Event) -> (String, String) {
    if *event == Event::DirectoryMoved {
        // As SIGQUIT, but nobody has asked for the end.
        let (phase, actions) = expected(pose, &Event::Shutdown(Shutdown::Immediate));
        return (phase, actions.replace("exit 0", "exit 1"));
    }
    let name = event_name(event);
    let of_role = ended(event, pose.living).map(|role| format!("{role} *"));
    let row = EXPECTED
        .iter()
        .find(|row| row.0 == pose.name && (row.1 == name || Some(row.1) == of_role.as_deref()));
    if let Some(row) = row {
        let actions = SHORT.iter().fold(row.3.to_owned(), |text, (short, long)| {
            text.replace(short, long)
        });
        return (row.2.to_owned(), actions);
    }
    let phase = pose.state.phase.to_string();
    match ended(event, pose.living) {
        None => (phase, String::new()),
        Some(_) if pose.name.starts_with("WaitDeadEnd") => (phase, String::new()),
        Some(role) => {
            let rest: Vec<String> = pose
                .living
                .iter()
                .filter(|&&other| other != role)
                .map(Role::to_string)
                .collect();
            let quit = format!("SIGQUIT {}; arm kill timer", rest.join(", "));
            let crash = if pose.state.shutdown.is_none() {
                format!("admit: loading; status starting; {quit}")
            } else if pose.name == "Run, fast shutdown" {
                format!("admit: shutting down; {quit}")
            } else {
                quit
            };
            ("WaitDeadEnd".to_owned(), crash)
        }
    }
}

#[test]
fn every_pair_leads_where_the_table_says() {
    let poses = poses();
    let events = all_events();
    for row in EXPECTED {
        assert!(
            poses.iter().any(|pose| pose.name == row.0),
            "no pose {}",
            row.0
        );
        let known = |event: &Event| row.1 == event_name(event) || row.1.ends_with('*');
        assert!(events.iter().any(known), "no event {}", row.1);
    }
    for pose in &poses {
        for event in &events {
            let (after, actions) = next(&pose.state, event);
            let got = (after.phase.to_string(), describe(&actions));
            assert_eq!(
                got,
                expected(pose, event),
                "{} × {}",
                pose.name,
                event_name(event)
            );
            if got == (pose.state.phase.to_string(), String::new())
                && ended(event, pose.living).is_none()
            {
                // Ignored, but for what is remembered: a stronger request, and that all is cleaned.
                assert!(after.shutdown >= pose.state.shutdown);
                let after = State {
                    shutdown: pose.state.shutdown,
                    moved: pose.state.moved,
                    cleaning: pose.state.cleaning,
                    ..after
                };
                assert_eq!(after, pose.state, "{} × {}", pose.name, event_name(event));
            }
        }
    }
}

#[test]
fn the_poses_cover_every_phase_in_which_it_can_rest() {
    let rested: HashSet<Phase> = reachable().into_iter().map(|state| state.phase).collect();
    let posed: HashSet<Phase> = poses().iter().map(|pose| pose.state.phase).collect();
    assert_eq!(rested, posed);
    assert!(
        !rested.contains(&Phase::Shutdown2),
        "nobody outlives the checkpointer yet"
    );
    for pose in poses() {
        let living: Vec<Role> = pose.state.children.iter().copied().collect();
        assert_eq!(living, pose.living, "{}", pose.name);
    }
}

/// Holds one step against the invariants P1 to P6.
fn check_step(before: &State, event: &Event, after: &State, actions: &[Action]) {
    let context = || format!("{before:?}\n× {event:?}\n→ {after:?}\n{actions:?}");
    let exits = actions
        .iter()
        .filter(|a| matches!(a, Action::Exit(_)))
        .count();
    assert_eq!(
        exits,
        usize::from(after.outcome.is_some() && before.outcome.is_none())
    );
    if before.outcome.is_some() {
        assert!(actions.is_empty() && before == after, "P5: {}", context());
    }
    if exits == 1 {
        assert!(after.children.is_empty(), "P5: {}", context());
        assert!(
            matches!(actions.last(), Some(Action::Exit(_))),
            "P5: {}",
            context()
        );
    }
    assert!(before.shutdown <= after.shutdown, "P6: {}", context());
    let backend_lives = after.children.iter().any(|r| matches!(r, Role::Backend(_)));
    for action in actions {
        match *action {
            Action::Fork(role) => {
                assert!(after.shutdown.is_none(), "P1: {}", context());
                assert!(after.children.contains(&role), "P1: {}", context());
                assert!(
                    matches!(after.phase, Phase::Startup | Phase::Run),
                    "P1: {}",
                    context()
                );
            }
            Action::Signal(role, signal) => {
                assert!(
                    after.children.contains(&role),
                    "signal to nobody: {}",
                    context()
                );
                match signal {
                    Signal::Usr2 => {
                        assert_eq!(after.children, BTreeSet::from([CP]), "P2: {}", context());
                        assert!(after.recovered, "P2: {}", context());
                    }
                    Signal::Term => {
                        assert_ne!(role, CP, "{}", context());
                        assert!(role != WW || !backend_lives, "P3: {}", context());
                    }
                    Signal::Usr1 => {
                        assert_eq!((role, after.phase), (CP, Phase::Run), "{}", context());
                    }
                    Signal::Hup | Signal::Quit | Signal::Kill => {}
                    other => panic!("{other} is never sent: {}", context()),
                }
            }
            Action::ResetSharedMemory => {
                assert!(after.children.is_empty(), "P4: {}", context());
            }
            _ => {}
        }
    }
    let armed = actions.contains(&Action::ArmKillTimer);
    let entered = before.phase != Phase::WaitDeadEnd && after.phase == Phase::WaitDeadEnd;
    assert_eq!(armed, entered, "kill timer: {}", context());
}

/// Every state that any sequence of events can lead to, each step checked on the way. All
/// crashes fall at one time, so the history, and with it the search, is finite.
fn reachable() -> HashSet<State> {
    let start = State::new(2, POLICY);
    let mut seen = HashSet::from([(start.clone(), false)]);
    let mut queue = VecDeque::from([(start, false)]);
    let events = all_events();
    while let Some((state, usr2_sent)) = queue.pop_front() {
        for event in &events {
            let (after, actions) = next(&state, event);
            check_step(&state, event, &after, &actions);
            let sends = actions.contains(&Action::Signal(CP, Signal::Usr2));
            assert!(
                !(sends && usr2_sent),
                "P2: SIGUSR2 twice after {event:?} in {state:?}"
            );
            let sent = (usr2_sent || sends) && after.children.contains(&CP);
            if seen.insert((after.clone(), sent)) {
                queue.push_back((after, sent));
            }
        }
    }
    seen.into_iter().map(|(state, _)| state).collect()
}

/// Once every child is gone, whatever the order and the way, the life is over or begins again.
#[test]
fn no_reachable_state_is_stuck() {
    let states = reachable();
    assert!(
        states.len() > 100,
        "the search has found only {}",
        states.len()
    );
    for state in states {
        for exit in [Exit::Code(0), Exit::Code(2), Exit::Signal(9)] {
            drain(&state, exit);
        }
    }
}

/// Lets living children end in this way until none is left.
fn drain(from: &State, exit: Exit) {
    let mut state = from.clone();
    for _ in 0..4 * ROLES.len() {
        let Some(&role) = state.children.first() else {
            let waits_for_shell = state.phase == Phase::Init || state.memory_asked || state.rests;
            assert!(
                state.outcome.is_some() || waits_for_shell,
                "stuck: {from:?}\n{state:?}"
            );
            return;
        };
        state = next(&state, &exited(role, exit)).0;
    }
    panic!("children without end: {from:?}");
}

/// Whoever waits for the server hears that it has not stopped because it was asked to.
#[test]
fn a_server_whose_directory_was_moved_ends_with_a_status_of_its_own() {
    let serving = [Event::LockAcquired, Event::MemoryReady, ok(SU)];
    let ends = [killed(CP), killed(WW), killed(B0), killed(B1)];
    for (before, after) in [
        (&serving[..1], &[][..]),
        (&serving, &ends),
        // A crash is under way, or was.
        (&[&serving[..], &ends[..1]].concat(), &ends[1..]),
        (&[&serving[..], &ends].concat(), &[]),
    ] {
        let events = [before, &[Event::DirectoryMoved], after].concat();
        let (state, actions) = run(&events);
        let outcome = Outcome::DirectoryMoved;
        assert_eq!(actions.last(), Some(&Action::Exit(outcome)), "{events:?}");
        assert_eq!((state.outcome, outcome.status()), (Some(outcome), 1));
        let logs_request =
            |action: &Action| matches!(action, Action::Log(_, line) if line.contains("received"));
        assert!(!actions.iter().any(logs_request), "{actions:?}");
    }
}

/// From every reachable state SIGQUIT, and then the kill timer, end the server.
#[test]
fn sigquit_always_ends_it() {
    for from in reachable() {
        let mut state = next(&from, &Event::Shutdown(Shutdown::Immediate)).0;
        state = next(&state, &Event::KillTimerExpired).0;
        while let Some(&role) = state.children.first() {
            state = next(&state, &killed(role)).0;
        }
        assert!(state.outcome.is_some(), "{from:?}\n{state:?}");
    }
}

#[test]
fn fast_shutdown_is_in_order() {
    let (state, actions) = run(&[
        Event::LockAcquired,
        Event::MemoryReady,
        Event::RedoStarted,
        ok(SU),
        Event::Shutdown(Shutdown::Fast),
        Event::Cleaned,
        ok(B1),
        ok(B0),
        ok(WW),
        ok(CP),
    ]);
    let signals: Vec<(Role, Signal)> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Signal(role, signal) => Some((*role, *signal)),
            _ => None,
        })
        .collect();
    let wanted = [
        (CP, Signal::Usr1),
        (B0, Signal::Term),
        (B1, Signal::Term),
        (WW, Signal::Term),
        (CP, Signal::Usr2),
    ];
    assert_eq!(signals, wanted);
    assert_eq!(state.outcome, Some(Outcome::Stopped));
}

#[test]
fn crashes_beyond_the_policy_keep_it_down() {
    let life = [
        Event::MemoryReady,
        ok(SU),
        killed(WW),
        killed(CP),
        killed(B0),
        killed(B1),
    ];
    let mut events = vec![Event::LockAcquired];
    events.extend(life.clone());
    let (state, _) = run(&events);
    assert!(
        state.memory_asked,
        "the first crash is followed by a restart"
    );
    events.extend([&life[..], &life].concat());
    let (state, _) = run(&events);
    let why = StayDown::TooMany {
        crashes: 3,
        window_ms: 60_000,
    };
    assert_eq!(state.outcome, Some(Outcome::StaysDown(why)));
}

#[test]
fn a_reload_changes_the_policy() {
    let off = RestartPolicy {
        restart_after_crash: false,
        ..POLICY
    };
    let (state, _) = run(&[
        Event::LockAcquired,
        Event::MemoryReady,
        Event::ConfigurationRead(off),
        killed(SU),
        killed(CP),
    ]);
    assert_eq!(state.outcome, Some(Outcome::StaysDown(StayDown::Disabled)));
}

/// The table of the documentation: per pose, what each event that is not ignored leads to.
fn document() -> String {
    let mut text = String::from(
        "# The postmaster's states\n\n\
         Printed from `postmaster/src/state.rs` by its tests, for a server of two backends; \
         a test fails when it is out of date.\nAn event that is not listed under a state is \
         ignored there. Log lines are left out. `Shutdown2` is passed within one step: no \
         child\noutlives the checkpointer.\n",
    );
    for pose in poses() {
        write!(
            text,
            "\n## {}\n\n| event | next | actions |\n| --- | --- | --- |\n",
            pose.name
        )
        .expect("a string takes all");
        let mut rows: Vec<(Vec<String>, String)> = Vec::new();
        for event in all_events() {
            let (after, actions) = next(&pose.state, &event);
            if after == pose.state && actions.is_empty() {
                continue;
            }
            let phase = after.phase;
            let result = format!("{phase} | {}", describe(&actions));
            match rows.iter_mut().find(|(_, known)| *known == result) {
                Some((events, _)) => events.push(event_name(&event)),
                None => rows.push((vec![event_name(&event)], result)),
            }
        }
        for (mut events, result) in rows {
            gather_ends(&mut events);
            writeln!(text, "| {} | {result} |", events.join(", ")).expect("a string takes all");
        }
    }
    text
}

/// Names all ends of a child as one.
fn gather_ends(events: &mut Vec<String>) {
    let all: Vec<String> = all_events().iter().map(event_name).collect();
    for role in ROLES {
        let of_role = |name: &String| {
            name.starts_with(&format!("{role} ")) || *name == format!("fork of {role} fails")
        };
        let count = |names: &[String]| names.iter().filter(|name| of_role(name)).count();
        if count(events) == count(&all) {
            events.retain(|name| !of_role(name));
            events.push(format!("any end of {role}"));
        }
    }
}

#[test]
fn the_documentation_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/postmaster-states.md");
    let current = document();
    if std::env::var_os("RD_WRITE_DOCS").is_some() {
        std::fs::write(path, &current).expect("docs/ can be written");
    }
    let on_disk = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        on_disk == current,
        "docs/postmaster-states.md is out of date: RD_WRITE_DOCS=1 cargo test -p rd-postmaster"
    );
}

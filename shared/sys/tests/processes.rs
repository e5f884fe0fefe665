//! What threads cannot show: latches, events, signals, locks and titles across real processes.
//!
//! A program of its own instead of a test harness, because only a process of one thread may fork.
//! Every test must end within a minute; then the alarm ends the program, and that fails it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rd_base::{FrameNo, Role};
use rd_sys::deathwatch::DeathWatch;
use rd_sys::event::{Event, EventCell};
use rd_sys::fault::{self, Fault};
use rd_sys::fdpass::Channel;
use rd_sys::fork::{exit_process, spawn};
use rd_sys::futex::Condition;
use rd_sys::latch::{Latch, RwLatch};
use rd_sys::lockfile::{LockError, LockFile};
use rd_sys::process::{self, Exit, Pid, Signal};
use rd_sys::shm::{Area, One, Plan, Segment, ShmSafe};
use rd_sys::signals::Signals;
use rd_sys::storage::{OpenMode, RealStorage, Storage};
use rd_sys::{Shortage, crash, random, title};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;
use std::{fs, panic, thread};
use zerocopy::{FromBytes, KnownLayout};

/// A test gets the signals of this process.
type Test = fn(&Signals);

fn main() {
    title::init().expect("the title has a place");
    let signals = Signals::install(&[Signal::Term, Signal::Chld]).expect("installed");
    let tests: &[(&str, Test)] = &[
        (
            "latches_exclude_across_processes",
            latches_exclude_across_processes,
        ),
        (
            "frames_are_whole_across_processes",
            frames_are_whole_across_processes,
        ),
        (
            "a_condition_wakes_another_process",
            a_condition_wakes_another_process,
        ),
        ("events_wake_across_a_fork", events_wake_across_a_fork),
        ("quit_ends_a_futex_wait", quit_ends_a_futex_wait),
        (
            "a_signal_before_install_is_kept_and_stays_apart",
            a_signal_before_install_is_kept,
        ),
        (
            "a_lock_outlives_the_killed_holder",
            a_lock_outlives_the_killed_holder,
        ),
        (
            "the_death_of_a_parent_is_seen",
            the_death_of_a_parent_is_seen,
        ),
        (
            "a_panic_aborts_and_drops_nothing",
            a_panic_aborts_and_drops_nothing,
        ),
        (
            "a_fork_with_a_frame_or_threads_is_refused",
            a_fork_is_refused,
        ),
        (
            "titles_show_and_the_environment_stays",
            titles_show_and_the_environment_stays,
        ),
        ("descriptors_cross_processes", descriptors_cross_processes),
        (
            "a_descriptor_for_which_there_is_no_place_is_told_as_lost",
            a_descriptor_without_a_place_is_told,
        ),
        (
            "a_want_of_descriptors_is_no_want_of_direct_reads",
            a_want_of_descriptors_is_no_want_of_direct_reads,
        ),
        ("a_fault_fires_in_one_process", a_fault_fires_in_one_process),
        (
            "siblings_have_different_random_bytes",
            siblings_have_different_random_bytes,
        ),
        (
            "a_child_that_an_unnamed_signal_ended_is_reaped",
            a_child_that_an_unnamed_signal_ended_is_reaped,
        ),
        (
            "a_file_that_may_not_grow_is_an_error",
            a_file_that_may_not_grow_is_an_error,
        ),
    ];
    let only = std::env::args()
        .nth(1)
        .filter(|filter| !filter.starts_with('-'));
    let wanted = |name: &str| {
        only.as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        nix::unistd::alarm::set(60);
        test(&signals);
        println!("test {name} ... ok");
    }
}

fn one<T: ShmSafe>() -> One<T> {
    let mut plan = Plan::new();
    let region = plan.reserve(1);
    Segment::anonymous(&plan).expect("memory").one(region)
}

fn area<T: ShmSafe>(count: usize) -> Area<T> {
    let mut plan = Plan::new();
    let region = plan.reserve(count);
    Segment::anonymous(&plan).expect("memory").area(region)
}

/// A child that runs `work` and leaves with its result.
fn child(number: u16, work: impl FnOnce() -> i32) -> Pid {
    spawn(Role::Backend(number), || exit_process(work())).expect("a child")
}

/// Waits for the children, in whatever order they end.
fn ends<const N: usize>(pids: [Pid; N]) -> [Exit; N] {
    let mut ended = BTreeMap::new();
    while ended.len() < N {
        match process::reap() {
            Some((pid, exit)) => drop(ended.insert(pid, exit)),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
    pids.map(|pid| ended[&pid])
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn latches_exclude_across_processes(_: &Signals) {
    #[derive(FromBytes, KnownLayout)]
    #[repr(C)]
    struct Shared {
        latch: Latch<5>,
        rw: RwLatch,
        count: AtomicU64,
        left: AtomicU64,
        right: AtomicU64,
    }
    const TURNS: u64 = 30_000;
    let shared = one::<Shared>();
    let pids = [0, 1, 2, 3].map(|number| {
        let shared = &shared;
        child(number, move || {
            for turn in 0..TURNS {
                let held = shared.latch.lock();
                shared.count.store(shared.count.load(Relaxed) + 1, Relaxed);
                drop(held);
                if turn % 3 == 0 {
                    let _held = shared.rw.write();
                    shared.left.store(shared.left.load(Relaxed) + 1, Relaxed);
                    shared.right.store(shared.right.load(Relaxed) + 1, Relaxed);
                } else {
                    let _held = shared.rw.read();
                    assert_eq!(shared.left.load(Relaxed), shared.right.load(Relaxed));
                }
            }
            0
        })
    });
    assert_eq!(ends(pids), [Exit::Code(0); 4]);
    assert_eq!(shared.count.load(Relaxed), 4 * TURNS);
    assert_eq!(shared.left.load(Relaxed), 4 * TURNS / 3);
}

fn frames_are_whole_across_processes(_: &Signals) {
    let mut plan = Plan::new();
    let region = plan.reserve_frames(2);
    let name = format!("/redoubt-test-{}", std::process::id());
    // A process that had this number may have been killed and left it behind.
    let _ = Segment::remove_name(&name);
    let segment = Segment::create(&plan, &name, false).expect("memory");
    let frames = segment.frames(region);
    let pids = [1u16, 2].map(|number| {
        let frames = &frames;
        child(number, move || {
            for turn in 0..5_000u32 {
                let frame = FrameNo::new(turn % 2);
                let byte = (turn as u8).wrapping_mul(2).wrapping_add(number as u8);
                frames.write(frame).fill(byte);
                let read = frames.read(frame);
                assert!(read.iter().all(|byte| *byte == read[0]));
            }
            0
        })
    });
    assert_eq!(ends(pids), [Exit::Code(0); 2]);
}

fn a_condition_wakes_another_process(_: &Signals) {
    #[derive(FromBytes, KnownLayout)]
    #[repr(C)]
    struct Turn {
        condition: Condition,
        turn: AtomicU64,
    }
    fn wait_for(shared: &Turn, wanted: impl Fn(u64) -> bool) {
        loop {
            let ticket = shared.condition.ticket();
            if wanted(shared.turn.load(Acquire)) {
                return;
            }
            shared.condition.wait(ticket, None);
        }
    }
    const TURNS: u64 = 5_000;
    let shared = one::<Turn>();
    let pids = [0u16, 1].map(|number| {
        let shared = &shared;
        child(number, move || {
            for turn in (u64::from(number)..TURNS).step_by(2) {
                wait_for(shared, |now| now == turn);
                shared.turn.store(turn + 1, Release);
                shared.condition.wake_all();
            }
            0
        })
    });
    wait_for(&shared, |now| now == TURNS);
    assert_eq!(ends(pids), [Exit::Code(0); 2]);
}

fn events_wake_across_a_fork(_: &Signals) {
    const TURNS: u64 = 5_000;
    let cells = area::<EventCell>(2);
    let asked = one::<AtomicU64>();
    let events = [0, 1].map(|index| Event::create(cells.one(index)).expect("a descriptor"));
    let pids = [0u16, 1].map(|number| {
        let (events, asked) = (&events, &asked);
        let number = usize::from(number);
        child(number as u16, move || {
            for turn in (number as u64..TURNS).step_by(2) {
                while asked.load(Acquire) != turn {
                    // Without a limit: a lost wake-up hangs.
                    events[number].wait(None);
                }
                asked.store(turn + 1, Release);
                events[1 - number].notify();
            }
            0
        })
    });
    assert_eq!(ends(pids), [Exit::Code(0); 2]);
}

fn quit_ends_a_futex_wait(_: &Signals) {
    let shared = area::<Latch>(1);
    let held = shared[0].lock();
    let pid = child(0, || {
        drop(shared[0].lock());
        0
    });
    let state = format!("/proc/{pid}/wchan");
    wait_until(|| fs::read_to_string(&state).is_ok_and(|place| place.contains("futex")));
    assert!(process::kill(pid, Signal::Quit).expect("sent"));
    assert_eq!(ends([pid]), [Exit::Code(2)]);
    drop(held);
}

fn a_signal_before_install_is_kept(ours: &Signals) {
    let ready = one::<AtomicU64>();
    ours.take();
    let pid = child(0, || {
        // The parent's handlers are not ours, and its signals neither.
        ready.store(1, Release);
        wait_until(|| ready.load(Acquire) == 2);
        let signals = Signals::install(&[Signal::Term]).expect("installed");
        let event = Event::create(one::<EventCell>()).expect("a descriptor");
        event.wait_with(signals.fd(), None);
        let came = signals.take();
        assert!(came.contains(Signal::Term) && !came.contains(Signal::Hup));
        assert!(signals.take().is_empty(), "it came once");
        assert!(
            !event.wait_with(signals.fd(), Some(Duration::ZERO)),
            "and left nothing behind"
        );
        7
    });
    wait_until(|| ready.load(Acquire) == 1);
    process::kill(pid, Signal::Term).expect("sent");
    // Ignored by whoever does not want it.
    process::kill(pid, Signal::Hup).expect("sent");
    ready.store(2, Release);
    assert_eq!(ends([pid]), [Exit::Code(7)]);
    let came = ours.take();
    assert!(came.contains(Signal::Chld) && !came.contains(Signal::Term));
    assert!(!process::can_be_signaled(pid) && !process::kill(pid, Signal::Term).expect("nobody"));
}

/// A child that makes a child of its own, which outlives it: it handles SIGQUIT, and waits until
/// `shared` holds 2, after it has put there 1 for the signal it got at its parent's death.
fn with_orphan(
    shared: &One<AtomicU64>,
    pid_of_orphan: &One<AtomicU64>,
    watch: Option<&DeathWatch>,
) {
    let orphan = spawn(Role::Backend(1), || {
        let signals = Signals::install(&[Signal::Quit]).expect("installed");
        let event = Event::create(one::<EventCell>()).expect("a descriptor");
        assert!(
            watch.is_none_or(|watch| !watch.is_over()),
            "the parent lives"
        );
        pid_of_orphan.store(Pid::own().get() as u64, Release);
        while let Some(watch) = watch.filter(|watch| !watch.is_over()) {
            event.wait_with(watch.fd(), None);
        }
        wait_until(|| signals.take().contains(Signal::Quit));
        shared.store(1, Release);
        wait_until(|| shared.load(Acquire) == 2);
        exit_process(0)
    });
    orphan.expect("a child");
    wait_until(|| shared.load(Acquire) == 3);
}

fn a_lock_outlives_the_killed_holder(_: &Signals) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("lock");
    let (shared, orphan) = (one::<AtomicU64>(), one::<AtomicU64>());
    let holder = child(0, || {
        let _lock = LockFile::acquire(&path).expect("nobody has it");
        with_orphan(&shared, &orphan, None);
        0
    });
    wait_until(|| orphan.load(Acquire) != 0);
    process::kill(holder, Signal::Kill).expect("sent");
    assert_eq!(ends([holder]), [Exit::Signal(9)]);
    // SIGQUIT came to the orphan because its parent died.
    wait_until(|| shared.load(Acquire) == 1);
    assert!(matches!(LockFile::acquire(&path), Err(LockError::Held(_))));
    shared.store(2, Release);
    wait_until(|| LockFile::acquire(&path).is_ok());
}

fn the_death_of_a_parent_is_seen(_: &Signals) {
    let (shared, orphan) = (one::<AtomicU64>(), one::<AtomicU64>());
    let parent = child(0, || {
        let watch = DeathWatch::create().expect("a pipe");
        with_orphan(&shared, &orphan, Some(&watch));
        0
    });
    wait_until(|| orphan.load(Acquire) != 0);
    process::kill(parent, Signal::Kill).expect("sent");
    assert_eq!(ends([parent]), [Exit::Signal(9)]);
    wait_until(|| shared.load(Acquire) == 1);
    shared.store(2, Release);
}

fn a_panic_aborts_and_drops_nothing(_: &Signals) {
    struct Guard<'a>(&'a AtomicU64);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let drops = one::<AtomicU64>();
    let guard = Guard(&drops);
    let unwinding = child(0, || {
        panic::set_hook(Box::new(|_| {}));
        panic!("a bug");
    });
    let hooked = child(1, || {
        crash::install();
        let _own = Guard(&drops);
        "x".parse::<i32>()
            .expect("this line is meant to be in the output")
    });
    assert_eq!(ends([unwinding, hooked]), [Exit::Signal(6); 2]);
    assert_eq!(
        Exit::Signal(6).to_string(),
        "was terminated by signal 6: SIGABRT"
    );
    assert_eq!(
        drops.load(Relaxed),
        0,
        "neither the child's guards nor the parent's were dropped"
    );
    drop(guard);
    assert_eq!(drops.load(Relaxed), 1);
}

fn a_fork_is_refused(_: &Signals) {
    let mut plan = Plan::new();
    let region = plan.reserve_frames(1);
    let frames = Segment::anonymous(&plan).expect("memory").frames(region);
    let refused = || {
        let before = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let result = panic::catch_unwind(|| child(0, || 0));
        panic::set_hook(before);
        result.is_err()
    };
    let held = frames.read(FrameNo::new(0));
    assert!(refused(), "a frame is held");
    drop(held);
    thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        assert!(refused(), "there is another thread");
        drop(done);
    });
    // The thread has been joined; the kernel may take a moment to count it out.
    wait_until(|| fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1));
    assert_eq!(ends([child(0, || 0)]), [Exit::Code(0)]);
}

fn titles_show_and_the_environment_stays(_: &Signals) {
    let path = std::env::var("PATH");
    let done = one::<AtomicU64>();
    let pid = child(3, || {
        let known = std::env::var("PATH");
        done.store(1, Release);
        wait_until(|| done.load(Acquire) == 2);
        title::set_role(Role::Startup, "recovering 34%");
        done.store(3, Release);
        wait_until(|| done.load(Acquire) == 4);
        i32::from(known.is_err())
    });
    let shown = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).expect("it runs");
        String::from_utf8(bytes)
            .expect("text")
            .trim_end_matches(['\0', '\n'])
            .to_owned()
    };
    wait_until(|| done.load(Acquire) == 1);
    assert_eq!(
        (shown("cmdline"), shown("comm")),
        ("redoubt: backend 3".into(), "rd-backend 3".into())
    );
    done.store(2, Release);
    wait_until(|| done.load(Acquire) == 3);
    assert_eq!(shown("cmdline"), "redoubt: startup recovering 34%");
    // Longer than any place there is: cut, and still the end of a string.
    title::set(&"x".repeat(1 << 20), "x");
    assert_eq!(std::env::var("PATH"), path);
    title::set("redoubt: test", "test");
    let own = fs::read("/proc/self/cmdline").expect("we run");
    assert!(own.starts_with(b"redoubt: test\0"));
    done.store(4, Release);
    assert_eq!(ends([pid]), [Exit::Code(0)]);
}

fn descriptors_cross_processes(_: &Signals) {
    let (ours, theirs) = Channel::pair().expect("a pair");
    let pid = child(0, || {
        let mut buffer = [0; 16];
        let received = loop {
            match theirs.receive(&mut buffer) {
                Ok(received) => break received,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(&buffer[..received.len], b"event");
        let fd = received.fd.expect("it came with one");
        nix::unistd::write(&fd, &9u64.to_ne_bytes()).expect("written");
        0
    });
    let event = nix::sys::eventfd::EventFd::new().expect("a descriptor");
    ours.send(b"event", Some(event.as_fd())).expect("sent");
    assert_eq!(ends([pid]), [Exit::Code(0)]);
    assert_eq!(event.read(), Ok(9));
}

/// The limit is the process's, so it is a child that is short.
fn a_descriptor_without_a_place_is_told(_: &Signals) {
    let (ours, theirs) = Channel::pair().expect("a pair");
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    ours.send(b"lost", Some(reader.as_fd())).expect("sent");
    ours.send(b"taken", Some(reader.as_fd())).expect("sent");
    let short = child(0, || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("lowered");
        let mut buffer = [0; 16];
        let first = theirs.receive(&mut buffer).expect("no broken socket");
        assert_eq!(&buffer[..first.len], b"lost");
        assert!(first.fd_is_lost && first.fd.is_none());
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
        let second = theirs.receive(&mut buffer).expect("a message");
        assert_eq!(&buffer[..second.len], b"taken");
        assert!(!second.fd_is_lost && second.fd.is_some());
        0
    });
    assert_eq!(ends([short]), [Exit::Code(0)]);
}

/// Whoever took it for that would read from the system's cache for as long as the file is open.
fn a_want_of_descriptors_is_no_want_of_direct_reads(_: &Signals) {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("a"), [1; 4096]).expect("written");
    let disk = RealStorage::new(dir.path().to_owned());
    let short = child(0, || {
        let one = fs::File::open(dir.path()).expect("a descriptor");
        let next = one.as_raw_fd() as u64;
        drop(one);
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, next + 1, hard).expect("lowered to one that is free");
        let error = disk.open("a", OpenMode::ReadPastCache).err();
        let short = Shortage::of(&error.expect("it takes two"));
        assert_eq!(short, Some(Shortage::ProcessDescriptors));
        // A write is as durable by the cache.
        assert!(disk.open("a", OpenMode::ReadWriteSyncData).is_ok());
        0
    });
    assert_eq!(ends([short]), [Exit::Code(0)]);
}

fn a_fault_fires_in_one_process(_: &Signals) {
    fault::prepare().expect("memory");
    let pass = || match fault::point(Fault::PageWrite) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    let armer = child(0, || i32::from(fault::arm("page_write=kill@2").is_err()));
    assert_eq!(ends([armer]), [Exit::Code(0)]);
    assert_eq!(pass(), 0, "the first passing, of this process");
    let killed = child(1, pass);
    assert_eq!(ends([killed]), [Exit::Signal(9)], "the second, of another");
    assert_eq!(ends([child(2, pass)]), [Exit::Code(0)], "it fires once");
    assert_eq!(fault::hits(Fault::PageWrite), 1);
}

fn siblings_have_different_random_bytes(_: &Signals) {
    let numbers = area::<AtomicU64>(2);
    let pids = [0u16, 1].map(|number| {
        let numbers = &numbers;
        child(number, move || {
            numbers[usize::from(number)].store(random::u64(), Release);
            0
        })
    });
    assert_eq!(ends(pids), [Exit::Code(0); 2]);
    assert_ne!(numbers[0].load(Acquire), numbers[1].load(Acquire));
}

/// By default the limit of the size of files kills (SIGXFSZ).
fn a_file_that_may_not_grow_is_an_error(_: &Signals) {
    let mut file = tempfile::tempfile().expect("a file");
    let limited = child(0, || {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("read");
        setrlimit(Resource::RLIMIT_FSIZE, 4096, hard).expect("lowered");
        file.write_all(&[1; 4096]).expect("as long as it may be");
        let error = file.write_all(&[1]).expect_err("no longer");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let error = file.set_len(8192).expect_err("nor so");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        0
    });
    assert_eq!(ends([limited]), [Exit::Code(0)]);
}

fn a_child_that_an_unnamed_signal_ended_is_reaped(_: &Signals) {
    let number = libc::SIGRTMIN() + 6;
    let killed = child(0, || {
        // SAFETY: raise takes a number; by default this signal ends the process.
        unsafe { libc::raise(number) }
    });
    assert_eq!(ends([killed]), [Exit::Signal(number)]);
    let text = format!("was terminated by signal {number}");
    assert_eq!(Exit::Signal(number).to_string(), text);
}

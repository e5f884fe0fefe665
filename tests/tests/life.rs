//! Births and deaths: how a server starts, stops, falls and comes back.

use nix::sys::signal::Signal;
use rd_engine::init::UNFINISHED_FILE;
use rd_tests::support::cluster::{Cluster, program, run, send};
use rd_tests::support::load::Load;
use rd_tests::support::log::assert_order;
use rd_tests::support::process::{Held, is_alive, is_stopped, parent_and_state, title};
use rd_tests::support::{skip, wait_for};
use rd_wire::Client;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const CLEAN_START: &str = "redo starts";
const SHUTTING_DOWN: &str = "ERR Redoubt is shutting down";

#[test]
fn a_fresh_directory_is_initialised_and_served() {
    let mut cluster = Cluster::started(&[("backends", "3")]);
    let directory = fs::canonicalize(cluster.data_dir()).expect("it was made");
    let mode = fs::metadata(&directory).expect("it was made").permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
    let socket = directory.join(".s.REDOUBT.7432");
    assert_order(
        &cluster.log(),
        &[
            "initialising it",
            "listening on unix socket",
            "server is ready to accept connections",
        ],
    );
    // The welcome goes to standard output, and the order of the two streams is nobody's promise.
    for line in [
        format!("is ready; its data is in {}", directory.display()),
        format!("redis-cli -s {}", socket.display()),
        format!("rd_ctl stop -D {}", directory.display()),
    ] {
        assert!(cluster.log().contains(&line), "{line}");
    }
    let pid = cluster.pid().expect("a server");
    let text = fs::read_to_string(cluster.path("postmaster.pid")).expect("it serves");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert_eq!(lines[0], pid.to_string());
    assert_eq!(lines[1], directory.display().to_string());
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
        .abs_diff(lines[2].parse().expect("seconds"));
    assert!(age < 60, "started {age} s ago");
    assert_eq!(lines[3], "7432");
    assert_eq!(lines[4], directory.display().to_string());
    assert_eq!(lines[5], "", "no TCP was asked for");
    assert!(lines[6].starts_with("/redoubt."), "{}", lines[6]);
    assert_eq!(lines[7].trim_end(), "ready");

    assert_eq!(title(pid).as_deref(), Some("redoubt: postmaster"));
    let roles = wait_for("all children to have their titles", || {
        let roles: Vec<String> = cluster.children().into_iter().map(|c| c.role).collect();
        let is_named = |role: &String| role != "postmaster";
        (roles.len() == 5 && roles.iter().all(is_named)).then_some(roles)
    });
    assert_eq!(
        roles,
        [
            "backend 0",
            "backend 1",
            "backend 2",
            "checkpointer",
            "walwriter"
        ]
    );

    let status = cluster.stop(Signal::SIGINT);
    assert_eq!(status.code(), Some(0), "Ctrl-C is no failure");
    assert!(!cluster.path("postmaster.pid").exists());
    assert!(!socket.exists());
}

/// How a stop is asked for.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Signal(Signal),
    Ctl(&'static str),
    Command(&'static str),
}

/// A stop, and what must come of it.
struct Stop {
    ask: Ask,
    mode: &'static str,
}

fn ask(cluster: &Cluster, how: Ask) {
    match how {
        Ask::Signal(signal) => cluster.signal(signal),
        Ask::Ctl(mode) => {
            let directory = cluster.data_dir();
            let directory = directory.to_string_lossy();
            let arguments = ["stop", "-D", &directory, "-m", mode, "-W"];
            let (status, _, errors) = run("rd_ctl", &arguments);
            assert!(status.success(), "{errors}");
        }
        Ask::Command(mode) => {
            let mut client = cluster.client();
            // Success shows as the end of the connection.
            let reply = client.call(&["SHUTDOWN", mode]);
            assert!(reply.is_err(), "{reply:?}");
        }
    }
}

#[test]
fn stops_of_every_kind_from_a_busy_server() {
    let mut cluster = Cluster::started(&[]);
    let stops = [
        Stop {
            ask: Ask::Signal(Signal::SIGTERM),
            mode: "smart",
        },
        Stop {
            ask: Ask::Signal(Signal::SIGINT),
            mode: "fast",
        },
        Stop {
            ask: Ask::Signal(Signal::SIGQUIT),
            mode: "immediate",
        },
        Stop {
            ask: Ask::Ctl("smart"),
            mode: "smart",
        },
        Stop {
            ask: Ask::Ctl("fast"),
            mode: "fast",
        },
        Stop {
            ask: Ask::Ctl("immediate"),
            mode: "immediate",
        },
        Stop {
            ask: Ask::Command("SMART"),
            mode: "smart",
        },
        Stop {
            ask: Ask::Command("FAST"),
            mode: "fast",
        },
        Stop {
            ask: Ask::Command("IMMEDIATE"),
            mode: "immediate",
        },
    ];
    for stop in stops {
        cluster.client().call(&["FLUSHALL"]).expect("answered");
        let load = Load::start(&cluster.socket(), 4, 100);
        load.wait_for(200);
        ask(&cluster, stop.ask);
        let request = format!("received {} shutdown request", stop.mode);
        cluster.wait_log(&request);
        let acknowledged = if stop.mode == "smart" {
            smart_waits(&mut cluster, &load);
            load.stop()
        } else {
            load.join()
        };
        let status = cluster.wait_exit();
        assert_eq!(status.code(), Some(0), "{:?}", stop.ask);
        let log = cluster.log_since_start();
        if stop.mode == "immediate" {
            assert!(!log.contains("checkpoint starting: shutdown"), "{log}");
            assert_eq!(cluster.control("Database cluster state"), "in production");
        } else {
            assert_order(
                &log,
                &[
                    &request,
                    "backends and walwriter are gone: sending SIGUSR2 to the checkpointer",
                    "checkpointer LOG:  checkpoint starting: shutdown",
                    "checkpointer LOG:  checkpoint complete",
                    "checkpointer exited with exit code 0: the shutdown checkpoint is written",
                    "server is shut down",
                ],
            );
            assert_eq!(cluster.control("Database cluster state"), "shut down");
        }
        cluster.start();
        let recovered = cluster.log_since_start().contains(CLEAN_START);
        assert_eq!(recovered, stop.mode == "immediate", "{:?}", stop.ask);
        assert!(acknowledged.total() >= 200);
        acknowledged.assert_there(&mut cluster.client());
    }
}

/// A smart stop serves those who are there, and turns away who comes.
fn smart_waits(cluster: &mut Cluster, load: &Load) {
    load.wait_for(load.acknowledged() + 200);
    wait_for("the status", || {
        (cluster.status() == "stopping").then_some(())
    });
    assert!(cluster.poll_exit().is_none());
    let mut late = Client::connect_unix(cluster.socket()).expect("the socket is open");
    let reply = late.receive().expect("a refusal");
    assert_eq!(reply.error(), Some(SHUTTING_DOWN));
}

#[test]
fn a_stronger_signal_upgrades_the_mode() {
    let mut cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    client.call(&["SET", "key", "value"]).expect("answered");
    cluster.signal(Signal::SIGTERM);
    cluster.wait_log("waiting for clients to leave");
    assert!(
        client
            .call(&["PING"])
            .expect("still served")
            .error()
            .is_none()
    );
    cluster.signal(Signal::SIGINT);
    assert!(client.receive().is_err(), "fast ends the connection");
    assert_eq!(cluster.wait_exit().code(), Some(0));
    assert_eq!(cluster.control("Database cluster state"), "shut down");

    cluster.start();
    let mut client = cluster.client();
    cluster.signal(Signal::SIGTERM);
    cluster.wait_log("waiting for clients to leave");
    // A weaker or equal one changes nothing.
    cluster.signal(Signal::SIGTERM);
    assert!(
        client
            .call(&["PING"])
            .expect("still served")
            .error()
            .is_none()
    );
    cluster.signal(Signal::SIGQUIT);
    assert_eq!(cluster.wait_exit().code(), Some(0));
    let log = cluster.log_since_start();
    assert_order(
        &log,
        &[
            "received smart shutdown request",
            "received immediate shutdown request",
        ],
    );
    assert!(!log.contains("checkpoint starting: shutdown"));
    cluster.start();
    assert!(cluster.log_since_start().contains(CLEAN_START));
}

#[test]
fn who_does_not_leave_is_killed() {
    let mut cluster = Cluster::started(&[("shutdown_kill_timeout", "300ms")]);
    cluster.announce("did not leave within shutdown_kill_timeout: sending SIGKILL");
    // A stopped process hears no signal but SIGKILL.
    send(cluster.child("backend 0"), Signal::SIGSTOP);
    cluster.signal(Signal::SIGINT);
    cluster.wait_log("received fast shutdown request");
    cluster.signal(Signal::SIGQUIT);
    assert_eq!(cluster.wait_exit().code(), Some(0));
    let log = cluster.log_since_start();
    assert_order(
        &log,
        &[
            "received fast shutdown request",
            "received immediate shutdown request",
            "did not leave within shutdown_kill_timeout",
        ],
    );
    // On a slow machine, with others that were only late.
    let mut killed = log
        .lines()
        .filter(|line| line.contains("did not leave within"));
    assert!(killed.any(|line| line.contains("backend 0")), "{log}");
}

#[test]
fn a_child_that_falls_takes_the_server_through_recovery() {
    let mut cluster = Cluster::started(&[("crash_restart_max", "100")]);
    cluster.announce("terminating all other server processes");
    cluster.announce("starts before this one did not finish");
    let postmaster = cluster.pid();
    let mut acknowledged = Vec::new();
    for (turn, (role, signal)) in [
        ("backend 0", Signal::SIGKILL),
        ("walwriter", Signal::SIGKILL),
        ("checkpointer", Signal::SIGKILL),
        ("backend 1", Signal::SIGFPE),
        ("walwriter", Signal::SIGABRT),
        ("checkpointer", Signal::SIGILL),
    ]
    .into_iter()
    .enumerate()
    {
        cluster.client().call(&["FLUSHALL"]).expect("answered");
        let before = cluster.children();
        let load = Load::start(&cluster.socket(), 4, 100);
        load.wait_for(200);
        send(cluster.child(role), signal);
        acknowledged.push(load.join());
        cluster.wait_log_times("server is ready to accept connections", turn + 2);
        cluster.wait_ready().expect("service goes on");
        assert_eq!(cluster.pid(), postmaster, "the postmaster is the same");
        for child in before {
            assert!(!is_alive(child.pid), "{child:?} is of the time before");
        }
        let last = acknowledged.last().expect("just pushed");
        last.assert_there(&mut cluster.client());
        let fell = format!("{role} was terminated by signal {}", signal as i32);
        assert!(cluster.log_since_start().contains(&fell), "{fell}");
    }
    assert_eq!(
        cluster.log_since_start().matches(CLEAN_START).count(),
        6,
        "a recovery after each fall:\n{}",
        cluster.log_since_start()
    );
}

/// A signal that has no name of its own ends a child as any other does.
#[test]
fn a_child_that_an_unnamed_signal_ends_takes_the_server_through_recovery() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("terminating all other server processes");
    cluster.announce("starts before this one did not finish");
    let backend = cluster.child("backend 0").to_string();
    let status = Command::new("kill").args(["-40", &backend]).status();
    assert!(status.expect("it runs").success());
    cluster.wait_log_times("server is ready to accept connections", 2);
    let log = cluster.log_since_start();
    assert!(log.contains("was terminated by signal 40"), "{log}");
}

#[test]
fn a_startup_that_falls_is_tried_again() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("fault point recovery_begun does its action");
    cluster.announce("startup was terminated by signal 9");
    cluster.announce("starts before this one did not finish");
    cluster
        .client()
        .call(&["SET", "key", "value"])
        .expect("answered");
    cluster.kill_all();
    cluster.set("fault_points", "recovery_begun=kill");
    cluster.start();
    assert_order(
        &cluster.log_since_start(),
        &[
            "startup was terminated by signal 9",
            "all server processes are gone: starting again",
            CLEAN_START,
            "server is ready",
        ],
    );
    let reply = cluster.client().call(&["GET", "key"]).expect("answered");
    assert_eq!(reply.as_str(), Some("value"));
}

#[test]
fn clients_that_come_during_recovery_are_told_so() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("fault point recovery_begun does its action");
    cluster.announce("starts before this one did not finish");
    cluster
        .client()
        .call(&["SET", "key", "value"])
        .expect("answered");
    cluster.kill_all();
    cluster.set("fault_points", "recovery_begun=pause");
    cluster.spawn();
    let mut early = wait_for("the socket", || Client::connect_unix(cluster.socket()).ok());
    let reply = early.receive().expect("a refusal");
    let error = reply.error().expect("an error").to_owned();
    assert!(
        error.starts_with("LOADING Redoubt is starting up"),
        "{error}"
    );
    let directory = cluster.data_dir();
    let (status, out, _) = run("rd_isready", &["-D", &directory.to_string_lossy()]);
    assert_eq!(status.code(), Some(1), "{out}");
    // Told to stop now, it goes, and the next start goes on.
    assert_eq!(cluster.stop(Signal::SIGQUIT).code(), Some(0));
    cluster.set("fault_points", "");
    cluster.start();
    let reply = cluster.client().call(&["GET", "key"]).expect("answered");
    assert_eq!(reply.as_str(), Some("value"));
}

#[test]
fn too_many_falls_and_the_server_stays_down() {
    let settings = [("crash_restart_max", "2"), ("crash_restart_window", "1h")];
    let mut cluster = Cluster::started(&settings);
    cluster.announce("terminating all other server processes");
    cluster.announce("server stays down after a crash");
    // The checkpoint at the end of recovery may be cut off too.
    cluster.announce("starts before this one did not finish");
    for turn in 1..=2 {
        send(cluster.child("walwriter"), Signal::SIGKILL);
        cluster.wait_log_times("server is ready to accept connections", turn + 1);
        cluster.wait_ready().expect("within the policy");
    }
    send(cluster.child("walwriter"), Signal::SIGKILL);
    assert_eq!(cluster.wait_exit().code(), Some(1));
    let log = cluster.log_since_start();
    assert!(
        log.contains("crash_restart_max"),
        "it names the parameter:\n{log}"
    );
    assert!(log.contains("nothing acknowledged is lost"), "{log}");
    assert!(!cluster.path("postmaster.pid").exists());
    cluster.start();
}

#[test]
fn no_restart_when_none_is_wanted() {
    let mut cluster = Cluster::started(&[("restart_after_crash", "off")]);
    cluster.announce("terminating all other server processes");
    cluster.announce("server stays down after a crash");
    send(cluster.child("backend 0"), Signal::SIGKILL);
    assert_eq!(cluster.wait_exit().code(), Some(1));
    assert!(cluster.log_since_start().contains("restart_after_crash"));
}

#[test]
fn one_server_for_a_directory() {
    let mut first = Cluster::started(&[]);
    first.announce("lost the socket to the postmaster");
    let directory = first.data_dir();
    let second = [
        "-D",
        &directory.to_string_lossy(),
        "-c",
        "listen_addresses=",
    ];
    let (status, _, errors) = run("redoubt", &second);
    assert_eq!(status.code(), Some(1), "{errors}");
    let pid = first.pid().expect("it lives").to_string();
    assert!(errors.contains("postmaster.lock"), "{errors}");
    assert!(errors.contains(&format!("PID {pid}")), "{errors}");
    assert!(
        first.client().call(&["PING"]).is_ok(),
        "the first is unhurt"
    );

    // The postmaster goes alone, and a child that hears no signal stays.
    let orphan = first.child("backend 0");
    send(orphan, Signal::SIGSTOP);
    let held = Held(orphan);
    wait_for("the child to stop", || {
        let (_, state) = parent_and_state(orphan)?;
        (state == 'T').then_some(())
    });
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let (status, _, errors) = run("redoubt", &second);
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("processes of an earlier server"),
        "{errors}"
    );
    assert!(errors.contains(&orphan.to_string()), "{errors}");
    drop(held);
    wait_for("the orphan to leave", || (!is_alive(orphan)).then_some(()));
    first.start();
    assert!(first.log_since_start().contains(CLEAN_START));
}

/// A server that `rd_ctl` starts, ended with its test.
struct Launched<'a>(&'a str);

impl Drop for Launched<'_> {
    fn drop(&mut self) {
        run("rd_ctl", &["stop", "-D", self.0, "-m", "immediate"]);
    }
}

/// A child of a killed postmaster that does not leave yet: a start waits for it, for some seconds, says so, and
/// serves everything when it has left.
#[test]
fn a_start_waits_for_an_orphan_to_leave() {
    const WAITS: &str = "waiting for what is left of an earlier server";
    const TRIES: usize = 5;
    let mut first = Cluster::started(&[]);
    first.announce("lost the socket to the postmaster");
    let directory = first.data_dir();
    let directory = directory.to_string_lossy();
    let load = Load::start(&first.socket(), 4, 100);
    load.wait_for(200);
    let orphan = first.child("backend 0");
    send(orphan, Signal::SIGSTOP);
    wait_for("the child to stop", || is_stopped(orphan).then_some(()));
    let held = Held(orphan);
    let others = first.children();
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    wait_for("the other children to leave", || {
        let mut others = others.iter().filter(|child| child.pid != orphan);
        (!others.any(|child| is_alive(child.pid))).then_some(())
    });
    let place = tempfile::tempdir().expect("a directory");
    let log = place.path().join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let launched = Launched(&directory);
    // On a machine with too much to do, the seconds may be over before the orphan has gone on; then again.
    let mut held = Some(held);
    let serves = (0..TRIES).any(|_| {
        let before = said().len();
        let mut ctl = Command::new(program("rd_ctl"));
        ctl.args(["start", "-w", "-D", &directory, "-l"]).arg(&log);
        let mut ctl = ctl
            .args(["-o", "-c listen_addresses= -c shared_buffers=32MB"])
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        wait_for("the start to wait", || {
            let is_over = ctl.try_wait().expect("a child").is_some();
            (is_over || said()[before..].contains(WAITS)).then_some(())
        });
        if held.is_some() {
            assert!(said()[before..].contains(WAITS), "{}", said());
            assert!(!said().contains("starting Redoubt"), "{}", said());
            assert!(is_alive(orphan));
            if ctl.try_wait().expect("a child").is_none() {
                held = None;
            }
        }
        let status = ctl.wait().expect("a child");
        let is_held = said()[before..].contains("is held by processes of an earlier server");
        assert!(status.success() || is_held, "{}", said());
        status.success()
    });
    assert!(serves, "{}", said());
    wait_for("the orphan to be gone", || {
        (!is_alive(orphan)).then_some(())
    });
    // Those of the backend that stood still heard of its end only now.
    let acknowledged = load.join();
    assert!(acknowledged.total() >= 200);
    acknowledged.assert_there(&mut first.client());
    assert_order(
        &said(),
        &[
            "waiting for what is left of an",
            "starting Redoubt",
            CLEAN_START,
        ],
    );
    drop(launched);
}

/// A process that has the number of a killed server, and is somebody else's, is no server.
#[test]
fn a_strangers_process_is_no_server() {
    const SOMEBODY: u32 = 65_534;
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).expect("ours");
    let path = directory.path().to_string_lossy().into_owned();
    let data_dir = format!("{path}/data");
    let (status, _, errors) = run("rd_initdb", &["-D", &data_dir, "--wal-segsize=1"]);
    assert!(status.success(), "{errors}");
    // Everybody has a process 1, and it is root's.
    fs::write(format!("{data_dir}/postmaster.pid"), "1\n").expect("written");
    let mut ctl = Command::new(program("rd_ctl"));
    ctl.args(["status", "-D", &data_dir]);
    if nix::unistd::geteuid().is_root() {
        let owner = format!("{SOMEBODY}:{SOMEBODY}");
        let given = Command::new("chown").args(["-R", &owner, &path]).status();
        assert!(given.expect("it runs").success());
        ctl.uid(SOMEBODY).gid(SOMEBODY);
    }
    let output = match ctl.output() {
        Ok(output) => output,
        Err(error) => return skip(&format!("nobody else can run the programs: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("no server running"), "{output:?}");
    assert_eq!(output.status.code(), Some(3));
}

/// A lock file that was removed does not hide the server that holds it, not from the tools, and not
/// from another server.
#[test]
fn a_server_whose_lock_file_is_gone_is_still_seen() {
    let mut cluster = Cluster::started(&[]);
    let pid = cluster.pid().expect("a server").to_string();
    fs::remove_file(cluster.path("postmaster.lock")).expect("removed");
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy();
    for _ in 0..2 {
        let (status, out, _) = run("rd_ctl", &["status", "-D", &directory]);
        assert!(status.success(), "{out}");
        let second = ["-D", &directory, "-c", "port=0"];
        let (status, _, errors) = run("redoubt", &second);
        assert_eq!(status.code(), Some(1), "{errors}");
        for part in ["another postmaster", &pid, "lock file has been removed"] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        // The other server has made a new one.
        for tool in ["rd_verify", "rd_checksums", "rd_resetwal"] {
            let (status, _, errors) = run(tool, &["-D", &directory]);
            assert_eq!(status.code(), Some(1), "{tool}: {errors}");
            for part in [&pid, "lock file has been removed"] {
                assert!(errors.contains(part), "{tool}, {part}: {errors}");
            }
        }
    }
    // Without a pid file, too, nobody is told its number; but that it is there.
    cluster.announce("postmaster.pid");
    fs::remove_file(cluster.path("postmaster.pid")).expect("removed");
    for _ in 0..2 {
        fs::remove_file(cluster.path("postmaster.lock")).expect("removed");
        let (status, _, errors) = run("redoubt", &["-D", &directory, "-c", "port=0"]);
        assert_eq!(status.code(), Some(1), "{errors}");
        for part in ["is in use by", &pid, "lock file has been removed"] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        for tool in ["rd_verify", "rd_checksums", "rd_resetwal"] {
            let (status, _, errors) = run(tool, &["-D", &directory]);
            assert_eq!(status.code(), Some(1), "{tool}: {errors}");
            let removed = "lock file has been removed";
            assert!(errors.contains(removed), "{tool}: {errors}");
        }
    }
    assert!(cluster.client().call(&["PING"]).is_ok());
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    cluster.start();
}

/// What `rd_ctl restart` starts with: the options of the last server that got as far as to listen.
#[test]
fn the_options_of_a_start_that_failed_are_not_kept() {
    let mut cluster = Cluster::started(&[]);
    cluster.stop(Signal::SIGINT);
    let options = || fs::read_to_string(cluster.path("postmaster.opts")).expect("written");
    let before = options();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy();
    for wrong in [["-p", &port], ["-c", "shared_buffers=16TB"]] {
        let failing = [&["-D", &directory][..], &wrong].concat();
        let (status, _, errors) = run("redoubt", &failing);
        assert_eq!(status.code(), Some(1), "{wrong:?}: {errors}");
        assert_eq!(options(), before, "{wrong:?}");
    }
}

#[test]
fn a_restart_from_elsewhere_finds_the_same_directory_of_the_socket() {
    let place = tempfile::tempdir().expect("a directory");
    fs::create_dir(place.path().join("sockets")).expect("made");
    let data_dir = place.path().join("data");
    let data_dir = data_dir.to_string_lossy();
    let (status, _, errors) = run("rd_initdb", &["-D", &data_dir, "--wal-segsize=1"]);
    assert!(status.success(), "{errors}");
    let ctl = |from: &std::path::Path, arguments: &[&str]| {
        let mut command = Command::new(program("rd_ctl"));
        command.args(arguments).args(["-D", &data_dir]);
        let output = command.current_dir(from).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let there = || {
        fs::read_dir(place.path().join("sockets"))
            .expect("made")
            .count()
            > 0
    };
    let options = "-k sockets -p 0 -c shared_buffers=16MB";
    ctl(place.path(), &["start", "-o", options]);
    let started = there();
    let restarted = std::panic::catch_unwind(|| {
        ctl(std::path::Path::new("/"), &["restart"]);
        there()
    });
    ctl(place.path(), &["stop"]);
    assert!(started);
    assert!(restarted.is_ok_and(|there| there), "elsewhere");
    assert!(
        !there(),
        "and nothing is left for another user to stumble over"
    );
}

#[test]
fn a_postmaster_that_is_killed_takes_its_children_along() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("lost the socket to the postmaster");
    let load = Load::start(&cluster.socket(), 4, 100);
    load.wait_for(200);
    let children = cluster.children();
    cluster.signal(Signal::SIGKILL);
    cluster.wait_exit();
    let acknowledged = load.join();
    wait_for("the children to leave", || {
        let alive = children.iter().any(|child| is_alive(child.pid));
        (!alive).then_some(())
    });
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

#[test]
fn a_directory_that_others_can_read_is_refused() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("has invalid permissions");
    cluster.stop(Signal::SIGINT);
    let permit = |mode| {
        fs::set_permissions(cluster.data_dir(), Permissions::from_mode(mode)).expect("ours");
    };
    permit(0o750);
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy().into_owned();
    for (program, arguments) in [
        ("redoubt", vec!["-D", &directory]),
        ("rd_ctl", vec!["start", "-D", &directory]),
    ] {
        let (status, _, errors) = run(program, &arguments);
        assert_eq!(status.code(), Some(1), "{program}: {errors}");
        assert!(
            errors.contains("invalid permissions"),
            "{program}: {errors}"
        );
        assert!(errors.contains("0700"), "{program}: {errors}");
        assert!(errors.contains(&directory), "{program}: {errors}");
    }
    permit(0o700);
    cluster.start();
}

#[test]
fn something_else_is_no_data_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).expect("ours");
    fs::write(directory.path().join("letter"), "dear").expect("written");
    let path = directory.path().to_string_lossy().into_owned();
    let (status, _, errors) = run("redoubt", &["-D", &path]);
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("is not a data directory"), "{errors}");
    let left: Vec<_> = fs::read_dir(directory.path()).expect("ours").collect();
    assert_eq!(left.len(), 1, "nothing was made there");
}

/// An empty directory may be the mount point of a volume that is not there, and so may what is above
/// a missing one: a server makes nothing there, and says who does.
#[test]
fn a_place_where_a_volume_may_be_missing_is_not_initialised() {
    let mount_point = tempfile::tempdir().expect("a directory");
    fs::set_permissions(mount_point.path(), Permissions::from_mode(0o700)).expect("ours");
    let path = mount_point.path().to_string_lossy().into_owned();
    let inside = format!("{path}/redoubt");
    let deeper = format!("{path}/redoubt/data");
    for place in [&path, &inside, &deeper] {
        let (status, _, errors) = run("redoubt", &["-D", place, "-c", "port=nonsense"]);
        assert_eq!(status.code(), Some(1), "{errors}");
        let hint = format!("rd_initdb -D \"{place}\"");
        for part in ["not mounted", &hint] {
            assert!(errors.contains(part), "{part}: {errors}");
        }
        let mut left = fs::read_dir(mount_point.path()).expect("ours");
        assert!(left.next().is_none(), "nothing was made there");
    }
    let (status, _, errors) = run("rd_initdb", &["-D", &path, "--wal-segsize=1"]);
    assert!(status.success(), "{errors}");
    let (status, _, errors) = run("redoubt", &["-D", &path, "-c", "port=nonsense"]);
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("nonsense"), "it is its own now: {errors}");
}

/// A first start that is told to stop while it makes its data directory leaves nothing, so that the next
/// one can make it; `rd_initdb` has a test of its own.
#[test]
fn a_first_start_that_is_told_to_stop_leaves_nothing_half_made() {
    let place = tempfile::tempdir().expect("a directory");
    // Else it might be the mount point of a volume.
    fs::write(place.path().join("letter.txt"), "dear").expect("written");
    let directory = place.path().join("data");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        // It may be done before; then it is a server that stops.
        let is_interrupted = || {
            let mut command = Command::new(program("redoubt"));
            command.arg("-D").arg(&directory);
            command.args(["-c", "listen_addresses=", "-c", "double_write_size=64MB"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut server = command.spawn().expect("it runs");
            let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
            let is_begun = |line: &str| line.contains("configuration files");
            let begun = lines.find(|line| line.as_ref().is_ok_and(|line| is_begun(line)));
            assert!(begun.is_some(), "it is told");
            send(server.id(), signal);
            // What it still says must find a reader.
            lines.for_each(drop);
            let ended = server.wait_with_output().expect("ours");
            let log = String::from_utf8_lossy(&ended.stderr).into_owned();
            if directory.exists() {
                assert!(!directory.join(UNFINISHED_FILE).exists(), "{log}");
                fs::remove_dir_all(&directory).expect("it was made");
                return false;
            }
            assert_eq!(ended.status.code(), Some(0), "{log}");
            let said = format!("LOG:  interrupted: what was made of data directory {directory:?}");
            assert!(log.contains(&said) && !log.contains("FATAL"), "{log}");
            true
        };
        assert!((0..100).any(|_| is_interrupted()), "it is too fast");
    }
}

/// `rd_initdb` is killed at its work: server and tools say so of what it leaves, as long as that is
/// there; and when it is gone, the same place will do.
#[test]
fn a_directory_whose_initialisation_was_cut_off_says_so_and_can_be_made_again() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().join("data");
    let path = directory.to_string_lossy().into_owned();
    // It may be done before it is killed; then again.
    let is_cut_off = || {
        let mut command = Command::new(program("rd_initdb"));
        command.args(["-D", &path, "--wal-segsize=64"]);
        let mut initdb = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut lines = BufReader::new(initdb.stdout.take().expect("piped")).lines();
        let is_begun = |line: &str| line.contains("configuration files");
        let begun = lines.find(|line| line.as_ref().is_ok_and(|line| is_begun(line)));
        assert!(begun.is_some(), "it is told");
        initdb.kill().expect("ours");
        initdb.wait().expect("ours");
        let is_unfinished = directory.join(UNFINISHED_FILE).exists();
        if !is_unfinished {
            fs::remove_dir_all(&directory).expect("it was made");
        }
        is_unfinished
    };
    assert!((0..100).any(|_| is_cut_off()), "it is too fast");
    let left = || fs::read_dir(&directory).expect("it was made").count();
    let before = left();
    assert!(before > 2);
    for (program, arguments) in [
        ("redoubt", vec!["-D", &path]),
        ("rd_ctl", vec!["start", "-D", &path]),
        ("rd_initdb", vec!["-D", &path]),
        ("rd_resetwal", vec!["-f", "-D", &path]),
        ("rd_verify", vec!["-D", &path]),
    ] {
        let (status, _, errors) = run(program, &arguments);
        assert_eq!(status.code(), Some(1), "{program}: {errors}");
        for part in ["was never finished", &*path, "never held data", "rm -r"] {
            assert!(errors.contains(part), "{program}: {part}: {errors}");
        }
        assert!(!errors.contains("backup"), "{program}: {errors}");
    }
    assert_eq!(left(), before, "it is as it was");

    fs::remove_dir_all(&directory).expect("removed");
    let (status, _, errors) = run("rd_initdb", &["-D", &path, "--wal-segsize=1"]);
    assert!(status.success(), "{errors}");
    // From now on nobody says so, whatever else is missing.
    fs::remove_file(directory.join("global/pg_control")).expect("removed");
    let (status, _, errors) = run("redoubt", &["-D", &path]);
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("has lost its global/pg_control"),
        "{errors}"
    );
}

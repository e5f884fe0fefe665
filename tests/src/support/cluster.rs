//! A server in a directory of its own, started, killed and started again.
//!
//! It listens on a unix socket in its data directory, and on a TCP port only if asked, so that any
//! number of them run side by side.
//!
//! Its log is part of what is tested: a WARNING, ERROR, FATAL or PANIC that the test has not
//! announced fails the test when the cluster goes ([`Cluster::announce`]).

use super::log::complaints;
use super::process::{self, Child};
use super::raw::RawClient;
use super::{DEADLINE, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child as Server, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Instant;
use tempfile::TempDir;

/// The port in names of sockets; no TCP port is opened by default.
const PORT: &str = "7432";
/// The setting that is fixed when the data directory is made.
const SEGMENT_SIZE: &str = "wal_segment_size";
/// The setting that says where the unix socket is.
const SOCKET_DIRECTORY: &str = "unix_socket_directory";

/// A data directory and, at times, a server on it.
pub struct Cluster {
    directory: TempDir,
    data_dir: PathBuf,
    settings: Vec<(String, String)>,
    server: Option<Server>,
    starts: usize,
    announced: Vec<String>,
    limits: String,
    /// Signals that went to a process by [`Cluster::send`].
    sent: Mutex<Vec<(u32, Signal)>>,
}

/// The directory in which cargo has put the programs.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let mut directory = own.parent().expect("a file has a directory").to_owned();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory
}

/// Builds the programs, once in a process, when this one is run by cargo: `cargo test` builds what
/// it tests, which does not include them.
fn build() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let Some(cargo) = std::env::var_os("CARGO") else {
            return;
        };
        let directory = programs();
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--workspace", "--bins"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .env("CARGO_TARGET_DIR", directory.parent().unwrap_or(&directory));
        if directory.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().expect("cargo runs");
        assert!(status.success(), "the programs cannot be built");
    });
}

/// The path of a program of the project.
///
/// # Panics
/// When it has not been built.
pub fn program(name: &str) -> PathBuf {
    build();
    let path = programs().join(name);
    assert!(
        path.exists(),
        "{} is not there; build it first: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// Runs a program of the project to its end and returns its status, standard output and standard
/// error.
pub fn run(name: &str, arguments: &[&str]) -> (ExitStatus, String, String) {
    let output = Command::new(program(name))
        .args(arguments)
        .env_remove("RDDATA")
        .stdin(Stdio::null())
        .output()
        .expect("a program that was built runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

impl Cluster {
    /// A directory with no server and no data in it yet. Settings go to every start's command line;
    /// `wal_segment_size` to `rd_initdb`.
    pub fn new(settings: &[(&str, &str)]) -> Cluster {
        let directory = tempfile::Builder::new()
            .prefix("rd")
            .tempdir()
            .expect("a directory");
        let mut cluster = Cluster {
            data_dir: directory.path().join("data"),
            directory,
            settings: Vec::new(),
            server: None,
            starts: 0,
            announced: Vec::new(),
            limits: String::new(),
            sent: Mutex::default(),
        };
        cluster.set("listen_addresses", "");
        cluster.set("shared_buffers", "32MB");
        // So that few connections are served by several backends.
        cluster.set("backend_fill", "1");
        // A disk that stands still for seconds holds up a child that is to leave, too.
        cluster.set("shutdown_kill_timeout", "30s");
        for (name, value) in settings {
            cluster.set(name, value);
        }
        cluster
    }

    /// The same, with a server that serves.
    pub fn started(settings: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::new(settings);
        cluster.start();
        cluster
    }

    /// Changes a setting for the starts to come.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Limits of the processes of the starts to come, as the shell's `ulimit` takes them (`-n 64`);
    /// none if empty.
    pub fn limit(&mut self, limits: &str) {
        limits.clone_into(&mut self.limits);
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// Puts the data directory elsewhere, on another disk; the unix socket stays where it is.
    pub fn put_data(&mut self, data_dir: PathBuf) {
        let own = self.directory.path().to_owned();
        self.set(SOCKET_DIRECTORY, &own.to_string_lossy());
        self.data_dir = data_dir;
    }

    /// A file of the data directory.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.data_dir().join(relative)
    }

    /// The unix socket.
    pub fn socket(&self) -> PathBuf {
        let port = self.setting("port").unwrap_or(PORT);
        let directory = self.setting(SOCKET_DIRECTORY).map(PathBuf::from);
        let directory = directory.unwrap_or_else(|| self.data_dir());
        directory.join(format!(".s.REDOUBT.{port}"))
    }

    fn setting(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Says that complaints in the log with this text in them belong to the test; the empty text
    /// stands for all complaints.
    pub fn announce(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Complaints in the log that nobody has announced.
    fn unannounced(&self) -> Vec<String> {
        let log = self.log();
        let is_known = |line: &&str| self.announced.iter().any(|known| line.contains(known));
        let unknown = complaints(&log).filter(|line| !is_known(line));
        unknown.map(str::to_owned).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// All that the servers of this cluster have logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// What the server that was started last has logged.
    pub fn log_since_start(&self) -> String {
        let log = self.log();
        let from = log.rfind(&self.start_line()).unwrap_or(0);
        log[from..].to_owned()
    }

    fn start_line(&self) -> String {
        format!("== start {} ==\n", self.starts)
    }

    /// Waits until the server that was started last has logged this text.
    pub fn wait_log(&self, text: &str) {
        self.wait_log_times(text, 1);
    }

    /// Waits until the server that was started last has logged this text so many times.
    pub fn wait_log_times(&self, text: &str, times: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.log_since_start().matches(text).count() < times {
            assert!(
                Instant::now() < deadline,
                "waited for {times} x {text:?} in the log in vain:\n{}",
                self.log_since_start()
            );
            // Between two looks.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Starts a server that must refuse to start; gives what it says and its exit code.
    pub fn start_refused(&mut self) -> (String, Option<i32>) {
        self.spawn();
        match self.wait_ready() {
            Ok(()) => panic!("the server serves:\n{}", self.log_since_start()),
            Err(status) => (self.log_since_start(), status.code()),
        }
    }

    /// Makes the data directory, if its segment size is not the usual one, or the first start does
    /// not: in an empty directory, such as a new disk.
    fn initialise(&self) {
        let size = self.setting(SEGMENT_SIZE);
        let directory = self.data_dir();
        let parent = directory.parent().and_then(|dir| fs::read_dir(dir).ok());
        let is_alone = parent.is_some_and(|mut entries| entries.next().is_none());
        if directory.exists() || size.is_none() && !is_alone {
            return;
        }
        let text = directory.to_string_lossy();
        let mut arguments = vec!["-D", &*text];
        if let Some(size) = size {
            arguments.extend(["--wal-segsize", size.trim_end_matches("MB")]);
        }
        let (status, _, errors) = run("rd_initdb", &arguments);
        assert!(status.success(), "{errors}");
    }

    /// Starts the server and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.server.is_none(), "the server was started already");
        self.starts += 1;
        let mut text = self.log();
        text.push_str(&self.start_line());
        fs::write(self.log_path(), text).expect("the log can be written");
        self.initialise();
        let log = File::options()
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let redoubt = program("redoubt");
        let mut command = if self.limits.is_empty() {
            Command::new(redoubt)
        } else {
            let mut shell = Command::new("sh");
            let script = format!("ulimit {} && exec \"$0\" \"$@\"", self.limits);
            shell.arg("-c").arg(script).arg(redoubt);
            shell
        };
        command.arg("-D").arg(self.data_dir()).env_remove("RDDATA");
        for (name, value) in &self.settings {
            if name != SEGMENT_SIZE {
                command.arg("-c").arg(format!("{name}={value}"));
            }
        }
        let errors = log.try_clone().expect("a descriptor");
        let server = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.server = Some(server.expect("the server starts"));
    }

    /// Starts the server and waits until it serves.
    ///
    /// # Panics
    /// When it ends instead, with its log.
    pub fn start(&mut self) {
        self.spawn();
        if let Err(status) = self.wait_ready() {
            panic!(
                "the server ended with {status} instead of serving:\n{}",
                self.log_since_start()
            );
        }
    }

    /// Waits until the server serves, or gives the status with which it ended.
    ///
    /// # Errors
    /// The exit status, if it has ended.
    pub fn wait_ready(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.poll_exit() {
                return Err(status);
            }
            if self.status().starts_with("ready") && Client::connect_unix(self.socket()).is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                panic!(
                    "the server is not ready in time:\n{}",
                    self.log_since_start()
                );
            }
            // Between two looks at the status.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// The status word in `postmaster.pid`, with what follows it; empty without that file.
    pub fn status(&self) -> String {
        let text = fs::read_to_string(self.path("postmaster.pid")).unwrap_or_default();
        let ours = text.lines().next() == self.pid().map(|pid| pid.to_string()).as_deref();
        let status = text.lines().nth(7).filter(|_| ours).unwrap_or_default();
        status.trim_end().to_owned()
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// The living children.
    pub fn children(&self) -> Vec<Child> {
        self.pid().map(process::children_of).unwrap_or_default()
    }

    /// The process id of the child with this role, waited for.
    pub fn child(&self, role: &str) -> u32 {
        wait_for(&format!("the child {role}"), || {
            self.children()
                .iter()
                .find(|child| child.role == role)
                .map(|child| child.pid)
        })
    }

    /// A connection to the server, on which a reply that does not come within the deadline is an error.
    ///
    /// # Panics
    /// When there is none to be had, with the log.
    pub fn client(&self) -> Client {
        let connected = Client::connect_unix(self.socket()).map_err(|error| error.to_string());
        let limited = connected.and_then(|mut client| match client.set_timeout(Some(DEADLINE)) {
            Ok(()) => Ok(client),
            Err(error) => Err(error.to_string()),
        });
        match limited {
            Ok(client) => client,
            Err(error) => panic!("no connection: {error}\n{}", self.log_since_start()),
        }
    }

    /// A connection that sends and receives bytes as they are.
    pub fn raw(&self) -> RawClient {
        RawClient::connect(&self.socket())
    }

    /// One field of INFO.
    pub fn info(&self, section: &str, field: &str) -> String {
        let reply = self.client().call(&["INFO", section]);
        let reply = reply.expect("INFO is answered");
        let text = reply.as_str().unwrap_or_default().to_owned();
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == field).then(|| value.to_owned())
        });
        value.unwrap_or_else(|| panic!("no {field:?} in:\n{text}"))
    }

    /// The answer to STAT: one map from names to values, or several.
    pub fn stat(&self, words: &[&str]) -> Vec<BTreeMap<String, String>> {
        let words: Vec<&str> = std::iter::once("STAT")
            .chain(words.iter().copied())
            .collect();
        let reply = self.client().call(&words).expect("STAT is answered");
        assert!(reply.error().is_none(), "{words:?}: {reply:?}");
        let rows = reply.as_slice().expect("an array or a map in RESP2");
        if rows.iter().all(|row| row.as_slice().is_some()) {
            rows.iter().map(fields).collect()
        } else {
            vec![fields(&reply)]
        }
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: Signal) {
        self.send(self.pid().expect("a server"), signal);
    }

    /// Sends a signal to a process of the server, and remembers it.
    pub fn send(&self, pid: u32, signal: Signal) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push((pid, signal));
        send(pid, signal);
    }

    /// Whether the process was sent the signal by [`Cluster::send`].
    pub fn has_sent(&self, pid: u32, signal: Signal) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.contains(&(pid, signal))
    }

    /// The status with which the server ended, if it has.
    pub fn poll_exit(&mut self) -> Option<ExitStatus> {
        let server = self.server.as_mut().expect("a server");
        let status = server.try_wait().expect("the server is our child")?;
        self.server = None;
        Some(status)
    }

    /// Waits for the end of the server.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.poll_exit() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the server does not end:\n{}",
                self.log_since_start()
            );
            // Between two looks.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Stops the server: SIGINT is fast, SIGTERM smart, SIGQUIT immediate.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait_exit()
    }

    /// Kills postmaster and children at once: nobody gets to say anything. What was written stays in
    /// the kernel's cache, so a missing sync does not show; that is for the test `power`.
    pub fn kill_all(&mut self) {
        let children = self.send_kills();
        self.wait_gone(&children);
        // A server that has recovered says in pg_control that it is in production when its checkpointer
        // comes to it; the next start tells of one that was killed before that.
        let directory = self.data_dir();
        let (_, text, _) = run("rd_controldata", &[&directory.to_string_lossy()]);
        if text.contains("in crash recovery") {
            self.announce("starts before this one did not finish");
        }
    }

    /// Sends what [`Cluster::kill_all`] does, and gives the children that got it: for processes that
    /// cannot end yet.
    pub fn send_kills(&mut self) -> Vec<Child> {
        // Held still, the postmaster neither sees children go nor makes new ones.
        self.signal(Signal::SIGSTOP);
        let children = self.children();
        for child in &children {
            self.send(child.pid, Signal::SIGKILL);
        }
        self.signal(Signal::SIGKILL);
        children
    }

    /// Stops all processes where they stand, so that the files are as at one moment, until
    /// [`Cluster::thaw`].
    pub fn freeze(&self) {
        let stop = |pid| {
            send(pid, Signal::SIGSTOP);
            let what = format!("process {pid} to stand still");
            wait_for(&what, || process::is_stopped(pid).then_some(()));
        };
        // Held still, the postmaster makes no new ones.
        stop(self.pid().expect("a server"));
        for child in self.children() {
            stop(child.pid);
        }
    }

    /// Lets the processes go on.
    pub fn thaw(&self) {
        for child in self.children() {
            send(child.pid, Signal::SIGCONT);
        }
        self.signal(Signal::SIGCONT);
    }

    /// Waits for the end of a server that was killed, and of its children.
    pub fn wait_gone(&mut self, children: &[Child]) {
        self.wait_exit();
        wait_for("the children to be gone", || {
            children
                .iter()
                .all(|child| !process::is_alive(child.pid))
                .then_some(())
        });
    }

    /// Arms fault points of the running server, and returns when that is done. The postmaster does it,
    /// some time after CONFIG SET has answered.
    pub fn arm(&self, points: &str) {
        let changed = format!("parameter \"fault_points\" changed to \"{points}\"");
        let before = self.log_since_start().matches(&changed).count();
        let reply = self
            .client()
            .call(&["CONFIG", "SET", "fault_points", points]);
        // Who met a point at once may have taken the answer with it; the log tells.
        if let Ok(reply) = reply {
            assert!(reply.is_ok(), "{points}: {reply:?}");
        }
        self.wait_log_times(&changed, before + 1);
    }

    /// What `rd_controldata` says of a field.
    pub fn control(&self, field: &str) -> String {
        let directory = self.data_dir();
        let (status, out, err) = run("rd_controldata", &[&directory.to_string_lossy()]);
        assert!(status.success(), "{err}");
        let line = out.lines().find(|line| line.starts_with(field));
        let line = line.unwrap_or_else(|| panic!("no {field:?} in:\n{out}"));
        line[field.len()..]
            .trim_start_matches(':')
            .trim()
            .to_owned()
    }

    /// Copies the data directory to another place.
    pub fn copy_data(&self, to: &Path) {
        copy_tree(&self.data_dir(), to);
    }
}

/// A map as it comes in RESP2.
fn fields(reply: &Reply) -> BTreeMap<String, String> {
    let text = |reply: &Reply| match reply.as_int() {
        Some(number) => number.to_string(),
        None => reply.as_str().unwrap_or_default().to_owned(),
    };
    let (pairs, _) = reply.as_slice().unwrap_or_default().as_chunks::<2>();
    let pairs = pairs.iter().map(|[name, value]| (text(name), text(value)));
    pairs.collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    let permissions = fs::metadata(from).expect("it is there").permissions();
    fs::set_permissions(to, permissions).expect("it is ours");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            copy_tree(&entry.path(), &target);
        } else if kind.is_file() {
            match fs::copy(entry.path(), target) {
                // A running server gives a segment that it has made ahead its name meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => _ = copied.expect("a copy"),
            }
        }
    }
}

/// Sends a signal to a process that may have ended.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    // ESRCH: it has ended, which is what most signals ask for.
    let _ = kill(pid, signal);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            let children = self.send_kills();
            self.wait_gone(&children);
        }
        if !std::thread::panicking() {
            let unknown = self.unannounced();
            assert!(
                unknown.is_empty(),
                "the log complains, and the test had not said so:\n{}\n\nof the log:\n{}",
                unknown.join("\n"),
                self.log()
            );
        }
    }
}

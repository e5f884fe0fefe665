//! The listening sockets, and what is accepted from them.
//!
//! Invariants: nothing here blocks; an accepted socket is non-blocking and closed on exec; the
//! unix socket's path belongs to whoever holds the lock file beside it, so a socket that is
//! found there is stale.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, listen,
    setsockopt, socket, sockopt,
};
use rd_base::Config;
use rd_base::error::with_causes;
use rd_base::handover::Peer;
use rd_sys::lockfile::{LockError, LockFile};
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Connections that may wait to be accepted; the system may hold it lower (`somaxconn`).
const BACKLOG: i32 = 4096;
/// Longest path of a unix socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Bytes that are read off a refused client, so that closing does not take the reply back.
const DRAIN_BYTES: usize = 16 << 10;

/// So many errors in a row are not those of clients that have gone: each of these takes one away.
const ERRORS_IN_A_ROW: usize = 16;

/// Name of the unix socket in its directory.
pub fn socket_name(port: u16) -> String {
    format!(".s.REDOUBT.{port}")
}

/// A connection that was accepted and goes to a backend, or is refused.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub socket: OwnedFd,
    /// Whose it is.
    pub peer: Peer,
}

/// What accepting led to.
#[derive(Debug)]
pub enum Accept {
    /// A connection.
    One(Accepted),
    /// No further one waits.
    Empty,
    /// One waits, and there is no descriptor or memory for it.
    Exhausted(io::Error),
    /// It fails again and again, and what waits may wait for ever.
    Failing(io::Error),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// All sockets that the server listens on.
pub struct Listeners {
    listeners: Vec<Listener>,
    tcp_addresses: Vec<SocketAddr>,
    unix_path: Option<PathBuf>,
    /// Held by all children too, as the data directory's.
    unix_lock: Option<LockFile>,
    /// Given up to accept, and refuse, when no descriptor is left.
    spare: Option<File>,
    keepalive: Duration,
}

impl Listeners {
    /// Opens what `config` asks for. An address that cannot be listened on is only told, as long as
    /// there is another.
    ///
    /// # Errors
    /// When addresses are named and none can be listened on, or the unix socket cannot.
    pub fn open(config: &Config, data_dir: &Path) -> Result<Listeners> {
        let port = u16::try_from(config.port()).context("port is at most 65535")?;
        let mut opened = Listeners {
            listeners: Vec::new(),
            tcp_addresses: Vec::new(),
            unix_path: None,
            unix_lock: None,
            spare: File::open("/dev/null").ok(),
            keepalive: config.tcp_keepalive(),
        };
        if port != 0 {
            let names = config.listen_addresses().split(',').map(str::trim);
            let mut failed = Vec::new();
            for name in names.filter(|name| !name.is_empty()) {
                if let Err(error) = opened.open_tcp(name, port) {
                    failed.push((name, error));
                }
            }
            if opened.tcp_addresses.is_empty() && !failed.is_empty() {
                let why: Vec<String> = failed
                    .iter()
                    .map(|(_, error)| with_causes(&**error))
                    .collect();
                bail!("could not create any TCP/IP socket: {}", why.join("; "));
            }
            for (name, error) in failed {
                let error = with_causes(&*error);
                log::warn!("could not create listen socket for \"{name}\": {error}");
            }
        }
        let directory = match config.unix_socket_directory() {
            "" => data_dir.to_path_buf(),
            named => data_dir.join(named),
        };
        opened.open_unix(&directory, port, config.unix_socket_permissions())?;
        Ok(opened)
    }

    /// Listens on all addresses that a name stands for, at least one.
    fn open_tcp(&mut self, name: &str, port: u16) -> Result<()> {
        let hosts: &[&str] = if name == "*" {
            &["::", "0.0.0.0"]
        } else {
            &[name]
        };
        let mut last_error = None;
        let mut opened = 0;
        for host in hosts {
            let addresses = (*host, port).to_socket_addrs().with_context(|| {
                format!("could not translate listen address \"{host}\" (listen_addresses)")
            })?;
            for address in addresses {
                if self.tcp_addresses.contains(&address) {
                    opened += 1;
                    continue;
                }
                match listen_tcp(address) {
                    Ok(listener) => {
                        self.listeners.push(Listener::Tcp(listener));
                        self.tcp_addresses.push(address);
                        opened += 1;
                    }
                    Err(error) => last_error = Some((address, error)),
                }
            }
        }
        match last_error {
            Some((address, Errno::EADDRINUSE)) if opened == 0 => bail!(
                "could not listen on {address}: the address is in use; is another server on \
                 port {port}? If so stop it, or choose another port with -p"
            ),
            Some((address, error)) if opened == 0 => {
                bail!("could not listen on {address}: {}", error.desc())
            }
            Some((address, error)) => {
                log::warn!("could not listen on {address}: {}", error.desc());
                Ok(())
            }
            None if opened == 0 => bail!("listen address \"{name}\" stands for no address"),
            None => Ok(()),
        }
    }

    fn open_unix(&mut self, directory: &Path, port: u16, mode: u32) -> Result<()> {
        let path = directory.join(socket_name(port));
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bail!(
                "unix socket path \"{}\" is too long: at most {SOCKET_PATH_BYTES_MAX} bytes; \
                 name a shorter directory with -k or unix_socket_directory",
                path.display()
            );
        }
        let lock_path = directory.join(format!("{}.lock", socket_name(port)));
        let lock = match LockFile::acquire(&lock_path) {
            Ok(lock) => lock,
            Err(LockError::Held(_)) => bail!(
                "unix socket \"{}\" belongs to another server, or to its children; choose \
                 another port with -p or another directory with -k",
                path.display()
            ),
            Err(error @ LockError::Io { .. }) => return Err(error.into()),
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .context(format!("could not remove stale socket {}", path.display()));
            }
            _ => {}
        }
        let listener = listen_unix(&path, mode)
            .with_context(|| format!("could not listen on unix socket {}", path.display()))?;
        self.listeners.push(Listener::Unix(listener));
        self.unix_path = Some(path);
        self.unix_lock = Some(lock);
        Ok(())
    }

    /// The TCP addresses, in the order of `listen_addresses`.
    pub fn tcp_addresses(&self) -> &[SocketAddr] {
        &self.tcp_addresses
    }

    /// The path of the unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix_path.as_deref()
    }

    /// Keepalive time for connections accepted from now on; 0 leaves it to the system.
    pub fn set_keepalive(&mut self, keepalive: Duration) {
        self.keepalive = keepalive;
    }

    /// The descriptors to poll for reading; [`Listeners::accept`] takes their index.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| match listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        })
    }

    /// Accepts one connection.
    pub fn accept(&self, index: usize) -> Accept {
        let mut errors = 0;
        loop {
            let accepted = match &self.listeners[index] {
                Listener::Tcp(listener) => self.accept_tcp(listener),
                Listener::Unix(listener) => self.accept_unix(listener),
            };
            match accepted {
                Ok(accepted) => return Accept::One(accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Accept::Empty,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                        return Accept::Exhausted(error);
                    }
                    _ if errors == ERRORS_IN_A_ROW => return Accept::Failing(error),
                    // The client has gone already: the next one.
                    _ => {
                        errors += 1;
                        log::debug!("a connection ended before it was accepted: {error}");
                    }
                },
            }
        }
    }

    fn accept_tcp(&self, listener: &TcpListener) -> io::Result<Accepted> {
        let (stream, address) = listener.accept()?;
        stream.set_nonblocking(true)?;
        // Whoever has come in is served, if not as well as could be.
        if let Err(error) = self.set_options(&stream) {
            log::debug!("could not set the options of the connection of {address}: {error}");
        }
        let socket = stream.into();
        Ok(Accepted {
            socket,
            peer: Peer::Tcp(address.to_string()),
        })
    }

    fn set_options(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let seconds = u32::try_from(self.keepalive.as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            setsockopt(stream, sockopt::KeepAlive, &true)?;
            setsockopt(stream, sockopt::TcpKeepIdle, &seconds)?;
        }
        Ok(())
    }

    fn accept_unix(&self, listener: &UnixListener) -> io::Result<Accepted> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        let credentials = nix::sys::socket::getsockopt(&stream, sockopt::PeerCredentials)?;
        let path = self.unix_path.as_deref().unwrap_or(Path::new(""));
        Ok(Accepted {
            socket: stream.into(),
            peer: Peer::Unix {
                uid: credentials.uid(),
                path: format!("{}:0", path.display()),
            },
        })
    }

    /// With no descriptor left: gives the spare one up, accepts with it, hands that connection to
    /// `refuse`, and takes the spare back. Says whether the waiting connection is gone.
    pub fn shed_one(&mut self, index: usize, refuse: impl FnOnce(Accepted)) -> bool {
        if self.spare.take().is_none() {
            return false;
        }
        let shed = match self.accept(index) {
            Accept::One(accepted) => {
                refuse(accepted);
                true
            }
            Accept::Empty => true,
            Accept::Exhausted(_) | Accept::Failing(_) => false,
        };
        self.spare = File::open("/dev/null").ok();
        shed
    }

    /// In a child: closes all of it, but keeps the lock of the unix socket.
    pub fn close_in_child(&mut self) {
        self.listeners.clear();
        self.spare = None;
    }

    /// Takes the unix socket and its lock file out of their directory; for the postmaster, when it
    /// leaves and its children have left. Where the lock file is another's, or gone, the socket may be
    /// that of another server.
    pub fn remove_unix_socket(&mut self) {
        if !self.unix_lock.as_ref().is_some_and(LockFile::is_in_place) {
            return;
        }
        if let Some(path) = &self.unix_path
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("could not remove unix socket {}: {error}", path.display());
        }
        if let Some(lock) = self.unix_lock.take()
            && let Err(error) = lock.remove()
        {
            log::warn!("could not remove the lock file of the unix socket: {error}");
        }
    }
}

fn listen_tcp(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    if family == AddressFamily::Inet6 {
        // So that "::" and "0.0.0.0" can stand side by side.
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &true)?;
    }
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&descriptor, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(descriptor))
}

fn listen_unix(path: &Path, mode: u32) -> Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(descriptor.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Before it listens, so that nobody is let in whom the permissions shut out.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listen(&descriptor, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(descriptor))
}

/// Sends one line to a client that is not served, and closes. Never waits: whoever does not take
/// one line at once does without.
pub fn refuse(accepted: Accepted, line: &str) {
    // The calls of a stream are the same for both families.
    let mut stream = UnixStream::from(accepted.socket);
    let mut drained = [0; DRAIN_BYTES];
    // Unread bytes would turn the close into a reset, which takes the reply back.
    let _ = stream.read(&mut drained);
    let _ = stream.write_all(format!("{line}\r\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut drained);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::io::BufRead;
    use std::time::Instant;

    fn config(pairs: &[(&str, &str)]) -> Config {
        Config::from_pairs(pairs).expect("valid parameters")
    }

    fn accept_one(listeners: &Listeners, index: usize) -> Accepted {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < deadline, "the client was sent away");
            // A connection that was made is there at once; over TCP it may take a moment.
            match listeners.accept(index) {
                Accept::One(accepted) => return accepted,
                Accept::Empty => std::thread::yield_now(),
                Accept::Exhausted(error) | Accept::Failing(error) => panic!("{error}"),
            }
        }
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        probe.local_addr().expect("it is bound").port()
    }

    #[test]
    fn the_unix_socket_is_private_tells_who_comes_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(socket_name(0));
        drop(UnixListener::bind(&path).expect("a stale socket"));
        let config = config(&[("port", "0"), ("unix_socket_permissions", "0770")]);
        let mut listeners = Listeners::open(&config, dir.path()).expect("open");
        assert_eq!(listeners.unix_path(), Some(path.as_path()));
        assert!(listeners.tcp_addresses().is_empty());
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o770);
        assert!(matches!(listeners.accept(0), Accept::Empty));
        let _client = UnixStream::connect(&path).expect("connected");
        let expected = Peer::Unix {
            uid: nix::unistd::geteuid().as_raw(),
            path: format!("{}:0", path.display()),
        };
        assert_eq!(accept_one(&listeners, 0).peer, expected);
        let second = Listeners::open(&config, dir.path())
            .err()
            .expect("it is locked");
        assert!(
            second.to_string().contains("belongs to another server"),
            "{second}"
        );
        listeners.remove_unix_socket();
        let left = fs::read_dir(dir.path()).expect("ours").count();
        assert_eq!(left, 0, "another user may come after this one");
    }

    #[test]
    fn a_socket_that_another_server_has_made_since_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(&[("port", "0")]);
        let mut first = Listeners::open(&config, dir.path()).expect("open");
        let lock = dir.path().join(format!("{}.lock", socket_name(0)));
        fs::remove_file(lock).expect("removed");
        let mut second = Listeners::open(&config, dir.path()).expect("nobody holds the new one");
        first.remove_unix_socket();
        let path = dir.path().join(socket_name(0));
        let _client = UnixStream::connect(&path).expect("it listens");
        second.remove_unix_socket();
        assert!(!path.exists(), "it was its own");
    }

    /// A socket that does not listen gives an error each time.
    #[test]
    fn who_cannot_accept_at_all_does_not_try_for_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut listeners = Listeners::open(&config(&[("port", "0")]), dir.path()).expect("open");
        let deaf = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        );
        let deaf = TcpListener::from(deaf.expect("a socket"));
        listeners.listeners = vec![Listener::Tcp(deaf)];
        assert!(matches!(listeners.accept(0), Accept::Failing(_)));
        assert!(!listeners.shed_one(0, |_| panic!("there is nobody to refuse")));
    }

    #[test]
    fn a_socket_path_too_long_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("d".repeat(100));
        let error = Listeners::open(&config(&[("port", "0")]), &long)
            .err()
            .expect("too long");
        assert!(
            error.to_string().contains("is too long: at most 107 bytes"),
            "{error}"
        );
    }

    #[test]
    fn a_port_in_use_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("it is bound").port().to_string();
        let error = Listeners::open(&config(&[("port", &port)]), dir.path()).err();
        let error = error.expect("in use").to_string();
        assert!(
            error.contains("in use") && error.contains("another port with -p"),
            "{error}"
        );
    }

    #[test]
    fn an_address_that_cannot_be_listened_on_is_done_without_if_there_is_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("it is bound").port();
        let open = |addresses: &str| {
            let text = port.to_string();
            let pairs = [("port", text.as_str()), ("listen_addresses", addresses)];
            Listeners::open(&config(&pairs), dir.path())
        };
        // In use, not of this machine, and no name at all.
        let bad = "127.0.0.1,192.0.2.1,not a name";
        let listeners = open(&format!("{bad},127.0.0.2")).expect("one is enough");
        let other = SocketAddr::from(([127, 0, 0, 2], port));
        assert_eq!(listeners.tcp_addresses(), [other]);
        drop(listeners);
        let error = open(bad).err().expect("none is too few").to_string();
        for part in ["not a name", "in use", "192.0.2.1"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_refused_client_reads_why_even_if_it_has_sent_something() {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let text = port.to_string();
        let listeners = Listeners::open(&config(&[("port", &text)]), dir.path()).expect("open");
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        client.write_all(b"*1\r\n$4\r\nPING\r\n").expect("sent");
        let accepted = accept_one(&listeners, 0);
        let address = client.local_addr().expect("it is bound").to_string();
        assert_eq!(accepted.peer, Peer::Tcp(address));
        refuse(accepted, "-ERR Redoubt is shutting down");
        let mut lines = io::BufReader::new(client).lines();
        let line = lines.next().expect("a line").expect("not reset");
        assert_eq!(line, "-ERR Redoubt is shutting down");
        assert!(lines.next().is_none(), "and the end");
    }

    /// The longest keepalive time that can be set is one that the system takes; and one that it does
    /// not take keeps nobody out.
    #[test]
    fn no_keepalive_time_keeps_a_client_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let longest_s = 32_767;
        let (text, longest) = (port.to_string(), format!("{longest_s}s"));
        let pairs = [("port", text.as_str()), ("tcp_keepalive", &longest)];
        let mut listeners = Listeners::open(&config(&pairs), dir.path()).expect("open");
        let _first = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let accepted = accept_one(&listeners, 0);
        let idle = getsockopt(&accepted.socket, sockopt::TcpKeepIdle).expect("it is set");
        assert_eq!(idle, longest_s);
        let longer = format!("{}s", longest_s + 1);
        let error = Config::from_pairs(&[("tcp_keepalive", &longer)]).expect_err("too long");
        assert!(error.to_string().contains("tcp_keepalive"), "{error}");
        listeners.set_keepalive(Duration::from_secs(86_400));
        let second = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        let address = second.local_addr().expect("it is bound").to_string();
        assert_eq!(accept_one(&listeners, 0).peer, Peer::Tcp(address));
    }

    #[test]
    fn a_spare_descriptor_sheds_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut listeners = Listeners::open(&config(&[("port", "0")]), dir.path()).expect("open");
        let path = dir.path().join(socket_name(0));
        let mut client = UnixStream::connect(&path).expect("connected");
        assert!(listeners.shed_one(0, |accepted| refuse(accepted, "-ERR no")));
        let mut reply = String::new();
        client.read_to_string(&mut reply).expect("read to the end");
        assert_eq!(reply, "-ERR no\r\n");
        assert!(listeners.spare.is_some(), "it is taken back");
    }
}

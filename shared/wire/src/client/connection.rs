//! A blocking connection to a server.

use super::{DecodeError, DecodeLimits, Reply, ReplyDecoder, encode};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// What can go wrong between asking and being answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made.
    #[error("could not connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke. Whether the server did what was asked is unknown.
    #[error("the connection to the server broke: {0}")]
    Io(#[from] std::io::Error),
    /// The server closed the connection. Whether it did what was asked is unknown.
    #[error("the server closed the connection")]
    Closed,
    /// No answer came in time. The connection is out of step and of no further use.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server does not speak RESP.
    #[error("the server's answer cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The server answered with an error; from [`Reply::into_result`] and its like.
    #[error("{0}")]
    Server(String),
    /// The server answered with something else than was asked for.
    #[error("unexpected reply: {0:?}")]
    Unexpected(Box<Reply>),
}

impl Error {
    /// Whether the connection is gone or of no further use, so that a new one is needed.
    pub fn is_connection_lost(&self) -> bool {
        !matches!(self, Error::Server(_) | Error::Unexpected(_))
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_write_timeout(timeout),
            Stream::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    fn shutdown(&self) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        }
    }

    fn try_clone(&self) -> std::io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone()?),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone()?),
        })
    }

    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// The half of a connection that asks.
#[derive(Debug)]
pub struct Sender {
    stream: Stream,
    out: Vec<u8>,
}

impl Sender {
    /// Queues a request; [`Self::flush`] sends it.
    pub fn send<T: AsRef<[u8]>>(&mut self, args: &[T]) {
        encode(&mut self.out, args);
    }

    /// Queues bytes as they are: malformed requests, or ones already encoded.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Bytes that are queued.
    pub fn queued_bytes(&self) -> usize {
        self.out.len()
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_all(&self.out);
        self.out.clear();
        sent.map_err(io_error)
    }

    /// Ends the connection. A [`Receiver`] that waits for an answer sees it closed.
    pub fn shut_down(self) {
        // One that is gone already needs no end.
        let _ = self.stream.shutdown();
    }
}

/// The half of a connection that is answered.
#[derive(Debug)]
pub struct Receiver {
    stream: Stream,
    decoder: ReplyDecoder,
    chunk: Box<[u8]>,
}

impl Receiver {
    /// The next reply, or message, in the order in which the server sent them.
    pub fn receive(&mut self) -> Result<Reply, Error> {
        loop {
            if let Some(reply) = self.decoder.next_reply()? {
                return Ok(reply);
            }
            match self.stream.read(&mut self.chunk) {
                Ok(0) => return Err(Error::Closed),
                Ok(count) => self.decoder.feed(self.chunk.get(..count).unwrap_or(&[])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(error)),
            }
        }
    }
}

fn io_error(error: std::io::Error) -> Error {
    match error.kind() {
        // A read or write that runs into the socket's time limit says either of these.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Timeout,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Closed,
        _ => Error::Io(error),
    }
}

/// A connection to a server that blocks until it is answered.
///
/// One request at a time with [`Self::cmd`] and [`Self::call`]; or many with [`Self::send`],
/// then as many times [`Self::receive`]. A pipeline whose requests and replies both exceed what
/// the sockets hold needs [`Self::split`] and two threads, lest both sides wait to write.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    pushes: VecDeque<Vec<Reply>>,
}

impl Client {
    /// Connects over TCP (`"127.0.0.1:7432"`, `("localhost", 7432)`).
    pub fn connect(address: impl ToSocketAddrs + std::fmt::Debug) -> Result<Client, Error> {
        let connect = || {
            let stream = TcpStream::connect(&address)?;
            stream.set_nodelay(true)?;
            Client::over(Stream::Tcp(stream))
        };
        connect().map_err(|source| Error::Connect {
            address: format!("{address:?}"),
            source,
        })
    }

    /// Connects over TCP, giving up each address that the name has after `timeout`.
    pub fn connect_timeout(
        address: impl ToSocketAddrs + std::fmt::Debug,
        timeout: Duration,
    ) -> Result<Client, Error> {
        let connect = || {
            let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
            for each in address.to_socket_addrs()? {
                match TcpStream::connect_timeout(&each, timeout) {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Client::over(Stream::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        connect().map_err(|source| Error::Connect {
            address: format!("{address:?}"),
            source,
        })
    }

    /// Connects to a unix socket.
    pub fn connect_unix(path: impl AsRef<Path>) -> Result<Client, Error> {
        let path = path.as_ref();
        UnixStream::connect(path)
            .and_then(|stream| Client::over(Stream::Unix(stream)))
            .map_err(|source| Error::Connect {
                address: path.display().to_string(),
                source,
            })
    }

    fn over(stream: Stream) -> std::io::Result<Client> {
        Ok(Client {
            sender: Sender {
                stream: stream.try_clone()?,
                out: Vec::new(),
            },
            receiver: Receiver {
                stream,
                decoder: ReplyDecoder::new(DecodeLimits::default()),
                chunk: vec![0; READ_BYTES].into_boxed_slice(),
            },
            pushes: VecDeque::new(),
        })
    }

    /// Lets no single read or write of the socket take longer than this; `None`: for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        self.receiver.stream.set_read_timeout(timeout)?;
        Ok(self.receiver.stream.set_write_timeout(timeout)?)
    }

    /// Lets no single read of the socket take longer than this, whatever holds for writes; `None`: for
    /// ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        Ok(self.receiver.stream.set_read_timeout(timeout)?)
    }

    /// Asks and waits for the answer: `client.cmd(&[b"SET", key, value])`. An error reply is an
    /// answer; see [`Reply::into_result`].
    pub fn cmd(&mut self, args: &[&[u8]]) -> Result<Reply, Error> {
        self.call(args)
    }

    /// [`Self::cmd`] for words of one type: `client.call(&["CONFIG", "GET", "*"])`.
    pub fn call<T: AsRef<[u8]>>(&mut self, args: &[T]) -> Result<Reply, Error> {
        self.send(args);
        self.receive()
    }

    /// Queues a request.
    pub fn send<T: AsRef<[u8]>>(&mut self, args: &[T]) {
        self.sender.send(args);
    }

    /// Queues bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.sender.send_raw(bytes);
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.sender.flush()
    }

    /// Sends what is queued and waits for the next answer.
    pub fn receive(&mut self) -> Result<Reply, Error> {
        self.flush()?;
        loop {
            match self.receiver.receive()? {
                Reply::Push(message) => self.pushes.push_back(message),
                reply => return Ok(reply),
            }
        }
    }

    /// Sends what is queued and waits for `count` answers.
    pub fn receive_many(&mut self, count: usize) -> Result<Vec<Reply>, Error> {
        (0..count).map(|_| self.receive()).collect()
    }

    /// A message that came between answers, oldest first.
    pub fn take_push(&mut self) -> Option<Vec<Reply>> {
        self.pushes.pop_front()
    }

    /// The two halves, for two threads. Messages then come with the answers.
    pub fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

//! A connection that sends and receives bytes as they are, and says in words what it received.

use super::DEADLINE;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The connection.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
    markers: u64,
}

impl RawClient {
    /// Connects to a unix socket.
    ///
    /// # Panics
    /// When that fails.
    pub fn connect(socket: &Path) -> RawClient {
        let stream = UnixStream::connect(socket).expect("the server listens");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        RawClient { stream, markers: 0 }
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When the server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes bytes");
    }

    /// Sends bytes, unless the server has closed the connection.
    ///
    /// # Errors
    /// When it has.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads again what a stop and SIGCONT have interrupted, as they do a read with a timeout.
    fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// All that the server sends until it closes the connection.
    ///
    /// # Panics
    /// When it does not close it in time.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        match self.stream.read_to_end(&mut received) {
            Ok(_) => {}
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{error} after {:?}", escape(&received)),
        }
        received
    }

    /// Sends a request and gives its reply.
    ///
    /// # Panics
    /// When it does not come in time, or something comes behind it.
    pub fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.send(request);
        let mut received = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match reply_len(&received) {
                Some(len) => {
                    assert_eq!(
                        len,
                        received.len(),
                        "one reply only: {:?}",
                        escape(&received)
                    );
                    return received;
                }
                None => match self.read(&mut chunk) {
                    Ok(count) if count > 0 => received.extend_from_slice(&chunk[..count]),
                    other => panic!("{other:?} after {:?}", escape(&received)),
                },
            }
        }
    }

    /// Sends requests and gives all that comes before the reply to an ECHO sent behind them;
    /// or, if the server closes the connection instead, all that came.
    ///
    /// # Panics
    /// When neither happens in time.
    pub fn exchange(&mut self, requests: &[u8]) -> Vec<u8> {
        self.markers += 1;
        let marker = format!("-- end of reply {} --", self.markers);
        let mut bytes = requests.to_vec();
        bytes.extend_from_slice(&request(&[b"ECHO", marker.as_bytes()]));
        let end = format!("${}\r\n{marker}\r\n", marker.len()).into_bytes();
        // A server that closes the connection may do so before it has taken all of this.
        let _ = self.try_send(&bytes);
        let mut received = Vec::new();
        let mut chunk = [0; 4096];
        while !received.ends_with(&end) {
            match self.read(&mut chunk) {
                Ok(0) => return received,
                Ok(count) => received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return received,
                Err(error) => panic!("{error} after {:?}", escape(&received)),
            }
        }
        received.truncate(received.len() - end.len());
        received
    }
}

/// How long the first whole reply in `bytes` is.
fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || -> Option<i64> {
        let digits = bytes.get(1..line - 2)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    let items = match bytes.first()? {
        b'$' | b'=' | b'!' => {
            let len = usize::try_from(number()?).map_or(line, |len| line + len + 2);
            return (len <= bytes.len()).then_some(len);
        }
        b'*' | b'~' | b'>' => number()?,
        b'%' => 2 * number()?,
        _ => return Some(line),
    };
    let mut len = line;
    for _ in 0..items {
        len += reply_len(bytes.get(len..)?)?;
    }
    Some(len)
}

/// The bytes of a request.
pub fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Bytes as one line of text that [`unescape`] reads back.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            b'"' => text.push_str("\\\""),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string takes all"),
        }
    }
    text
}

/// The bytes that [`escape`] made a text of.
///
/// # Panics
/// When the text is no such text.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(same @ (b'\\' | b'"')) => bytes.push(same),
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).expect("two hexadecimal digits"));
            }
            other => panic!("no escape: \\{other:?} in {text}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_as_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&bytes)), bytes);
        assert!(escape(&bytes).is_ascii());
    }
}

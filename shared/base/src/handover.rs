//! What the postmaster tells a backend about a connection that it hands over: one message of
//! fixed size on their socket pair (`SOCK_SEQPACKET`), with the connection's descriptor attached.
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 0 | 8 | number of the connection, unique in the life of the postmaster, little-endian |
//! | 8 | 4 | user id of a unix peer, little-endian; 0 for TCP |
//! | 12 | 1 | 1: unix, 2: TCP |
//! | 13 | 1 | length of the address |
//! | 14 | 2 | zero |
//! | 16 | 112 | address of the peer as text, then zeros |
//!
//! A connection that has been served by another backend brings what its client has set there
//! ([`Settings`]) behind that:
//!
//! | offset | bytes | content |
//! | --- | --- | --- |
//! | 128 | 8 | greatest LSN that a reply has waited for, little-endian, as all numbers |
//! | 136 | 8 | number of the namespace in use |
//! | 144 | 8 | wall clock of the connection, microseconds since 1970 |
//! | 152 | 8 | monotonic clock of the last command, nanoseconds |
//! | 160 | 4 | row in the shared table of clients, and one; 0: none |
//! | 164 | 4 | what is switched on, as the backends number it |
//! | 168 | 3 | lengths of the name, the library's name and its version |
//! | 171 | 1 | zero |
//! | 172 | | name, library's name, library's version |
//!
//! The other way, a backend says that connections are closed by a message of as many bytes, each
//! of any content, as there are such connections: at most [`CLOSED_MAX`] in one message. A message
//! with a descriptor is a connection that another backend is to serve.

/// What a client is told for which there is no descriptor.
pub const NO_DESCRIPTOR: &str = "ERR max number of clients reached: no file descriptor is left; raise \
     the limit of open files (ulimit -n), or lower max_connections";
/// Bytes of the message.
pub const HANDOVER_BYTES: usize = 128;
/// Most closed connections that one message of a backend tells.
pub const CLOSED_MAX: usize = 4096;
/// Longest address; a longer one is cut at its end.
const ADDRESS_BYTES_MAX: usize = HANDOVER_BYTES - ADDRESS_AT;
const ADDRESS_AT: usize = 16;
const SETTINGS_AT: usize = HANDOVER_BYTES;
const NAMES_AT: usize = 172;
/// Most bytes of a message with [`Settings`].
pub const MOVED_BYTES_MAX: usize = NAMES_AT + 3 * u8::MAX as usize;
const UNIX: u8 = 1;
const TCP: u8 = 2;

const _: () = assert!(ADDRESS_BYTES_MAX <= u8::MAX as usize);

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over the unix socket.
    Unix {
        /// The user that connected, as the kernel says.
        uid: u32,
        /// The socket's path and `:0`, as Redis shows such a client.
        path: String,
    },
    /// Over TCP: address and port.
    Tcp(String),
}

impl Peer {
    /// The address as text.
    pub fn address(&self) -> &str {
        match self {
            Peer::Unix { path, .. } => path,
            Peer::Tcp(address) => address,
        }
    }
}

/// A connection that changes hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Unique in the life of the postmaster; `CLIENT ID`.
    pub connection: u64,
    /// Whose it is.
    pub peer: Peer,
    /// What its client has set, if another backend has served it so far.
    pub settings: Option<Settings>,
}

/// What a client has set for its connection, for the backend that serves it next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The greatest LSN that a reply has waited for.
    pub newest_seen: u64,
    /// Number of the namespace that it uses.
    pub namespace: u64,
    /// Wall clock of the connection, in microseconds.
    pub connected_at_us: u64,
    /// Monotonic clock of the last command, in nanoseconds.
    pub active_at_ns: u64,
    /// Its row in the shared table of clients.
    pub row: Option<u32>,
    /// What is switched on, as the backends number it.
    pub marks: u32,
    /// The connection's name, the library's name, and the library's version.
    pub names: [String; 3],
}

impl Settings {
    fn append_to(&self, message: &mut Vec<u8>) -> Option<()> {
        for number in [
            self.newest_seen,
            self.namespace,
            self.connected_at_us,
            self.active_at_ns,
        ] {
            message.extend(number.to_le_bytes());
        }
        let row = self.row.map_or(Some(0), |row| row.checked_add(1))?;
        for number in [row, self.marks] {
            message.extend(number.to_le_bytes());
        }
        for name in &self.names {
            message.push(u8::try_from(name.len()).ok()?);
        }
        message.push(0);
        for name in &self.names {
            message.extend(name.as_bytes());
        }
        Some(())
    }

    fn decode(bytes: &[u8]) -> Option<Settings> {
        let (numbers, rest) = bytes.split_at_checked(NAMES_AT - SETTINGS_AT)?;
        let (longs, words) = numbers.split_first_chunk::<32>()?;
        let (words, lengths) = words.split_first_chunk::<8>()?;
        let &[first, second, third, 0] = lengths else {
            return None;
        };
        let mut longs = longs
            .as_chunks::<8>()
            .0
            .iter()
            .copied()
            .map(u64::from_le_bytes);
        let mut words = words
            .as_chunks::<4>()
            .0
            .iter()
            .copied()
            .map(u32::from_le_bytes);
        let mut rest = rest;
        let mut names = [const { String::new() }; 3];
        for (name, length) in names.iter_mut().zip([first, second, third]) {
            let (text, behind) = rest.split_at_checked(usize::from(length))?;
            *name = String::from_utf8(text.to_vec()).ok()?;
            rest = behind;
        }
        if !rest.is_empty() {
            return None;
        }
        Some(Settings {
            newest_seen: longs.next()?,
            namespace: longs.next()?,
            connected_at_us: longs.next()?,
            active_at_ns: longs.next()?,
            row: words.next()?.checked_sub(1),
            marks: words.next()?,
            names,
        })
    }
}

impl Handover {
    /// The message; none if a name in the settings is longer than 255 bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HANDOVER_BYTES];
        let (kind, uid) = match self.peer {
            Peer::Unix { uid, .. } => (UNIX, uid),
            Peer::Tcp(_) => (TCP, 0),
        };
        let address = self.peer.address();
        let cut = address.floor_char_boundary(ADDRESS_BYTES_MAX);
        bytes[..8].copy_from_slice(&self.connection.to_le_bytes());
        bytes[8..12].copy_from_slice(&uid.to_le_bytes());
        bytes[12] = kind;
        bytes[13] = cut as u8;
        bytes[ADDRESS_AT..ADDRESS_AT + cut].copy_from_slice(&address.as_bytes()[..cut]);
        if let Some(settings) = &self.settings {
            settings.append_to(&mut bytes)?;
        }
        Some(bytes)
    }

    /// The inverse of [`Handover::encode`]; none if the bytes are no such message.
    pub fn decode(bytes: &[u8]) -> Option<Handover> {
        let (head, behind) = bytes.split_first_chunk::<HANDOVER_BYTES>()?;
        let (connection, rest) = head.split_first_chunk::<8>()?;
        let (uid, rest) = rest.split_first_chunk::<4>()?;
        let &[kind, length, 0, 0, ref address @ ..] = rest else {
            return None;
        };
        let (address, padding) = address.split_at_checked(usize::from(length))?;
        if padding.iter().any(|&byte| byte != 0) {
            return None;
        }
        let address = String::from_utf8(address.to_vec()).ok()?;
        let peer = match (kind, u32::from_le_bytes(*uid)) {
            (UNIX, uid) => Peer::Unix { uid, path: address },
            (TCP, 0) => Peer::Tcp(address),
            _ => return None,
        };
        let settings = match behind {
            [] => None,
            behind => Some(Settings::decode(behind)?),
        };
        Some(Handover {
            connection: u64::from_le_bytes(*connection),
            peer,
            settings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            newest_seen: 1,
            namespace: u64::MAX,
            connected_at_us: 3,
            active_at_ns: 4,
            row: Some(0),
            marks: u32::MAX,
            names: ["ü".repeat(127), String::new(), "1.2".to_owned()],
        }
    }

    #[test]
    fn round_trips() {
        for peer in [
            Peer::Tcp("[fe80::1%4294967295]:65535".to_owned()),
            Peer::Unix {
                uid: u32::MAX,
                path: "/var/lib/redoubt/.s.REDOUBT.7432:0".to_owned(),
            },
            Peer::Tcp(String::new()),
        ] {
            for settings in [None, Some(Settings::default()), Some(settings())] {
                let handover = Handover {
                    connection: u64::MAX - 1,
                    peer: peer.clone(),
                    settings,
                };
                let message = handover.encode().expect("short names");
                assert!(message.len() <= MOVED_BYTES_MAX);
                assert_eq!(Handover::decode(&message), Some(handover));
            }
        }
    }

    #[test]
    fn a_long_address_is_cut_between_letters_and_a_long_name_not_sent() {
        let path = format!("x{}", "ü".repeat(100));
        let mut long = Handover {
            connection: 1,
            peer: Peer::Unix { uid: 0, path },
            settings: None,
        };
        let message = long.encode().expect("no names");
        let decoded = Handover::decode(&message).expect("a message");
        assert_eq!(decoded.peer.address(), format!("x{}", "ü".repeat(55)));
        let mut settings = settings();
        settings.names[1] = "x".repeat(256);
        long.settings = Some(settings);
        assert!(long.encode().is_none());
    }

    #[test]
    fn nonsense_is_no_message() {
        let good = Handover {
            connection: 1,
            peer: Peer::Tcp("127.0.0.1:1".to_owned()),
            settings: Some(settings()),
        }
        .encode()
        .expect("short names");
        assert!(Handover::decode(&good[1..]).is_none());
        assert!(Handover::decode(&good[..good.len() - 1]).is_none());
        assert!(Handover::decode(&good[..HANDOVER_BYTES + 1]).is_none());
        assert!(Handover::decode(&[&good[..], b"x"].concat()).is_none());
        let places = [(12, 3), (13, 113), (13, 1), (14, 1), (8, 1), (16, 0xFF)];
        for (at, byte) in places.into_iter().chain([(168, 1), (171, 1), (172, 0xFF)]) {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(Handover::decode(&bad).is_none(), "byte {at} = {byte}");
        }
    }
}

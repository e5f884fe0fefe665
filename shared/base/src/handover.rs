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
//! The other way, a backend says that connections are closed by a message of as many bytes, each
//! of any content, as there are such connections: at most [`CLOSED_MAX`] in one message.

/// Bytes of the message.
pub const HANDOVER_BYTES: usize = 128;
/// Most closed connections that one message of a backend tells.
pub const CLOSED_MAX: usize = 4096;
/// Longest address; a longer one is cut at its end.
const ADDRESS_BYTES_MAX: usize = HANDOVER_BYTES - ADDRESS_AT;
const ADDRESS_AT: usize = 16;
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
}

impl Handover {
    /// The message.
    pub fn encode(&self) -> [u8; HANDOVER_BYTES] {
        let mut bytes = [0; HANDOVER_BYTES];
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
        bytes
    }

    /// The inverse of [`Handover::encode`]; none if the bytes are no such message.
    pub fn decode(bytes: &[u8]) -> Option<Handover> {
        let bytes: &[u8; HANDOVER_BYTES] = bytes.try_into().ok()?;
        let (connection, rest) = bytes.split_first_chunk::<8>()?;
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
        Some(Handover {
            connection: u64::from_le_bytes(*connection),
            peer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let handover = Handover {
                connection: u64::MAX - 1,
                peer,
            };
            assert_eq!(Handover::decode(&handover.encode()), Some(handover));
        }
    }

    #[test]
    fn a_long_address_is_cut_between_letters() {
        let path = format!("x{}", "ü".repeat(100));
        let long = Handover {
            connection: 1,
            peer: Peer::Unix { uid: 0, path },
        };
        let decoded = Handover::decode(&long.encode()).expect("a message");
        assert_eq!(decoded.peer.address(), format!("x{}", "ü".repeat(55)));
    }

    #[test]
    fn nonsense_is_no_message() {
        let good = Handover {
            connection: 1,
            peer: Peer::Tcp("127.0.0.1:1".to_owned()),
        }
        .encode();
        assert!(Handover::decode(&good[1..]).is_none());
        for (at, byte) in [(12, 3), (13, 113), (13, 1), (14, 1), (8, 1), (16, 0xFF)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(Handover::decode(&bad).is_none(), "byte {at} = {byte}");
        }
    }
}

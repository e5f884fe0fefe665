//! Passing open descriptors from one process to another.
//!
//! A [`Channel`] keeps messages apart (`SOCK_SEQPACKET`) and never blocks: `WouldBlock` means to
//! wait for [`Channel::fd`] in poll or epoll. Received descriptors are closed at exec, and more
//! than the one that belongs to a message is an error, not a leak.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Descriptors that are seen if they come with one message.
const FDS_MAX: usize = 4;

/// One end of a pair.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

/// What came with one message.
#[derive(Debug)]
pub struct Received {
    /// Bytes of the message, at the start of the buffer; 0 when the other end is closed.
    pub len: usize,
    /// The descriptor, if there was one.
    pub fd: Option<OwnedFd>,
    /// Whether there was one, and this process can have no more: it is closed.
    pub fd_is_lost: bool,
}

impl Channel {
    /// A connected pair, to be made before the fork.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (left, right) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel { fd: left }, Channel { fd: right }))
    }

    /// Sends one message, not empty, with a descriptor or without. The sender may close its own
    /// copy of the descriptor afterwards. `WouldBlock` if the receiver has too much waiting.
    pub fn send(&self, message: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if message.is_empty() {
            let text = "an empty message would look like the end";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        let control = rights.as_slice();
        let parts = [IoSlice::new(message)];
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.fd.as_raw_fd(), &parts, control, flags, None) {
                // Messages of this kind are sent whole or not at all.
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Receives one message into `buffer`. `WouldBlock` if there is none; `InvalidData` if it did
    /// not fit or had too many descriptors, which are closed then.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // Room for more than one, so that a surplus is seen, and closed here.
        let mut control = nix::cmsg_space!([i32; FDS_MAX]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = loop {
            let own = self.fd.as_raw_fd();
            match recvmsg::<()>(own, &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut fds = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                for number in raw {
                    // SAFETY: the kernel has just put this descriptor into our table for us, and
                    // nobody else knows of it.
                    fds.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        // The kernel gives as many as the table of this process has places for.
        let is_short = message.flags.contains(MsgFlags::MSG_CTRUNC);
        let fd_is_lost = is_short && fds.is_empty();
        if message.flags.contains(MsgFlags::MSG_TRUNC) || fds.len() > 1 || is_short && !fd_is_lost {
            let text = "a message between processes was cut short or had too many descriptors";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Received {
            len: message.bytes,
            fd: fds.pop(),
            fd_is_lost,
        })
    }

    /// For poll and epoll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_and_messages_arrive_whole() {
        let (left, right) = Channel::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        left.send(b"take this", Some(writer.as_fd())).expect("sent");
        left.send(b"no more", None).expect("sent");
        drop(writer);
        let mut buffer = [0; 64];
        let first = right.receive(&mut buffer).expect("a message");
        assert_eq!(&buffer[..first.len], b"take this");
        let mut pipe = File::from(first.fd.expect("a descriptor came with it"));
        pipe.write_all(b"through").expect("written");
        drop(pipe);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read to the end");
        assert_eq!(text, "through");
        let second = right.receive(&mut buffer).expect("a message");
        assert_eq!(
            (&buffer[..second.len], second.fd.is_none()),
            (&b"no more"[..], true)
        );
        let none = right.receive(&mut buffer).expect_err("nothing more");
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(right.receive(&mut buffer).expect("the end").len, 0);
    }

    #[test]
    fn a_full_channel_and_a_small_buffer_are_told() {
        let (left, right) = Channel::pair().expect("a pair");
        let error = loop {
            if let Err(error) = left.send(&[7; 4096], None) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let error = right
            .receive(&mut [0; 16])
            .expect_err("4096 bytes do not fit");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            left.send(&[], None).expect_err("empty").kind(),
            io::ErrorKind::InvalidInput
        );
    }
}

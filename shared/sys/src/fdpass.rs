//! Passing open descriptors from one process to another.
//!
//! A [`Channel`] keeps messages apart (`SOCK_SEQPACKET`) and never blocks: `WouldBlock` means to
//! wait for [`Channel::fd`] in poll or epoll. Received descriptors are closed at exec, and more
//! than the one that belongs to a message is an error, not a leak.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, offset_of};
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
        let (len, flags) = loop {
            let own = self.fd.as_raw_fd();
            match recvmsg::<()>(own, &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                other => break other.map(|message| (message.bytes, message.flags))?,
            }
        };
        let mut fds = take_fds(&control);
        // The kernel gives as many as the table of this process has places for.
        let is_short = flags.contains(MsgFlags::MSG_CTRUNC);
        let fd_is_lost = is_short && fds.is_empty();
        if flags.contains(MsgFlags::MSG_TRUNC) || fds.len() > 1 || is_short && !fd_is_lost {
            let text = "a message between processes was cut short or had too many descriptors";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Received {
            len,
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

/// The descriptors in what the kernel has put into a buffer of zeroes beside a message. Nothing but
/// descriptors is ever asked for, and they all come in one part, so only the first is looked at.
///
/// By hand, because nix gives none of them where the kernel had more than this process could take
/// (`MSG_CTRUNC`): those that did arrive would be left open, and a want of places in the table would
/// look like a broken socket.
fn take_fds(control: &[u8]) -> Vec<OwnedFd> {
    const FD_BYTES: usize = mem::size_of::<i32>();
    // CMSG_LEN(0); the header needs no padding.
    let data_at = mem::size_of::<libc::cmsghdr>();
    let number_at = |at: usize| {
        let bytes = control.get(at..at + FD_BYTES)?;
        Some(i32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let len_at = offset_of!(libc::cmsghdr, cmsg_len);
    let len = control.get(len_at..len_at + mem::size_of::<usize>());
    let Some(len) = len.and_then(|bytes| bytes.try_into().ok()) else {
        return Vec::new();
    };
    let end = usize::from_ne_bytes(len);
    let level = number_at(offset_of!(libc::cmsghdr, cmsg_level));
    let kind = number_at(offset_of!(libc::cmsghdr, cmsg_type));
    if (level, kind) != (Some(libc::SOL_SOCKET), Some(libc::SCM_RIGHTS)) {
        return Vec::new();
    }
    (data_at..)
        .step_by(FD_BYTES)
        .take_while(|at| at + FD_BYTES <= end)
        .map_while(number_at)
        // SAFETY: the kernel has just put this descriptor into our table for us, and nobody else
        // knows of it.
        .map(|number| unsafe { OwnedFd::from_raw_fd(number) })
        .collect()
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
    fn more_than_one_descriptor_is_an_error_and_all_are_closed() {
        let (left, right) = Channel::pair().expect("a pair");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let raw = [writer.as_raw_fd(); 3];
        let parts = [IoSlice::new(b"three")];
        let rights = [ControlMessage::ScmRights(&raw)];
        let own = left.fd.as_raw_fd();
        sendmsg::<()>(own, &parts, &rights, MsgFlags::empty(), None).expect("sent");
        drop(writer);
        let error = right.receive(&mut [0; 64]).expect_err("three came");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("no writer is left");
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

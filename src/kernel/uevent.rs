//! Kernel uevents: the kernel tells when a device appears.
//!
//! Source: netlink(7), `NETLINK_KOBJECT_UEVENT`; `lib/kobject_uevent.c` of the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group in which the kernel speaks; udev's own messages go to another.
const KERNEL_GROUP: u32 = 1;
/// Longer than any uevent: the kernel's buffer is 2048 bytes.
const MESSAGE_MAX: usize = 8192;

/// A subscription. Events are kept from its start on, so that a look at sysfs after it misses
/// nothing.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Wake {
    /// A block device appeared or changed, or events were lost: look again.
    Block,
    /// The time is up.
    Timeout,
}

impl Listener {
    /// Subscribes.
    ///
    /// # Errors
    /// When the kernel has no uevents (`CONFIG_NET`).
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(KOBJECT_UEVENT),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self(socket))
    }

    /// Sleeps until a block device appears or changes, or `deadline` has come.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait_for_block(&self, deadline: Instant) -> io::Result<Wake> {
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(Wake::Timeout);
            };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(Wake::Timeout),
                Ok(_) if self.drain()? => return Ok(Wake::Block),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all waiting events; says whether one of them was of a block device.
    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut block = false;
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    block |= buffer.get(..length).is_some_and(is_block_event);
                }
                Err(Errno::AGAIN) => return Ok(block),
                // The queue ran over: what was lost may have been the disk.
                Err(Errno::NOBUFS) => block = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a message says that a block device was added or changed: "ACTION@DEVPATH", then
/// "KEY=VALUE" texts, each ended by a NUL.
#[must_use]
pub fn is_block_event(message: &[u8]) -> bool {
    let mut texts = message.split(|&byte| byte == 0);
    let appears =
        texts.next().is_some_and(|head| head.starts_with(b"add@") || head.starts_with(b"change@"));
    appears && texts.any(|text| text == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn only_block_devices_that_appear_wake() {
        let event = |head: &str, subsystem: &str| {
            format!("{head}@/devices/x\0ACTION={head}\0SUBSYSTEM={subsystem}\0SEQNUM=1\0")
        };
        assert!(is_block_event(event("add", "block").as_bytes()));
        assert!(is_block_event(event("change", "block").as_bytes()));
        assert!(!is_block_event(event("remove", "block").as_bytes()));
        assert!(!is_block_event(event("add", "net").as_bytes()));
        assert!(!is_block_event(b"libudev\0\xfe\xed"));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let listener = Listener::open().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(listener.wait_for_block(deadline).unwrap(), Wake::Timeout);
        assert!(Instant::now() >= deadline);
    }

    proptest! {
        #[test]
        fn no_message_panics(message: Vec<u8>) {
            let _ = is_block_event(&message);
        }

        #[test]
        fn action_and_subsystem_alone_decide(
            action in prop::sample::select(vec!["add", "change", "remove", "bind", "ad", "addx"]),
            subsystem in prop::sample::select(vec!["block", "net", "blocks", "bloc", ""]),
            before in prop::collection::vec("[A-Z]{1,8}=[^\0]{0,8}", 0..4),
            after in prop::collection::vec("[A-Z]{1,8}=[^\0]{0,8}", 0..4),
        ) {
            let message = format!(
                "{action}@/devices/x\0{}\0SUBSYSTEM={subsystem}\0{}\0",
                before.join("\0"),
                after.join("\0"),
            );
            let wakes = ["add", "change"].contains(&action) && subsystem == "block";
            prop_assert_eq!(is_block_event(message.as_bytes()), wakes);
        }
    }
}

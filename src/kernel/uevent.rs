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
    /// A block device appeared or changed, or a device that some driver may be for, or events were
    /// lost: look again.
    Device,
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

    /// Sleeps until a block device appears or changes, or another device that has a name for its driver
    /// appears, or `deadline` has come.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait_for_device(&self, deadline: Instant) -> io::Result<Wake> {
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Ok(Wake::Timeout);
            };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(Wake::Timeout),
                Ok(_) if self.drain()? => return Ok(Wake::Device),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes all waiting events; says whether one of them is a reason to look again.
    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE_MAX];
        let mut wakes = false;
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    wakes |= buffer.get(..length).is_some_and(wakes_up);
                }
                Err(Errno::AGAIN) => return Ok(wakes),
                // The queue ran over: what was lost may have been the disk.
                Err(Errno::NOBUFS) => wakes = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Where block devices are that the kernel makes by itself, as those of its loop driver when it starts.
/// No disk is among them.
const VIRTUAL: &[u8] = b"/devices/virtual/block/";

/// Whether a message says that a block device was added or changed, or that another device was added
/// that has a name for its driver (`MODALIAS`): "ACTION@DEVPATH", then "KEY=VALUE" texts, each ended by
/// a NUL.
#[must_use]
pub fn wakes_up(message: &[u8]) -> bool {
    let mut texts = message.split(|&byte| byte == 0);
    let head = texts.next().unwrap_or_default();
    let added = head.strip_prefix(b"add@");
    match added.or_else(|| head.strip_prefix(b"change@")) {
        Some(path) if !path.starts_with(VIRTUAL) => texts.any(|text| {
            text == b"SUBSYSTEM=block" || added.is_some() && text.starts_with(b"MODALIAS=")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn only_devices_that_appear_wake() {
        let event = |head: &str, subsystem: &str| {
            format!("{head}@/devices/x\0ACTION={head}\0SUBSYSTEM={subsystem}\0SEQNUM=1\0")
        };
        assert!(wakes_up(event("add", "block").as_bytes()));
        assert!(wakes_up(event("change", "block").as_bytes()));
        assert!(!wakes_up(event("remove", "block").as_bytes()));
        assert!(!wakes_up(b"add@/devices/virtual/block/loop0\0SUBSYSTEM=block\0"));
        assert!(wakes_up(b"add@/devices/virtual/nvme-subsystem/n1/nvme0n1\0SUBSYSTEM=block\0"));
        assert!(!wakes_up(event("add", "net").as_bytes()));
        assert!(wakes_up(event("add", "pci\0MODALIAS=pci:v00001B36").as_bytes()));
        assert!(!wakes_up(event("bind", "pci\0MODALIAS=pci:v00001B36").as_bytes()));
        assert!(!wakes_up(b"libudev\0\xfe\xed"));
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let listener = Listener::open().unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(listener.wait_for_device(deadline).unwrap(), Wake::Timeout);
        assert!(Instant::now() >= deadline);
    }

    proptest! {
        #[test]
        fn no_message_panics(message: Vec<u8>) {
            let _ = wakes_up(&message);
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
            prop_assert_eq!(wakes_up(message.as_bytes()), wakes);
        }
    }
}

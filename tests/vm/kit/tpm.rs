//! A TPM for a guest: swtpm, alone or with somebody in front of it who changes what is said.
//!
//! QEMU connects to an emulator to tell it how to behave, and hands over, in that connection, the
//! socket on which it then sends the guest's commands and gets the TPM's answers.

use crate::kit::tool::Scratch;
use cvm_tools::vm::channel::Socket;
use cvm_tools::vm::tpm;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread;

/// Bytes of tag, size and code, which a command and an answer begin with.
const HEADER: usize = 10;

/// Has the TPM carry out a command.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>;

/// What a command of the guest comes to; never to anything where it is nothing.
pub(crate) type Lie = Box<dyn FnMut(&[u8], Ask<'_>) -> io::Result<Option<Vec<u8>>> + Send>;

pub(crate) struct Tpm {
    swtpm: Option<tpm::Tpm>,
    socket: Socket,
    scratch: Scratch,
}

impl Tpm {
    /// One that does as it should, and that nobody has used before.
    pub(crate) fn honest() -> Self {
        let scratch = Scratch::new("tpm");
        let socket = Socket::Abstract(scratch.socket());
        let log = File::create(scratch.join("swtpm.log")).expect("the folder is ours");
        let swtpm = tpm::Tpm::start(&socket, scratch.path(), log).expect("swtpm runs");
        Self { swtpm: Some(swtpm), socket, scratch }
    }

    /// The same with somebody in front of it.
    pub(crate) fn lying(
        lie: impl FnMut(&[u8], Ask<'_>) -> io::Result<Option<Vec<u8>>> + Send + 'static,
    ) -> Self {
        let mut tpm = Self::honest();
        let behind = tpm.socket.address().expect("a name that fits");
        tpm.socket = Socket::Abstract(format!("{}-front", tpm.scratch.socket()));
        let listener = tpm.socket.listen().expect("a name that is free");
        listener.set_nonblocking(false).expect("a socket");
        let lie = Box::new(lie);
        thread::spawn(move || {
            if let Err(error) = stand_between(&listener, &behind, lie) {
                eprintln!("between QEMU and swtpm: {error}");
            }
        });
        tpm
    }

    /// Where QEMU finds it.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.swtpm = None;
        if thread::panicking() {
            let log = fs::read_to_string(self.scratch.join("swtpm.log")).unwrap_or_default();
            eprintln!("---- swtpm ----\n{log}----");
        }
    }
}

/// Carries on what QEMU and swtpm tell each other, until QEMU is gone.
fn stand_between(listener: &UnixListener, behind: &SocketAddr, lie: Lie) -> io::Result<()> {
    let (qemu, _) = listener.accept()?;
    let mut swtpm = UnixStream::connect_addr(behind)?;
    let (mut from, mut to) = (swtpm.try_clone()?, qemu.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    let mut lie = Some(lie);
    let mut buffer = [0; 4096];
    loop {
        let (count, socket) = receive(&qemu, &mut buffer)?;
        let said = &buffer[..count];
        match (socket, lie.take()) {
            _ if said.is_empty() => return Ok(()),
            (Some(socket), Some(lie)) => {
                let (ours, theirs) = UnixStream::pair()?;
                let socket = UnixStream::from(socket);
                thread::spawn(move || carry(socket, ours, lie));
                send(&swtpm, said, &theirs)?;
            }
            (_, kept) => {
                lie = kept;
                swtpm.write_all(said)?;
            }
        }
    }
}

/// Carries on the guest's commands and the TPM's answers.
fn carry(mut qemu: UnixStream, mut swtpm: UnixStream, mut lie: Lie) -> io::Result<()> {
    let mut ask = |command: &[u8]| {
        swtpm.write_all(command)?;
        whole(&mut swtpm)
    };
    loop {
        let command = whole(&mut qemu)?;
        match lie(&command, &mut ask)? {
            Some(answer) => qemu.write_all(&answer)?,
            None => loop {
                thread::park();
            },
        }
    }
}

/// The next command or answer, which says how long it is.
fn whole(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    stream.read_exact(&mut bytes)?;
    let size = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
    bytes.resize((size as usize).max(HEADER), 0);
    stream.read_exact(&mut bytes[HEADER..])?;
    Ok(bytes)
}

/// What comes next, and a descriptor that comes with it.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(buffer)];
    let received = recvmsg(stream, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}

fn send(stream: &UnixStream, bytes: &[u8], descriptor: &impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one");
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty())?;
    Ok(())
}

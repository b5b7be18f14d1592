//! JSON lines over a socket: what QEMU's monitor speaks (QMP), and a program in a guest may.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cvm_init::error::{Error, Result};
use serde_json::Value;

use crate::vm::properties::Properties;

/// How often [`Channel::accept`] looks.
const GLANCE: Duration = Duration::from_millis(5);

/// The address of a socket of this host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A name that is no file's (unix(7), "abstract"): a path could be longer than 107 bytes.
    Abstract(String),
    /// The path of a file.
    Path(PathBuf),
}

impl Socket {
    /// Its address.
    ///
    /// # Errors
    /// It is too long.
    pub fn address(&self) -> Result<SocketAddr> {
        match self {
            Self::Abstract(name) => SocketAddr::from_abstract_name(name),
            Self::Path(path) => SocketAddr::from_pathname(path),
        }
        .map_err(|cause| self.cannot("name", &cause))
    }

    /// Listens there; [`Channel::accept`] does not wait.
    ///
    /// # Errors
    /// The name is too long or taken.
    pub fn listen(&self) -> Result<UnixListener> {
        let listener = UnixListener::bind_addr(&self.address()?);
        listener
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|cause| self.cannot("listen on", &cause))
    }

    /// QEMU's words for a stream of bytes with this name, which it connects there.
    #[must_use]
    pub fn chardev(&self, id: &str) -> Properties {
        let chardev = Properties::of("socket").with("id", id);
        match self {
            Self::Abstract(name) => chardev.with("path", name).with("abstract", "on"),
            Self::Path(path) => chardev.with("path", path),
        }
    }

    fn cannot(&self, verb: &str, cause: &io::Error) -> Error {
        let socket = match self {
            Self::Abstract(name) => format!("@{name}"),
            Self::Path(path) => path.display().to_string(),
        };
        Error::cannot(&format_args!("{verb} {socket}"), cause)
    }
}

/// What comes of a wait for a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A message.
    Message(Value),
    /// Nothing whole came in time; what did come is kept.
    Nothing,
    /// The other side is gone.
    Closed,
}

/// A socket that carries one JSON value a line, both ways.
#[derive(Debug)]
pub struct Channel {
    stream: BufReader<UnixStream>,
    partial: Vec<u8>,
}

impl From<UnixStream> for Channel {
    /// The socket has to be one that waits.
    fn from(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), partial: Vec::new() }
    }
}

impl Channel {
    /// Waits until somebody connects, as long as `alive` says that one may.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn accept(
        listener: &UnixListener,
        mut alive: impl FnMut() -> bool,
    ) -> Result<Option<Self>> {
        while alive() {
            if let Ok((stream, _)) = listener.accept() {
                let waits = stream.set_nonblocking(false);
                waits.map_err(|cause| Error::cannot(&"use a socket", &cause))?;
                return Ok(Some(stream.into()));
            }
            sleep(GLANCE);
        }
        Ok(None)
    }

    /// One that a command has as its standard input and output, as `-qmp stdio` makes use of.
    ///
    /// # Errors
    /// There is no room for sockets.
    pub fn to_child(command: &mut Command) -> Result<Self> {
        let mut pair = || -> io::Result<Self> {
            let (ours, theirs) = UnixStream::pair()?;
            command.stdin(OwnedFd::from(theirs.try_clone()?)).stdout(OwnedFd::from(theirs));
            Ok(ours.into())
        };
        pair().map_err(|cause| Error::cannot(&"make a pair of sockets", &cause))
    }

    /// The socket alone, for what is not JSON. To be asked for before anything is received.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream.into_inner()
    }

    /// False when the other side is gone.
    pub fn send(&mut self, message: &Value) -> bool {
        self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).is_ok()
    }

    /// Waits for the next message, so long at most.
    ///
    /// # Errors
    /// What comes is not JSON.
    pub fn receive(&mut self, patience: Duration) -> Result<Received> {
        let until = Instant::now() + patience;
        loop {
            // A timeout of zero would mean none at all.
            let left =
                until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let limited = self.stream.get_mut().set_read_timeout(Some(left));
            limited.map_err(|cause| Error::cannot(&"use a socket", &cause))?;
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    let message = serde_json::from_slice(&line).map_err(|cause| {
                        let line = String::from_utf8_lossy(&line);
                        Error::cannot(&format_args!("understand {line:?}"), &cause)
                    })?;
                    return Ok(Received::Message(message));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(Received::Nothing);
                }
                Ok(_) | Err(_) => return Ok(Received::Closed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_whole_whenever_their_parts_do() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut channel = Channel::from(ours);
        assert_eq!(channel.receive(Duration::ZERO).unwrap(), Received::Nothing);
        theirs.write_all(b"{\"a\":").unwrap();
        assert_eq!(channel.receive(Duration::ZERO).unwrap(), Received::Nothing);
        theirs.write_all(b"1}\n2\nno\n").unwrap();
        assert_eq!(channel.receive(LONG).unwrap(), Received::Message(json!({ "a": 1 })));
        assert_eq!(channel.receive(LONG).unwrap(), Received::Message(json!(2)));
        let refused = channel.receive(LONG).unwrap_err().to_string();
        assert!(refused.starts_with("cannot understand \"no\\n\": "), "{refused}");
        drop(theirs);
        assert_eq!(channel.receive(LONG).unwrap(), Received::Closed);
        assert!(!channel.send(&json!({})));
    }

    /// cat is a child that says what it is told.
    #[test]
    fn a_child_has_the_other_end_as_its_standard_input_and_output() {
        let mut cat = Command::new("cat");
        let mut channel = Channel::to_child(&mut cat).unwrap();
        let mut child = cat.spawn().unwrap();
        // What is left of the other end is the child's alone.
        drop(cat);
        assert!(channel.send(&json!("there")));
        assert_eq!(channel.receive(LONG).unwrap(), Received::Message(json!("there")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(channel.receive(LONG).unwrap(), Received::Closed);
    }
}

//! JSON lines over a socket: what both the agent and QEMU's monitor (QMP) speak.

use serde_json::Value;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Listens under an abstract name: a path could be longer than a socket's 107 bytes.
pub(crate) fn listen(name: &str) -> UnixListener {
    let address = SocketAddr::from_abstract_name(name).expect("a name that fits");
    let listener = UnixListener::bind_addr(&address)
        .unwrap_or_else(|e| panic!("cannot listen on @{name}: {e}"));
    listener.set_nonblocking(true).expect("a socket");
    listener
}

pub(crate) enum Received {
    Message(Value),
    /// Nothing whole came in time; what did come is kept.
    Nothing,
    /// The other side is gone.
    Closed,
}

pub(crate) struct Channel {
    stream: BufReader<UnixStream>,
    partial: Vec<u8>,
}

impl Channel {
    /// Waits until QEMU connects, as long as `alive` says that it may.
    pub(crate) fn accept(listener: &UnixListener, mut alive: impl FnMut() -> bool) -> Option<Self> {
        while alive() {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("a socket");
                return Some(Self { stream: BufReader::new(stream), partial: Vec::new() });
            }
            sleep(Duration::from_millis(5));
        }
        None
    }

    /// The socket alone, for what is not JSON. To be asked for before anything is received.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream.into_inner()
    }

    /// False when the other side is gone.
    pub(crate) fn send(&mut self, message: &Value) -> bool {
        self.stream.get_mut().write_all(format!("{message}\n").as_bytes()).is_ok()
    }

    pub(crate) fn receive(&mut self, patience: Duration) -> Received {
        let until = Instant::now() + patience;
        loop {
            // A timeout of zero would mean none at all.
            let left =
                until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.get_mut().set_read_timeout(Some(left)).expect("a socket");
            match self.stream.read_until(b'\n', &mut self.partial) {
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    return Received::Message(serde_json::from_slice(&line).unwrap_or_else(|e| {
                        panic!("not JSON: {:?}: {e}", String::from_utf8_lossy(&line))
                    }));
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Received::Nothing;
                }
                Ok(_) | Err(_) => return Received::Closed,
            }
        }
    }
}

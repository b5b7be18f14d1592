//! What the host can type: serial lines with BREAK, a virtio console, a keyboard.

use crate::channel::{Channel, Received, listen};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Until QEMU must have answered.
const QEMU: Duration = Duration::from_secs(30);

/// A console by the kernel's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Ttys0,
    Ttys1,
    Hvc0,
}

const LINES: [(Line, &str); 3] =
    [(Line::Ttys0, "ttyS0"), (Line::Ttys1, "ttyS1"), (Line::Hvc0, "hvc0")];

/// The sockets that QEMU connects to, before it does.
pub(crate) struct Sockets {
    lines: [(&'static str, String, UnixListener); 3],
    monitor: (String, UnixListener),
}

impl Sockets {
    /// `name` makes an abstract name of this VM's.
    pub(crate) fn listen(name: impl Fn(&str) -> String) -> Self {
        let socket = |what| (name(what), listen(&name(what)));
        Self {
            lines: LINES.map(|(_, what)| {
                let (name, listener) = socket(what);
                (what, name, listener)
            }),
            monitor: socket("keys"),
        }
    }

    /// The first line's output goes to `serial.log` too, where the harness looks for it.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut pair = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        for (what, name, _) in &self.lines {
            let log = if *what == "ttyS0" { ",logfile=serial.log" } else { "" };
            pair("-chardev", format!("socket,id={what},path={name},abstract=on{log}"));
        }
        pair("-serial", "chardev:ttyS0".to_owned());
        pair("-serial", "chardev:ttyS1".to_owned());
        // Without a screen the kernel has no console tty0. The keyboard is the machine's own.
        pair("-device", "VGA".to_owned());
        pair("-device", "virtio-serial-pci,id=hvc".to_owned());
        pair("-device", "virtconsole,bus=hvc.0,chardev=hvc0".to_owned());
        pair("-chardev", format!("socket,id=keys,path={},abstract=on", self.monitor.0));
        pair("-mon", "chardev=keys,mode=control".to_owned());
        arguments
    }

    /// Waits until QEMU has connected everything, as long as `alive` says that it may.
    pub(crate) fn accept(&self, alive: &mut dyn FnMut() -> bool) -> Option<Terminals> {
        let [ttys0, ttys1, hvc0] = &self.lines;
        let mut line = |(_, _, listener): &(&str, String, UnixListener)| {
            Channel::accept(listener, &mut *alive).map(Channel::into_stream)
        };
        let lines = [line(ttys0)?, line(ttys1)?, line(hvc0)?];
        let monitor = Channel::accept(&self.monitor.1, &mut *alive)?;
        Some(Terminals { lines, monitor })
    }
}

/// Everything that a person in front of the machine can type on.
pub(crate) struct Terminals {
    lines: [UnixStream; 3],
    monitor: Channel,
}

impl Terminals {
    /// Bytes on a line. What it does not take is dropped: a guest that does not listen must not
    /// hold the test up.
    pub(crate) fn send(&mut self, line: Line, bytes: &[u8]) {
        let _ = self.lines[line as usize].write_all(bytes);
    }

    /// A BREAK and then these bytes, the first of which is SysRq's key.
    pub(crate) fn send_break(&mut self, line: Line, bytes: &[u8]) {
        self.perform("chardev-send-break", &json!({ "id": LINES[line as usize].1 }));
        self.send(line, bytes);
    }

    /// Keys by QEMU's names, pressed in this order and let go: `ctrl-alt-delete`.
    pub(crate) fn press(&mut self, combination: &str) {
        let keys: Vec<Value> =
            combination.split('-').map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.perform("send-key", &json!({ "keys": keys, "hold-time": 5 }));
    }

    /// A monitor that has gone away has nothing to type on; the VM's own end is the harness's.
    fn perform(&mut self, execute: &str, arguments: &Value) {
        let command = json!({ "execute": execute, "arguments": arguments });
        if !self.monitor.send(&command) {
            return;
        }
        let start = Instant::now();
        while start.elapsed() < QEMU {
            match self.monitor.receive(QEMU) {
                Received::Message(message) if message.get("return").is_some() => return,
                Received::Message(message) => {
                    let error = &message["error"];
                    assert!(error.is_null(), "QEMU refuses {execute}: {}", error["desc"]);
                }
                Received::Nothing => {}
                Received::Closed => return,
            }
        }
        panic!("QEMU did not answer {execute} for {} s", QEMU.as_secs())
    }

    /// Hands the typing to a thread that does `salvo` for each line that the first serial line
    /// shows. It is told the line, so that it can follow the boot.
    pub(crate) fn follow(
        mut self,
        mut salvo: impl FnMut(&mut Self, &str) + Send + 'static,
    ) -> Follower {
        self.perform("qmp_capabilities", &json!({}));
        let [output, others @ ..] = self.lines.each_ref().map(|line| {
            line.set_write_timeout(Some(Duration::from_millis(1))).expect("a socket");
            line.try_clone().expect("a socket")
        });
        // A line that nobody reads stops the guest when the socket is full.
        for mut other in others {
            thread::spawn(move || io::copy(&mut other, &mut io::sink()));
        }
        let terminals = Arc::new(Mutex::new(self));
        let typing = Arc::clone(&terminals);
        let thread = thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                salvo(&mut typing.lock().unwrap_or_else(PoisonError::into_inner), &text);
                line.clear();
            }
        });
        Follower { terminals, thread }
    }
}

/// The thread that types, until QEMU is gone.
pub(crate) struct Follower {
    terminals: Arc<Mutex<Terminals>>,
    thread: JoinHandle<()>,
}

impl Follower {
    /// For what is typed when no line shows.
    pub(crate) fn terminals(&self) -> MutexGuard<'_, Terminals> {
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After the VM is gone: whether the typing itself went well.
    pub(crate) fn finish(self) {
        self.thread.join().expect("the thread that types has panicked");
    }
}

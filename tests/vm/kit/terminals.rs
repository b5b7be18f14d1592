//! What the host can type on: a serial line with BREAK, a virtio console, a keyboard.
//!
//! The terminal driver echoes what is typed into the midst of the kernel's lines. These are
//! therefore followed on a second serial line, which the kernel writes to and never reads.

use cvm_tools::vm::channel::{Channel, Socket};
use cvm_tools::vm::command::Qemu;
use cvm_tools::vm::properties::Properties;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Until QEMU must have answered.
const QEMU: Duration = Duration::from_secs(30);

/// A console by the kernel's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    TtyS0,
    Hvc0,
}

const LINES: [&str; 2] = ["ttyS0", "hvc0"];

/// The sockets that QEMU connects to, before it does.
pub(crate) struct Sockets {
    /// Those of `LINES`, of the kernel's log and of a monitor.
    all: [(Socket, UnixListener); 4],
}

impl Sockets {
    /// `name` makes an abstract name of this VM's.
    pub(crate) fn listen(name: impl Fn(&str) -> String) -> Self {
        let all = ["ttyS0", "hvc0", "log", "keys"].map(|what| {
            let socket = Socket::Abstract(name(what));
            let listener = socket.listen().expect("a name that is free");
            (socket, listener)
        });
        Self { all }
    }

    pub(crate) fn add_to(&self, qemu: &mut Qemu) {
        let [ttys0, hvc0, log, keys] = self.all.each_ref().map(|(socket, _)| socket);
        qemu.to_socket("ttyS0", ttys0)
            .option("-serial", "chardev:ttyS0")
            .option("-chardev", log.chardev("log").with("logfile", "serial.log"))
            .option("-serial", "chardev:log")
            // Without a screen the kernel has no console tty0. The machine has a keyboard anyway.
            .device("VGA")
            .device("virtio-serial-pci,id=hvc")
            .to_socket("hvc0", hvc0)
            .device(Properties::of("virtconsole").with("bus", "hvc.0").with("chardev", "hvc0"))
            .to_socket("keys", keys)
            .option("-mon", "chardev=keys,mode=control");
    }

    /// Waits until QEMU has connected everything, as long as `alive` says that it may.
    pub(crate) fn accept(&self, alive: &mut dyn FnMut() -> bool) -> Option<Terminals> {
        let [ttys0, hvc0, log, keys] = self.all.each_ref().map(|(_, listener)| listener);
        let mut accept = |listener| Channel::accept(listener, &mut *alive).expect("a socket");
        let lines = [accept(ttys0)?.into_stream(), accept(hvc0)?.into_stream()];
        let log = accept(log)?.into_stream();
        let monitor = accept(keys)?.into_stream();
        let answers = self::lines(monitor.try_clone().expect("a socket"));
        Some(Terminals { lines, log: Some(log), monitor, answers, open: 0 })
    }
}

/// Everything that a person in front of the machine can type on.
pub(crate) struct Terminals {
    lines: [UnixStream; 2],
    log: Option<UnixStream>,
    monitor: UnixStream,
    answers: Receiver<String>,
    /// Commands whose answers have not been read.
    open: usize,
}

impl Terminals {
    /// Bytes on a line. What it does not take is dropped: a guest that does not listen must not
    /// hold the test up.
    pub(crate) fn send(&mut self, line: Line, bytes: &[u8]) {
        let _ = self.lines[line as usize].write_all(bytes);
    }

    /// A BREAK and then these bytes, the first of which is that of `SysRq`. They come by another
    /// way, and so wait until it is done.
    pub(crate) fn send_break(&mut self, line: Line, bytes: &[u8]) {
        self.perform("chardev-send-break", &json!({ "id": LINES[line as usize] }));
        self.settle();
        self.send(line, bytes);
    }

    /// Keys by QEMU's names, pressed in this order and let go: `ctrl-alt-delete`.
    pub(crate) fn press(&mut self, combination: &str) {
        let keys: Vec<Value> =
            combination.split('-').map(|key| json!({ "type": "qcode", "data": key })).collect();
        self.perform("send-key", &json!({ "keys": keys, "hold-time": 5 }));
    }

    /// Does not wait for the answer: the boot would run ahead.
    fn perform(&mut self, execute: &str, arguments: &Value) {
        let command = json!({ "execute": execute, "arguments": arguments });
        if self.monitor.write_all(format!("{command}\n").as_bytes()).is_ok() {
            self.open += 1;
        }
    }

    /// Waits for the answers that are due, or until QEMU is gone.
    fn settle(&mut self) {
        while self.open > 0 {
            let Ok(answer) = self.answers.recv_timeout(QEMU) else { return };
            assert!(!answer.contains("\"error\""), "QEMU refuses: {answer}");
            self.open -= usize::from(answer.contains("\"return\""));
        }
    }

    /// Hands the typing to a thread that does `salvo` for each line of the kernel's log. It is told
    /// the line, so that it can follow the boot.
    pub(crate) fn follow(
        mut self,
        mut salvo: impl FnMut(&mut Self, &str) + Send + 'static,
    ) -> Follower {
        self.perform("qmp_capabilities", &json!({}));
        // What nobody reads stops the guest, or is lost, as soon as a socket is full.
        for line in &self.lines {
            line.set_write_timeout(Some(Duration::from_millis(1))).expect("a socket");
            let mut output = line.try_clone().expect("a socket");
            thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        }
        let log = lines(self.log.take().expect("the log is followed once"));
        let terminals = Arc::new(Mutex::new(self));
        let typing = Arc::clone(&terminals);
        let thread = thread::spawn(move || {
            for line in log {
                salvo(&mut typing.lock().unwrap_or_else(PoisonError::into_inner), &line);
            }
        });
        Follower { terminals, thread }
    }
}

/// The lines that come from a socket, read as they come.
fn lines(socket: UnixStream) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut output = BufReader::new(socket);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
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
        self.terminals.lock().unwrap_or_else(PoisonError::into_inner).settle();
    }
}

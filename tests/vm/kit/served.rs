//! A disk that nbdkit serves to QEMU, so that its bytes can change between two reads.

use crate::kit::disk::Disk;
use crate::kit::tool::{Scratch, command, run};
use base64ct::{Base64, Encoding};
use cvm_tools::vm::channel::Socket;
use cvm_tools::vm::process::Running;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Until a boot must have come to the request that is held.
const HELD: Duration = Duration::from_secs(120);
/// How often a wait looks.
const GLANCE: Duration = Duration::from_millis(100);

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/lying/disk.py");

/// nbdkit takes a listening socket from its parent, as descriptor 3, in systemd's way (nbdkit(1),
/// "SOCKET ACTIVATION"): QEMU can connect at once, and nobody waits for a socket to appear. Its
/// own process number, which it has to be told, is known to a shell that becomes it.
const ACTIVATE: &str = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";

/// What the guest does that a lie waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    Read,
    /// The write itself takes place before the lie.
    Write,
}

/// A lie: at the n-th read or write that touches a byte of the disk, and at each later one.
pub(crate) struct Lie(Value);

impl Lie {
    /// At the first request that touches the byte at `at`, counted from the start of the disk.
    pub(crate) fn on(on: On, at: u64) -> Self {
        let on = match on {
            On::Read => "read",
            On::Write => "write",
        };
        Self(json!({ "on": on, "at": at, "from": 1 }))
    }

    /// At the n-th request, the first being 1.
    pub(crate) fn from(mut self, nth: u32) -> Self {
        self.0["from"] = json!(nth);
        self
    }

    fn act(mut self, act: &str, arguments: &[(&str, Value)]) -> Self {
        self.0["do"] = json!(act);
        for (name, value) in arguments {
            self.0[*name] = value.clone();
        }
        self
    }

    /// The disk now holds these bytes; a read already gets them.
    pub(crate) fn puts(self, to: u64, bytes: &[u8]) -> Self {
        let bytes = Base64::encode_string(bytes);
        self.act("put", &[("to", json!(to)), ("bytes", json!(bytes))])
    }

    /// The request fails.
    pub(crate) fn fails(self) -> Self {
        self.act("fail", &[])
    }

    /// The server is gone in the middle of the request.
    pub(crate) fn vanishes(self) -> Self {
        self.act("vanish", &[])
    }

    /// The answer to each request takes so many seconds, and all others wait for it.
    pub(crate) fn stalls(self, seconds: u32) -> Self {
        self.act("stall", &[("seconds", json!(seconds))])
    }

    /// Neither this request nor any later one is answered before the test lets go.
    pub(crate) fn holds(self, hold: &Hold) -> Self {
        self.act("hold", &[("fifo", json!(hold.fifo))])
    }
}

/// A FIFO that the server reads to its end, in the middle of a request.
pub(crate) struct Hold {
    fifo: PathBuf,
    _scratch: Scratch,
}

impl Hold {
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new("hold");
        let fifo = scratch.join("fifo");
        run(command("mkfifo").arg(&fifo));
        Self { fifo, _scratch: scratch }
    }

    /// Waits until a request is held; it goes on when what this returns is dropped.
    pub(crate) fn wait(&self) -> File {
        let start = Instant::now();
        while start.elapsed() < HELD {
            // Without a reader there is nothing to open, and nobody to wait for who may never come.
            let options = &mut OpenOptions::new();
            match options.write(true).custom_flags(libc::O_NONBLOCK).open(&self.fifo) {
                Ok(file) => return file,
                Err(_) => thread::sleep(GLANCE),
            }
        }
        panic!("no request was held within {} s", HELD.as_secs())
    }
}

pub(crate) struct Served {
    nbdkit: Option<Running>,
    socket: Socket,
    scratch: Scratch,
}

impl Served {
    /// A disk whose image is served with these lies. What is written reaches the image.
    pub(crate) fn lying(disk: &Disk, lies: Vec<Lie>) -> Self {
        Self::lying_behind(disk, &[], lies)
    }

    /// The same behind filters of nbdkit's.
    pub(crate) fn lying_behind(disk: &Disk, filters: &[&str], lies: Vec<Lie>) -> Self {
        let scratch = Scratch::new("served");
        let lies: Value = lies.into_iter().map(|lie| lie.0).collect();
        fs::write(scratch.join("lies.json"), lies.to_string()).expect("the folder is ours");
        let file = format!("file={}", disk.path().display());
        let plugin = ["python", PLUGIN, &file, "lies=lies.json", "journal=journal"];
        let (options, parameters): (Vec<_>, Vec<_>) =
            filters.iter().partition(|word| word.starts_with("--"));
        let log = ["--filter=log", "logfile=requests"];
        Self::serve(scratch, &[&options, &log[..1], &plugin, &log[1..], &parameters].concat())
    }

    /// A disk that nbdkit serves by these words of its command line: filters, plugin, parameters.
    pub(crate) fn by(arguments: &[&str]) -> Self {
        Self::serve(Scratch::new("served"), arguments)
    }

    fn serve(scratch: Scratch, arguments: &[&str]) -> Self {
        let socket = Socket::Abstract(scratch.socket());
        let listener = socket.listen().expect("a name that is free");
        listener.set_nonblocking(false).expect("a socket");
        let mut nbdkit = command("bash");
        nbdkit
            .args(["-c", ACTIVATE, "-", "setpriv", "--pdeathsig", "KILL"])
            .args(["nbdkit", "--foreground", "--threads=4"])
            .args(arguments)
            .current_dir(scratch.path())
            .stdin(OwnedFd::from(listener))
            .stderr(File::create(scratch.join("nbdkit.log")).expect("the folder is ours"));
        let nbdkit = Running::start(&mut nbdkit).expect("bash runs");
        Self { nbdkit: Some(nbdkit), socket, scratch }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// All bytes that were written so far, in order, also those that were written over since.
    pub(crate) fn journal(&self) -> Vec<u8> {
        fs::read(self.scratch.join("journal")).expect("the plugin writes it")
    }

    /// Offset and length of each read so far, in order.
    pub(crate) fn reads(&self) -> Vec<(u64, u64)> {
        self.requests("Read")
    }

    /// Offset and length of each write so far, in order.
    pub(crate) fn writes(&self) -> Vec<(u64, u64)> {
        self.requests("Write")
    }

    /// nbdkit-log-filter(1): `TIME connection=1 Read id=4 offset=0x400 count=0x400 ...`.
    fn requests(&self, kind: &str) -> Vec<(u64, u64)> {
        let log = fs::read_to_string(self.scratch.join("requests")).expect("the filter writes it");
        let number = |line: &str, name: &str| {
            let field = line.split(' ').find_map(|field| field.strip_prefix(name))?;
            u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()
        };
        log.lines()
            .filter(|line| line.split(' ').any(|word| word == kind))
            .filter_map(|line| Some((number(line, "offset=")?, number(line, "count=")?)))
            .collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.nbdkit = None;
        if thread::panicking() {
            let log = fs::read_to_string(self.scratch.join("nbdkit.log")).unwrap_or_default();
            eprintln!("---- nbdkit ----\n{log}----");
        }
    }
}

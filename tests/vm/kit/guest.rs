//! A VM that runs: its agent, its monitor, its console, and how it ends.

mod host;

use crate::kit::kernel::Arch;
use crate::kit::schema;
use crate::kit::slots::Slots;
use crate::kit::terminals::{Sockets, Terminals};
use crate::kit::tool::Scratch;
use crate::kit::tpm::Tpm;
use crate::kit::typed::Typed;
use cvm_tools::vm::channel::{Channel, Received, Socket};
use cvm_tools::vm::command::Qemu;
use cvm_tools::vm::monitor::{Event, Monitor};
use cvm_tools::vm::process::{self, Running};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

/// Until the agent must have spoken; an emulated boot takes seconds, on a loaded machine more.
const BOOT: Duration = Duration::from_secs(300);
/// Until a request must be answered, a write of hundreds of megabytes among them.
const ANSWER: Duration = Duration::from_secs(600);
/// Until QEMU must have answered or obeyed.
const QEMU: Duration = Duration::from_secs(30);
/// How often a wait looks whether the VM is still there.
const GLANCE: Duration = Duration::from_millis(200);
/// Lines of the console that a failure prints.
const TAIL: usize = 60;

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerOff,
    Reset,
    /// Another reason of QMP's `ShutdownCause`.
    Other(String),
}

/// What the guest's first serial line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// A file.
    Shown,
    /// The same, and what `Guest::enter` types.
    Typed,
    /// Terminals to be typed on, among others.
    Terminals,
}

/// What the agent answered to a request that failed.
#[derive(Debug)]
pub(crate) struct GuestError {
    /// Of the system call that failed, if one did.
    pub(crate) errno: Option<i32>,
    pub(crate) message: String,
}

pub(crate) struct Guest {
    qemu: Option<Running>,
    agent: Channel,
    monitor: Monitor,
    hello: Option<Value>,
    ending: Option<Ending>,
    terminals: Option<Terminals>,
    typed: Option<Typed>,
    scratch: Scratch,
    /// Ended when QEMU is gone.
    _tpm: Option<Tpm>,
    /// Given back when QEMU is gone.
    _slots: Slots,
}

impl Guest {
    pub(crate) fn launch(
        slots: Slots,
        arch: Arch,
        machine: &[OsString],
        console: Console,
        tpm: Option<Tpm>,
    ) -> Self {
        let scratch = Scratch::new("vm");
        let name = |what: &str| format!("{}-{what}", scratch.socket());
        let [agent, monitor] = ["agent", "monitor"].map(|what| Socket::Abstract(name(what)));
        let listen = |socket: &Socket| socket.listen().expect("a name that is free");
        let (agent_listener, monitor_listener) = (listen(&agent), listen(&monitor));
        let sockets = (console == Console::Terminals).then(|| Sockets::listen(name));
        let typed = (console == Console::Typed).then(|| Typed::on(&scratch));
        let mut words = Qemu::default();
        // The state after the end stays to be asked for, a reset included.
        words.words(machine).words(["-no-shutdown", "-no-reboot"]);
        match (&sockets, &typed) {
            (Some(sockets), _) => sockets.add_to(&mut words),
            (None, Some(_)) => Typed::add_to(&mut words),
            (None, None) => {
                words.option("-serial", "file:serial.log");
            }
        }
        words
            .device("virtio-serial-pci,id=ports")
            .device("virtserialport,bus=ports.0,chardev=agent,name=cvm.test")
            .to_socket("agent", &agent)
            .to_socket("monitor", &monitor)
            .option("-mon", "chardev=monitor,mode=control");
        // A test program that is killed runs no destructor: the kernel then ends QEMU.
        let mut qemu =
            process::bound("KILL", arch.qemu()).unwrap_or_else(|error| panic!("{error}"));
        qemu.args(words.arguments())
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stderr(File::create(scratch.join("qemu.log")).expect("the folder is ours"));
        let mut qemu = Running::start(&mut qemu).expect("setpriv runs");
        let start = Instant::now();
        let mut alive = || matches!(qemu.ended(), Ok(None)) && start.elapsed() < QEMU;
        let mut accept = |listener| Channel::accept(listener, &mut alive).expect("a socket");
        let (agent, monitor) = (accept(&agent_listener), accept(&monitor_listener));
        let terminals = sockets.as_ref().map(|sockets| sockets.accept(&mut alive));
        let (Some(agent), Some(monitor), None | Some(Some(_))) = (agent, monitor, &terminals)
        else {
            drop(qemu);
            panic!("cannot start QEMU: {}", read(&scratch, "qemu.log"));
        };
        let monitor = Monitor::open(monitor)
            .unwrap_or_else(|error| panic!("{error}: {}", read(&scratch, "qemu.log")));
        Self {
            qemu: Some(qemu),
            agent,
            monitor,
            hello: None,
            ending: None,
            terminals: terminals.flatten(),
            typed,
            scratch,
            _tpm: tpm,
            _slots: slots,
        }
    }

    /// Who the agent is; waits until the guest has booted to it.
    pub(crate) fn hello(&mut self) -> Value {
        if self.hello.is_none() {
            let message = self.hear(BOOT);
            assert!(message["hello"].is_object(), "the agent did not greet: {message}");
            self.hello = Some(message["hello"].clone());
        }
        self.hello.clone().unwrap_or_default()
    }

    /// Waits until the guest has booted or has ended, whichever comes: `None` when it has booted.
    pub(crate) fn booted_or_ended(&mut self) -> Option<Ending> {
        let start = Instant::now();
        while start.elapsed() < BOOT {
            match self.hear_for(GLANCE) {
                Received::Message(message) => {
                    self.hello = Some(message["hello"].clone());
                    return None;
                }
                Received::Nothing => self.notice_ending(),
                Received::Closed => panic!("QEMU ended: {}", read(&self.scratch, "qemu.log")),
            }
            if self.ending.is_some() {
                return self.ending.clone();
            }
        }
        panic!("the guest neither booted nor ended within {} s", BOOT.as_secs())
    }

    /// Has the agent do something: `tests/agent/src/verbs.rs` lists the verbs and arguments.
    pub(crate) fn call(&mut self, verb: &str, arguments: Value) -> Result<Value, GuestError> {
        self.call_within(ANSWER, verb, arguments)
    }

    /// The same with a limit of its own, for what may never be answered, or only after long.
    pub(crate) fn call_within(
        &mut self,
        limit: Duration,
        verb: &str,
        arguments: Value,
    ) -> Result<Value, GuestError> {
        self.hello();
        self.request(verb, arguments);
        let mut answer = self.hear(limit);
        match &answer["error"] {
            Value::Null => Ok(answer["ok"].take()),
            error => Err(GuestError {
                errno: error["errno"].as_i64().and_then(|errno| errno.try_into().ok()),
                message: error["message"].as_str().unwrap_or_default().to_owned(),
            }),
        }
    }

    /// The same for what must succeed.
    #[track_caller]
    pub(crate) fn ask(&mut self, verb: &str, arguments: Value) -> Value {
        self.call(verb, arguments).unwrap_or_else(|error| panic!("the guest {}", error.message))
    }

    /// Has the agent do something that ends the guest, and says how.
    pub(crate) fn end_by(&mut self, verb: &str, arguments: Value) -> Ending {
        self.hello();
        self.request(verb, arguments);
        self.wait_ending(QEMU)
    }

    /// The content of a file of the guest.
    #[track_caller]
    pub(crate) fn read(&mut self, path: &str) -> String {
        let content = self.ask("read", json!({ "path": path }));
        content.as_str().expect("the agent answers with text").to_owned()
    }

    /// `/run/cvm-init/boot.json`, which has to be what its schema says.
    #[track_caller]
    pub(crate) fn report(&mut self) -> Value {
        let text = self.read("/run/cvm-init/boot.json");
        let report = serde_json::from_str(&text).expect("the report is JSON");
        schema::check(&report).unwrap_or_else(|fault| panic!("{fault}"));
        report
    }

    fn request(&mut self, verb: &str, mut arguments: Value) {
        arguments["do"] = json!(verb);
        assert!(self.agent.send(&arguments), "cannot ask the agent to {verb}: QEMU is gone");
    }

    /// The agent's next message. A VM that ends fails the test at once, not after the time limit.
    fn hear(&mut self, limit: Duration) -> Value {
        let start = Instant::now();
        while start.elapsed() < limit {
            match self.hear_for(GLANCE) {
                Received::Message(message) => return message,
                Received::Nothing => self.notice_ending(),
                Received::Closed => panic!("QEMU ended: {}", read(&self.scratch, "qemu.log")),
            }
            if let Some(ending) = &self.ending {
                panic!("the VM ended ({ending:?}) and its agent said nothing");
            }
        }
        let processors = self.processors();
        panic!("the agent said nothing for {} s; {processors}", limit.as_secs())
    }

    fn hear_for(&mut self, patience: Duration) -> Received {
        self.agent.receive(patience).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Where each processor is, by QEMU: idle ones have HLT=1.
    fn processors(&mut self) -> String {
        let command = json!({ "command-line": "info registers -a" });
        let registers = self.qmp_with("human-monitor-command", &command);
        let lines = registers.as_str().unwrap_or_default().lines();
        let telling =
            lines.filter(|line| ["CPU#", "RIP=", " PC="].iter().any(|word| line.contains(word)));
        telling.collect::<Vec<_>>().join("; ")
    }

    fn notice_ending(&mut self) {
        // That QEMU is gone shows elsewhere.
        while let Ok(Some(event)) = self.monitor.event(Duration::ZERO) {
            self.take_event(&event);
        }
    }

    fn take_event(&mut self, event: &Event) {
        if event.name == "SHUTDOWN" {
            self.ending = Some(match event.data["reason"].as_str().unwrap_or_default() {
                "guest-shutdown" => Ending::PowerOff,
                "guest-reset" => Ending::Reset,
                other => Ending::Other(other.to_owned()),
            });
        }
    }

    /// What a VM of `Vm::with_terminals` can be typed on, once.
    pub(crate) fn terminals(&mut self) -> Terminals {
        self.terminals.take().expect("a VM with terminals")
    }

    /// A folder of this VM's.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// How the guest has ended, as far as QEMU has said so.
    pub(crate) fn ending(&mut self) -> Option<Ending> {
        self.notice_ending();
        self.ending.clone()
    }

    /// Waits for the guest to end by itself.
    pub(crate) fn wait_ending(&mut self, limit: Duration) -> Ending {
        let start = Instant::now();
        while start.elapsed() < limit {
            let event = self.monitor.event(GLANCE).unwrap_or_else(|error| self.give_up(&error));
            if let Some(event) = event {
                self.take_event(&event);
            }
            if let Some(ending) = &self.ending {
                return ending.clone();
            }
        }
        panic!("the VM did not end within {} s", limit.as_secs())
    }

    /// Has the guest power off, and waits until it has.
    pub(crate) fn power_off(&mut self) {
        assert_eq!(self.end_by("poweroff", json!({})), Ending::PowerOff);
    }

    /// What the console showed so far.
    pub(crate) fn serial(&self) -> String {
        read(&self.scratch, "serial.log").replace('\r', "")
    }

    /// Waits until the console shows `text`.
    pub(crate) fn wait_serial(&self, text: &str, limit: Duration) {
        self.wait_serial_for(&[text], limit);
    }

    /// Waits until the console shows one of these texts, and tells which.
    pub(crate) fn wait_serial_for<'a>(&self, texts: &[&'a str], limit: Duration) -> &'a str {
        let start = Instant::now();
        loop {
            let serial = self.serial();
            if let Some(text) = texts.iter().find(|text| serial.contains(**text)) {
                return text;
            }
            assert!(start.elapsed() < limit, "the console shows none of {texts:?}");
            thread::sleep(GLANCE);
        }
    }

    /// `STAGE: MESSAGE` of the one line with which `cvm-init` gave up.
    #[track_caller]
    pub(crate) fn fatal_line(&self) -> String {
        let serial = self.serial();
        let fatal: Vec<_> = serial
            .lines()
            .filter_map(|line| line.split_once("cvm-init: FATAL: ").map(|(_, reason)| reason))
            .collect();
        assert_eq!(fatal.len(), 1, "one fatal line is wanted: {fatal:?}");
        fatal[0].to_owned()
    }
}

fn read(scratch: &Scratch, name: &str) -> String {
    let bytes = fs::read(scratch.join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.qemu = None;
        if thread::panicking() {
            let serial = self.serial();
            let lines: Vec<_> = serial.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("---- console, the last lines ----\n{}\n----", tail.join("\n"));
        }
    }
}

//! A serial line to type on, whose output is in a file.
//!
//! QEMU has both ways of it in FIFOs (qemu(1), `-chardev pipe`). A socket would not do: it holds some hundred
//! bytes, since each is a packet of its own, and QEMU logs a byte twice for which it has no room
//! (`qemu_chr_write_buffer`).

use crate::kit::tool::Scratch;
use cvm_tools::vm::command::Qemu;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::thread;

pub(crate) struct Typed {
    keys: File,
    /// Has the other end open until QEMU has.
    output: Option<File>,
}

impl Typed {
    /// Before QEMU starts in this folder.
    pub(crate) fn on(scratch: &Scratch) -> Self {
        let [keys, output] = ["in", "out"].map(|way| {
            let path = scratch.path().join(format!("console.{way}"));
            mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).expect("the folder is ours");
            // An end alone would be waited for.
            OpenOptions::new().read(true).write(true).open(path).expect("it is ours")
        });
        // What nobody reads would stop the guest.
        let mut read = File::open(scratch.join("console.out")).expect("it is ours");
        thread::spawn(move || io::copy(&mut read, &mut io::sink()));
        Self { keys, output: Some(output) }
    }

    pub(crate) fn add_to(qemu: &mut Qemu) {
        qemu.option("-chardev", "pipe,id=console,path=console,logfile=serial.log")
            .option("-serial", "chardev:console");
    }

    /// Types a line.
    pub(crate) fn enter(&mut self, line: &str) {
        // QEMU runs: the end of its output is seen from now on.
        self.output = None;
        self.keys.write_all(format!("{line}\n").as_bytes()).expect("there is room for it");
    }
}

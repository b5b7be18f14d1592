//! The guest's `/sbin/init` in VM tests.
//!
//! It speaks JSON lines over the virtio-serial port named `cvm.test`: one hello, then one answer
//! a request, `{"ok": VALUE}` or `{"error": {"errno": N, "message": TEXT}}`. A test thereby asserts
//! on what the kernel says, not on log text. Whatever a request does, the agent lives on: it is
//! PID 1, and its end would be a kernel panic that hides the fault under test.

mod at_once;
mod data;
mod exercise;
mod facts;
mod flood;
mod kernel;
mod memory;
mod pattern;
mod process;
mod renames;
mod rootfs;
mod tree;
mod verbs;
mod writers;

use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::thread::sleep;
use std::time::Duration;

const PORT: &str = "cvm.test";
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> ! {
    let hello = facts::hello();
    loop {
        match find_port() {
            Ok(port) => {
                if let Err(error) = serve(port, &hello) {
                    complain(&format!("cannot serve {PORT}: {error}"));
                }
            }
            Err(error) => complain(&format!("cannot open {PORT}: {error}")),
        }
        sleep(PAUSE);
    }
}

/// Waits for the port: its driver may still be probing when the agent starts.
fn find_port() -> io::Result<File> {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten() {
            let entry = entry?;
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim_end() == PORT {
                let device = std::path::Path::new("/dev").join(entry.file_name());
                return OpenOptions::new().read(true).write(true).open(device);
            }
        }
        sleep(PAUSE);
    }
}

fn serve(mut port: File, hello: &Value) -> io::Result<()> {
    let mut requests = BufReader::new(port.try_clone()?);
    say(&mut port, &json!({ "hello": hello }))?;
    let mut line = Vec::new();
    loop {
        line.clear();
        // A port reads as ended while no host is connected.
        if requests.read_until(b'\n', &mut line)? == 0 {
            sleep(PAUSE);
            continue;
        }
        say(&mut port, &answer(&line))?;
    }
}

fn say(port: &mut File, value: &Value) -> io::Result<()> {
    port.write_all(format!("{value}\n").as_bytes())
}

fn answer(line: &[u8]) -> Value {
    let result = serde_json::from_slice(line)
        .map_err(|error| verbs::Error::from(format!("cannot parse the request: {error}")))
        .and_then(|request: Value| verbs::perform(&request));
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": { "errno": error.errno, "message": error.message } }),
    }
}

/// To the console, which may not be there: `eprintln` would panic then.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "agent: {message}");
}

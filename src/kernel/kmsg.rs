//! The logger: lines in the kernel's log, where a person with a serial console finds them.
//!
//! Source: `Documentation/ABI/testing/dev-kmsg`.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

use crate::effect::{self, Effect, effect};
use crate::error::Result;
use crate::kernel::file;

const MAKE: Effect<1> = Effect::new("make-node", "make {}");
const OPEN: Effect<1> = Effect::new("open", "open {}");
const WRITE: Effect<0> = Effect::new("write-line", "write a line to the kernel's log");

const NODE: &str = "/dev/kmsg";
/// Major and minor number (`Documentation/admin-guide/devices.txt`).
const DEVICE: (u32, u32) = (1, 11);

/// Syslog severity of the fatal line: `LOG_CRIT`. `quiet` hides severities 4 to 7 only.
const FATAL: u8 = 2;

/// Bytes of message text that fit in one record; the kernel refuses longer writes with EINVAL.
const LINE_MAX: usize = 900;

static KMSG: OnceLock<File> = OnceLock::new();
static LOGGER: KmsgLogger = KmsgLogger;

struct KmsgLogger;

/// Opens the kernel log and makes it the program's logger at level `info`. There may be no devtmpfs
/// yet: what happens before it is mounted must be told too.
///
/// # Errors
/// When `/dev/kmsg` cannot be made or opened.
pub fn open() -> Result<()> {
    effect(MAKE.on(&[&NODE]), make_node)?;
    let file = effect(OPEN.on(&[&NODE]), || file::open(NODE, file::WRITE))?;
    // A second call would find both already set to the same thing.
    let _ = KMSG.set(file);
    let _ = log::set_logger(&LOGGER);
    set_level(LevelFilter::Info);
    Ok(())
}

fn make_node() -> rustix::io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    match mknodat(CWD, NODE, FileType::CharacterDevice, mode, makedev(DEVICE.0, DEVICE.1)) {
        Err(Errno::EXIST) => Ok(()),
        outcome => outcome,
    }
}

/// Changes the level from which on lines are written.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Writes the last line of a boot that failed; also when [`open`] failed or was never called.
pub fn fatal(message: &str) {
    emit(FATAL, &format!("FATAL: {message}"));
}

/// Writes a line that no level hides.
#[cfg(feature = "fault")]
pub fn tell(message: &str) {
    emit(FATAL, message);
}

fn emit(severity: u8, message: &str) {
    let line = record(severity, message);
    // One write is one record. When it fails there is nobody left to tell.
    let _ = match KMSG.get() {
        Some(mut kmsg) => kmsg.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

/// Formats one record. Parts of a message may be the host's words (a disk's serial): what is
/// not printable ASCII is escaped, so that it can neither start a line nor drive a terminal.
#[must_use]
pub fn record(severity: u8, message: &str) -> String {
    let mut line = format!("<{severity}>cvm-init: ");
    let limit = line.len() + LINE_MAX;
    for c in message.chars() {
        if c == ' ' || c.is_ascii_graphic() {
            line.push(c);
        } else {
            line.extend(c.escape_default());
        }
        if line.len() >= limit {
            line.push_str("...");
            break;
        }
    }
    line.push('\n');
    line
}

impl Log for KmsgLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let severity = match record.level() {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        // A console that the host has stopped takes no line, and the kernel waits for it.
        effect::watch(WRITE, || emit(severity, &record.args().to_string()));
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt;
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn a_record_is_one_line_with_severity_and_prefix() {
        assert_eq!(record(6, "disk sda"), "<6>cvm-init: disk sda\n");
    }

    #[test]
    fn the_hosts_bytes_cannot_start_a_line_or_drive_a_terminal() {
        assert_eq!(
            record(2, "serial a\n<0>b\u{1b}[2Jé"),
            "<2>cvm-init: serial a\\n<0>b\\u{1b}[2J\\u{e9}\n"
        );
    }

    #[test]
    fn a_long_message_is_cut_below_the_kernels_limit() {
        let line = record(6, &"\u{1b}".repeat(5000));
        assert!(line.len() < 976, "{}", line.len());
        assert!(line.ends_with("...\n"));
    }

    /// A console that the host has stopped, until it is read.
    #[test]
    fn a_line_that_is_not_taken_is_watched() {
        let (mut console, kmsg) = std::io::pipe().unwrap();
        // The same pipe, through a description that does not wait when it is full.
        let path = format!("/proc/self/fd/{}", kmsg.as_raw_fd());
        let filling = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut filling = filling.unwrap();
        while filling.write_all(&[0; 4096]).is_ok() {}
        KMSG.set(File::from(OwnedFd::from(kmsg))).unwrap();
        log::set_max_level(LevelFilter::Debug);
        let watched = thread::scope(|scope| {
            scope.spawn(|| {
                LOGGER.log(
                    &Record::builder().level(Level::Info).args(format_args!("a line")).build(),
                );
            });
            let begun = Instant::now();
            while !effect::is_running("write-line") && begun.elapsed() < Duration::from_secs(5) {
                thread::yield_now();
            }
            let watched = effect::is_running("write-line");
            let mut taken = Vec::new();
            while !taken.ends_with(b"<6>cvm-init: a line\n") {
                let mut bytes = [0; 4096];
                let length = console.read(&mut bytes).unwrap();
                taken.extend_from_slice(&bytes[..length]);
            }
            watched
        });
        assert!(watched, "nobody watches over it");
        assert!(!effect::is_running("write-line"));
    }

    proptest! {
        #[test]
        fn a_record_is_one_printable_line_that_the_kernel_takes_whole(message: String) {
            let record = record(3, &message.repeat(20));
            let line = record.strip_suffix('\n').unwrap();
            prop_assert!(line.starts_with("<3>cvm-init: "));
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert!(record.len() < 976);
        }
    }
}

//! Verbs that report what the kernel says and change nothing.

use crate::verbs::{Answer, Args, Error};
use cvm_init::kernel::block;
use cvm_init::kernel::dm::{Control, Target};
use cvm_init::kernel::file;
use rustix::fs::{FileType, major, minor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Who the agent is and what it was started with; asked before it opens anything itself.
pub(crate) fn hello() -> Value {
    let arguments: Vec<_> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let environment: Vec<_> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    // The walk's own descriptor is closed by the time its target is asked for.
    let descriptors: Vec<_> =
        fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().map(|d| d.path()).collect();
    let files: Vec<_> = descriptors
        .iter()
        .filter_map(|descriptor| fs::read_link(descriptor).ok())
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    json!({
        "pid": std::process::id(),
        "uid": rustix::process::getuid().as_raw(),
        "gid": rustix::process::getgid().as_raw(),
        "arguments": arguments,
        "environment": environment,
        "files": files,
    })
}

pub(crate) fn read(args: &Args<'_>) -> Answer {
    text(args.text("path")?)
}

pub(crate) fn keys(_: &Args<'_>) -> Answer {
    text("/proc/keys")
}

fn text(path: &str) -> Answer {
    let bytes = fs::read(path).map_err(Error::of(format!("read {path}")))?;
    Ok(json!(String::from_utf8_lossy(&bytes)))
}

pub(crate) fn list(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    let names: io::Result<Vec<_>> = fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    let mut names = names.map_err(Error::of(format!("list {path}")))?;
    names.sort();
    Ok(json!(names))
}

pub(crate) fn stat(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    let meta = fs::symlink_metadata(path).map_err(Error::of(format!("stat {path}")))?;
    let kind = kind(meta.mode());
    let target = if kind == "symlink" {
        let target = fs::read_link(path).map_err(Error::of(format!("read link {path}")))?;
        json!(target.to_string_lossy())
    } else {
        Value::Null
    };
    Ok(json!({
        "type": kind,
        "mode": meta.mode() & 0o7777,
        "uid": meta.uid(),
        "gid": meta.gid(),
        "size": meta.size(),
        "mtime": meta.mtime(),
        "mtime_nsec": meta.mtime_nsec(),
        "nlink": meta.nlink(),
        "inode": meta.ino(),
        "rdev": format!("{}:{}", major(meta.rdev()), minor(meta.rdev())),
        "target": target,
        "xattrs": xattrs(path).map_err(Error::of(format!("read attributes of {path}")))?,
    }))
}

pub(crate) fn kind(mode: u32) -> &'static str {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::BlockDevice => "block",
        FileType::CharacterDevice => "character",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::Unknown => "unknown",
    }
}

fn xattrs(path: &str) -> rustix::io::Result<Value> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error),
    };
    names.truncate(length);
    let mut found = serde_json::Map::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).unwrap_or_default();
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(length);
        found.insert(name.to_string_lossy().into_owned(), json!(String::from_utf8_lossy(&value)));
    }
    Ok(Value::Object(found))
}

/// proc(5), "/proc/pid/mountinfo".
pub(crate) fn mounts(_: &Args<'_>) -> Answer {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(Error::of("read mountinfo"))?;
    table.lines().map(mount).collect()
}

fn mount(line: &str) -> Answer {
    let odd = || Error::from(format!("cannot parse the mount \"{line}\""));
    let (front, back) = line.split_once(" - ").ok_or_else(odd)?;
    let mut front = front.split(' ');
    let mut back = back.splitn(3, ' ');
    let next = |fields: &mut dyn Iterator<Item = &str>| fields.next().map(unescape).ok_or_else(odd);
    Ok(json!({
        "id": next(&mut front)?.parse::<u32>().unwrap_or_default(),
        "parent": next(&mut front)?.parse::<u32>().unwrap_or_default(),
        "device": next(&mut front)?,
        "root": next(&mut front)?,
        "target": next(&mut front)?,
        "options": next(&mut front)?,
        "propagation": front.map(unescape).collect::<Vec<_>>(),
        "fstype": next(&mut back)?,
        "source": next(&mut back)?,
        "super": next(&mut back)?,
    }))
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Every mapping of the device-mapper, in the order of its minor numbers. Of several targets the
/// kinds are parted by blanks, tables and statuses by line feeds.
pub(crate) fn dm(_: &Args<'_>) -> Answer {
    let node = "/dev/mapper/control";
    let control = Control::open(Path::new(node)).map_err(Error::of(format!("open {node}")))?;
    let disks = fs::read_dir("/sys/block").map_err(Error::of("list the disks"))?;
    let mut found = BTreeMap::new();
    for disk in disks.flatten() {
        let name = disk.file_name().to_string_lossy().into_owned();
        let Some(minor) = name.strip_prefix("dm-").and_then(|minor| minor.parse::<u32>().ok())
        else {
            continue;
        };
        found.insert(minor, mapping(&control, &disk.path())?);
    }
    Ok(found.into_values().collect())
}

fn mapping(control: &Control, disk: &Path) -> Answer {
    let attribute = |file: &str| {
        fs::read_to_string(disk.join(file))
            .map(|text| text.trim_end().to_owned())
            .map_err(Error::of(format!("read {file} of {}", disk.display())))
    };
    let name = attribute("dm/name")?;
    let table = control.table(&name).map_err(|error| Error::from(error.to_string()))?;
    let status = control.status(&name).map_err(|error| Error::from(error.to_string()))?;
    let join = |targets: &[Target], field: fn(&Target) -> &str, separator: &str| {
        targets.iter().map(field).collect::<Vec<_>>().join(separator)
    };
    Ok(json!({
        "name": name,
        "uuid": attribute("dm/uuid")?,
        "device": attribute("dev")?,
        "read_only": attribute("ro")? == "1",
        "kind": join(&table, |target| &target.kind, " "),
        "sectors": table.iter().map(|target| target.sectors).sum::<u64>(),
        "table": join(&table, |target| &target.params, "\n"),
        "status": join(&status, |target| &target.params, "\n"),
    }))
}

/// Whether a disk could be had for the volume: a failure's error number says what is in the way.
pub(crate) fn claim(args: &Args<'_>) -> Answer {
    let name = args.text("name")?;
    let disks = block::disks().map_err(Error::of("list the disks"))?;
    let disk = disks.iter().find(|disk| disk.device.name == name);
    let disk = disk.ok_or_else(|| Error::from(format!("there is no disk {name}")))?;
    disk.device.claim(file::READ).map_err(Error::of(format!("claim {name}")))?;
    Ok(Value::Null)
}

/// `type` is the magic number of statfs(2); block counts are in units of `bsize` bytes.
pub(crate) fn statfs(args: &Args<'_>) -> Answer {
    let path = args.text("path")?;
    let fs = rustix::fs::statfs(path).map_err(Error::of(format!("statfs {path}")))?;
    Ok(json!({
        "type": fs.f_type,
        "bsize": fs.f_bsize,
        "blocks": fs.f_blocks,
        "bfree": fs.f_bfree,
        "bavail": fs.f_bavail,
        "files": fs.f_files,
        "ffree": fs.f_ffree,
    }))
}

/// Kernel document `ABI/testing/dev-kmsg`: a record a read, `PRIORITY,SEQUENCE,MICROSECONDS,...;TEXT`.
pub(crate) fn kmsg(_: &Args<'_>) -> Answer {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open("/dev/kmsg")
        .map_err(Error::of("open /dev/kmsg"))?;
    let mut record = vec![0; 8192];
    let mut lines = Vec::new();
    loop {
        match log.read(&mut record) {
            Ok(length) => lines.extend(kmsg_line(record.get(..length).unwrap_or_default())),
            // Overwritten before it was read: the next read goes on with the oldest that is left.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(json!(lines)),
            Err(error) => return Err(Error::of("read /dev/kmsg")(error)),
        }
    }
}

fn kmsg_line(record: &[u8]) -> Option<Value> {
    let record = String::from_utf8_lossy(record);
    let (head, body) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    Some(json!({ "level": priority & 7, "text": body.lines().next()? }))
}

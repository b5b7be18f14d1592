//! The device-mapper, by its ioctls: mappings of one target each, and nothing read back but
//! what the kernel says of them.
//!
//! Source: `include/uapi/linux/dm-ioctl.h`.

#![expect(
    unsafe_code,
    reason = "rustix has no typed call for the device-mapper's ioctls"
)]

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};

use crate::block::Dev;
use crate::effect::effect;
use crate::error::{Error, Result};

/// Bytes of `struct dm_ioctl`, the head of every call's buffer.
const HEADER: u16 = 312;
/// Bytes of `struct dm_target_spec`.
const TARGET_SPEC: usize = 40;
/// Buffer of a call: the head and room for the longest table or list that is asked for.
const BUFFER: u16 = 16 * 1024;
/// Version of the interface that is spoken: the first of its present form.
const VERSION: [u32; 3] = [4, 0, 0];

const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;
const LIST_VERSIONS: u8 = 13;

const READONLY: u32 = 1 << 0;
/// With `TABLE_STATUS`: the table in place of the status.
const STATUS_TABLE: u32 = 1 << 4;
const BUFFER_FULL: u32 = 1 << 8;
/// With `DEV_REMOVE`: remove now, or when the last user is gone.
const DEFERRED_REMOVE: u32 = 1 << 17;

/// What a mapping is to be.
#[derive(Debug, Clone)]
pub struct Mapping<'a> {
    /// Name below `/dev/mapper`.
    pub name: &'a str,
    /// Unique name for tools that know it, such as udev and cryptsetup.
    pub uuid: &'a str,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// One target that covers a mapping from its first sector on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Type of the target: `verity`.
    pub kind: String,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters; in a status, what the target says of itself.
    pub params: String,
}

/// The device-mapper's control device.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    /// Opens `/dev/mapper/control`.
    ///
    /// # Errors
    /// When the kernel has no device-mapper.
    pub fn open() -> Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mapper/control")
            .map(Self)
            .map_err(|cause| {
                Error::cannot(
                    &"open /dev/mapper/control (kernel option BLK_DEV_DM)",
                    &cause,
                )
            })
    }

    /// Makes sure that the kernel has a target of type `kind`, which is built by `option`.
    ///
    /// # Errors
    /// Names both when it has not.
    pub fn require_target(&self, kind: &str, option: &str) -> Result<()> {
        let answer = effect("list the device-mapper's targets", || {
            self.call(LIST_VERSIONS, 0, "", &[])
        })?;
        // struct dm_target_versions: next, version[3], name
        let known = records(&answer, 0).any(|record| text(record, 16) == kind);
        if known {
            return Ok(());
        }
        Err(Error::new(format!(
            "the kernel has no device-mapper target {kind:?} (kernel option {option})"
        )))
    }

    /// Names of all mappings.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let answer = self.call(LIST_DEVICES, 0, "", &[])?;
        // struct dm_name_list: dev, next, name; a dev of 0 when there is none
        Ok(records(&answer, 8)
            .filter(|record| u64_at(record, 0) != 0)
            .map(|record| text(record, 12))
            .collect())
    }

    /// Makes a mapping with its target and its node in `/dev/mapper`, and makes sure that the
    /// live table is what `is_live` takes for the one asked for.
    ///
    /// # Errors
    /// When the kernel refuses a step, or runs another table.
    pub fn activate(
        &self,
        mapping: &Mapping<'_>,
        target: &Target,
        is_live: fn(asked: &str, live: &str) -> bool,
    ) -> Result<Dev> {
        let device = self.create(mapping)?;
        self.load(mapping, target)?;
        self.resume(mapping.name)?;
        self.require_live(mapping.name, target, is_live)?;
        self.make_node(mapping.name, device)?;
        Ok(device)
    }

    /// Makes the node in `/dev/mapper`: there is no udev yet to make it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_node(&self, name: &str, device: Dev) -> Result<()> {
        effect(format!("make the node /dev/mapper/{name}"), || {
            symlink(
                format!("../dm-{}", device.minor),
                format!("/dev/mapper/{name}"),
            )
        })
    }

    /// Makes a mapping that has no table yet.
    ///
    /// # Errors
    /// When the kernel refuses, as when the name or the UUID is taken.
    pub fn create(&self, mapping: &Mapping<'_>) -> Result<Dev> {
        effect(format!("create the mapping {}", mapping.name), || {
            let mut request = Request::new(mapping.name, 0)?;
            request.put_text(176, mapping.uuid, 129)?;
            let answer = self.send(DEV_CREATE, request)?;
            Ok::<_, io::Error>(Dev::from_huge(u64_at(&answer, 40)))
        })
    }

    /// Loads a table; the next [`Control::resume`] makes it live.
    ///
    /// # Errors
    /// When the target refuses its parameters; the kernel log says why.
    pub fn load(&self, mapping: &Mapping<'_>, target: &Target) -> Result<()> {
        let flags = if mapping.read_only { READONLY } else { 0 };
        let doing = format!("load the {} table of {}", target.kind, mapping.name);
        effect(doing, || {
            self.call(TABLE_LOAD, flags, mapping.name, &target.to_spec()?)
        })?;
        Ok(())
    }

    /// Makes the loaded table live.
    ///
    /// # Errors
    /// When the target cannot start.
    pub fn resume(&self, name: &str) -> Result<()> {
        effect(format!("resume the mapping {name}"), || {
            self.call(DEV_SUSPEND, 0, name, &[])
        })?;
        Ok(())
    }

    /// The live target and its parameters.
    ///
    /// # Errors
    /// When there is no such mapping, or none of exactly one target.
    pub fn table(&self, name: &str) -> Result<Target> {
        self.target(name, STATUS_TABLE, "table")
    }

    /// The live target and what it says of itself.
    ///
    /// # Errors
    /// As [`Control::table`].
    pub fn status(&self, name: &str) -> Result<Target> {
        self.target(name, 0, "status")
    }

    /// Removes a mapping, now or as soon as its last user is gone.
    ///
    /// # Errors
    /// ENXIO when there is none of this name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call(DEV_REMOVE, DEFERRED_REMOVE, name, &[])?;
        Ok(())
    }

    /// Makes sure that the live table is the one asked for.
    ///
    /// # Errors
    /// Shows both when it is not.
    pub fn require_live(
        &self,
        name: &str,
        asked: &Target,
        is_live: fn(asked: &str, live: &str) -> bool,
    ) -> Result<()> {
        let live = self.table(name)?;
        let same = live.kind == asked.kind
            && live.sectors == asked.sectors
            && is_live(&asked.params, &live.params);
        if same {
            return Ok(());
        }
        Err(Error::new(format!(
            "the live table of {name} is not the one asked for: {live:?}, asked for {asked:?}"
        )))
    }

    fn target(&self, name: &str, flags: u32, what: &str) -> Result<Target> {
        effect(format!("read the {what} of {name}"), || {
            let answer = self.call(TABLE_STATUS, flags, name, &[])?;
            match u32_at(&answer, 20) {
                1 => Ok(Target::from_spec(
                    records(&answer, 0).next().unwrap_or_default(),
                )),
                n => Err(io::Error::other(format!("it has {n} targets, not one"))),
            }
        })
    }

    fn call(&self, command: u8, flags: u32, name: &str, data: &[u8]) -> io::Result<Vec<u8>> {
        let mut request = Request::new(name, flags)?;
        if !data.is_empty() {
            request.put_u32(20, 1); // target_count
            request.put(HEADER.into(), data)?;
        }
        self.send(command, request)
    }

    fn send(&self, command: u8, request: Request) -> io::Result<Vec<u8>> {
        let Request(mut buffer) = request;
        // _IOWR(DM_IOCTL, command, struct dm_ioctl): the size is that of the head alone.
        let opcode =
            opcode::from_components(ioctl::Direction::ReadWrite, 0xfd, command, HEADER.into());
        let call = Call {
            opcode,
            buffer: &mut buffer,
        };
        // SAFETY: the opcode is one of the device-mapper's, the file is its control device (or
        // answers ENOTTY), and the buffer's head states the buffer's length, which the kernel
        // does not write beyond.
        unsafe { ioctl::ioctl(&self.0, call) }?;
        if u32_at(&buffer, 28) & BUFFER_FULL != 0 {
            return Err(io::Error::other("the answer is longer than the buffer"));
        }
        Ok(buffer)
    }
}

impl Target {
    /// `struct dm_target_spec` with the parameters behind it, padded to eight bytes.
    fn to_spec(&self) -> io::Result<Vec<u8>> {
        if self.params.contains('\0') || self.kind.len() >= 16 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = (TARGET_SPEC + self.params.len() + 1).next_multiple_of(8);
        let mut spec = Vec::with_capacity(length);
        spec.extend(0_u64.to_ne_bytes()); // sector_start
        spec.extend(self.sectors.to_ne_bytes());
        spec.extend(0_u32.to_ne_bytes()); // status
        spec.extend(0_u32.to_ne_bytes()); // next: there is none
        spec.extend(self.kind.bytes());
        spec.resize(TARGET_SPEC, 0);
        spec.extend(self.params.bytes());
        spec.resize(length, 0);
        Ok(spec)
    }

    fn from_spec(spec: &[u8]) -> Self {
        Self {
            kind: text(spec.get(..TARGET_SPEC).unwrap_or_default(), 24),
            sectors: u64_at(spec, 8),
            // The kernel ends some tables with a blank.
            params: text(spec, TARGET_SPEC).trim_end().to_owned(),
        }
    }
}

/// The buffer of a call, with its head filled in.
struct Request(Vec<u8>);

impl Request {
    fn new(name: &str, flags: u32) -> io::Result<Self> {
        let mut request = Self(vec![0; BUFFER.into()]);
        let head = [
            VERSION[0],
            VERSION[1],
            VERSION[2],
            BUFFER.into(), // data_size
            HEADER.into(), // data_start
            0,             // target_count
            0,             // open_count
            flags,
        ];
        for (index, value) in head.into_iter().enumerate() {
            request.put_u32(4 * index, value);
        }
        request.put_text(48, name, 128)?;
        Ok(request)
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        if let Some(field) = self.0.get_mut(at..at + 4) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Puts a NUL-terminated text into a field of `room` bytes.
    fn put_text(&mut self, at: usize, text: &str, room: usize) -> io::Result<()> {
        if text.len() >= room || text.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.put(at, text.as_bytes())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> io::Result<()> {
        self.0
            .get_mut(at..at + bytes.len())
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(bytes);
        Ok(())
    }
}

/// The records of an answer: each begins `next_at` bytes before a u32 that holds its distance
/// to the following one, 0 in the last.
fn records(answer: &[u8], next_at: usize) -> impl Iterator<Item = &[u8]> {
    let first = answer.get(u32_at(answer, 16) as usize..);
    let end = u32_at(answer, 12) as usize;
    let first = first.filter(|_| end > usize::from(HEADER));
    std::iter::successors(first, move |record| match u32_at(record, next_at) {
        0 => None,
        next => record.get(next as usize..),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |field| u32::from_ne_bytes(*field))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |field| u64::from_ne_bytes(*field))
}

/// The text from `at` up to its NUL.
fn text(bytes: &[u8], at: usize) -> String {
    let rest = bytes.get(at..).unwrap_or_default();
    let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned()
}

struct Call<'a> {
    opcode: Opcode,
    buffer: &'a mut [u8],
}

// SAFETY: the device-mapper reads and writes the buffer that the pointer leads to, within the
// length stated in its head, which `Request` sets to the buffer's own.
unsafe impl Ioctl for Call<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_survives_its_wire_form() {
        let target = Target {
            kind: "verity".into(),
            sectors: 4096,
            params: "1 8:2 8:3".into(),
        };
        let spec = target.to_spec().unwrap();
        assert_eq!(spec.len() % 8, 0);
        assert_eq!(Target::from_spec(&spec), target);
    }

    #[test]
    fn a_head_states_version_sizes_and_name() {
        let Request(buffer) = Request::new("root_verity", READONLY).unwrap();
        assert_eq!(u32_at(&buffer, 0), 4);
        assert_eq!(u32_at(&buffer, 12) as usize, buffer.len());
        assert_eq!(u32_at(&buffer, 16), 312);
        assert_eq!(u32_at(&buffer, 28), 1);
        assert_eq!(text(&buffer, 48), "root_verity");
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(Request::new(&"x".repeat(128), 0).is_err());
        assert!(Request::new("a\0b", 0).is_err());
    }
}

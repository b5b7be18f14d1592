//! The device-mapper, by its ioctls: mappings, and nothing read back but what the kernel says of
//! them.
//!
//! Source: `include/uapi/linux/dm-ioctl.h`.

#![expect(unsafe_code, reason = "rustix has no typed call for the device-mapper's ioctls")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};

use crate::effect::{Effect, effect};
use crate::error::{Error, Result};
use crate::format::device::Dev;
use crate::kernel::file;

pub use crate::format::dm::{Target, Version};

use crate::format::dm::{BUFFER, HEADER, Message};

const LIST_TARGETS: Effect<0> = Effect::new("list-targets", "list the device-mapper's targets");
const CREATE: Effect<1> = Effect::new("create", "create the mapping {}");
const LOAD_TABLE: Effect<1> = Effect::new("load-table", "load the table of {}");
const RESUME: Effect<1> = Effect::new("resume", "resume the mapping {}");
const READ_TABLE: Effect<1> = Effect::new("read-table", "read the table of {}");
const READ_STATUS: Effect<1> = Effect::new("read-status", "read the status of {}");
const MAKE_NODE: Effect<1> = Effect::new("make-mapping-node", "make the node /dev/mapper/{}");

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
/// With `DEV_REMOVE`: remove now, or when the last user is gone.
const DEFERRED_REMOVE: u32 = 1 << 17;

/// More than there are modules with targets that a boot loads beside what it does.
const TARGET_MODULES_MAX: usize = 8;

/// How many requests for swap may be on their way through a mapping at once. The kernel goes by what
/// is written here for each request.
const SWAP_BIOS: &str = "/sys/module/dm_mod/parameters/swap_bios";

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

/// Lets no more than `count` requests for swap be on their way through a mapping at once, where one
/// of its targets asks for such a limit, as dm-crypt does.
///
/// # Errors
/// When the kernel knows no limit (before Linux 5.12).
pub fn limit_swap_bios(count: u32) -> io::Result<()> {
    file::write(SWAP_BIOS, count.to_string().as_bytes())
}

/// The device-mapper's control device.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    /// Opens the control device, wherever it is to be found at the moment.
    ///
    /// # Errors
    /// When the kernel has no device-mapper.
    pub fn open(node: &Path) -> io::Result<Self> {
        file::open(node, file::BOTH).map(Self)
    }

    /// The version of the kernel's target of type `kind`, which is built by `option`.
    ///
    /// # Errors
    /// Names both when it has none.
    pub fn require_target(&self, kind: &str, option: &str) -> Result<Version> {
        let answer = effect(LIST_TARGETS, || {
            until_whole(|| self.call(LIST_VERSIONS, &Message::new("", 0)?))
        })?;
        let known = answer.target_kinds().find(|(known, _)| known == kind);
        known.map(|(_, version)| version).ok_or_else(|| {
            Error::new(format!(
                "the kernel has no device-mapper target {kind:?} (kernel option {option})"
            ))
        })
    }

    /// Names of all mappings.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let answer = self.call(LIST_DEVICES, &Message::new("", 0)?)?;
        Ok(answer.mapping_names().collect())
    }

    /// Makes a mapping with its table and its node in `/dev/mapper`, and makes sure that the live
    /// table is the one asked for: the same targets, whose parameters `is_live` takes for the same.
    ///
    /// # Errors
    /// When the kernel refuses a step, or runs another table.
    pub fn activate(
        &self,
        mapping: &Mapping<'_>,
        table: &[Target],
        is_live: fn(asked: &str, live: &str) -> bool,
    ) -> Result<Dev> {
        let device = self.create(mapping)?;
        self.replace(mapping, table, is_live)?;
        make_node(mapping.name, device)?;
        Ok(device)
    }

    /// Gives a mapping another table, also while it is in use, and makes sure of it as
    /// [`Control::activate`] does.
    ///
    /// # Errors
    /// When the kernel refuses a step, or runs another table.
    pub fn replace(
        &self,
        mapping: &Mapping<'_>,
        table: &[Target],
        is_live: fn(asked: &str, live: &str) -> bool,
    ) -> Result<()> {
        self.load(mapping, table)?;
        self.resume(mapping.name)?;
        self.require_live(mapping.name, table, is_live)
    }

    /// Makes a mapping that has no table yet. Fails when its name or its UUID is taken.
    fn create(&self, mapping: &Mapping<'_>) -> Result<Dev> {
        effect(CREATE.on(&[&mapping.name]), || {
            let request = Message::new(mapping.name, 0)?.with_uuid(mapping.uuid)?;
            self.call(DEV_CREATE, &request).map(|answer| answer.device())
        })
    }

    /// Loads a table; the next [`Control::resume`] makes it live. When a target refuses its
    /// parameters, the kernel log says why.
    fn load(&self, mapping: &Mapping<'_>, table: &[Target]) -> Result<()> {
        let flags = if mapping.read_only { READONLY } else { 0 };
        effect(LOAD_TABLE.on(&[&mapping.name]), || {
            let request = Message::new(mapping.name, flags)?.with_table(table)?;
            self.call(TABLE_LOAD, &request)
        })?;
        Ok(())
    }

    /// Makes the loaded table live.
    fn resume(&self, name: &str) -> Result<()> {
        effect(RESUME.on(&[&name]), || self.call(DEV_SUSPEND, &Message::new(name, 0)?))?;
        Ok(())
    }

    /// The live targets and their parameters.
    ///
    /// # Errors
    /// When there is no such mapping.
    pub fn table(&self, name: &str) -> Result<Vec<Target>> {
        self.targets(name, STATUS_TABLE, READ_TABLE)
    }

    /// The live targets and what they say of themselves.
    ///
    /// # Errors
    /// As [`Control::table`].
    pub fn status(&self, name: &str) -> Result<Vec<Target>> {
        self.targets(name, 0, READ_STATUS)
    }

    /// Removes a mapping, now or as soon as its last user is gone.
    ///
    /// # Errors
    /// ENXIO when there is none of this name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call(DEV_REMOVE, &Message::new(name, DEFERRED_REMOVE)?)?;
        Ok(())
    }

    /// Makes sure that the live table is the one asked for, and shows both when it is not.
    fn require_live(
        &self,
        name: &str,
        asked: &[Target],
        is_live: fn(asked: &str, live: &str) -> bool,
    ) -> Result<()> {
        let live = self.table(name)?;
        let is_same = |(asked, live): (&Target, &Target)| {
            live.kind == asked.kind
                && live.sectors == asked.sectors
                && is_live(&asked.params, &live.params)
        };
        if live.len() == asked.len() && asked.iter().zip(&live).all(is_same) {
            return Ok(());
        }
        Err(Error::new(format!(
            "the live table of {name} is not the one asked for: {live:?}, asked for {asked:?}"
        )))
    }

    fn targets(&self, name: &str, flags: u32, read: Effect<1>) -> Result<Vec<Target>> {
        effect(read.on(&[&name]), || {
            self.call(TABLE_STATUS, &Message::new(name, flags)?)?.targets()
        })
    }

    fn call(&self, command: u8, request: &Message) -> io::Result<Message> {
        // Not from the heap, whose memory of this size comes from the kernel each time.
        let mut buffer = [0; BUFFER as usize];
        request.fill(&mut buffer)?;
        // _IOWR(DM_IOCTL, command, struct dm_ioctl): the size is that of the head alone.
        let direction = ioctl::Direction::ReadWrite;
        let call = Call {
            opcode: opcode::from_components(direction, 0xfd, command, HEADER.into()),
            buffer: &mut buffer,
        };
        // SAFETY: the opcode is one of the device-mapper's, the file is its control device (or
        // answers ENOTTY), and the buffer's head states the buffer's length, which the kernel
        // does not write beyond.
        unsafe { ioctl::ioctl(&self.0, call) }?;
        let answer = Message::answer(&buffer);
        if answer.is_cut_short() {
            return Err(io::Error::other("the answer is longer than the buffer"));
        }
        Ok(answer)
    }
}

/// What the kernel answers when it is asked for its targets. It counts them and then writes them down, into
/// as many bytes as it has counted: a module that comes with one in between cuts the answer short, and then
/// it is asked again (`__list_versions` in `drivers/md/dm-ioctl.c`).
fn until_whole<T>(list: impl Fn() -> io::Result<T>) -> io::Result<T> {
    (1..TARGET_MODULES_MAX).find_map(|_| list().ok()).map_or_else(list, Ok)
}

/// Makes the node in `/dev/mapper`: there is no udev yet to make it.
fn make_node(name: &str, device: Dev) -> Result<()> {
    effect(MAKE_NODE.on(&[&name]), || {
        symlink(format!("../dm-{}", device.minor), format!("/dev/mapper/{name}"))
    })
}

struct Call<'a> {
    opcode: Opcode,
    buffer: &'a mut [u8],
}

// SAFETY: the device-mapper reads and writes the buffer that the pointer leads to, within the
// length stated in its head, which is that of the buffer.
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
    use std::cell::Cell;

    #[test]
    fn targets_are_asked_for_again_while_modules_bring_more_of_them() {
        let asked = Cell::new(0);
        let whole_at = |number| {
            asked.set(0);
            until_whole(|| {
                asked.set(asked.get() + 1);
                if asked.get() < number { Err(io::Error::other("cut short")) } else { Ok(()) }
            })
        };
        for number in [1, 2, TARGET_MODULES_MAX] {
            assert!(whole_at(number).is_ok());
            assert_eq!(asked.get(), number);
        }
        assert_eq!(whole_at(TARGET_MODULES_MAX + 1).unwrap_err().to_string(), "cut short");
        assert_eq!(asked.get(), TARGET_MODULES_MAX);
    }
}

//! The buffers that pass between us and the device-mapper: bytes to values and back.
//!
//! Source: `include/uapi/linux/dm-ioctl.h`.

use std::io;

use crate::format::device::Dev;

/// Bytes of `struct dm_ioctl`, the head of every call's buffer.
pub(crate) const HEADER: u16 = 312;
/// Bytes of `struct dm_target_spec`.
const TARGET_SPEC: usize = 40;
/// Bytes of a call's buffer: the head and room for the longest table or list that is asked for.
pub(crate) const BUFFER: u16 = 16 * 1024;
/// Version of the interface that is spoken: the first of its present form.
const VERSION: [u32; 3] = [4, 0, 0];

// Fields of struct dm_ioctl.
const DATA_SIZE_AT: usize = 12;
const DATA_START_AT: usize = 16;
const TARGET_COUNT_AT: usize = 20;
const FLAGS_AT: usize = 28;
const DEV_AT: usize = 40;
const NAME_AT: usize = 48;
const NAME_MAX: usize = 128;
const UUID_AT: usize = 176;
const UUID_MAX: usize = 129;

/// In the answer's flags: it did not fit.
const BUFFER_FULL: u32 = 1 << 8;

/// Of a target's code: major, minor, patch level.
pub type Version = [u32; 3];

/// One target of a mapping's table; it begins where the one before it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Type of the target: `verity`.
    pub kind: String,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters; in a status, what the target says of itself.
    pub params: String,
}

impl Target {
    /// `struct dm_target_spec` with the parameters behind it, padded to eight bytes, of a target that
    /// begins at sector `start`.
    fn to_spec(&self, start: u64) -> io::Result<Vec<u8>> {
        if self.params.contains('\0') || self.kind.len() >= 16 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = (TARGET_SPEC + self.params.len() + 1).next_multiple_of(8);
        let mut spec = Vec::with_capacity(length);
        spec.extend(start.to_ne_bytes()); // sector_start
        spec.extend(self.sectors.to_ne_bytes());
        spec.extend(0_u32.to_ne_bytes()); // status
        spec.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes()); // next
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

/// A request or an answer: `struct dm_ioctl` and what belongs behind it, without what is left of a call's
/// buffer of [`BUFFER`] bytes.
#[derive(Debug)]
pub struct Message(Vec<u8>);

impl Message {
    /// What the kernel has left in a buffer, as long as it says that the answer is.
    #[must_use]
    pub fn answer(buffer: &[u8]) -> Self {
        let length = u32_at(buffer, DATA_SIZE_AT) as usize;
        Self(buffer.get(..length).unwrap_or(buffer).to_vec())
    }

    /// A request about the mapping `name`, or about none.
    pub(crate) fn new(name: &str, flags: u32) -> io::Result<Self> {
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
        let mut bytes = Vec::with_capacity(HEADER.into());
        bytes.extend(head.into_iter().flat_map(u32::to_ne_bytes));
        bytes.resize(HEADER.into(), 0);
        let mut message = Self(bytes);
        message.put_text(NAME_AT, name, NAME_MAX)?;
        Ok(message)
    }

    /// The same with the UUID that the mapping is to have.
    pub(crate) fn with_uuid(mut self, uuid: &str) -> io::Result<Self> {
        self.put_text(UUID_AT, uuid, UUID_MAX)?;
        Ok(self)
    }

    /// The same with a table.
    pub(crate) fn with_table(mut self, table: &[Target]) -> io::Result<Self> {
        let count = u32::try_from(table.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.put(TARGET_COUNT_AT, &count.to_ne_bytes())?;
        let mut start = 0_u64;
        for target in table {
            self.0.extend(target.to_spec(start)?);
            start = start.checked_add(target.sectors).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(self)
    }

    /// Puts a request into the buffer that the kernel reads and writes.
    ///
    /// # Errors
    /// When it has no room there.
    pub(crate) fn fill(&self, buffer: &mut [u8; BUFFER as usize]) -> io::Result<()> {
        let room = buffer.get_mut(..self.0.len()).ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(&self.0);
        Ok(())
    }

    /// Whether the answer did not fit.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        u32_at(&self.0, FLAGS_AT) & BUFFER_FULL != 0
    }

    /// The device number of the mapping.
    #[must_use]
    pub fn device(&self) -> Dev {
        Dev::from_huge(u64_at(&self.0, DEV_AT))
    }

    /// The targets of a table or status.
    ///
    /// # Errors
    /// When they are not as many as is said, or do not follow one another.
    pub fn targets(&self) -> io::Result<Vec<Target>> {
        let bad = |what: &str| io::Error::other(format!("the answer's targets {what}"));
        let specs = self.0.get(u32_at(&self.0, DATA_START_AT) as usize..).unwrap_or_default();
        let mut targets = Vec::new();
        let (mut at, mut start) = (0, 0_u64);
        for _ in 0..u32_at(&self.0, TARGET_COUNT_AT) {
            let spec = specs.get(at..).filter(|spec| spec.len() >= TARGET_SPEC);
            let spec = spec.ok_or_else(|| bad("are fewer than it says"))?;
            if u64_at(spec, 0) != start {
                return Err(bad("do not follow one another"));
            }
            let target = Target::from_spec(spec);
            start = start.checked_add(target.sectors).ok_or_else(|| bad("have no end"))?;
            targets.push(target);
            // Unlike in a request, counted from the first one.
            let next = u32_at(spec, 20) as usize;
            if next <= at {
                break;
            }
            at = next;
        }
        if targets.len() as u64 == u64::from(u32_at(&self.0, TARGET_COUNT_AT)) {
            Ok(targets)
        } else {
            Err(bad("are fewer than it says"))
        }
    }

    /// Types in a list of target versions, each with its version: `struct dm_target_versions` has a
    /// u32 for the next one, three for the version, then the name.
    pub fn target_kinds(&self) -> impl Iterator<Item = (String, Version)> {
        self.records(0).map(|record| (text(record, 16), [4, 8, 12].map(|at| u32_at(record, at))))
    }

    /// Names in a list of devices: `struct dm_name_list` has a u64 of device number, 0 when there
    /// is none at all, a u32 for the next one, then the name.
    pub fn mapping_names(&self) -> impl Iterator<Item = String> {
        self.records(8).filter(|record| u64_at(record, 0) != 0).map(|record| text(record, 12))
    }

    /// The records of the answer: each has at `next_at` the distance in bytes to the following
    /// one, 0 in the last.
    fn records(&self, next_at: usize) -> impl Iterator<Item = &[u8]> {
        let start = u32_at(&self.0, DATA_START_AT) as usize;
        let end = u32_at(&self.0, DATA_SIZE_AT) as usize;
        let first = self.0.get(start..).filter(|_| end > HEADER.into());
        std::iter::successors(first, move |record| match u32_at(record, next_at) {
            0 => None,
            next => record.get(next as usize..),
        })
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
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(bytes);
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_target_survives_its_wire_form() {
        let target = Target { kind: "verity".into(), sectors: 4096, params: "1 8:2 8:3".into() };
        let spec = target.to_spec(0).unwrap();
        assert_eq!(spec.len() % 8, 0);
        assert_eq!(Target::from_spec(&spec), target);
    }

    #[test]
    fn a_head_states_version_sizes_and_name() {
        let mut buffer = [0xff; BUFFER as usize];
        let request = Message::new("root_verity", 1).unwrap();
        request.fill(&mut buffer).unwrap();
        assert_eq!(u32_at(&buffer, 0), 4);
        assert_eq!(u32_at(&buffer, 12) as usize, buffer.len());
        assert_eq!(u32_at(&buffer, 16), 312);
        assert_eq!(u32_at(&buffer, 28), 1);
        assert_eq!(text(&buffer, 48), "root_verity");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = Target { kind: "crypt".into(), sectors: 8, params: "x".repeat(BUFFER.into()) };
        let request = Message::new("", 0).unwrap().with_table(&[long]).unwrap();
        assert!(request.fill(&mut [0; BUFFER as usize]).is_err());
        assert!(Message::new(&"x".repeat(128), 0).is_err());
        assert!(Message::new("a\0b", 0).is_err());
    }

    /// An answer to `LIST_VERSIONS`, its head and its records.
    const VERSION: Version = [1, 10, 2];

    fn versions(names: &[String]) -> Message {
        let Message(mut answer) = Message::new("", 0).unwrap();
        for (index, name) in names.iter().enumerate() {
            let length = (16 + name.len() + 1).next_multiple_of(8);
            let last = index + 1 == names.len();
            let next = if last { 0 } else { u32::try_from(length).unwrap() };
            let record = answer.len();
            answer.extend(next.to_ne_bytes());
            for number in VERSION {
                answer.extend(number.to_ne_bytes());
            }
            answer.extend(name.bytes());
            answer.resize(record + length, 0);
        }
        let end = u32::try_from(answer.len()).unwrap();
        answer[12..16].copy_from_slice(&end.to_ne_bytes());
        answer.resize(BUFFER.into(), 0xff);
        Message::answer(&answer)
    }

    /// An answer to `TABLE_STATUS`: unlike a request's, its distances count from the first target.
    fn table(targets: &[Target]) -> Message {
        let Message(mut answer) = Message::new("", 0).unwrap();
        let head = usize::from(HEADER);
        answer[TARGET_COUNT_AT] = u8::try_from(targets.len()).unwrap();
        let mut start = 0_u64;
        for target in targets {
            let at = answer.len();
            answer.extend(target.to_spec(start).unwrap());
            let next = u32::try_from(answer.len() - head).unwrap();
            answer[at + 20..at + 24].copy_from_slice(&next.to_ne_bytes());
            start = start.saturating_add(target.sectors);
        }
        Message::answer(&answer)
    }

    #[test]
    fn targets_that_are_missing_or_do_not_follow_one_another_are_refused() {
        let target = |sectors| Target { kind: "linear".into(), sectors, params: "7:0 0".into() };
        let good = table(&[target(8), target(16), target(8)]);
        assert_eq!(good.targets().unwrap(), [target(8), target(16), target(8)]);
        let altered = |at: usize, value: u8| {
            let mut bytes = good.0.clone();
            bytes[at] = value;
            Message::answer(&bytes).targets().unwrap_err().to_string()
        };
        let first = usize::from(HEADER);
        assert_eq!(altered(TARGET_COUNT_AT, 4), "the answer's targets are fewer than it says");
        assert_eq!(altered(first + 20, 0), "the answer's targets are fewer than it says");
        assert_eq!(altered(first + 8, 9), "the answer's targets do not follow one another");
        assert!(table(&[target(u64::MAX), target(1)]).targets().is_err());
        assert_eq!(table(&[]).targets().unwrap(), []);
    }

    #[test]
    fn what_lies_behind_an_answers_end_is_not_read() {
        let target = Target { kind: "linear".into(), sectors: 8, params: "7:0 0".into() };
        let Message(mut buffer) = table(&[target.clone(), target.clone()]);
        let end = u32::try_from(buffer.len()).unwrap();
        buffer.resize(BUFFER.into(), 0xff);
        let until = |end: u32| {
            let mut buffer = buffer.clone();
            buffer[DATA_SIZE_AT..DATA_SIZE_AT + 4].copy_from_slice(&end.to_ne_bytes());
            Message::answer(&buffer)
        };
        assert_eq!(until(end).targets().unwrap(), [target.clone(), target]);
        assert_eq!(until(end).0.len() as u64, u64::from(end));
        // Within the second one.
        assert!(until(end - 16).targets().is_err());
        // One that claims more than there is room for is the whole buffer.
        for beyond in [u32::from(BUFFER) + 1, u32::MAX] {
            assert_eq!(until(beyond).0.len(), usize::from(BUFFER));
        }
    }

    proptest! {
        #[test]
        fn every_table_survives_its_wire_form(sectors in prop::collection::vec(0..1_u64 << 60, 0..9)) {
            let targets: Vec<_> = sectors.into_iter().map(|sectors| Target {
                kind: "crypt".into(), sectors, params: format!("a {sectors}"),
            }).collect();
            prop_assert_eq!(table(&targets).targets().unwrap(), targets.clone());
            let Message(request) = Message::new("", 0).unwrap().with_table(&targets).unwrap();
            prop_assert_eq!(u32_at(&request, TARGET_COUNT_AT) as usize, targets.len());
            let mut at = usize::from(HEADER);
            for target in &targets {
                prop_assert_eq!(&Target::from_spec(&request[at..]), target);
                at += u32_at(&request, at + 20) as usize;
            }
        }

        #[test]
        fn every_target_survives_its_wire_form(
            kind in "[a-z-]{1,15}",
            sectors: u64,
            params in "([!-~]([ -~]{0,300}[!-~])?)?",
        ) {
            let target = Target { kind, sectors, params };
            prop_assert_eq!(Target::from_spec(&target.to_spec(0).unwrap()), target);
        }

        #[test]
        fn records_are_found_by_their_distances(names in prop::collection::vec("[a-z-]{1,20}", 0..20)) {
            let found: Vec<_> = versions(&names).target_kinds().collect();
            let wanted: Vec<_> = names.into_iter().map(|name| (name, VERSION)).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn any_answer_comes_to_an_end(mut answer: Vec<u8>, numbers: Vec<u8>, next_at in 0..64_usize) {
            // Small numbers lead to places within it, and so on to more records.
            for (field, number) in answer.chunks_exact_mut(4).zip(numbers) {
                field.copy_from_slice(&u32::from(number).to_ne_bytes());
            }
            let message = Message::answer(&answer);
            let _ = message.targets();
            prop_assert!(message.records(next_at).count() <= message.0.len() + 1);
            for record in message.records(next_at) {
                prop_assert!(!Target::from_spec(record).params.contains('\0'));
            }
        }
    }
}

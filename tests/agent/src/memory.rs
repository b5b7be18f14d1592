//! Verbs on the machine's memory: what its pages are, and bytes planted to be found.

use crate::pattern::pattern;
use crate::verbs::{Answer, Args, Error};
use cvm_init::format::hex;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

const PAGE: usize = 4096;

/// Address and length of the pages that hold planted bytes.
static PLANTED: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Flags of page frames (kernel document `admin-guide/mm/pagemap`).
pub(crate) fn pages(args: &Args<'_>) -> Answer {
    let flags = File::open("/proc/kpageflags").map_err(Error::of("open /proc/kpageflags"))?;
    args.numbers("frames")?
        .map(|frame| {
            let mut bytes = [0; 8];
            let place = frame.saturating_mul(8);
            flags.read_exact_at(&mut bytes, place).map_err(Error::of("read /proc/kpageflags"))?;
            Ok(json!(u64::from_le_bytes(bytes)))
        })
        .collect()
}

/// Writes the first `bytes` of a seed's pattern to the start of each of some pages of its own, and
/// answers with them as hexadecimal text.
pub(crate) fn plant(args: &Args<'_>) -> Answer {
    let number = |name| args.number(name).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (seed, pages) = (args.number("seed")?, number("pages")?);
    let mut bytes = vec![0; number("bytes")?.min(PAGE)];
    pattern(seed, 0, &mut bytes);
    let length = pages.saturating_mul(PAGE);
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    #[expect(unsafe_code, reason = "the pages have to go back to the kernel by themselves")]
    // SAFETY: a new mapping of this length, at a place of the kernel's choice, which nobody else
    // knows of.
    let area = unsafe {
        let start = mmap_anonymous(std::ptr::null_mut(), length, protection, flags)
            .map_err(Error::of("map pages"))?;
        *PLANTED.lock().unwrap_or_else(PoisonError::into_inner) =
            (start.expose_provenance(), length);
        std::slice::from_raw_parts_mut(start.cast::<u8>(), length)
    };
    for page in area.chunks_mut(PAGE) {
        for (place, byte) in page.iter_mut().zip(&bytes) {
            *place = *byte;
        }
    }
    Ok(json!(hex::encode(&bytes)))
}

/// Gives the pages back with what stands in them.
pub(crate) fn unplant(_: &Args<'_>) -> Answer {
    let (start, length) =
        std::mem::take(&mut *PLANTED.lock().unwrap_or_else(PoisonError::into_inner));
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: the pages of `plant`, which nothing points to; without any, the kernel refuses.
    unsafe { munmap(std::ptr::with_exposed_provenance_mut(start), length) }
        .map_err(Error::of("unmap the pages"))?;
    Ok(Value::Null)
}

//! The kernel's grace periods, waits until every processor has passed a point where it holds
//! nothing.
//!
//! Source: `rcupdate.rcu_expedited` in `Documentation/admin-guide/kernel-parameters.txt`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kernel::{attribute, file};

const EXPEDITED: &str = "/sys/kernel/rcu_expedited";

static OURS: AtomicBool = AtomicBool::new(false);

/// Asks the processors to pass at once, as the kernel itself does up to its first program. Later
/// it waits for the clock to tick some times; to nobody's good while there is but one program.
///
/// # Errors
/// When the kernel has no such switch, as one for a single processor.
pub fn expedite() -> io::Result<()> {
    if attribute::text(Path::new(EXPEDITED))?.trim_end() == "0" {
        set("1")?;
        OURS.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Leaves it as it was before [`expedite`].
///
/// # Errors
/// When the switch cannot be written.
pub fn unexpedite() -> io::Result<()> {
    if OURS.swap(false, Ordering::Relaxed) { set("0") } else { Ok(()) }
}

fn set(value: &str) -> io::Result<()> {
    file::write(EXPEDITED, value.as_bytes())
}

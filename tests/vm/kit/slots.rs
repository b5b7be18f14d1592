//! How many VMs run at the same time: an emulated machine wants a core or more, and a test that
//! measures wants to be alone.

use std::sync::{Condvar, Mutex, PoisonError};

pub(crate) const SLOTS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

/// The right to run a VM, given back on drop.
pub(crate) struct Slots(usize);

impl Slots {
    pub(crate) fn one() -> Self {
        Self::take(1)
    }

    pub(crate) fn all() -> Self {
        Self::take(SLOTS)
    }

    fn take(wanted: usize) -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            FREED.wait_while(free, |free| *free < wanted).unwrap_or_else(PoisonError::into_inner);
        *free -= wanted;
        Self(wanted)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREED.notify_all();
    }
}

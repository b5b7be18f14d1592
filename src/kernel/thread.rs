//! Threads of PID 1.
//!
//! The standard library gives each two megabytes of stack. Where huge pages are on for everybody
//! (`CONFIG_TRANSPARENT_HUGEPAGE_ALWAYS`, Debian's kernels), the kernel puts one there at the first touch
//! when the address happens to be right for it, and PID 1 has five times its memory.

use std::thread::Builder;

/// Bytes of stack: far more than any thread needs, and too few for a huge page.
const STACK: usize = 256 << 10;

/// A thread that is to be started.
pub fn builder() -> Builder {
    Builder::new().stack_size(STACK)
}

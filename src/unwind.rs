//! What the standard library asks of libunwind, answered without it.
//!
//! A panic ends the boot by its hook and then aborts, so nothing is ever unwound, and nobody could
//! read a stack trace of a stripped binary. The linker cannot know that: it would pack libunwind,
//! and with it a reader of debug information (gimli, addr2line, a decompressor), into PID 1, which
//! is a third of its bytes. Found here first, these functions keep all of that out.
//!
//! Source: Itanium C++ ABI, Exception Handling, level I.

#![expect(unsafe_code, reason = "the symbols are those that the standard library is linked with")]

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK` of `_Unwind_Reason_Code`.
const END_OF_STACK: c_int = 5;

/// A walk of the stack that is over before the first frame.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_visit: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Functions that only run while a stack is unwound.
macro_rules! never_called {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> ! {
                std::process::abort()
            }
        )*
    };
}

never_called! {
    _Unwind_GetDataRelBase
    _Unwind_GetIPInfo
    _Unwind_GetLanguageSpecificData
    _Unwind_GetRegionStart
    _Unwind_GetTextRelBase
    _Unwind_Resume
    _Unwind_SetGR
    _Unwind_SetIP
}

//! Sleeping takes no time here.
//!
//! A reader without the lock looks again, with pauses of 31 ms together, before it calls something damage: a writer
//! might be at work. On a simulated disk nobody is, and damage is what most inputs are.

use std::ffi::{c_int, c_void};

/// In place of the C library's, which `std::thread::sleep` calls.
#[unsafe(no_mangle)]
extern "C" fn clock_nanosleep(_: c_int, _: c_int, _: *const c_void, _: *mut c_void) -> c_int {
    0
}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn nanosleep(_: *const c_void, _: *mut c_void) -> c_int {
    0
}

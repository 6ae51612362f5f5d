//! Any bytes as the log. An odd first byte puts the first pages of a real store before the rest, so that the
//! frames are read; with a base and marks, or without.

use crate::base::{FIRST_FRAME_AT, base};
use crate::checks::check_log;

pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    match mode & 3 {
        1 => check_log(&[&base().unmarked[..FIRST_FRAME_AT], rest].concat()),
        3 => check_log(&[&base().main[..FIRST_FRAME_AT], rest].concat()),
        _ => check_log(rest),
    };
}

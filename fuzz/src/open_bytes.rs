//! Any bytes as the log. An odd first byte puts the header page of a real store before the rest, so that the
//! frames are read.

use crate::base::{HEADER_PAGE_LEN, base};
use crate::checks::check_log;

pub fn run(bytes: &[u8]) {
    let Some((&mode, rest)) = bytes.split_first() else { return };
    if mode & 1 == 0 {
        check_log(rest);
    } else {
        check_log(&[&base().main[..HEADER_PAGE_LEN], rest].concat());
    }
}

//! Reading a log frame by frame.

mod raw;
mod replay;
mod resync;

pub(crate) use raw::*;
pub(crate) use replay::{Ending, Replayed, replay};
pub(crate) use resync::{Gap, Piece, Resync};

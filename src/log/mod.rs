//! One generation's log: creating, opening, appending to and reading one log file.
//!
//! A generation lasts from one compaction to the next and has its own file, salt and frame key. Frames are only
//! ever appended to the file; nothing within it is changed in place, except for the marks in the mark page.
//!
//! - `create` writes an empty log, and `header` checks what a file is and whether the key is right.
//! - `place` maps a caller's path to a log, and `left_over` clears what a crash has left next to it.
//! - `recovery` opens a log that was closed or crashed. It uses `replay` to build the index from the frames, and
//!   `quarantine` to keep the bytes that it cuts off.
//! - `scan` walks over frames, and decides where a log ends and whether it is damaged.
//! - `writer` appends frames; `space` gets it the room for them, of which `reserve` keeps some; and `commits`
//!   makes them durable: `group_commit` decides which thread syncs, `syncs` counts, and `marks` notes how far the
//!   log is durable.
//! - `values` reads single values while the log is in use.
//! - `builder` writes a complete new log in frames of many operations, which `frame_builder` collects.
//!
//! Nothing here knows what a key or a value means: that is up to `store/` and `read/`.

pub(crate) mod builder;
pub(crate) mod commits;
pub(crate) mod create;
pub(crate) mod file;
mod frame_builder;
pub(crate) mod group_commit;
pub(crate) mod header;
pub(crate) mod index_file;
pub(crate) mod index_writer;
pub(crate) mod left_over;
pub(crate) mod marks;
pub(crate) mod place;
pub(crate) mod quarantine;
pub(crate) mod recovery;
pub(crate) mod replay;
pub(crate) mod reserve;
pub(crate) mod scan;
mod space;
mod syncs;
pub(crate) mod values;
pub(crate) mod writer;

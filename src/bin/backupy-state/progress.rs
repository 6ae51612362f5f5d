//! A progress bar on stderr for long operations, if stderr is a terminal.
//!
//! The bar uses no colours and no escape codes: a carriage return redraws it, which works in every terminal.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use backupy_state::Store;
use backupy_state::testing::copy_progress;

use crate::line::columns_of;
use crate::text::len_of_file;

/// What an operation is doing, and how much of it is done.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// Runs `work`; meanwhile, a terminal shows what `step` returns. Without a bar if no thread can be started for it.
pub(crate) fn with_bar<T>(mut step: impl FnMut() -> Step + Send, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let width = bar_width(columns_of(io::stderr()));
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let draw_until_ended = move || {
            loop {
                draw(&line(&step(), width));
                if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            draw(&" ".repeat(AROUND_BAR_WIDTH + width));
            draw("");
        };
        let _ = thread::Builder::new().spawn_scoped(scope, draw_until_ended);
        // Dropped when the work ends, also by a panic, which then ends the bar.
        let _working = working;
        work()
    })
}

/// [`with_bar`] for work that copies the `live` bytes of a store to a file, which has the suffix `.new` until it
/// is complete. `read_back` is how much of it has been read back.
pub(crate) fn with_copy_bar<T>(
    live: u64,
    file: &Path,
    read_back: impl Fn() -> u64 + Send,
    work: impl FnOnce() -> T,
) -> T {
    let mut written = written_to(file);
    let step = move || {
        let written = written();
        if written < live {
            return Step { name: "writing", done: written, total: live };
        }
        Step { name: "checking", done: read_back(), total: written }
    };
    with_bar(step, work)
}

/// [`with_copy_bar`] for work that replaces the log of a store.
pub(crate) fn with_rewrite_bar<T>(store: &Store, work: impl FnOnce() -> T) -> T {
    with_copy_bar(store.stats().live_bytes, store.path(), || copy_progress(store), work)
}

/// How much has been written to a file that has the suffix `.new` until it is complete. Never decreases, not even
/// when the complete file loses the suffix.
pub(crate) fn written_to(file: &Path) -> impl FnMut() -> u64 + use<> {
    let mut unfinished = file.to_path_buf().into_os_string();
    unfinished.push(".new");
    let mut written = 0;
    move || {
        written = len_of_file(Path::new(&unfinished)).max(written);
        written
    }
}

const PAUSE: Duration = Duration::from_millis(100);
const BAR_WIDTH_MAX: usize = 30;
/// The width of the name, the brackets and the percentage.
const AROUND_BAR_WIDTH: usize = 20;

/// A line as wide as the terminal could move the cursor to the next one, and a longer one could not be erased.
fn bar_width(columns: Option<usize>) -> usize {
    columns.map_or(BAR_WIDTH_MAX, |columns| BAR_WIDTH_MAX.min(columns.saturating_sub(AROUND_BAR_WIDTH + 1)))
}

/// A failure to draw is ignored: the work continues.
fn draw(line: &str) {
    let _ = write!(io::stderr(), "\r{line}\r").and_then(|()| io::stderr().flush());
}

fn line(step: &Step, width: usize) -> String {
    let Step { name, done, total } = step;
    let part_of = |n: u64| (u128::from(*done.min(total)) * u128::from(n)).checked_div(u128::from(*total));
    let width = width as u64;
    let (filled, percent) = (part_of(width).unwrap_or(u128::from(width)), part_of(100).unwrap_or(100));
    let bar: String = (0..u128::from(width)).map(|i| if i < filled { '#' } else { '.' }).collect();
    format!("{name:<12}[{bar}] {percent:>3} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_leaves_the_last_column_of_a_narrow_terminal_free() {
        assert_eq!([None, Some(200), Some(51), Some(40)].map(bar_width), [30, 30, 30, 19]);
    }

    #[test]
    fn the_bar_grows_with_progress_and_keeps_its_width() {
        let at = |done, total| line(&Step { name: "writing", done, total }, BAR_WIDTH_MAX);
        assert_eq!(at(0, 90), "writing     [..............................]   0 %");
        assert_eq!(at(30, 90), "writing     [##########....................]  33 %");
        assert_eq!(at(89, 90), "writing     [#############################.]  98 %");
        let full = "writing     [##############################] 100 %";
        for (done, total) in [(90, 90), (91, 90), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(at(done, total), full);
        }
        assert_eq!(full.len(), AROUND_BAR_WIDTH + BAR_WIDTH_MAX);
        assert_eq!(
            line(&Step { name: "writing", done: 1, total: 2 }, 19),
            "writing     [#########..........]  50 %"
        );
    }
}

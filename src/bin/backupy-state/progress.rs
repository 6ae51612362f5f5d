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
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let draw_until_ended = move || {
            loop {
                draw(&line(&step()));
                if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            draw(&" ".repeat(LINE_WIDTH));
            draw("");
        };
        let _ = thread::Builder::new().spawn_scoped(scope, draw_until_ended);
        // Dropped when the work ends, also by a panic, which then ends the bar.
        let _working = working;
        work()
    })
}

/// [`with_bar`] for work that copies the store to a file, which has the suffix `.new` until it is complete.
pub(crate) fn with_copy_bar<T>(store: &Store, file: &Path, work: impl FnOnce() -> T) -> T {
    let live = store.stats().live_bytes;
    let mut written = written_to(file);
    let step = move || {
        let written = written();
        if written < live {
            return Step { name: "writing", done: written, total: live };
        }
        Step { name: "checking", done: copy_progress(store), total: written }
    };
    with_bar(step, work)
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
const BAR_WIDTH: u64 = 30;
/// The width of the name, the bar and the percentage; fits any terminal.
const LINE_WIDTH: usize = 50;

/// A failure to draw is ignored: the work continues.
fn draw(line: &str) {
    let _ = write!(io::stderr(), "\r{line}\r").and_then(|()| io::stderr().flush());
}

fn line(step: &Step) -> String {
    let Step { name, done, total } = step;
    let part_of = |n: u64| (u128::from(*done.min(total)) * u128::from(n)).checked_div(u128::from(*total));
    let (filled, percent) = (part_of(BAR_WIDTH).unwrap_or(u128::from(BAR_WIDTH)), part_of(100).unwrap_or(100));
    let bar: String = (0..u128::from(BAR_WIDTH)).map(|i| if i < filled { '#' } else { '.' }).collect();
    format!("{name:<12}[{bar}] {percent:>3} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_progress_and_keeps_its_width() {
        let at = |done, total| line(&Step { name: "writing", done, total });
        assert_eq!(at(0, 90), "writing     [..............................]   0 %");
        assert_eq!(at(30, 90), "writing     [##########....................]  33 %");
        assert_eq!(at(89, 90), "writing     [#############################.]  98 %");
        let full = "writing     [##############################] 100 %";
        for (done, total) in [(90, 90), (91, 90), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(at(done, total), full);
        }
        assert_eq!(full.len(), LINE_WIDTH);
    }
}

//! A bar on stderr for what may take long, where stderr is a terminal.
//!
//! No colours and no escape codes: it is drawn by going back to the start of its line, which every terminal can.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How far something is.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) done: u64,
    pub(crate) whole: u64,
}

/// Does the work; meanwhile a terminal shows again and again how far it is.
pub(crate) fn shown<T>(mut how_far: impl FnMut() -> Step + Send, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    let (working, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                draw(&line(&how_far()));
                if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            draw(&" ".repeat(LINE_WIDTH));
            draw("");
        });
        // Goes with the work, also when that panics, and tells the bar to go too.
        let _working = working;
        work()
    })
}

const PAUSE: Duration = Duration::from_millis(100);
const BAR_WIDTH: u64 = 30;
/// Name, bar and percentage, on the narrowest terminal there is.
const LINE_WIDTH: usize = 50;

/// If nobody looks at it any more, that is no failure of the work.
fn draw(line: &str) {
    let _ = write!(io::stderr(), "\r{line}\r").and_then(|()| io::stderr().flush());
}

fn line(step: &Step) -> String {
    let Step { name, done, whole } = step;
    let part_of = |n: u64| (u128::from(*done.min(whole)) * u128::from(n)).checked_div(u128::from(*whole));
    let (marks, percent) = (part_of(BAR_WIDTH).unwrap_or(u128::from(BAR_WIDTH)), part_of(100).unwrap_or(100));
    let bar: String = (0..u128::from(BAR_WIDTH)).map(|i| if i < marks { '#' } else { '.' }).collect();
    format!("{name:<12}[{bar}] {percent:>3} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_is_done_and_keeps_its_width() {
        let at = |done, whole| line(&Step { name: "writing", done, whole });
        assert_eq!(at(0, 90), "writing     [..............................]   0 %");
        assert_eq!(at(30, 90), "writing     [##########....................]  33 %");
        assert_eq!(at(89, 90), "writing     [#############################.]  98 %");
        let full = "writing     [##############################] 100 %";
        for (done, whole) in [(90, 90), (91, 90), (0, 0), (u64::MAX, u64::MAX)] {
            assert_eq!(at(done, whole), full);
        }
        assert_eq!(full.len(), LINE_WIDTH);
    }
}

//! Lines of text: untrusted parts are escaped, and a line that is wider than the terminal is broken between words.
//!
//! A path, a run id or a file's contents may hold anything. Shown as it is, it could control the terminal, reverse
//! the order of what follows it, or begin a new line that looks like a part of the report. So whatever goes to
//! stdout or stderr as text goes through [`safe`], as a whole line, and this program adds its line breaks later.

use std::io::{self, Write};
use std::os::fd::AsFd;

/// The text on one line, with control and format characters, line breaks and everything else that is not visible
/// escaped as in a Rust string. A space stays a space. A backslash or a quote is not escaped, because parts of the
/// line may be escaped already.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => safe.push(c),
            // A combining mark is escaped only at the start of a string: after the `.`, it stays as it is.
            c => safe.extend(['.', c].iter().collect::<String>().escape_debug().skip(1)),
        }
    }
    safe
}

/// Breaks a line between words so that it fits `columns`. Its text begins in column `start`, and the lines after
/// the first one are indented by `indent`. A word that is too long is not broken: paths are there to be copied.
pub(crate) fn wrapped(line: &str, columns: usize, start: usize, indent: usize) -> String {
    let (mut wrapped, mut at) = (String::with_capacity(line.len()), start);
    let mut rest = line;
    while let Some((blank, word)) = next_word(rest) {
        rest = &rest[blank.len() + word.len()..];
        let (blank_width, width) = (blank.chars().count(), word.chars().count());
        if at + blank_width + width <= columns || at <= indent || indent + width > columns {
            wrapped.extend([blank, word]);
            at += blank_width + width;
        } else {
            wrapped.push('\n');
            wrapped.extend([&" ".repeat(indent), word]);
            at = indent + width;
        }
    }
    wrapped
}

/// The blanks at the start of the text, and the word after them.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let word_at = text.len() - text.trim_start_matches(' ').len();
    let (blank, from_word) = text.split_at(word_at);
    let word = from_word.split(' ').next()?;
    (!text.is_empty()).then_some((blank, word))
}

/// How many columns the terminal has. `None` if this is no terminal, or its width is unknown or too small to break
/// lines for.
pub(crate) fn columns_of(terminal: impl AsFd) -> Option<usize> {
    let columns = rustix::termios::tcgetwinsize(terminal).ok()?.ws_col.into();
    (columns >= COLUMNS_MIN).then_some(columns)
}

const COLUMNS_MIN: usize = 24;

/// Prints one line of untrusted text to stderr. A failure to print is ignored.
pub(crate) fn print_to_stderr(line: &str) {
    let (stderr, line) = (io::stderr(), safe(line));
    let line = columns_of(&stderr).map_or(line.clone(), |columns| wrapped(&line, columns, 0, INDENT));
    let _ = writeln!(stderr.lock(), "{line}");
}

/// How far a line is indented that continues another one.
pub(crate) const INDENT: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_visible_is_escaped_and_the_rest_stays() {
        let cases = [
            ("/var/lib/a b/é/\u{65e5}\u{672c}/e\u{301}.db", "/var/lib/a b/é/\u{65e5}\u{672c}/e\u{301}.db"),
            ("\x1b[2J\x07\x7f\u{9b}31m", "\\u{1b}[2J\\u{7}\\u{7f}\\u{9b}31m"),
            ("a\nintact      yes\r\tb", "a\\nintact      yes\\r\\tb"),
            ("\u{202e}bd.\u{2066}x\u{200f}\u{61c}", "\\u{202e}bd.\\u{2066}x\\u{200f}\\u{61c}"),
            (
                "\u{2028}\u{2029}\u{85}\u{feff}\u{ad}\u{e0041}",
                "\\u{2028}\\u{2029}\\u{85}\\u{feff}\\u{ad}\\u{e0041}",
            ),
            ("\\n 'a' \"b\\u{1b}\"", "\\n 'a' \"b\\u{1b}\""),
        ];
        for (text, expected) in cases {
            assert_eq!(safe(text), expected);
        }
        let shown = |c: char| safe(&c.to_string()) == c.to_string();
        assert!(('\0'..=char::MAX).filter(|c| c.is_control()).all(|c| !shown(c)));
    }

    #[test]
    fn a_line_is_broken_between_words_and_loses_none() {
        let line = "index file  differs from the log; remove it while no agent runs";
        let broken = "index file  differs from the log; remove\n            it while no agent runs";
        assert_eq!(wrapped(line, 40, 0, 12), broken);
        assert_eq!(wrapped(line, 200, 0, 12), line);
        assert_eq!(wrapped("", 40, 0, 2), "");
        assert_eq!(wrapped("  ends with blanks  ", 40, 0, 2), "  ends with blanks  ");
        let path = format!("/{}", "a".repeat(60));
        assert_eq!(
            wrapped(&format!("state       {path}, 5 bytes"), 40, 0, 12),
            format!("state       {path},\n            5 bytes")
        );
        for columns in 24..80 {
            let wrapped = wrapped(line, columns, 0, 12);
            assert!(wrapped.lines().all(|line| line.chars().count() <= columns), "{columns}: {wrapped}");
            assert!(wrapped.split_whitespace().eq(line.split_whitespace()), "{columns}: {wrapped}");
        }
    }

    #[test]
    fn a_line_that_begins_after_a_drawing_is_broken_earlier() {
        assert_eq!(wrapped("live bytes", 24, 14, 16), "live bytes");
        assert_eq!(wrapped("live bytes", 24, 15, 14), "live\n              bytes");
    }
}

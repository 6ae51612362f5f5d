//! Reports as JSON: one object on one line, with the path of the store as `state`, and the failure as `error` if
//! there is one.
//!
//! A path, a file or a run id can hold characters that control a terminal or reorder its text. JSON allows most
//! of them in a string. Here they are escaped in everything that is printed: the output is harmless on a terminal,
//! and parses back to the same strings.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::failure::Failure;

/// A report about the store at `state`. `fields` are those of an object.
pub(crate) fn report(state: &Path, fields: impl Serialize) -> String {
    #[derive(Serialize)]
    struct Report<'a, T> {
        state: &'a str,
        #[serde(flatten)]
        fields: T,
    }
    to_string(&Report { state: &state.to_string_lossy(), fields })
}

/// A failure, as the last field of the report if there is one.
pub(crate) fn failure(report: Option<&str>, failure: &Failure) -> String {
    #[derive(Serialize)]
    struct Failed<'a> {
        error: &'a Failure,
    }
    let failed = to_string(&Failed { error: failure });
    match report.and_then(|report| report.strip_suffix('}')) {
        // Each of the two objects has a field.
        Some(fields) => format!("{fields},{}", failed.trim_start_matches('{')),
        None => failed,
    }
}

fn to_string(value: &impl Serialize) -> String {
    let mut json = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut json, Harmless));
    // A vector takes all bytes, every key of a report is a string, and JSON is UTF-8.
    written.expect("a report can be serialized");
    String::from_utf8(json).expect("JSON is text")
}

/// Like the compact format of `serde_json`, which itself escapes only what JSON demands: `"`, `\` and the controls
/// up to U+001F.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, harmful)) = rest.char_indices().find(|(_, c)| is_harmful(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in harmful.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + harmful.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Whether a character can control a terminal, or is invisible and changes the text around it: the controls, the
/// separators of lines and paragraphs, and Unicode's format characters (general category Cf), such as those that
/// reverse the direction.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn characters_that_could_control_a_terminal_are_escaped_and_parse_back() {
        let text = "a\x07\x1b[2J\x7f\u{9b}\u{ad}\u{200e}\u{2028}\u{202e}\u{2069}\u{feff}\u{e0041}\"\\ä😀";
        let json = to_string(&json!({ text: text }));
        let escaped = "a\\u0007\\u001b[2J\\u007f\\u009b\\u00ad\\u200e\\u2028\\u202e\\u2069\\ufeff\\udb40\\udc41\
                       \\\"\\\\ä😀";
        assert_eq!(json, format!("{{\"{escaped}\":\"{escaped}\"}}"));
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()[text], text);
    }

    #[test]
    fn a_failure_is_the_last_field_of_the_report() {
        let report = report(Path::new("/a/state.db"), json!({ "parts": { "live": 1 } }));
        assert_eq!(report, r#"{"state":"/a/state.db","parts":{"live":1}}"#);
        let error = Failure::usage("no }");
        assert_eq!(
            failure(Some(&report), &error),
            r#"{"state":"/a/state.db","parts":{"live":1},"error":{"kind":"usage","message":"no }"}}"#
        );
        assert_eq!(failure(None, &error), r#"{"error":{"kind":"usage","message":"no }"}}"#);
    }
}

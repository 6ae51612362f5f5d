//! Output to stdout, and the formats of numbers, times and untrusted bytes in it.

use std::fmt::{self, Display, Write as _};
use std::fs;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use backupy_state::LostKey;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::json;
use crate::line::{self, INDENT, safe};

/// Buffered stdout. If its reader closes the pipe, the rest of the output is discarded and the command does not
/// fail.
pub(crate) struct Out {
    pub(crate) json: bool,
    stdout: BufWriter<Stdout>,
    /// Of the terminal that it is; lines for a pipe or a file are not broken.
    columns: Option<usize>,
    failed: Option<io::Error>,
    /// The report as JSON, until it is written: a failure may be added to it.
    report: Option<String>,
    has_failure: bool,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        let (stdout, columns) = (BufWriter::new(io::stdout()), line::columns_of(io::stdout()));
        Out { json, stdout, columns, failed: None, report: None, has_failure: false }
    }

    /// One line of text, which may have untrusted parts.
    pub(crate) fn line(&mut self, line: impl Display) {
        let line = line.to_string();
        let own_indent = line.len() - line.trim_start_matches(' ').len();
        self.text(&line, 0, own_indent + INDENT);
    }

    /// One line of a table: a name and its value, which may have untrusted parts.
    pub(crate) fn row(&mut self, name: &str, value: impl Display) {
        self.text(&format!("{name:<NAME_WIDTH$}{value}"), 0, NAME_WIDTH);
    }

    /// All that a command reports: the fields as JSON, or the rows of a table.
    pub(crate) fn summary(&mut self, state: impl AsRef<Path>, fields: impl Serialize, rows: &[(&str, String)]) {
        if self.json {
            self.report(state, fields);
        } else {
            self.row("state", state.as_ref().display());
            rows.iter().for_each(|(name, value)| self.row(name, value));
        }
    }

    /// One line that begins with a drawing of this width, which may have escape codes for colours. Text follows.
    pub(crate) fn drawing(&mut self, drawing: impl Display, width: usize, text: &str) {
        self.write(drawing);
        self.text(text, width, NAME_WIDTH + INDENT);
    }

    /// How wide a drawing may be in which `taken` columns are for something else; at most `most`.
    pub(crate) fn width_for(&self, most: usize, taken: usize) -> usize {
        self.columns.map_or(most, |columns| most.min(columns.saturating_sub(taken)))
    }

    fn text(&mut self, text: &str, start: usize, indent: usize) {
        let text = safe(text);
        let broken = self.columns.map(|columns| line::wrapped(&text, columns, start, indent));
        self.write(format_args!("{}\n", broken.unwrap_or(text)));
    }

    fn write(&mut self, what: impl Display) {
        if self.failed.is_none() {
            self.failed = write!(self.stdout, "{what}").err();
        }
    }

    /// The report about the store at `state` as JSON, which is written at the end of the command.
    pub(crate) fn report(&mut self, state: impl AsRef<Path>, fields: impl Serialize) {
        self.report = Some(json::report(state.as_ref(), fields));
    }

    /// The same, with statistics among the fields. They have 0 for a count of dropped log events that is
    /// unreadable.
    pub(crate) fn report_stats(&mut self, state: impl AsRef<Path>, fields: impl Serialize, dropped: Option<u64>) {
        if dropped.is_some() {
            return self.report(state, fields);
        }
        let fields = serde_json::to_value(fields).map(|mut fields| {
            fields["logs_dropped"] = Value::Null;
            fields
        });
        // Every key of a report is a string.
        self.report(state, fields.expect("a report can be serialized"));
    }

    /// One of many reports as JSON, which is written at once.
    pub(crate) fn report_line(&mut self, state: impl AsRef<Path>, fields: impl Serialize) {
        self.write(format_args!("{}\n", json::report(state.as_ref(), fields)));
    }

    /// With --json, adds the first failure to the report, or writes it alone if there is none, or none any more.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        if self.json && !self.has_failure {
            self.report = Some(json::failure(self.report.as_deref(), failure));
            self.has_failure = true;
        }
    }

    fn write_report(&mut self) {
        if let Some(report) = self.report.take() {
            self.write(format_args!("{report}\n"));
        }
    }

    /// Writes raw bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.stdout.write_all(bytes).err();
        }
    }

    /// Flushes, and returns whether all output so far was written; if stdout is a file, durably.
    pub(crate) fn is_written(&mut self) -> bool {
        self.write_report();
        self.flush();
        if self.failed.is_none() {
            self.failed = sync_if_file(io::stdout()).err();
        }
        self.failed.is_none()
    }

    pub(crate) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.stdout.flush().err();
        }
    }

    /// Whether stdout may have been closed. The standard library then opens the null device in its place, for
    /// reading and writing; `> /dev/null` opens it for writing only.
    pub(crate) fn may_be_closed(&self) -> bool {
        let stdout = io::stdout().as_fd().try_clone_to_owned().map(fs::File::from);
        let (Ok(null), Ok(stdout)) = (fs::metadata("/dev/null"), stdout) else { return false };
        stdout.metadata().is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == null.rdev())
            && rustix::fs::fcntl_getfl(stdout).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
    }

    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.write_report();
        self.flush();
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("could not write the output: {error}")))
            }
            _ => Ok(()),
        }
    }
}

/// Makes what was written to a file durable: a power cut could else take both the file and what is then removed
/// from the store.
fn sync_if_file(stdout: Stdout) -> io::Result<()> {
    let file = fs::File::from(stdout.as_fd().try_clone_to_owned()?);
    if !file.metadata()?.is_file() {
        return Ok(());
    }
    match rustix::fs::fsync(&file) {
        // Of a file system that cannot do it, no more can be had.
        Ok(()) | Err(Errno::INVAL | Errno::ROFS | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The width of the names in a table.
const NAME_WIDTH: usize = 12;

/// A number with a comma between each group of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count and its noun, in the singular or plural.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A length with its unit, as in `1,024 bytes`.
pub(crate) fn bytes(len: u64) -> String {
    counted(len, "byte")
}

/// The length of a slice.
pub(crate) fn len_of(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// The length of the file at `path`; 0 if there is none.
pub(crate) fn len_of_file(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// A count of dropped log events; `None` if it is unreadable.
pub(crate) fn drops(count: Option<u64>) -> String {
    count.map_or_else(|| "unreadable".to_owned(), grouped)
}

/// The same, before a word such as "dropped".
pub(crate) fn number_of_drops(count: Option<u64>) -> String {
    count.map_or_else(|| "an unreadable number".to_owned(), grouped)
}

/// A key whose value is lost, with escapes.
pub(crate) fn lost_key(key: &LostKey) -> String {
    match (&key.run_id, &key.data_key) {
        (Some(run_id), _) => format!("job \"{}\"", escaped(run_id)),
        (_, Some(data_key)) => format!("data \"{}\"", escaped(data_key)),
        _ => key.bucket.to_owned(),
    }
}

/// What to say where the log cannot be compacted, with the library's reason.
pub(crate) fn no_compaction(reason: &str) -> String {
    format!("compaction is unavailable: {reason}")
}

/// The current time in ms since 1970; 0 if the clock is set to before 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A time in ms since 1970 as a date in UTC, for any `i64`.
pub(crate) struct Utc(pub(crate) i64);

impl Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(DAY_MS), self.0.rem_euclid(DAY_MS));
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03} UTC", ms % 1000)
    }
}

const DAY_MS: i64 = 86_400_000;

/// Converts days since 1970 to a Gregorian year, month and day. Counts in eras of 400 years from 1 March of year
/// 0, so that the leap day is the last day of its year.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    const MARCH_0_TO_1970_DAYS: i64 = 719_468;
    let days = days + MARCH_0_TO_1970_DAYS;
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / (ERA_DAYS - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = (months_since_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// How long ago a time was, or how far it is ahead of this clock.
pub(crate) fn ago(ts_ms: i64, now_ms: i64) -> String {
    let age = i128::from(now_ms) - i128::from(ts_ms);
    let seconds = age.unsigned_abs() / 1000;
    let span = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if age < 0 { format!("{span} ahead of this clock") } else { format!("{span} ago") }
}

/// Untrusted text, escaped so that it fits on one line and cannot control a terminal.
pub(crate) fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}

/// Untrusted bytes: text if they are printable, else hexadecimal digits.
pub(crate) enum Printable {
    Text(String),
    Hex(String),
}

impl Printable {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains(char::is_control) => Printable::Text(text.to_owned()),
            _ => Printable::Hex(hex(bytes)),
        }
    }

    /// Inserts it into a JSON object as `name`, or as `name_hex`.
    pub(crate) fn insert_into(self, object: &mut Value, name: &str) {
        match self {
            Printable::Text(text) => object[name] = text.into(),
            Printable::Hex(digits) => object[format!("{name}_hex")] = digits.into(),
        }
    }
}

impl Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Printable::Text(text) => write!(f, "{text:?}"),
            Printable::Hex(digits) => write!(f, "0x{digits}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut digits, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        let cases = [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (-1, "1969-12-31 23:59:59.999 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59.999 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00.000 UTC"),
            (951_868_800_000, "2000-03-01 00:00:00.000 UTC"),
            (1_700_000_000_123, "2023-11-14 22:13:20.123 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00.000 UTC"),
            (-62_135_596_800_000, "0001-01-01 00:00:00.000 UTC"),
            (253_402_300_799_999, "9999-12-31 23:59:59.999 UTC"),
        ];
        for (ms, date) in cases {
            assert_eq!(Utc(ms).to_string(), date);
        }
        for extreme in [i64::MIN, i64::MAX] {
            assert!(Utc(extreme).to_string().ends_with(" UTC"));
            assert!(!ago(extreme, 0).is_empty());
        }
    }

    #[test]
    fn every_day_of_800_years_follows_the_previous_one() {
        let mut before = civil_from_days(-146_097);
        for days in -146_096..146_097 {
            let (year, month, day) = civil_from_days(days);
            let first = day == 1 && before.2 >= 28;
            assert!(first || (year, month, day) == (before.0, before.1, before.2 + 1), "{year}-{month}-{day}");
            before = (year, month, day);
        }
        assert_eq!(before, (2369, 12, 31));
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "byte"), "1 byte");
        assert_eq!(bytes(4096), "4,096 bytes");
    }

    #[test]
    fn bytes_that_could_control_a_terminal_are_shown_as_digits() {
        assert_eq!(Printable::new("ärger \"x\"".as_bytes()).to_string(), "\"ärger \\\"x\\\"\"");
        assert_eq!(Printable::new(b"\x1b[2J").to_string(), "0x1b5b324a");
        assert_eq!(Printable::new(b"\xff").to_string(), "0xff");
        assert_eq!(escaped("a\x1b[2J\n"), "a\\u{1b}[2J\\n");
    }
}

//! `frames`: lists the frames of the log.

use backupy_state::{FrameInfo, OperationInfo};

use crate::failure::Failure;
use crate::target::Target;
use crate::text::{Out, escaped};
use crate::verify;

/// List the frames of the log
///
/// Offsets and lengths are in bytes. Also performs the checks of `verify`, with the same exit codes. With --json,
/// each frame is one JSON object on its own line.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state frames | less")]
pub(crate) struct Args {
    /// List the frames without their operations
    #[arg(long)]
    no_key: bool,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let key = target.key_unless(args.no_key)?;
    let (json, state) = (out.json, target.absolute_state());
    let mut heading = (!json).then(|| columns("offset", "len", "seq", "durable_seq", "kind", "operations"));
    let report = backupy_state::verify_each(target.state(), key.as_ref(), |frame| {
        if let Some(heading) = heading.take() {
            out.line(heading);
        }
        if json {
            out.report_line(&state, frame);
        } else {
            out.line(line(frame));
        }
    })?;
    heading.into_iter().for_each(|heading| out.line(heading));
    verify::check(&report)
}

fn line(frame: &FrameInfo) -> String {
    let FrameInfo { offset, len, seq, durable_seq, .. } = frame;
    let operations: Vec<_> = frame.operations.iter().map(operation).collect();
    let [offset, len, seq, durable_seq] = [offset, len, seq, durable_seq].map(u64::to_string);
    columns(&offset, &len, &seq, &durable_seq, kind(frame), &operations.join(", "))
}

fn columns(offset: &str, len: &str, seq: &str, durable_seq: &str, kind: &str, operations: &str) -> String {
    let line = format!("{offset:>10} {len:>8} {seq:>8} {durable_seq:>11}  {kind:<6}  {operations}");
    line.trim_end().to_owned()
}

fn operation(operation: &OperationInfo) -> String {
    let OperationInfo { action, bucket, key_len, run_id, data_key, value_len, .. } = operation;
    let key = match run_id.as_ref().or(data_key.as_ref()) {
        Some(key) => format!("\"{}\"", escaped(key)),
        None => format!("key of {key_len} B"),
    };
    let value = value_len.map_or_else(String::new, |len| format!(", value of {len} B"));
    format!("{action} {bucket} {key}{value}")
}

fn kind(frame: &FrameInfo) -> &'static str {
    if frame.is_close { "close" } else { "record" }
}

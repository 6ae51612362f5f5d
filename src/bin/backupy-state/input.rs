//! Input values, which are secrets: read from a file or stdin, never from an argument, which any process can see.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use crate::failure::Failure;
use crate::line::print_to_stderr;
use crate::target::Target;

/// The source of a value.
#[derive(clap::Args)]
pub(crate) struct Input {
    /// The file to read, byte for byte; `-` reads stdin
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
}

impl Input {
    pub(crate) fn read(&self, target: &Target) -> Result<Vec<u8>, Failure> {
        if self.file.as_os_str() == OsStr::new("-") {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                // Explains the pause.
                print_to_stderr("backupy-state: reading from the terminal; end with Ctrl-D");
            }
            return read(stdin.lock(), "stdin");
        }
        target.refuse_own_file(&self.file)?;
        let name = self.file.display().to_string();
        let file =
            File::open(&self.file).map_err(|error| Failure::failed(format!("could not open {name}: {error}")))?;
        read(file, &name)
    }
}

fn read(from: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One byte over the limit is enough to detect an input that is too long, even an endless one.
    from.take(LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::failed(format!("could not read {name}: {error}")))?;
    if bytes.len() as u64 > LEN_MAX {
        return Err(Failure::failed(format!("{name} exceeds the limit of {LEN_MAX} bytes; nothing was written")));
    }
    Ok(bytes)
}

/// The library's limit for a value.
const LEN_MAX: u64 = 16 << 20;

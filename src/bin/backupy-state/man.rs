//! `man`: the manual pages, generated from the arguments so that they are never out of date.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use clap_mangen::Man;

use crate::failure::Failure;
use crate::text::Out;

/// Print the manual page, or write one page for each command to a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state man --dir /usr/local/share/man/man1")]
pub(crate) struct Args {
    /// The folder, which must exist; existing pages are replaced
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, mut command: clap::Command, out: &mut Out) -> Result<(), Failure> {
    // There is no page for `help`.
    command = command.disable_help_subcommand(true);
    command = command.mut_subcommands(|subcommand| subcommand.disable_help_subcommand(true));
    // Gives each subcommand its full name.
    command.build();
    match &args.dir {
        None => out.bytes(&page(command)?),
        Some(dir) => write_pages(dir, command, out)?,
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands.
fn write_pages(dir: &Path, command: clap::Command, out: &mut Out) -> Result<(), Failure> {
    for subcommand in command.get_subcommands() {
        write_pages(dir, subcommand.clone(), out)?;
    }
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(command)?)
        .map_err(|error| Failure::failed(format!("could not write {}: {error}", file.display())))?;
    out.line(file.display());
    Ok(())
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let rendered = Man::new(command).manual("backupy-state").render(&mut page);
    rendered.map_err(|error| Failure::failed(format!("could not render the manual page: {error}")))?;
    Ok(page)
}

//! `completions` and `man`: what a shell and a manual reader are told of the arguments. Made from the arguments themselves,
//! so that they cannot fall behind.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::failure::Failure;
use crate::text::Out;

/// Print what completes the arguments in a shell
///
/// Put it where the shell looks for completions.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  backupy-state completions bash > /usr/share/bash-completion/completions/backupy-state"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one for each command into a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state man --dir /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder, which must exist; pages of the same names in it are replaced
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs, mut tool: clap::Command, out: &mut Out) {
    let (name, mut script) = (tool.get_name().to_owned(), Vec::new());
    clap_complete::generate(args.shell, &mut tool, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        // clap_complete 4.6 writes a `-` in the tool's name in two ways, and then finds no command's options.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    out.bytes(script.as_bytes());
}

pub(crate) fn man(args: &ManArgs, mut tool: clap::Command, out: &mut Out) -> Result<(), Failure> {
    // There is no page for `help`.
    tool = tool.disable_help_subcommand(true).mut_subcommands(|command| command.disable_help_subcommand(true));
    // Gives each command its whole name.
    tool.build();
    match &args.dir {
        None => out.bytes(&page(tool)?),
        Some(dir) => write_pages(dir, tool, out)?,
    }
    Ok(())
}

/// One page, and those of the commands below.
fn write_pages(dir: &Path, tool: clap::Command, out: &mut Out) -> Result<(), Failure> {
    for command in tool.get_subcommands() {
        write_pages(dir, command.clone(), out)?;
    }
    let name = tool.get_display_name().unwrap_or_else(|| tool.get_name());
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(tool)?)
        .map_err(|error| Failure::failed(format!("could not write {}: {error}", file.display())))?;
    out.line(file.display());
    Ok(())
}

fn page(tool: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let drawn = Man::new(tool).manual("backupy-state").render(&mut page);
    drawn.map_err(|error| Failure::failed(format!("could not make the manual page: {error}")))?;
    Ok(page)
}

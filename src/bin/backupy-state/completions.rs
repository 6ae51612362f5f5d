//! `completions`: a shell's completion script, generated from the arguments so that it is never out of date.
//!
//! The scripts are static. Completing run ids needs the program, the key and the store at each Tab, and an
//! interface of clap_complete that is marked unstable.

use clap_complete::Shell;

use crate::text::Out;

/// Print a completion script for a shell
///
/// Write it to the folder from which the shell loads completions.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  \
                  backupy-state completions bash > /usr/share/bash-completion/completions/backupy-state")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, mut command: clap::Command, out: &mut Out) {
    let (name, mut script) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(args.shell, &mut command, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Bash {
        // clap_complete 4.6 encodes the `-` of the name in two ways, so the script finds no command's options.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    out.bytes(script.as_bytes());
}

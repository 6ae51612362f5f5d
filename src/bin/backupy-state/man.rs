//! `man`: the manual pages, generated from the arguments so that they are never out of date. The sections that
//! all pages have are written here once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueHint;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::HEALTH_CHECK;
use crate::failure::{EXIT_CODES, Failure};
use crate::text::Out;

/// Print the manual page, or write one page for each command to a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  mkdir -p /usr/local/share/man/man1\n  \
                        backupy-state man --dir /usr/local/share/man/man1")]
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
        None => out.bytes(&page(&command, &[])?),
        Some(dir) => write_pages(dir, &command, &[], out)?,
    }
    Ok(())
}

/// Writes the page of a command and those of its subcommands. `parents` are the pages above it.
fn write_pages(dir: &Path, command: &clap::Command, parents: &[&str], out: &mut Out) -> Result<(), Failure> {
    let name = name_of(command);
    for subcommand in command.get_subcommands() {
        write_pages(dir, subcommand, &[parents, &[name]].concat(), out)?;
    }
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(command, parents)?)
        .map_err(|error| Failure::failed(format!("could not write {}: {error}", file.display())))?;
    out.line(file.display());
    Ok(())
}

fn name_of(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &clap::Command, parents: &[&str]) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    let rendered = render(command, parents, &mut page);
    rendered.map_err(|error| Failure::failed(format!("could not render the manual page: {error}")))?;
    Ok(page)
}

fn render(command: &clap::Command, parents: &[&str], page: &mut Vec<u8>) -> io::Result<()> {
    let man = Man::new(command.clone()).manual(crate::NAME).source(SOURCE);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    common_sections(command, parents).to_writer(page)
}

fn common_sections(command: &clap::Command, parents: &[&str]) -> Roff {
    let mut roff = Roff::new();
    if let Some(help) = command.get_after_help() {
        // Its first line is the heading.
        let help = help.to_string();
        roff.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in help.lines().skip(1) {
            roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["EXIT STATUS"]);
    match command.get_name() {
        HEALTH_CHECK => terms(&mut roff, HEALTH_CHECK_STATUS),
        _ => terms(&mut roff, &EXIT_CODES),
    }
    roff.control("SH", ["ENVIRONMENT"]);
    terms(&mut roff, ENVIRONMENT);
    roff.control("SH", ["FILES"]);
    terms(&mut roff, FILES);
    let below = command.get_subcommands().map(name_of);
    let others: Vec<_> = parents.iter().copied().chain(below).map(|name| format!("{name}(1)")).collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
    roff
}

fn terms(roff: &mut Roff, terms: &[(&str, &str)]) {
    for (term, description) in terms {
        roff.control("TP", []).text([bold(*term)]).text([roman(*description)]);
    }
}

const SOURCE: &str = concat!("backupy-state ", env!("CARGO_PKG_VERSION"));

const HEALTH_CHECK_STATUS: &[(&str, &str)] =
    &[("0", "healthy"), ("1", "any failure, also one of the arguments or of the key")];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("BACKUPY_STATE_DIR", "The folder of state.db, if --state is not given."),
    ("BACKUPY_AGENT_KEY", "The agent key, if --key-file is not given. One newline at its end is not part of it."),
    ("BACKUPY_NEW_AGENT_KEY", "The new key for backupy-state-rekey(1), if --new-key-file is not given."),
    ("NO_COLOR", "If it is set and not empty, backupy-state-map(1) uses no colours."),
    ("TMPDIR", "Where backupy-state-demo(1) creates its folder, if --dir is not given."),
];

const FILES: &[(&str, &str)] = &[
    ("/var/lib/backupy/state.db", "The store, if neither --state nor BACKUPY_STATE_DIR names one."),
    ("state.db.lock", "Next to the store: locked by the process that has the store open."),
    ("state.db.index", "Makes opening faster. It can be removed while no agent runs."),
    ("state.db.new", "A compaction or a copy that is not complete. The next open or copy removes it."),
    ("state.db.torn-N", "What an unclean stop left at the end of the log."),
    ("state.db.damaged-N", "A damaged store, or one that was in the way."),
];

//! The command line of `backupy-state`: looks at a store beside the running agent, looks after one without an agent, and
//! plays a demonstration.
//!
//! This file owns the arguments, the dispatch and the exit code; what a command does is in the file of its name. No command
//! that looks at a store takes its lock or writes to it.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, Parser, Subcommand};

mod compact;
mod config;
mod demo;
mod describe;
mod dump;
mod failure;
mod frames;
mod anchor;
mod health;
mod import;
mod input;
mod logs;
mod look;
mod map;
mod place;
mod progress;
mod queue;
mod registry;
mod salvage;
mod stats;
mod text;
mod verify;

use failure::{Exit, Failure};
use place::Place;
use text::Out;

/// Looks at the persistent state of a backup agent, also while the agent runs, and looks after it.
#[derive(Parser)]
#[command(name = NAME, version, color = ColorChoice::Never, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    place: Place,

    /// Report as JSON, on one line
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    #[command(hide = true)]
    DemoAgent(demo::AgentArgs),
    #[command(name = HEALTH_CHECK)]
    HealthCheck(health::Args),
    DumpState(dump::Args),
    Verify(verify::Args),
    Stats(stats::Args),
    Frames(frames::Args),
    Map(map::Args),
    Config(config::Args),
    Queue(queue::Args),
    Logs(logs::Args),
    Session(registry::SessionArgs),
    Heartbeat(registry::HeartbeatArgs),
    Anchor(anchor::Args),
    Compact(compact::CompactArgs),
    Rekey(compact::RekeyArgs),
    Backup(compact::BackupArgs),
    Completions(describe::CompletionsArgs),
    Man(describe::ManArgs),
    Import(import::Args),
    Salvage(salvage::Args),
}

const NAME: &str = "backupy-state";
const HEALTH_CHECK: &str = "health-check";

const AFTER_HELP: &str = "\
Exit codes:
  0  well
  1  failed
  2  usage: wrong arguments, or no key
  3  damage, tampering, something lost, or older than `anchor --expect` allows
  4  wrong key
  5  locked by another process
  6  not found: no store, or not in it what was asked for
  7  not a store, or one of a newer format
`health-check` exits with 0 or 1 only, whatever is wrong.

Example:
  BACKUPY_AGENT_KEY=... backupy-state --state /var/lib/backupy/state.db verify";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let is_health_check = matches!(cli.command, Command::HealthCheck(_));
    let Err(failure) = run(&cli) else { return Exit::Well.into() };
    failure.tell();
    if is_health_check { Exit::Failed.into() } else { failure.exit.into() }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let Cli { place, json, command } = cli;
    let mut out = Out::new(*json);
    let done = match command {
        Command::Demo(args) => demo::run(place, args, &mut out),
        Command::DemoAgent(args) => demo::run_agent(args),
        Command::HealthCheck(args) => health::run(place, args, &mut out),
        Command::DumpState(args) => dump::run(place, args, &mut out),
        Command::Verify(args) => verify::run(place, args, &mut out),
        Command::Stats(args) => stats::run(place, args, &mut out),
        Command::Frames(args) => frames::run(place, args, &mut out),
        Command::Map(args) => map::run(place, args, &mut out),
        Command::Config(args) => config::run(place, args, &mut out),
        Command::Queue(args) => queue::run(place, args, &mut out),
        Command::Logs(args) => logs::run(place, args, &mut out),
        Command::Session(args) => registry::session(place, args, &mut out),
        Command::Heartbeat(args) => registry::heartbeat(place, args, &mut out),
        Command::Anchor(args) => anchor::run(place, args, &mut out),
        Command::Compact(args) => compact::compact(place, args, &mut out),
        Command::Rekey(args) => compact::rekey(place, args, &mut out),
        Command::Backup(args) => compact::backup(place, args, &mut out),
        Command::Completions(args) => {
            describe::completions(args, described(), &mut out);
            Ok(())
        }
        Command::Man(args) => describe::man(args, described(), &mut out),
        Command::Import(args) => import::run(place, args, &mut out),
        Command::Salvage(args) => salvage::run(place, args, &mut out),
    };
    let written = out.finish();
    done.and(written)
}

/// The arguments, without the commands that are hidden: completions would offer them.
fn described() -> clap::Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about(whole.get_about().cloned().unwrap_or_default())
        .after_help(AFTER_HELP)
        .args(whole.get_arguments().cloned())
        .subcommands(shown.cloned())
}

/// Help and the version are asked for; anything else is a wrong use. Whether anybody reads it does not matter.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Exit::Well.into();
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
        }
        _ => Failure::usage(in_one_sentence(&error.to_string())).tell(),
    }
    // Docker reserves exit code 2 of a health check.
    if means_health_check() { Exit::Failed.into() } else { Exit::Usage.into() }
}

/// What clap says in paragraphs: what is wrong, perhaps a tip, the usage, and where help is.
fn in_one_sentence(message: &str) -> String {
    let paragraphs = message.trim_start_matches("error: ").split("\n\n");
    let telling = paragraphs.take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more"));
    let mut sentence = String::new();
    for word in telling.flat_map(|text| text.split_whitespace().chain([";"])) {
        let joint = if sentence.is_empty() || word == ";" { "" } else { " " };
        sentence.extend([joint, word]);
    }
    sentence + " see --help"
}

fn means_health_check() -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    match matches {
        Ok(matches) => matches.subcommand_name() == Some(HEALTH_CHECK),
        Err(_) => std::env::args_os().any(|arg| arg == OsStr::new(HEALTH_CHECK)),
    }
}

//! The command line of `backupy-state`: inspects a store while the agent runs, maintains one while no agent runs,
//! and plays a demonstration.
//!
//! This file owns the arguments, the dispatch and the exit code; each command is in the file of its name. A
//! command that only reads takes no lock and writes nothing to the store.

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, Parser, Subcommand};

mod advice;
mod anchor;
mod backup;
mod compact;
mod completions;
mod config;
mod data;
mod demo;
mod dump_state;
mod failure;
mod frames;
mod health_check;
mod heartbeat;
mod import;
mod input;
mod init;
mod inspector;
mod json;
mod line;
mod logs;
mod man;
mod map;
mod progress;
mod prometheus;
mod queue;
mod rekey;
mod salvage;
mod session;
mod stats;
mod target;
mod text;
mod verify;

use failure::{EXIT_CODES, Exit, Failure};
use target::{GLOBAL_OPTIONS, Target};
use text::Out;

/// Inspect and maintain the persistent state of a backup agent
///
/// Commands that only read take no lock, so they also work while the agent runs.
#[derive(Parser)]
#[command(name = NAME, version, color = ColorChoice::Never, after_help = after_help(), max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    target: Target,

    /// Print the report as one line of JSON; also a failure, as its field `error`
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS)]
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
    HealthCheck(health_check::Args),
    DumpState(dump_state::Args),
    Verify(verify::Args),
    Stats(stats::Args),
    Frames(frames::Args),
    Map(map::Args),
    Config(config::Args),
    Queue(queue::Args),
    Logs(logs::Args),
    Data(data::Args),
    Session(session::Args),
    Heartbeat(heartbeat::Args),
    Anchor(anchor::Args),
    Compact(compact::Args),
    Rekey(rekey::Args),
    Backup(backup::Args),
    Completions(completions::Args),
    Man(man::Args),
    Init(init::Args),
    Import(import::Args),
    Salvage(salvage::Args),
}

const NAME: &str = "backupy-state";
const HEALTH_CHECK: &str = "health-check";

const EXAMPLE: &str = "\
Example:
  BACKUPY_AGENT_KEY=... backupy-state --state /var/lib/backupy/state.db verify";

fn after_help() -> String {
    let codes: String = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}\n")).collect();
    format!("Exit codes:\n{codes}`{HEALTH_CHECK}` exits with 0 or 1 only, whatever the failure.\n\n{EXAMPLE}")
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report_parse_error(&error),
    };
    let is_health_check = matches!(cli.command, Command::HealthCheck(_));
    let Err(failure) = run(&cli) else { return Exit::Success.into() };
    failure.print();
    if is_health_check { Exit::Failure.into() } else { failure.exit.into() }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let Cli { target, json, command } = cli;
    let mut out = Out::new(*json);
    let done = match command {
        Command::Demo(args) => demo::run(target, args, &mut out),
        Command::DemoAgent(args) => demo::run_agent(args),
        Command::HealthCheck(args) => health_check::run(target, args, &mut out),
        Command::DumpState(args) => dump_state::run(target, args, &mut out),
        Command::Verify(args) => verify::run(target, args, &mut out),
        Command::Stats(args) => stats::run(target, args, &mut out),
        Command::Frames(args) => frames::run(target, args, &mut out),
        Command::Map(args) => map::run(target, args, &mut out),
        Command::Config(args) => config::run(target, args, &mut out),
        Command::Queue(args) => queue::run(target, args, &mut out),
        Command::Logs(args) => logs::run(target, args, &mut out),
        Command::Data(args) => data::run(target, args, &mut out),
        Command::Session(args) => session::run(target, args, &mut out),
        Command::Heartbeat(args) => heartbeat::run(target, args, &mut out),
        Command::Anchor(args) => anchor::run(target, args, &mut out),
        Command::Compact(args) => compact::run(target, args, &mut out),
        Command::Rekey(args) => rekey::run(target, args, &mut out),
        Command::Backup(args) => backup::run(target, args, &mut out),
        Command::Completions(args) => {
            completions::run(args, public_command(), &mut out);
            Ok(())
        }
        Command::Man(args) => man::run(args, public_command(), &mut out),
        Command::Init(args) => init::run(target, args, &mut out),
        Command::Import(args) => import::run(target, args, &mut out),
        Command::Salvage(args) => salvage::run(target, args, &mut out),
    };
    if let Err(failure) = &done {
        out.fail(failure);
    }
    let written = out.finish();
    done.and(written)
}

/// The arguments without the hidden commands, which shell completions would otherwise offer.
fn public_command() -> clap::Command {
    let all = Cli::command();
    let public = all.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about(all.get_about().cloned().unwrap_or_default())
        .long_about(all.get_long_about().cloned().unwrap_or_default())
        .after_help(EXAMPLE)
        .args(all.get_arguments().cloned())
        .subcommands(public.cloned())
}

/// Prints the help and the version, which clap reports as errors; any other error is a usage error. A failure to
/// print is ignored.
fn report_parse_error(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Exit::Success.into();
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            print_as_json(&command_is_missing());
        }
        // Clap's message would list all commands, also those that are hidden.
        ErrorKind::MissingSubcommand => {
            command_is_missing().print();
            print_as_json(&command_is_missing());
        }
        _ => {
            let failure = Failure::usage(in_one_sentence(&error.to_string()));
            failure.print();
            print_as_json(&failure);
        }
    }
    // Docker reserves exit code 2 of a health check.
    if is_health_check() { Exit::Failure.into() } else { Exit::Usage.into() }
}

fn command_is_missing() -> Failure {
    Failure::usage("a command is missing; see --help")
}

/// Prints the failure of arguments that do not parse as JSON, if they ask for it. A failure to print is ignored.
fn print_as_json(failure: &Failure) {
    let before_values = std::env::args_os().take_while(|arg| arg != "--");
    let mut out = Out::new(before_values.into_iter().any(|arg| arg == "--json"));
    out.fail(failure);
    let _ = out.finish();
}

/// Joins the paragraphs of clap's message that explain the error, and drops those about usage and help.
fn in_one_sentence(message: &str) -> String {
    let paragraphs = message.trim_start_matches("error: ").split("\n\n");
    let relevant = paragraphs.take_while(|text| !text.starts_with("Usage:") && !text.starts_with("For more"));
    let mut sentence = String::new();
    for word in relevant.flat_map(|text| text.split_whitespace().chain([";"])) {
        let separator = if sentence.is_empty() || word == ";" { "" } else { " " };
        sentence.extend([separator, word]);
    }
    sentence + " see --help"
}

/// Whether arguments that do not parse name the command `health-check`.
fn is_health_check() -> bool {
    let matches = Cli::command().ignore_errors(true).try_get_matches();
    match matches {
        Ok(matches) => matches.subcommand_name() == Some(HEALTH_CHECK),
        Err(_) => std::env::args_os().any(|arg| arg == OsStr::new(HEALTH_CHECK)),
    }
}

//! `config`: the configuration that the agent saved last.

use serde_json::{Value, json};

use backupy_state::OpenOptions;

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::look::Look;
use crate::place::{Lock, Place};
use crate::text::{Out, bytes, len_of};

/// Look at the configuration, or put another in its place
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state config get")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Get(Get),
    Set(Set),
}

/// Show the version and the length of the configuration
///
/// Takes no lock and changes nothing. The configuration itself is a secret: it shows with --allow-secrets only.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state config get --raw --allow-secrets > config.bin")]
struct Get {
    /// Show the configuration too
    #[arg(long)]
    allow_secrets: bool,

    /// Write the bytes of the configuration and nothing else; exit code 6 if there is none
    #[arg(long, requires = "allow_secrets", conflicts_with = "json")]
    raw: bool,
}

/// Put a configuration in the place of the one that is saved
///
/// Needs the lock: exit code 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state config set --version 8 config.bin")]
struct Set {
    /// The server's number of it
    #[arg(long, value_name = "N")]
    version: u64,

    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(place: &Place, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::Get(args) => get(place, args, out),
        Command::Set(args) => set(place, args, out),
    }
}

fn get(place: &Place, args: &Get, out: &mut Out) -> Result<(), Failure> {
    let look = Look::new(place.snapshot()?, args.allow_secrets);
    let (state, config) = (look.snapshot.path().display().to_string(), look.snapshot.load_config()?);
    if args.raw {
        let Some(config) = config else {
            return Err(Failure::new(Exit::NotFound, format!("no configuration was ever saved in {state}")));
        };
        out.bytes(&config.raw);
    } else if out.json {
        let config = config.map_or(Value::Null, |config| look.config_json(&config));
        out.json(&json!({ "state": state, "config": config }));
    } else {
        out.row("state", state);
        out.row("config", config.map_or("none".to_owned(), |config| look.config_line(&config)));
    }
    Ok(())
}

fn set(place: &Place, args: &Set, out: &mut Out) -> Result<(), Failure> {
    let raw = args.input.read()?;
    let store = place.open(&args.lock, &mut OpenOptions::new())?;
    store.save_config(args.version, &raw)?;
    let state = store.path().display().to_string();
    store.close()?;
    if out.json {
        out.json(&json!({ "state": state, "config": { "version": args.version, "len": raw.len() } }));
    } else {
        out.row("state", state);
        out.row("config", format_args!("version {}, {}", args.version, bytes(len_of(&raw))));
    }
    Ok(())
}

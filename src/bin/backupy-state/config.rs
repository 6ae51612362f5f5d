//! `config`: shows or replaces the saved configuration.

use serde_json::json;

use backupy_state::OpenOptions;

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::inspector::Inspector;
use crate::target::{Lock, Target};
use crate::text::{Out, bytes, len_of};

/// Show or replace the configuration
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
/// Takes no lock and changes nothing. The configuration itself is a secret: --allow-secrets shows it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state config get --raw --allow-secrets > config.bin")]
struct Get {
    /// Also show the configuration
    #[arg(long)]
    allow_secrets: bool,

    /// Print only the bytes of the configuration; exits with 6 if there is none
    #[arg(long, requires = "allow_secrets", conflicts_with = "json")]
    raw: bool,
}

/// Save a configuration, which replaces the current one
///
/// Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state config set --version 8 config.bin")]
struct Set {
    /// The server's version number for this configuration
    #[arg(long, value_name = "N")]
    version: u64,

    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::Get(args) => get(target, args, out),
        Command::Set(args) => set(target, args, out),
    }
}

fn get(target: &Target, args: &Get, out: &mut Out) -> Result<(), Failure> {
    let inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let (state, config) = (inspector.snapshot.path().display().to_string(), inspector.snapshot.load_config()?);
    if args.raw {
        let Some(config) = config else {
            return Err(Failure::new(Exit::NotFound, format!("there is no configuration in {state}")));
        };
        out.bytes(&config.raw);
    } else if out.json {
        out.report(state, json!({ "config": config.map(|config| inspector.config_json(&config)) }));
    } else {
        out.row("state", state);
        out.row("config", config.map_or("none".to_owned(), |config| inspector.config_line(&config)));
    }
    Ok(())
}

fn set(target: &Target, args: &Set, out: &mut Out) -> Result<(), Failure> {
    let raw = args.input.read(target)?;
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    store.save_config(args.version, &raw)?;
    let state = store.path().display().to_string();
    store.close()?;
    let fields = json!({ "config": { "version": args.version, "len": raw.len() } });
    let config = format!("version {}, {}", args.version, bytes(len_of(&raw)));
    out.summary(&state, fields, &[("config", config)]);
    Ok(())
}

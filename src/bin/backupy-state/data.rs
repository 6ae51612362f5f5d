//! `data`: the agent's own data.

use backupy_state::OpenOptions;
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::input::Input;
use crate::inspector::{Entry, Inspector};
use crate::target::{Lock, Target};
use crate::text::{Out, bytes, escaped, grouped, len_of};

/// List, show, put or delete the agent's own data
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state data list --prefix dead/")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(List),
    Get(Get),
    Put(Put),
    Delete(Delete),
}

/// List the data keys in byte order, with the lengths of their values
///
/// Takes no lock and changes nothing. A key with an unreadable value is reported, and the keys after it are
/// listed.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state data list --prefix dead/")]
struct List {
    /// List only keys that begin with this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,

    /// Also show the values
    #[arg(long)]
    allow_secrets: bool,
}

/// Show the value of one data key; exits with 6 if there is none
///
/// Takes no lock and changes nothing. The value is a secret: --allow-secrets shows it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state data get dead/run-0815 --raw --allow-secrets > payload.bin")]
struct Get {
    /// The data key
    #[arg(value_name = "KEY")]
    key: String,

    /// Also show the value
    #[arg(long)]
    allow_secrets: bool,

    /// Print only the bytes of the value
    #[arg(long, requires = "allow_secrets", conflicts_with = "json")]
    raw: bool,
}

/// Put a value under a data key, which replaces the current one
///
/// Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state data put cursor/orders cursor.bin")]
struct Put {
    /// The data key
    #[arg(value_name = "KEY")]
    key: String,

    #[command(flatten)]
    input: Input,

    #[command(flatten)]
    lock: Lock,
}

/// Delete a data key and its value; exits with 6 if there is none
///
/// Also deletes an unreadable value. Needs the lock: exits with 5 while an agent holds it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state data delete dead/run-0815")]
struct Delete {
    /// The data key
    #[arg(value_name = "KEY")]
    key: String,

    #[command(flatten)]
    lock: Lock,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    match &args.command {
        Command::List(args) => list(target, args, out),
        Command::Get(args) => get(target, args, out),
        Command::Put(args) => put(target, args, out),
        Command::Delete(args) => delete(target, args, out),
    }
}

fn list(target: &Target, args: &List, out: &mut Out) -> Result<(), Failure> {
    let mut inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let (state, count) = (inspector.snapshot.path().display().to_string(), inspector.snapshot.stats().data_keys);
    if out.json {
        let mut data = Vec::new();
        inspector.each_data_key(&args.prefix, |inspector, entry| data.push(inspector.entry_json(entry)));
        out.report(state, json!({ "data_keys": count, "data": data }));
    } else {
        out.row("state", state);
        out.row("data keys", grouped(count));
        inspector.each_data_key(&args.prefix, |inspector, entry| out.line(inspector.entry_line(entry)));
    }
    inspector.finish()
}

fn get(target: &Target, args: &Get, out: &mut Out) -> Result<(), Failure> {
    let inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let state = inspector.snapshot.path().display().to_string();
    let value = inspector.snapshot.data(&args.key)?.ok_or_else(|| no_such_key(&args.key, &state))?;
    if args.raw {
        out.bytes(&value);
        return Ok(());
    }
    let entry = Entry::data(args.key.clone(), value);
    if out.json {
        out.report(state, json!({ "data": inspector.entry_json(&entry) }));
    } else {
        out.row("state", state);
        out.line(inspector.entry_line(&entry));
    }
    Ok(())
}

fn put(target: &Target, args: &Put, out: &mut Out) -> Result<(), Failure> {
    let value = args.input.read(target)?;
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    store.put_data(&args.key, &value)?;
    let (state, count) = (store.path().display().to_string(), store.stats().data_keys);
    store.close()?;
    let fields = json!({ "data_keys": count, "data": { "key": args.key, "len": value.len() } });
    let put = format!("{}  {}", escaped(&args.key), bytes(len_of(&value)));
    out.summary(&state, fields, &[("data keys", grouped(count)), ("put", put)]);
    Ok(())
}

fn delete(target: &Target, args: &Delete, out: &mut Out) -> Result<(), Failure> {
    let store = target.open(&args.lock, &mut OpenOptions::new())?;
    let was_there = store.delete_data(&args.key)?;
    let (state, count) = (store.path().display().to_string(), store.stats().data_keys);
    store.close()?;
    if !was_there {
        return Err(no_such_key(&args.key, &state));
    }
    let fields = json!({ "data_keys": count, "deleted": args.key });
    out.summary(&state, fields, &[("data keys", grouped(count)), ("deleted", escaped(&args.key))]);
    Ok(())
}

fn no_such_key(key: &str, state: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no data key \"{}\" in {state}", escaped(key)))
}

//! `session`: the session that the agent saved.

use serde_json::json;

use crate::failure::Failure;
use crate::inspector::Inspector;
use crate::target::Target;
use crate::text::Out;

/// Show the session with the server
///
/// The session id is a secret: --allow-secrets shows it. Takes no lock and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  backupy-state session --json | jq .session.server_time_ms")]
pub(crate) struct Args {
    /// Also show the session id
    #[arg(long)]
    allow_secrets: bool,
}

pub(crate) fn run(target: &Target, args: &Args, out: &mut Out) -> Result<(), Failure> {
    let inspector = Inspector::new(target.snapshot()?, args.allow_secrets);
    let (state, session) = (inspector.snapshot.path().display().to_string(), inspector.snapshot.load_session()?);
    if out.json {
        out.report(state, json!({ "session": session.map(|session| inspector.session_json(&session)) }));
    } else {
        out.row("state", state);
        out.row("session", session.map_or("none".to_owned(), |session| inspector.session_line(&session)));
    }
    Ok(())
}

//! What an operator at a shell can do about an error, where the library advises a program.

use backupy_state::Error;

use crate::failure::with_source;

/// The error's message, with the advice that it ends with in terms of commands.
pub(crate) fn for_a_shell(error: &Error) -> String {
    let message = with_source(error);
    let replaced = AT_A_SHELL.iter().find_map(|(in_a_program, at_a_shell)| {
        Some(format!("{}{at_a_shell}", message.strip_suffix(in_a_program)?))
    });
    replaced.unwrap_or(message)
}

/// How messages of the library end, and what to say instead.
const AT_A_SHELL: [(&str, &str); 10] = [
    (
        "a snapshot can be read without the lock",
        "stop that process, or use a command that only reads, such as `backupy-state dump-state`",
    ),
    (
        "salvage it or restore a backup",
        "`backupy-state salvage NEW.db` copies what is left to a new store; or restore a backup",
    ),
    ("acking the job removes it", "`backupy-state queue ack ID` removes the job"),
    ("delete or replace it", "`backupy-state data delete KEY` removes it, `data put` replaces it"),
    ("discarding the unreadable ones removes it", "`backupy-state logs discard-unreadable` removes it"),
    (
        "this is the configuration; saving one replaces it",
        "this is the configuration; `backupy-state config set --version N FILE` replaces it",
    ),
    ("recording one replaces it", "`backupy-state heartbeat record` replaces it"),
    (
        "this is the session; saving one replaces it",
        "this is the session; the agent replaces it with its next one, and `backupy-state salvage NEW.db` copies \
         all else",
    ),
    ("reopen the store to write again", "check the disk, and run the command again"),
    ("then open the store again", "then run the command again"),
];

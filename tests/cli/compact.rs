//! `compact`: the file shrinks, and the contents stay the same.

use crate::sandbox::Sandbox;

#[test]
fn compact_frees_dead_space_and_keeps_the_contents() {
    let sandbox = Sandbox::with_dead_space();
    let log_len = || sandbox.run("stats --json").json()["log_len"].as_u64().unwrap();
    let (held, before) = (sandbox.run("dump-state --allow-secrets").success(), log_len());
    let out = sandbox.run("compact").success();
    let after = log_len();
    assert!(before > 120_000 && after < 10_000, "{before} {after}");
    let expected = format!(
        "state       [DIR]/state.db\ngeneration  2\nbefore      {before} bytes\nafter       {after} bytes\n"
    );
    assert_eq!(out.replace(',', ""), expected);
    assert_eq!(sandbox.run("dump-state --allow-secrets").success(), held);

    let outcome = sandbox.run("compact --json").json();
    assert_eq!((&outcome["state"], &outcome["generation"]), (&"[DIR]/state.db".into(), &3.into()));
    assert_eq!(outcome["bytes_before"], after);
    assert_eq!(outcome["bytes_after"], log_len());
    assert!(outcome["took_us"].is_u64(), "{outcome}");
}

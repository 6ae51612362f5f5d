//! Values are read from a file or stdin, never from an argument.

use crate::sandbox::Sandbox;

#[test]
fn an_unreadable_or_too_long_input_changes_nothing() {
    let sandbox = Sandbox::filled();
    let before = sandbox.bytes();
    for write in ["config set --version 8", "queue enqueue run-9", "logs add"] {
        let outcome = sandbox.run(&format!("{write} /nowhere/at/all"));
        assert!(outcome.failed(1).contains("could not open /nowhere/at/all"), "{outcome:?}");
        let outcome = sandbox.run(&format!("{write} {}", sandbox.folder.path().display()));
        assert!(outcome.failed(1).starts_with("could not read [DIR]"), "{outcome:?}");
        let outcome = sandbox.run(&format!("{write} /dev/zero"));
        let expected = "/dev/zero exceeds the limit of 16777216 bytes; nothing was written";
        assert_eq!(outcome.failed(1), expected);
    }
    assert!(sandbox.bytes() == before);
    sandbox.fed("queue enqueue largest -", &vec![1; 16 << 20]).success();
}

#[test]
fn a_value_is_not_an_argument() {
    let sandbox = Sandbox::filled();
    // A value given as an argument by mistake is taken for a file that does not exist, and nothing is stored.
    sandbox.run("queue enqueue run-9 payload").failed(1);
    sandbox.run("config set --version 8 raw config").failed(2);
    assert_eq!(sandbox.open().queue_depth(), 2);
}

//! Values are read from a file or stdin, never from an argument.

use std::os::unix::fs::symlink;

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

#[test]
fn the_files_of_the_store_are_no_input() {
    let sandbox = Sandbox::filled();
    let mut inputs = sandbox.with_own_files(b"a value");
    inputs.push(sandbox.state().display().to_string());
    let link = sandbox.folder.path().join("link");
    symlink("state.db.new", &link).unwrap();
    inputs.push(link.display().to_string());
    let second_name = sandbox.folder.path().join("second-name");
    std::fs::hard_link(sandbox.state(), &second_name).unwrap();
    inputs.push(second_name.display().to_string());
    let before = sandbox.contents();
    for write in ["config set --version 8", "queue enqueue run-9", "logs add"] {
        for input in &inputs {
            let outcome = sandbox.run(&format!("{write} {input}"));
            let expected = "belongs to the store [DIR]/state.db; choose another file";
            assert!(outcome.failed(2).ends_with(expected), "{write} {input}: {outcome:?}");
        }
    }
    // The path of the store is completed as everywhere, and the input is found from the working folder.
    let mut command = sandbox.command("--state state logs add ./state.db.new");
    let outcome = sandbox.outcome(command.current_dir(sandbox.folder.path()).output().unwrap());
    assert_eq!(outcome.failed(2), "./state.db.new belongs to the store state; choose another file");
    assert!(sandbox.contents() == before);

    // The names alone mean nothing: these belong to no store, or to another one.
    for name in ["state.new", "other.db.new"] {
        let input = sandbox.folder.path().join(name);
        std::fs::write(&input, "a value").unwrap();
        sandbox.run(&format!("logs add {}", input.display())).success();
    }
}

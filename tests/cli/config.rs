//! `config`: showing and replacing the configuration.

use std::fs;

use serde_json::{Value, json};

use crate::sandbox::{BINARY, RAW_CONFIG, Sandbox};

#[test]
fn config_get_shows_version_and_length() {
    let sandbox = Sandbox::filled();
    let expected = "state       [DIR]/state.db\nconfig      version 7, 36 bytes\n";
    assert_eq!(sandbox.run("config get").success(), expected);
    let outcome = sandbox.run("config get --json").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "config": { "version": 7, "len": 36 } }));
    let outcome = sandbox.run("config get --json --allow-secrets").json();
    assert_eq!(outcome["config"]["raw"], RAW_CONFIG);
    assert!(
        sandbox.run("config get --allow-secrets").success().ends_with(&format!("36 bytes: \"{RAW_CONFIG}\"\n"))
    );
    assert_eq!(sandbox.stdout_of("config get --raw --allow-secrets"), RAW_CONFIG.as_bytes());
}

#[test]
fn config_get_without_a_configuration_shows_none() {
    let sandbox = Sandbox::empty();
    sandbox.open().close().unwrap();
    assert_eq!(sandbox.run("config get").success(), "state       [DIR]/state.db\nconfig      none\n");
    assert_eq!(sandbox.run("config get --json").json()["config"], Value::Null);
    let outcome = sandbox.run("config get --raw --allow-secrets");
    assert_eq!(outcome.failed(6), "there is no configuration in [DIR]/state.db");
}

#[test]
fn config_set_saves_the_bytes_of_a_file_or_of_stdin() {
    let sandbox = Sandbox::filled();
    let file = sandbox.folder.path().join("config.bin");
    fs::write(&file, BINARY).unwrap();
    let out = sandbox.run(&format!("config set --version 8 {}", file.display())).success();
    assert_eq!(out, format!("state       [DIR]/state.db\nconfig      version 8, {} bytes\n", BINARY.len()));
    assert_eq!(sandbox.stdout_of("config get --raw --allow-secrets"), BINARY);

    let outcome = sandbox.fed("config set --version 18446744073709551615 - --json", b"").json();
    assert_eq!(outcome, json!({ "state": "[DIR]/state.db", "config": { "version": u64::MAX, "len": 0 } }));
    let config = sandbox.open().load_config().unwrap().unwrap();
    assert_eq!((config.version, config.raw.as_slice()), (u64::MAX, &b""[..]));
}

//! `man`: a page for every command, without mistakes.

use std::fs;
use std::process::{Command, Stdio};

use crate::sandbox::Sandbox;

#[test]
fn man_writes_a_page_for_every_command() {
    let sandbox = Sandbox::empty();
    let dir = sandbox.folder.path().display().to_string();
    let written = sandbox.run(&format!("man --dir {dir}")).success();
    assert_eq!(written.lines().count(), fs::read_dir(&dir).unwrap().count());
    for name in ["", "-map", "-queue", "-queue-enqueue", "-logs-drain", "-heartbeat-record"] {
        let page = fs::read_to_string(format!("{dir}/backupy-state{name}.1")).unwrap();
        assert!(page.contains(".TH") && page.contains("Example:"), "{page}");
    }
    assert!(!written.contains("-help.1") && !written.contains("demo-agent"), "{written}");
    // Every page that the main one refers to was written.
    let main = fs::read_to_string(format!("{dir}/backupy-state.1")).unwrap().replace("\\-", "-");
    for name in main.lines().filter_map(|line| line.strip_suffix("(1)")) {
        assert!(written.contains(&format!("/{name}.1\n")), "{name}");
    }
    assert_eq!(sandbox.run("man").success().replace("\\-", "-"), main);
    sandbox.run("man --dir /nowhere/at/all").failed(1);
}

#[test]
fn groff_reports_no_mistake_in_the_manual_page() {
    let sandbox = Sandbox::empty();
    let groff = Command::new("groff").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !groff.is_ok_and(|status| status.success()) {
        crate::sandbox::report_skipped("groff is not installed: the manual page was not checked");
        return;
    }
    let page = sandbox.folder.path().join("page.1");
    fs::write(&page, sandbox.run("man").success()).unwrap();
    let output = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).arg(&page).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

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
        assert!(page.contains(".TH") && page.contains(".SH EXAMPLES\n.nf\n"), "{page}");
    }
    assert!(!written.contains("-help.1") && !written.contains("demo-agent"), "{written}");
    // Every page that the main one refers to was written.
    let main = fs::read_to_string(format!("{dir}/backupy-state.1")).unwrap().replace("\\-", "-");
    for name in main.split([' ', '\n', ',']).filter_map(|word| word.strip_suffix("(1)")) {
        assert!(written.contains(&format!("/{name}.1\n")), "{name}");
    }
    assert_eq!(sandbox.run("man").success().replace("\\-", "-"), main);
    sandbox.run("man --dir /nowhere/at/all").failed(1);
}

#[test]
fn every_page_has_the_sections_that_an_operator_looks_for() {
    let sandbox = Sandbox::empty();
    let dir = sandbox.folder.path().join("man1");
    fs::create_dir(&dir).unwrap();
    let written = sandbox.run(&format!("man --dir {}", dir.display())).success();
    for page in written.lines() {
        let text = fs::read_to_string(page.replace("[DIR]", sandbox.folder.path().to_str().unwrap())).unwrap();
        let text = text.replace("\\-", "-");
        let headings = ["EXAMPLES", "\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "\"SEE ALSO\""].map(|heading| {
            let sections = text.split(&format!(".SH {heading}\n")).collect::<Vec<_>>();
            assert_eq!(sections.len(), 2, "{page}: {heading}: {text}");
            sections[1].split(".SH").next().unwrap().to_owned()
        });
        let [_, status, environment, files, see_also] = headings;
        let has_code_7 = status.contains("\\fB7\\fR");
        assert_eq!(has_code_7, !page.ends_with("-health-check.1"), "{page}: {status}");
        assert!(environment.contains("BACKUPY_AGENT_KEY") && files.contains("state.db.lock"), "{page}");
        assert_eq!(
            see_also.contains("backupy-state(1)"),
            !page.ends_with("/backupy-state.1"),
            "{page}: {see_also}"
        );
        assert!(text.contains(concat!("\"backupy-state ", env!("CARGO_PKG_VERSION"), "\"")), "{page}: {text}");
    }
    let ack = fs::read_to_string(dir.join("backupy-state-queue-ack.1")).unwrap().replace("\\-", "-");
    assert!(ack.ends_with("backupy-state(1), backupy-state-queue(1)\n"), "{ack}");
}

#[test]
fn groff_reports_no_mistake_in_any_manual_page() {
    let sandbox = Sandbox::empty();
    let groff = Command::new("groff").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !groff.is_ok_and(|status| status.success()) {
        crate::sandbox::report_skipped("groff is not installed: the manual pages were not checked");
        return;
    }
    let dir = sandbox.folder.path();
    sandbox.run(&format!("man --dir {}", dir.display())).success();
    let pages = sandbox.files().into_iter().map(|name| dir.join(name));
    let output = Command::new("groff").args(["-man", "-ww", "-Tutf8", "-z"]).args(pages).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

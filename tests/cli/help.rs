//! `--help` of every command.

use crate::sandbox::Sandbox;

#[test]
fn the_help_of_every_command_has_an_example() {
    let sandbox = Sandbox::empty();
    let mut seen = 0;
    for command in commands(&sandbox, "") {
        seen += 1;
        let help = sandbox.run(&format!("{command} --help")).success();
        assert!(help.contains("Example:\n  "), "{help}");
        let is_demo = command == " demo";
        assert!(help.contains("BACKUPY_STATE_DIR") != is_demo && help.contains("BACKUPY_AGENT_KEY"), "{help}");
        assert!(!help.contains("demo-agent"), "{help}");
    }
    assert!(seen >= 30, "only {seen} commands are listed");
}

#[test]
fn the_help_of_salvage_has_an_example_with_paths() {
    let help = Sandbox::empty().run("salvage --help").success();
    assert!(help.contains("Example") && help.contains("salvage /var/lib/backupy/salvaged.db"), "{help}");
}

/// All commands with their parents, as listed by the help.
pub(crate) fn commands(sandbox: &Sandbox, parent: &str) -> Vec<String> {
    let help = sandbox.run(&format!("{parent} --help")).success();
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
    let mut all = vec![parent.to_owned()];
    // A line with a larger indent continues the previous one.
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !["", "help"].contains(name)) {
        all.extend(commands(sandbox, &format!("{parent} {name}")));
    }
    all
}

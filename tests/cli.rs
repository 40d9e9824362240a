//! The command line as a person meets it: help, errors, exit codes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "the helpers are shared with the tests of the hub"
)]

#[path = "clients/hub.rs"]
mod hub;

use hub::meshfs;

/// Exit code, standard output and standard error as one text.
fn transcript(arguments: &[&str]) -> String {
    let output = meshfs(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    format!(
        "$ meshfs {}\n{}{}[exit {}]\n",
        arguments.join(" "),
        text(output.stdout),
        text(output.stderr),
        output.status.code().unwrap()
    )
}

#[test]
fn help_teaches_the_program() {
    let mut all = transcript(&["--help"]);
    for command in ["serve", "announce", "status", "snapshots", "live", "user", "config", "check"] {
        all += &transcript(&[command, "--help"]);
    }
    for command in [
        ["snapshots", "list"],
        ["live", "ls"],
        ["live", "cat"],
        ["live", "purge"],
        ["user", "add"],
        ["user", "passwd"],
        ["user", "list"],
        ["user", "remove"],
    ] {
        all += &transcript(&[command[0], command[1], "--help"]);
    }
    insta::assert_snapshot!(all);
}

#[test]
fn mistakes_are_answered_with_what_is_wrong_and_the_way_out() {
    let mut all = String::new();
    for arguments in [
        &["announce"][..],
        &["snapshot"],
        &["announce", "--window", "soon", "x"],
        &["serve", "--config", "/nowhere.toml"],
        &["status", "--hub", "http://127.0.0.1:1"],
        &["status", "--hub", "example.org"],
        &["status", "--hub", "http://127.0.0.1:1", "../etc"],
        &["live", "ls", "mesh/a#"],
        &["live", "ls", "--root", "/nowhere"],
        &["live", "cat", "mesh/+"],
        &["live", "purge"],
        &["live", "purge", "mesh/#", "--hub", "http://127.0.0.1:1"],
        &["announce", "--hub", "mqtt://127.0.0.1:1", "x"],
        &["announce", "--hub", "mqtt://127.0.0.1:x", "x"],
    ] {
        all += &transcript(arguments);
    }
    insta::assert_snapshot!(all);
}

#[test]
fn config_prints_the_defaults_and_what_is_in_force() {
    let defaults = meshfs(&["config"]).stdout;
    assert_eq!(
        String::from_utf8(defaults).unwrap().trim_end(),
        meshfs::config::DEFAULTS.trim_end()
    );
    let in_force = meshfs(&["config", "--in-force", "--root", "/elsewhere"]).stdout;
    let in_force: serde_json::Value = serde_json::from_slice(&in_force).unwrap();
    assert_eq!(in_force["root"], "/elsewhere");
    assert_eq!(in_force["announce"]["deadline"], "30s");
    assert_eq!(in_force["snapshot"]["engine"], "auto");
}

#[test]
fn bad_configuration_ends_with_64_before_anything_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let root = dir.path().join("tree");
    std::fs::write(&file, "[bus]\nlisten = \"0.0.0.0:1883\"\n").unwrap();
    for command in ["serve", "check", "config"] {
        let mut arguments =
            vec![command, "--config", file.to_str().unwrap(), "--root", root.to_str().unwrap()];
        if command == "config" {
            arguments.push("--in-force");
        }
        let output = meshfs(&arguments);
        assert_eq!(output.status.code(), Some(64), "{command}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("bus.listen") && error.contains("loopback"), "{error}");
    }
    assert!(!root.exists());
}

#[test]
fn check_says_what_is_wrong_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let check = |root: &str| {
        let output = hub::program(env!("CARGO_BIN_EXE_meshfs"))
            .args(["check", "--json", "--root", root])
            .env("MESHFS__BUS__LISTEN", taken.local_addr().unwrap().to_string())
            .env("MESHFS__HTTP__LISTEN", "127.0.0.1:0")
            .env("MESHFS__IRC__EMBEDDED__LISTEN", "127.0.0.1:0")
            .output()
            .unwrap();
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong = findings.as_array().unwrap().iter().filter(|f| f["good"] == false);
        let wrong: Vec<_> = wrong.map(|f| f["what"].as_str().unwrap().to_owned()).collect();
        (output.status.code(), wrong)
    };
    let root = dir.path().join("deep/tree");
    assert_eq!(check(root.to_str().unwrap()), (Some(1), vec!["bus.listen".to_owned()]));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (_, wrong) = check(file.join("tree").to_str().unwrap());
    assert!(wrong.contains(&"root".to_owned()), "{wrong:?}");
}

#[test]
fn check_finds_a_hub_that_is_already_running() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub::Hub::start(dir.path());
    let tree = dir.path().join("tree");
    let output = meshfs(&["check", "--json", "--root", tree.to_str().unwrap()]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lock = findings.as_array().unwrap().iter().find(|f| f["what"] == "lock").unwrap();
    assert_eq!(lock["good"], false);
    assert!(lock["detail"].as_str().unwrap().contains("pid"), "{lock}");
    assert_eq!(hub.stop(), Some(0));
}

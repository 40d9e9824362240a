//! `meshfs user`, and the other commands with `--user`.

use super::{Guarded, PASSWORD, hub, meshfs, program, user};
use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};

fn text(output: &Output) -> (Option<i32>, String) {
    let all = [&*output.stdout, &*output.stderr].concat();
    (output.status.code(), String::from_utf8(all).unwrap())
}

#[test]
fn users_are_added_listed_changed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    let run = |arguments: &[&str], line: &str| text(&user(&file, arguments, line));
    assert_eq!(run(&["list"], "").1, "no users; `meshfs user add NAME --role ROLE` adds one\n");
    let (code, said) = run(&["add", "web1", "--role", "node"], PASSWORD);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("web1 added") && said.contains("SIGHUP"), "{said}");
    assert_eq!(run(&["add", "nas", "--role", "service", "--certificate"], "").0, Some(0));
    let before = std::fs::read_to_string(&file).unwrap();
    assert!(!before.contains(PASSWORD) && before.contains("$argon2id$"));
    for (arguments, line, why) in [
        (&["add", "web1", "--role", "node"][..], PASSWORD, "already"),
        (&["add", "web2", "--role", "nod"], PASSWORD, "node, operator"),
        (&["add", "web2", "--role", "node"], "short", "at least 8"),
        (&["add", "web2", "--role", "node"], "", "no password"),
        (&["add", "a/b", "--role", "node"], PASSWORD, "letters"),
        (&["passwd", "web2"], PASSWORD, "no user web2"),
        (&["remove", "web2"], "", "no user web2"),
    ] {
        let (code, said) = run(arguments, line);
        assert!(code != Some(0) && said.contains(why), "{arguments:?}: {said}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "{arguments:?}");
    }
    assert_eq!(run(&["passwd", "web1"], "another one").0, Some(0));
    assert_ne!(std::fs::read_to_string(&file).unwrap(), before);
    let list = run(&["list"], "").1;
    let rows: Vec<Vec<&str>> = list.lines().map(|l| l.split_whitespace().collect()).collect();
    let expected = [
        ["USER", "ROLE", "PROOF"],
        ["nas", "service", "certificate"],
        ["web1", "node", "password"],
    ];
    assert_eq!(rows, expected);
    let json: serde_json::Value = serde_json::from_str(&run(&["list", "--json"], "").1).unwrap();
    assert_eq!(
        json[1],
        serde_json::json!({"user":"web1","role":"node","password":true,"certificate":false})
    );
    assert_eq!(run(&["remove", "web1"], "").0, Some(0));
    assert!(!run(&["list"], "").1.contains("web1"));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("# Who may connect"));
}

#[test]
fn a_broken_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    std::fs::write(&file, "[users.a]\nrole = \"nod\"\n").unwrap();
    for arguments in [&["list"][..], &["add", "b", "--role", "node"], &["remove", "a"]] {
        let (code, said) = text(&user(&file, arguments, PASSWORD));
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains("users.toml: users.a.role"), "{said}");
    }
}

#[test]
fn the_file_is_the_one_that_the_configuration_names_though_nobody_may_start_a_hub_with_it_yet() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("others.toml");
    let run = |arguments: &[&str]| {
        let mut command = program(env!("CARGO_BIN_EXE_meshfs"));
        command.args(arguments).env("MESHFS__BUS__USERS", &file);
        command.env("MESHFS__BUS__LISTEN", "0.0.0.0:0").output().unwrap()
    };
    let (code, said) = text(&run(&["config", "--in-force"]));
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("bus.listen") && said.contains("meshfs user add"), "{said}");
    let added = run(&["user", "add", "nas", "--role", "node", "--certificate"]);
    assert!(added.status.success() && file.is_file(), "{added:?}");
    assert!(run(&["config", "--in-force"]).status.success());
}

/// Reads until a text has come.
fn read_until(from: &mut impl std::io::Read, what: &str) -> String {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&seen).contains(what) {
        let seen_text = String::from_utf8_lossy(&seen).into_owned();
        assert_eq!(from.read(&mut byte).unwrap(), 1, "no {what:?} in {seen_text:?}");
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn a_password_that_is_typed_is_asked_for_twice_and_not_shown() {
    if !hub::installed("a password typed", "script") {
        return;
    }
    for (second, changed) in [(PASSWORD, true), ("something else", false)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.toml");
        let line = format!(
            "{} user add web1 --role node --users {}",
            env!("CARGO_BIN_EXE_meshfs"),
            file.display()
        );
        let mut terminal = program("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut keys, mut screen) =
            (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
        let mut seen = read_until(&mut screen, "Password: ");
        writeln!(keys, "{PASSWORD}").unwrap();
        seen += &read_until(&mut screen, "Again: ");
        writeln!(keys, "{second}").unwrap();
        screen.read_to_string(&mut seen).unwrap();
        assert_eq!(terminal.wait().unwrap().success(), changed, "{seen}");
        assert_eq!(file.is_file(), changed);
        assert!(!seen.contains(PASSWORD) && !seen.contains(second), "{seen}");
    }
}

#[test]
fn commands_come_as_a_user_with_the_password_in_a_file() {
    let guarded = Guarded::start();
    let secret = guarded.dir.path().join("secret");
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = program(env!("CARGO_BIN_EXE_meshfs"));
        text(&command.args(arguments).env("MESHFS_PASSWORD_FILE", &secret).output().unwrap())
    };
    let (http, mqtt) = (guarded.hub.url(), format!("mqtt://{}", guarded.hub.mqtt));
    let (code, said) = run(&["status", "--hub", &http]);
    assert!(code == Some(1) && said.contains("--user"), "{said}");
    assert_eq!(run(&["status", "--hub", &http, "--user", "wall"]).0, Some(0));
    let (code, said) = run(&["status", "--hub", &http, "--user", "web1"]);
    assert!(code == Some(1) && said.contains("web1 may not read"), "{said}");
    for hub in [&http, &mqtt] {
        let announce = ["announce", "--json", "--hub", hub, "--user", "web1", "restarting"];
        let (code, said) = run(&announce);
        assert_eq!(code, Some(0), "{hub}: {said}");
        let outcome: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(outcome["by"]["user"], "web1");
        let (code, said) = run(&["announce", "--hub", hub, "--user", "wall", "restarting"]);
        assert_eq!(code, Some(1), "{hub}: {said}");
        let (code, said) = run(&["announce", "--hub", hub, "--user", "nobody", "restarting"]);
        assert_eq!(code, Some(1), "{hub}: {said}");
    }
}

#[test]
fn a_password_in_the_address_is_refused_and_not_repeated() {
    for hub in
        ["http://anna:hunter22@127.0.0.1:1", "mqtt://anna:hunter22@127.0.0.1:1", "anna:hunter22@x"]
    {
        for command in [&["announce", "x"][..], &["status"], &["snapshots", "list"]] {
            let (code, said) = text(&meshfs(&[command, &["--hub", hub]].concat()));
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains("--user") && !said.contains("hunter22"), "{said}");
        }
    }
    let (code, said) = text(&meshfs(&["status", "--user", "anna"]));
    assert!(code == Some(2) && said.contains("MESHFS_PASSWORD_FILE"), "{said}");
}

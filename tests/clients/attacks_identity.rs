//! Who somebody says he is: guessing, borrowed names, and what leaks past the rights.

use super::attacks::Target;
use super::hub::program;
use super::raw::{Client, Connect, Publish, Version};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

const PASSWORD: &str = "correct horse battery";

/// Adds a user by the program itself, the password by standard input.
fn user(file: &Path, name: &str, role: &str) {
    let mut adding = program(env!("CARGO_BIN_EXE_meshfs"))
        .args(["user", "add", name, "--role", role, "--users"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(adding.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    assert!(adding.wait().unwrap().success());
}

/// A hub with a node, a service, a dashboard and an operator, and nobody without a name.
fn guarded() -> (Target, tempfile::TempDir) {
    let config = tempfile::tempdir().unwrap();
    let file = config.path().join("users.toml");
    for (name, role) in
        [("web1", "node"), ("web2", "node"), ("dns", "service"), ("anna", "operator")]
    {
        user(&file, name, role);
    }
    let environment =
        [("MESHFS__BUS__USERS", file.to_str().unwrap()), ("MESHFS__BUS__ANONYMOUS_ROLE", "none")];
    (Target::start_with(&environment), config)
}

fn login(target: &Target, user: &str, id: &str) -> Client {
    Client::connect(target.hub.mqtt, &Connect::new(Version::V5, id).login(user, PASSWORD))
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Host: localhost\r\nAuthorization: Basic {encoded}\r\n")
}

#[test]
fn guesses_are_counted_together_whatever_door_and_client_id_they_come_by() {
    let (target, _config) = guarded();
    let mqtt = target.hub.mqtt;
    let guess = |n: usize| {
        std::thread::spawn(move || {
            let connect = Connect::new(Version::V5, &format!("guesser-{n}"));
            Client::try_connect(mqtt, &connect.login("anna", &format!("guess {n}"))).1
        })
    };
    let guesses: Vec<_> = (0..40).map(guess).collect();
    let codes: Vec<u8> = guesses.into_iter().map(|guess| guess.join().unwrap()).collect();
    assert!(codes.iter().all(|code| [0x86, 0x8A].contains(code)), "{codes:02x?}");
    let checked = codes.iter().filter(|code| **code == 0x86).count();
    assert!((1..10).contains(&checked), "{checked} guesses were answered: {codes:02x?}");
    // Neither another door nor the right password gets in now, so that it is not found so.
    let answer = target.hub.request_with("GET", "/v1/nodes", &basic("anna", PASSWORD), "").0;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    let connect = Connect::new(Version::V5, "anna").login("anna", PASSWORD);
    assert_eq!(Client::try_connect(mqtt, &connect).1, 0x8A);
    assert_eq!(target.hub.request("GET", "/healthz", "").0, 200);
}

#[test]
fn without_a_name_nobody_comes_in_by_any_door() {
    let (target, _config) = guarded();
    for id in ["", "anna", "hub", "hub:hub", "cli:anna", "web1", "auto-1"] {
        for version in [Version::V4, Version::V5] {
            let (_, code) = Client::try_connect(target.hub.mqtt, &Connect::new(version, id));
            assert_eq!(code, if version == Version::V5 { 0x87 } else { 5 }, "{id}");
        }
    }
    for path in ["/v1/nodes", "/v1/live", "/v1/live/hub", "/v1//nodes", "/nothing", "/v1/snapshots"]
    {
        for headers in ["Host: localhost\r\n", "Host: localhost\r\nX-Forwarded-User: anna\r\n"] {
            let (head, _) = target.hub.request_with("GET", path, headers, "");
            assert!(head.starts_with("HTTP/1.1 401"), "{path}: {head}");
        }
    }
    for path in ["/v1/announcements", "/v1/live/purge"] {
        let (status, _) = target.hub.request("POST", path, r##"{"filter":"#","dry_run":false}"##);
        assert_eq!(status, 401, "{path}");
    }
}

#[test]
fn a_client_id_makes_nobody_somebody_else() {
    let (target, _config) = guarded();
    let long = "x".repeat(65_535);
    let controls = "a\u{1}\u{1b}[2J\n";
    for id in ["anna", "hub", "hub:hub", "cli:anna", "web2", "+", "#", "../..", controls, &long] {
        let connect = Connect::new(Version::V5, id).login("web1", PASSWORD);
        let (mut client, code) = Client::try_connect(target.hub.mqtt, &connect);
        if code != 0 {
            continue;
        }
        for topic in [
            "mesh/nodes/web2/heartbeat",
            "mesh/nodes/web10/heartbeat",
            "mesh/services/dns/heartbeat",
            "mesh/app/x",
            "mesh/hub",
            "mesh/nodes/web1/verdict",
            "mesh/irc/house/mesh/say",
        ] {
            let code = client.publish(&Publish::new(topic, "{}").qos(1).retained());
            assert_eq!(code, 0x87, "{id:?} {topic}");
        }
    }
    let log = std::fs::read_to_string(target.dir.path().join("hub.log")).unwrap();
    assert!(!log.contains(['\u{1}', '\u{1b}']), "a terminal that shows the log would obey it");
}

#[test]
fn a_node_hears_nothing_of_others_by_wildcard_share_or_replay() {
    let (target, _config) = guarded();
    let mut anna = login(&target, "anna", "anna");
    for topic in ["mesh/app/secret", "mesh/nodes/web2/heartbeat", "mesh/app/replies/web2/x"] {
        assert_eq!(anna.publish(&Publish::new(topic, "{}").qos(1).retained()), 0);
    }
    let mut node = login(&target, "web1", "web1");
    let deep = format!("mesh/nodes/web1{}", "/+".repeat(900));
    for filter in [
        "#",
        "+/#",
        "mesh/#",
        "mesh/+/web2/#",
        "mesh/nodes/+/heartbeat",
        "mesh/nodes/web2/#",
        "mesh/app/#",
        "mesh/app/secret",
        "mesh/app/replies/+/x",
        "mesh/app/replies/web2/x",
        "mesh/events",
        "$share/g/#",
        "$share/g/mesh/app/#",
        "$share/web1/mesh/nodes/web2/heartbeat",
        "$share/mesh/nodes/web1/#",
    ] {
        assert_eq!(node.subscribe(filter, 1), 0x87, "{filter}");
    }
    node.subscribe(&deep, 1);
    anna.publish(&Publish::new("mesh/app/secret", "live").qos(1));
    assert_eq!(node.subscribe("mesh/nodes/web1/#", 1), 1);
    let beat = Publish::new("mesh/nodes/web1/heartbeat", "{}").qos(1);
    assert_eq!(node.publish(&beat), 0);
    assert_eq!(node.message().topic, "mesh/nodes/web1/heartbeat", "nothing came before it");
    target.is_well_as(&Connect::new(Version::V5, "well").login("anna", PASSWORD));
}

#[test]
fn another_user_with_the_same_client_id_gets_nothing_of_the_session() {
    let (target, _config) = guarded();
    let persistent = |user: &str| Connect::persistent(Version::V5, "shared").login(user, PASSWORD);
    let mut anna = Client::connect(target.hub.mqtt, &persistent("anna"));
    assert_eq!(anna.subscribe("mesh/app/secret", 1), 1);
    anna.vanish();
    let mut other = login(&target, "anna", "writer");
    assert_eq!(other.publish(&Publish::new("mesh/app/secret", "for anna").qos(1)), 0);
    let mut thief = Client::connect(target.hub.mqtt, &persistent("web1"));
    assert!(!thief.session_present);
    thief.ping();
    assert!(thief.try_next(std::time::Duration::ZERO).is_none());
    let mut back = Client::connect(target.hub.mqtt, &persistent("anna"));
    assert!(back.session_present, "it is still hers");
    assert_eq!(back.message().topic, "mesh/app/secret");
    thief.ping();
}

#[test]
fn a_user_reads_and_changes_over_http_only_what_his_role_allows() {
    let (target, _config) = guarded();
    let node = basic("web1", PASSWORD);
    for path in ["/v1/live", "/v1/live/app/secret", "/v1/nodes", "/v1/announcements"] {
        let (head, _) = target.hub.request_with("GET", path, &node, "");
        assert!(head.starts_with("HTTP/1.1 403"), "{path}: {head}");
    }
    let purge = r##"{"filter":"#","dry_run":false}"##;
    let (head, _) = target.hub.request_with("POST", "/v1/live/purge", &node, purge);
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let (head, _) = target.hub.request_with("POST", "/v1/announcements", &node, "upgrading");
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
}

#[test]
fn the_id_of_another_users_announcement_confirms_nothing() {
    let (target, _config) = guarded();
    let announce = |user: &str, reason: &str| {
        let body = format!(r#"{{"reason":"{reason}","id":"deploy-42"}}"#);
        let login = basic(user, PASSWORD);
        target.hub.request_with("POST", "/v1/announcements", &login, &body)
    };
    assert!(announce("web1", "taken early").0.starts_with("HTTP/1.1 201"));
    let (head, body) = announce("anna", "really risky");
    assert!(head.starts_with("HTTP/1.1 409"), "{head}");
    assert!(body.contains("another user"), "{body}");
    assert!(announce("web1", "again").0.starts_with("HTTP/1.1 201"), "it is still his");
}

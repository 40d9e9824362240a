//! MQTT over TLS and WebSocket, as people's clients speak it, against `meshfs serve`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(clippy::print_stderr, reason = "a skip is said")]
#![allow(dead_code, reason = "the hub's helpers are shared with other tests")]

#[path = "clients/certificates.rs"]
mod certificates;
#[path = "clients/hub.rs"]
mod hub;

use certificates::Authority;
use hub::{Hub, installed, meshfs, program, until};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

fn start(root: &Path, authority: &Authority, client_certificate: &str) -> Hub {
    let environment = authority.environment(client_certificate);
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    Hub::start_with(root, &environment)
}

/// Where `tests/run` installs clients that Debian does not have.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("clients")
}

fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(str::to_owned).collect()
}

/// One of mosquitto's clients on the TLS port.
fn mosquitto_tls(name: &str, hub: &Hub, authority: &Authority) -> Command {
    let mut command = program(name);
    command.args(["-h", "localhost", "-p", &hub.mqtts.unwrap().port().to_string()]);
    command.args(["--cafile", &authority.path("ca.pem")]);
    command
}

#[test]
fn mosquittos_clients_speak_tls_with_and_without_a_certificate_of_their_own() {
    let test = "mosquittos_clients_speak_tls";
    if !installed(test, "mosquitto_pub") || !installed(test, "mosquitto_sub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.issue("web1", |_| {});
    let hub = start(dir.path(), &authority, "optional");
    let own = [authority.path("web1.pem"), authority.path("web1.key")];
    for version in ["311", "5"] {
        for certificate in [&[][..], &["--cert", &own[0], "--key", &own[1]]] {
            let topic = format!("mesh/app/tls/{version}/{}", certificate.len());
            let common = ["-V", version, "-q", "1", "-t", &topic];
            let mut publish = mosquitto_tls("mosquitto_pub", &hub, &authority);
            lines(publish.args(common).args(certificate).args(["-r", "-m", "hällo"]));
            let mut subscribe = mosquitto_tls("mosquitto_sub", &hub, &authority);
            let got = lines(subscribe.args(common).args(certificate).args(["-C", "1", "-W", "30"]));
            assert_eq!(got, ["hällo"], "{version} {certificate:?}");
        }
    }
}

#[test]
fn where_certificates_are_required_a_client_without_one_is_refused() {
    let test = "where_certificates_are_required";
    if !installed(test, "mosquitto_pub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.issue("web1", |_| {});
    let hub = start(dir.path(), &authority, "required");
    let message = ["-q", "1", "-t", "mesh/app/x", "-m", "x"];
    let mut without = mosquitto_tls("mosquitto_pub", &hub, &authority);
    assert!(!without.args(message).output().unwrap().status.success());
    let mut with = mosquitto_tls("mosquitto_pub", &hub, &authority);
    with.args(["--cert", &authority.path("web1.pem"), "--key", &authority.path("web1.key")]);
    lines(with.args(message));
}

#[test]
fn paho_speaks_both_versions_over_tcp_tls_websocket_and_both() {
    let python = clients().join("python/bin/python");
    if !python.is_file() {
        eprintln!("SKIP paho: no {}; tests/run installs it", python.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.issue("py", |_| {});
    let hub = start(dir.path(), &authority, "optional");
    let way = |name: &str, address: SocketAddr, transport: &str, tls: &str| {
        format!("{name}:{}:{transport}:{tls}", address.port())
    };
    let mut command = program(python.to_str().unwrap());
    command.args(["tests/clients/transports.py", "localhost"]).args([
        way("tcp", hub.mqtt, "tcp", "-"),
        way("tls", hub.mqtts.unwrap(), "tcp", "tls"),
        way("ws", hub.http, "websockets", "-"),
        way("wss", hub.https.unwrap(), "websockets", "tls"),
    ]);
    command.args(["--ca", &authority.path("ca.pem")]);
    command.args(["--cert", &authority.path("py.pem"), "--key", &authority.path("py.key")]);
    let expected = ["tcp", "tls", "ws", "wss"].map(|n| [format!("{n} 4 ok"), format!("{n} 5 ok")]);
    assert_eq!(lines(&mut command), expected.concat());
}

#[test]
fn mqtt_js_speaks_both_versions_over_websocket_plain_and_secure() {
    let modules = clients().join("node/node_modules");
    if !modules.join("mqtt").is_dir() || !installed("mqtt_js", "node") {
        eprintln!("SKIP mqtt_js: no mqtt in {}; tests/run installs it", modules.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let hub = start(dir.path(), &authority, "optional");
    let mut command = program("node");
    command.env("NODE_PATH", modules).args([
        "tests/clients/transports.js".to_owned(),
        authority.path("ca.pem"),
        format!("ws://localhost:{}/mqtt", hub.http.port()),
        format!("wss://localhost:{}/mqtt", hub.https.unwrap().port()),
        format!("mqtts://localhost:{}", hub.mqtts.unwrap().port()),
    ]);
    let expected = ["ws", "wss", "mqtts"].map(|n| [format!("{n}: 4 ok"), format!("{n}: 5 ok")]);
    assert_eq!(lines(&mut command), expected.concat());
}

/// Asks for a WebSocket; gives the answer's head and the connection.
fn ask(http: SocketAddr, host: &str, more: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(hub::LIMIT)).unwrap();
    write!(
        stream,
        "GET /mqtt HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap(), stream)
}

const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

#[test]
fn no_page_of_another_origin_reaches_the_bus() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let own = hub.http.to_string();
    let origin = |origin: &str| format!("{SUBPROTOCOL}Origin: {origin}\r\n");
    for foreign in ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"] {
        let (head, _) = ask(hub.http, &own, &origin(foreign));
        assert!(head.starts_with("HTTP/1.1 403 "), "{foreign}: {head}");
    }
    let (head, _) = ask(hub.http, "evil.example", SUBPROTOCOL);
    assert!(head.starts_with("HTTP/1.1 403 "), "a rebound name: {head}");
    let (head, _) = ask(hub.http, &own, "");
    assert!(head.starts_with("HTTP/1.1 400 "), "no subprotocol: {head}");
    let (status, body) = hub.request("GET", "/mqtt", "");
    assert!(status == 400 && body.contains("not a WebSocket handshake"), "{status} {body}");
    for welcome in [origin(&format!("http://{own}")), SUBPROTOCOL.to_owned()] {
        let (head, _) = ask(hub.http, &own, &welcome);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }
}

#[test]
fn the_hubs_end_closes_websockets() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let (_, mut client) = ask(hub.http, &hub.http.to_string(), SUBPROTOCOL);
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
    let mut frame = vec![0x82, 0x80 | connect.len() as u8, 0, 0, 0, 0];
    frame.extend(connect);
    client.write_all(&frame).unwrap();
    let mut connack = [0; 6];
    client.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x82, 4, 0x20, 2, 0, 0]);
    assert_eq!(hub.stop(), Some(0));
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [0x88, 2, 3, 0xE8], "a close frame, 1000");
}

fn journal(root: &Path) -> String {
    let days = std::fs::read_dir(root.join("tree/journal")).unwrap();
    days.map(|day| std::fs::read_to_string(day.unwrap().path()).unwrap()).collect()
}

/// The certificate that a port shows, by OpenSSL's client.
fn shown(address: SocketAddr) -> String {
    let mut command = program("openssl");
    command.args(["s_client", "-connect", &address.to_string()]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().replace(' ', "")
}

#[test]
fn a_hangup_reads_certificates_again_and_a_broken_file_keeps_the_old_ones() {
    let test = "a_hangup_reads_certificates_again";
    if !installed(test, "openssl") || !installed(test, "mosquitto_sub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let hub = start(dir.path(), &authority, "optional");
    let both = [hub.mqtts.unwrap(), hub.https.unwrap()];
    let mut old = mosquitto_tls("mosquitto_sub", &hub, &authority);
    old.args(["-i", "old", "-t", "mesh/app/end", "-C", "1", "-W", "60"]);
    let old = old.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let log = || std::fs::read_to_string(dir.path().join("hub.log")).unwrap();

    std::fs::write(authority.path("server.pem"), "torn").unwrap();
    hub.hang_up();
    until("the refusal", || log().contains("not read again"));
    assert!(log().contains("bus.tls.certificate"), "{}", log());
    assert!(both.iter().all(|port| shown(*port).ends_with("CN=server")));

    authority.issue("server", |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "renewed");
    });
    hub.hang_up();
    until("the new certificate", || both.iter().all(|port| shown(*port).contains("renewed")));
    until("the journal's lines", || {
        let journal = journal(dir.path());
        ["\"state\":\"read\"", "\"state\":\"refused\""].iter().all(|state| journal.contains(state))
    });

    let mut publish = hub.mosquitto("mosquitto_pub");
    lines(publish.args(["-r", "-q", "1", "-t", "mesh/app/end", "-m", "still here"]));
    let output = old.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "still here\n");
    assert!(!log().contains("connection lost"));
}

#[test]
fn faulty_certificates_are_found_at_the_start_and_by_check() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    authority.issue("other", |_| {});
    authority.issue("old", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let check = |certificate: &str, key: &str| {
        let file = dir.path().join("meshfs.toml");
        let root = dir.path().join("tree");
        let text = format!(
            "root = {root:?}\n[bus]\nlisten = \"127.0.0.1:0\"\n[bus.tls]\nlisten = \"127.0.0.1:0\"\n\
             certificate = {:?}\nkey = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [irc.embedded]\nlisten = \"127.0.0.1:0\"\n",
            authority.path(certificate),
            authority.path(key)
        );
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let check = meshfs(&["check", "--config", file]);
        let found = String::from_utf8(check.stdout).unwrap();
        let line = found.lines().find(|line| line.contains(" bus.tls ")).unwrap().to_owned();
        (check.status.success(), line, file.to_owned())
    };
    let (good, line, _) = check("server.pem", "server.key");
    assert!(good && line.contains("is valid until"), "{line}");
    let (good, line, _) = check("old.pem", "old.key");
    assert!(good && line.contains("is not valid now"), "{line}");
    for (certificate, key, at_fault) in [
        ("missing.pem", "server.key", "bus.tls.certificate"),
        ("server.pem", "missing.key", "bus.tls.key"),
        ("server.pem", "other.key", "bus.tls.key"),
        ("ca.pem", "ca.pem", "bus.tls.key"),
    ] {
        let (good, line, file) = check(certificate, key);
        assert!(!good && line.starts_with("WRONG") && line.contains(at_fault), "{line}");
        let serve = meshfs(&["serve", "--config", &file]);
        let error = String::from_utf8(serve.stderr).unwrap();
        assert_eq!(serve.status.code(), Some(1), "{error}");
        let file = if certificate == "missing.pem" { certificate } else { key };
        assert!(error.contains(at_fault) && error.contains(&authority.path(file)), "{error}");
        assert!(!dir.path().join("tree").exists(), "nothing is touched before");
    }
}

#[test]
fn the_command_line_reaches_a_hub_by_tls_and_believes_only_its_ca() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::new(elsewhere.path());
    let hub = start(dir.path(), &authority, "optional");
    let https = format!("https://localhost:{}", hub.https.unwrap().port());
    let mqtts = format!("mqtts://localhost:{}", hub.mqtts.unwrap().port());
    let (good, bad) = (authority.path("ca.pem"), other.path("ca.pem"));
    for url in [&https, &mqtts] {
        let output = meshfs(&["announce", "over TLS", "--hub", url, "--ca", &good]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.starts_with("confirmed: snapshot "), "{text}");
        let output = meshfs(&["announce", "over TLS", "--hub", url, "--ca", &bad]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert!(text.contains(url.as_str()) && text.contains("certificate"), "{text}");
    }
    let mut by_environment = program(env!("CARGO_BIN_EXE_meshfs"));
    by_environment.args(["snapshots", "list"]).env("MESHFS_HUB", &https).env("MESHFS_CA", &good);
    assert_eq!(lines(&mut by_environment).iter().filter(|l| l.contains("over TLS")).count(), 2);
    let output = meshfs(&["status", "--hub", &https, "--ca", &authority.path("server.key")]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("server.key: no certificate in PEM form"), "{text}");
}

#[test]
fn who_comes_by_certificate_is_that_user() {
    let test = "who_comes_by_certificate_is_that_user";
    if !installed(test, "mosquitto_pub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    for name in ["web1", "stranger"] {
        authority.issue(name, |_| {});
    }
    let users = dir.path().join("users.toml");
    std::fs::write(&users, "[users.web1]\nrole = \"node\"\ncertificate = true\n").unwrap();
    let users = users.display().to_string();
    let mut environment = authority.environment("optional");
    environment.push(("MESHFS__BUS__USERS", users));
    environment.push(("MESHFS__BUS__ANONYMOUS_ROLE", "none".to_owned()));
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let hub = Hub::start_with(dir.path(), &environment);
    let publish = |certificate: Option<&str>, node: &str| {
        let mut command = mosquitto_tls("mosquitto_pub", &hub, &authority);
        if let Some(name) = certificate {
            command.args(["--cert", &authority.path(&format!("{name}.pem"))]);
            command.args(["--key", &authority.path(&format!("{name}.key"))]);
        }
        let heartbeat = format!("{{\"node\":\"{node}\",\"status\":\"ALIVE\"}}");
        let topic = format!("mesh/nodes/{node}/heartbeat");
        command.args(["-V", "5", "-q", "1", "-t", &topic, "-m", &heartbeat]);
        command.output().unwrap().status.success()
    };
    assert!(!publish(None, "web1"), "nobody is anonymous here");
    assert!(!publish(Some("stranger"), "web1"), "a good certificate of no user");
    publish(Some("web1"), "web2");
    assert!(publish(Some("web1"), "web1"));
    let heartbeat = |node: &str| dir.path().join(format!("tree/live/nodes/{node}/heartbeat.json"));
    until("the heartbeat's file", || heartbeat("web1").exists());
    assert!(!heartbeat("web2").exists(), "another node's topic");
}

#[test]
fn silent_clients_of_https_delay_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let hub = start(dir.path(), &authority, "optional");
    let https = hub.https.unwrap();
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(https).unwrap()).collect();
    for mut half_way in silent.iter().take(100) {
        half_way.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    }
    let url = format!("https://localhost:{}", https.port());
    let output = meshfs(&["status", "--hub", &url, "--ca", &authority.path("ca.pem")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Nor the end of the hub: connections without a request are not waited for.
    assert_eq!(hub.stop(), Some(0));
    drop(silent);
}

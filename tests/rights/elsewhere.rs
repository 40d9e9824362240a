//! Who comes from another machine, and who comes with a certificate.

use super::certificates::Authority;
use super::hub::{installed, program, until};
use super::interface::basic;
use super::wire::{BOTH, Client, Connect, Version};
use super::{Guarded, PASSWORD, said};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// An address of this machine that is not loopback: who comes from there counts as from elsewhere.
fn elsewhere() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

fn everywhere(allow_anonymous: &str) -> Guarded {
    Guarded::start_in(
        "operator",
        "",
        &[
            ("MESHFS__BUS__LISTEN", "0.0.0.0:0"),
            ("MESHFS__HTTP__LISTEN", "0.0.0.0:0"),
            ("MESHFS__BUS__ALLOW_ANONYMOUS", allow_anonymous),
        ],
    )
}

#[test]
fn from_elsewhere_nobody_comes_without_a_name_unless_that_is_wanted() {
    let Some(ip) = elsewhere() else {
        eprintln!("SKIP from_elsewhere_nobody_comes_without_a_name: only loopback here");
        return;
    };
    for (allow, comes) in [("false", false), ("true", true)] {
        let guarded = everywhere(allow);
        let there = SocketAddr::new(ip, guarded.hub.mqtt.port());
        let here = SocketAddr::new([127, 0, 0, 1].into(), guarded.hub.mqtt.port());
        for version in BOTH {
            let refused = if version == Version::V5 { 0x87 } else { 5 };
            let right = Connect::new(version, "c", "web1");
            // Under an id of its own: that of somebody connected is not to be had.
            let nobody = Connect { client: "n", user: None, password: None, ..right };
            assert_eq!(Client::connect(here, nobody).err(), None);
            assert_eq!(Client::connect(there, nobody).err(), (!comes).then_some(refused));
            assert_eq!(Client::connect(there, right).err(), None);
        }
        let ask = |host: &str, login: &str| {
            let headers = format!("Host: {host}\r\n{login}");
            let to = SocketAddr::new(ip, guarded.hub.http.port());
            let (head, _) = super::hub::request_to(to, "GET", "/v1/nodes", &headers, "");
            head[9..12].parse::<u16>().unwrap()
        };
        let host = ip.to_string();
        assert_eq!(ask(&host, ""), if comes { 200 } else { 401 });
        assert_eq!(ask(&host, &basic("wall", PASSWORD)), 200);
        assert_eq!(ask("hub.example", &basic("wall", PASSWORD)), 200);
        assert_eq!(ask("hub.example", ""), if comes { 403 } else { 401 });
    }
}

#[test]
fn a_certificate_is_the_user_it_names_and_nobody_else() {
    if !installed("a certificate is the user it names", "mosquitto_pub") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    for name in ["nas", "anna", "stranger"] {
        authority.issue(name, |_| {});
    }
    let users = "[users.nas]\nrole = \"node\"\ncertificate = true\n";
    let tls = authority.environment("optional");
    let tls: Vec<_> = tls.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let guarded = Guarded::start_in("none", users, &tls);
    let publish = |certificate: &str, login: &[&str], topic: &str| {
        let mut command = program("mosquitto_pub");
        let port = guarded.hub.mqtts.unwrap().port().to_string();
        command.args(["-h", "localhost", "-p", &port, "--cafile", &authority.path("ca.pem")]);
        let own = ["pem", "key"].map(|end| authority.path(&format!("{certificate}.{end}")));
        command.args(["--cert", &own[0], "--key", &own[1], "-V", "5", "-q", "1"]).args(login);
        said(&command.args(["-t", topic, "-m", "{}"]).output().unwrap()).to_lowercase()
    };
    let (own, other) = ("mesh/nodes/nas/heartbeat", "mesh/nodes/web1/heartbeat");
    assert_eq!(publish("nas", &[], own), "");
    assert!(publish("nas", &[], other).contains("not authorized"));
    assert_eq!(publish("nas", &["-u", "nas"], own), "", "the name is proved by the certificate");
    assert_eq!(
        publish("nas", &["-u", "anna", "-P", PASSWORD], other),
        "",
        "a password counts more"
    );
    assert!(publish("nas", &["-u", "anna"], other).contains("bad user name"));
    // Anna has not said that a certificate will do, and the stranger is nobody.
    assert!(publish("anna", &[], own).contains("not authorized"));
    assert!(publish("stranger", &[], own).contains("not authorized"));
    assert!(publish("stranger", &["-u", "nas"], own).contains("bad user name"));
    until("the heartbeat", || guarded.live("nodes/nas/heartbeat.json").is_some());
    // A certificate that will do no more ends the connections that came with it.
    let text = std::fs::read_to_string(&guarded.users).unwrap();
    std::fs::write(&guarded.users, text.replace("certificate = true", "certificate = false"))
        .unwrap();
    assert_eq!(guarded.reload()["detail"], "6 users, 1 ousted");
    assert!(publish("nas", &[], own).contains("not authorized"));
}

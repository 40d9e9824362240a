//! Who the hub is to another's broker, and whom it believes.

use super::broker::{Kind, Stage};
use super::external::{publish, until_file};
use super::hub::{installed, meshfs, program, until};

#[test]
fn a_broker_with_a_certificate_of_another_authority_is_not_believed() {
    let Some(stage) = Stage::new(Kind::MosquittoTls, "a_broker_with_a_certificate") else { return };
    let Some(other) = Stage::prepare(Kind::MosquittoTls, "a_broker_with_a_certificate", "") else {
        return;
    };
    let ca = other.path().join("ca.pem").display().to_string();
    let hub = stage.hub_with(&[("MESHFS__BUS__EXTERNAL__CA", &ca)]);
    until("the hub to say why", || {
        let (status, body) = hub.request("GET", "/readyz", "");
        status == 503 && body.contains("certificate")
    });
    drop(hub);
    stage.hub();
}

#[test]
fn a_wrong_password_is_said_and_a_right_one_lets_the_hub_in() {
    let test = "a_wrong_password";
    if !installed(test, "mosquitto_sub") {
        return;
    }
    for kind in [Kind::Mosquitto4, Kind::Mosquitto5] {
        let more = "allow_anonymous false\npassword_file ./passwords";
        let Some(mut stage) = Stage::prepare(kind, test, more) else { return };
        let passwords = stage.path().join("passwords");
        let made = program("mosquitto_passwd")
            .args(["-c", "-b"])
            .arg(&passwords)
            .args(["hub", "right"])
            .status();
        assert!(made.unwrap().success());
        stage.start_broker();
        let file = stage.path().join("password");
        std::fs::write(&file, "wrong\n").unwrap();
        let file = file.display().to_string();
        let login = [
            ("MESHFS__BUS__EXTERNAL__USER", "hub"),
            ("MESHFS__BUS__EXTERNAL__PASSWORD_FILE", &*file),
        ];
        let hub = stage.hub_with(&login);
        until("the hub to say why", || {
            let (status, body) = hub.request("GET", "/readyz", "");
            status == 503 && body.contains("refuses the hub")
        });
        assert_eq!(hub.stop(), Some(0));
        std::fs::write(&file, "right\n").unwrap();
        let hub = stage.hub_with(&login);
        hub.ready();
        let log = std::fs::read_to_string(stage.path().join("hub.log")).unwrap();
        assert!(!log.contains("wrong") && !log.contains("right"), "a password in the log");
    }
}

#[test]
fn a_mistaken_configuration_is_refused_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("meshfs.toml");
    let root = dir.path().join("tree");
    for (section, wanted) in [
        ("", "bus.external.url"),
        ("url = \"mqtt://me:secret@broker\"", "keys of their own"),
        ("url = \"http://broker\"", "mqtts://"),
        ("url = \"mqtt://broker\"\nversion = \"6\"", "version of MQTT"),
        ("url = \"mqtt://broker\"\nca = \"ca.pem\"", "bus.external.ca"),
        ("url = \"mqtts://broker\"\nkey = \"key.pem\"", "bus.external.key"),
        ("url = \"mqtts://broker\"\nca = \"/nowhere/ca.pem\"", "/nowhere/ca.pem"),
        ("url = \"mqtt://broker\"\npassword_file = \"p\"", "bus.external.user"),
        ("url = \"mqtt://broker\"\nuser = \"u\"\npassword_file = \"/nowhere/p\"", "/nowhere/p"),
    ] {
        let text = format!(
            "root = \"{}\"\n[bus]\nmode = \"external\"\n[bus.external]\n{section}\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[irc.embedded]\nlisten = \"127.0.0.1:0\"\n",
            root.display()
        );
        std::fs::write(&file, text).unwrap();
        let output = meshfs(&["serve", "--config", file.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(wanted), "{section}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_client_certificate_lets_the_hub_in() {
    if !installed("a_client_certificate", "mosquitto_sub") {
        return;
    }
    let Some(stage) = Stage::new(Kind::MosquittoTls, "a_client_certificate") else { return };
    let none = [("MESHFS__BUS__EXTERNAL__CERTIFICATE", ""), ("MESHFS__BUS__EXTERNAL__KEY", "")];
    let hub = stage.hub_with(&none);
    until("the broker to be asked", || {
        let log = std::fs::read_to_string(stage.path().join("hub.log")).unwrap();
        log.contains("not connected to the broker")
    });
    assert_eq!(hub.request("GET", "/readyz", "").0, 503);
    drop(hub);
    let hub = stage.hub();
    publish(&hub, "mesh/app/x", "1", true);
    until_file(&stage, "mesh/app/x", Some("1"));
}

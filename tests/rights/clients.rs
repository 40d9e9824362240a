//! mosquitto's clients with users, over both versions.

use super::hub::{installed, until};
use super::{Guarded, PASSWORD, said};
use std::process::Output;

impl Guarded {
    fn mosquitto(&self, name: &str, version: &str, user: &str, arguments: &[&str]) -> Output {
        let mut command = self.hub.mosquitto(name);
        command.args(["-V", version, "-u", user, "-P", PASSWORD, "-q", "1"]);
        command.args(arguments).output().unwrap()
    }
}

#[test]
fn mosquitto_comes_in_with_a_password_and_does_what_its_role_allows() {
    if !installed("users with mosquitto", "mosquitto_pub") {
        return;
    }
    let guarded = Guarded::start();
    for version in ["311", "5"] {
        let status = format!("{{\"node\":\"web1\",\"status\":\"V{version}\"}}");
        let own = ["-t", "mesh/nodes/web1/heartbeat", "-m", &status];
        let published = guarded.mosquitto("mosquitto_pub", version, "web1", &own);
        assert!(published.status.success(), "{published:?}");
        let file = "nodes/web1/heartbeat.json";
        until("the heartbeat", || guarded.live(file).as_deref() == Some(&status));
        let other = ["-t", "mesh/nodes/web2/heartbeat", "-m", "{}"];
        let denied = guarded.mosquitto("mosquitto_pub", version, "web1", &other);
        // Version 3.1.1 has no way to say no.
        assert_eq!(said(&denied).contains("Not authorized"), version == "5", "{denied:?}");
        let all = ["-t", "mesh/#", "-W", "20", "-C", "1", "-F", "%t"];
        let denied = guarded.mosquitto("mosquitto_sub", version, "web1", &all);
        assert!(said(&denied).contains("denied") && denied.stdout.is_empty(), "{denied:?}");
        let seen = guarded.mosquitto("mosquitto_sub", version, "wall", &all);
        assert!(seen.status.success() && said(&seen).starts_with("mesh/"), "{seen:?}");
    }
    assert!(guarded.live("nodes/web2/heartbeat.json").is_none());
}

#[test]
fn mosquitto_is_told_why_it_does_not_come_in() {
    if !installed("refusals with mosquitto", "mosquitto_pub") {
        return;
    }
    let guarded = Guarded::start();
    let message = ["-t", "mesh/app/x", "-m", "x"];
    for (version, wrong, nameless) in [
        ("311", "bad user name or password", "not authorised"),
        ("5", "bad user name or password", "not authorized"),
    ] {
        let refused = guarded.mosquitto("mosquitto_pub", version, "nobody", &message);
        assert!(!refused.status.success());
        assert!(said(&refused).to_lowercase().contains(wrong), "{refused:?}");
        let mut command = guarded.hub.mosquitto("mosquitto_pub");
        let refused = command.args(["-V", version]).args(message).output().unwrap();
        assert!(!refused.status.success());
        assert!(said(&refused).to_lowercase().contains(nameless), "{refused:?}");
    }
}

#[test]
fn an_announcement_by_mqtt_is_answered_where_the_user_may_hear_it() {
    if !installed("an announcement by a node", "mosquitto_rr") {
        return;
    }
    let guarded = Guarded::start();
    let own = ["-t", "mesh/announce", "-e", "mesh/app/replies/web1/7", "-m", "restarting"];
    let answered = guarded.mosquitto("mosquitto_rr", "5", "web1", &own);
    let outcome: serde_json::Value = serde_json::from_slice(&answered.stdout).unwrap();
    assert_eq!((&outcome["state"], &outcome["by"]["user"]), (&"confirmed".into(), &"web1".into()));
    // Anna hears what is published there; the hub writes nothing for web1.
    let mut anna = super::wire::Client::connect(
        guarded.hub.mqtt,
        super::wire::Connect::new(super::wire::Version::V5, "a", "anna"),
    )
    .unwrap();
    assert_eq!(anna.subscribe("mesh/app/config"), 0);
    let mut command = guarded.hub.mosquitto("mosquitto_pub");
    command.args(["-V", "5", "-u", "web1", "-P", PASSWORD, "-q", "1", "-t", "mesh/announce"]);
    command.args(["-D", "publish", "response-topic", "mesh/app/config", "-m", "x"]);
    assert!(said(&command.output().unwrap()).contains("Not authorized"));
    assert_eq!(anna.topics(), Vec::<String>::new());
}

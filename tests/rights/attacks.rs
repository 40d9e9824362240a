//! What somebody would try who has one login and wants more.

use super::Guarded;
use super::wire::{BOTH, Client, Connect, Version};

const NOT_AUTHORIZED: u8 = 0x87;
const NO_SUCH_TOPIC: u8 = 0x90;

fn denied(version: Version) -> u8 {
    if version == Version::V5 { NOT_AUTHORIZED } else { 0x80 }
}

#[test]
fn a_node_writes_only_below_its_own_name_whatever_it_calls_itself() {
    let guarded = Guarded::start();
    for version in BOTH {
        // The client id is another node's, and a wildcard: neither is an identity.
        for client in ["web2", "+", "#", "a/b"] {
            let connect = Connect::new(version, client, "web1");
            let mut node = Client::connect(guarded.hub.mqtt, connect).unwrap();
            let refused =
                if version == Version::V5 { &[NOT_AUTHORIZED, NO_SUCH_TOPIC][..] } else { &[0] };
            for topic in [
                "mesh/nodes/web2/heartbeat",
                "mesh/nodes/web2/services/x",
                "mesh/services/web1/heartbeat",
                "mesh/app/web1",
                "mesh/irc/house/mesh/say",
                "mesh/nodes/web1/../web2/heartbeat",
                "mesh/nodes//heartbeat",
                "/mesh/nodes/web2/heartbeat",
                "$share/g/mesh/nodes/web2/heartbeat",
            ] {
                let code = node.publish(topic, "{}", true);
                assert!(refused.contains(&code), "{version:?} {topic}: {code:#x}");
            }
            assert_eq!(node.publish("mesh/nodes/web1/heartbeat", "{}", false), 0);
        }
    }
    assert!(guarded.live("nodes/web2/heartbeat.json").is_none());
    super::hub::until("the file", || guarded.live("nodes/web1/heartbeat.json").is_some());
    let refusals = guarded.journal("refusal");
    assert!(refusals.iter().any(|line| {
        line["topic"] == "mesh/nodes/web2/heartbeat" && line["by"]["user"] == "web1"
    }));
}

#[test]
fn nobody_writes_what_is_the_hubs_not_even_an_operator_with_rules_for_it() {
    let rules =
        "[users.root]\nrole = \"operator\"\npublish = [\"#\", \"mesh/hub\"]\npassword = \"HASH\"\n";
    let guarded = Guarded::start_with("none", &rules.replace("HASH", super::hashed()));
    let mut root =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "r", "root")).unwrap();
    for topic in ["mesh/hub", "mesh/events", "mesh/announce/x", "mesh/nodes/web1/verdict"] {
        assert_eq!(root.publish(topic, "{}", true), NOT_AUTHORIZED, "{topic}");
    }
    let will = Some(("mesh/hub", "{}"));
    let connect = Connect { will, ..Connect::new(Version::V5, "r", "root") };
    assert_eq!(Client::connect(guarded.hub.mqtt, connect).err(), Some(NOT_AUTHORIZED));
}

#[test]
fn a_filter_wider_than_a_rule_is_denied_also_by_halves_and_in_a_group() {
    let guarded = Guarded::start();
    let mut anna =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "a", "anna")).unwrap();
    for node in ["web1", "web2"] {
        assert_eq!(anna.publish(&format!("mesh/nodes/{node}/heartbeat"), "{}", false), 0);
    }
    assert_eq!(anna.publish("mesh/app/secret", "x", true), 0);
    for version in BOTH {
        let connect = Connect::new(version, "c", "web1");
        let mut node = Client::connect(guarded.hub.mqtt, connect).unwrap();
        for filter in [
            "#",
            "+/#",
            "mesh/#",
            "+/nodes/web1/heartbeat",
            "mesh/nodes/#",
            "mesh/nodes/+/heartbeat",
            "mesh/+/web1/heartbeat",
            "mesh/nodes/web2/heartbeat",
            "mesh/announce/#",
            "mesh/app/#",
            "mesh/app/secret",
            "$share/g/#",
            "$share/g/mesh/#",
            "$share/mesh/nodes/web2/heartbeat",
            "$share/g/mesh/nodes/+/heartbeat",
        ] {
            assert_eq!(node.subscribe(filter), denied(version), "{version:?} {filter}");
        }
        // What is denied in one packet with what is granted brings nothing of its retained messages.
        let codes = node.subscribe_all(&["mesh/#", "mesh/nodes/web1/#", "mesh/nodes/+/heartbeat"]);
        assert_eq!(codes, [denied(version), 0, denied(version)]);
        let mut topics = node.topics();
        topics.retain(|topic| !topic.ends_with("/verdict"));
        assert_eq!(topics, ["mesh/nodes/web1/heartbeat"], "{version:?}");
        assert_eq!(node.subscribe("$share/g/mesh/nodes/web1/#"), 0);
    }
}

#[test]
fn a_will_is_bound_by_the_same_rules() {
    let guarded = Guarded::start();
    let mut wall =
        Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "w", "wall")).unwrap();
    assert_eq!(wall.subscribe("mesh/nodes/+/presence"), 0);
    for version in BOTH {
        let refused = if version == Version::V5 { NOT_AUTHORIZED } else { 5 };
        for (user, topic) in [
            ("web1", "mesh/nodes/web2/presence"),
            ("web1", "mesh/app/x"),
            ("wall", "mesh/app/x"),
            ("crm", "mesh/nodes/crm/presence"),
        ] {
            let will = Some((topic, r#"{"state":"offline"}"#));
            let connect = Connect { will, ..Connect::new(version, "c", user) };
            let came = Client::connect(guarded.hub.mqtt, connect).err();
            assert_eq!(came, Some(refused), "{version:?} {user} {topic}");
        }
        let will = Some(("mesh/nodes/web1/presence", r#"{"state":"offline"}"#));
        let connect = Connect { will, ..Connect::new(version, "c", "web1") };
        drop(Client::connect(guarded.hub.mqtt, connect).unwrap());
        assert_eq!(wall.message(), "mesh/nodes/web1/presence", "its own will is published");
    }
}

#[test]
fn a_client_id_in_a_rule_widens_nothing() {
    let rules = "[roles.box]\npublish = [\"mesh/app/%c/x\"]\nsubscribe = [\"mesh/app/%c/#\"]\n\
                 [users.box]\nrole = \"box\"\npassword = \"HASH\"\n";
    let guarded = Guarded::start_with("none", &rules.replace("HASH", super::hashed()));
    for client in ["+", "#", "a/b", "../a", "/"] {
        let connect = Connect::new(Version::V5, client, "box");
        let mut client = Client::connect(guarded.hub.mqtt, connect).unwrap();
        for filter in
            ["#", "mesh/#", "mesh/app/#", "mesh/app/+/x", "mesh/app/+/#", "mesh/app/a/b/#"]
        {
            assert_eq!(client.subscribe(filter), NOT_AUTHORIZED, "{filter}");
        }
        for topic in ["mesh/app/a/x", "mesh/app/a/b/x", "mesh/app/x"] {
            assert_eq!(client.publish(topic, "x", false), NOT_AUTHORIZED, "{topic}");
        }
    }
    let mut own = Client::connect(guarded.hub.mqtt, Connect::new(Version::V5, "a", "box")).unwrap();
    assert_eq!((own.subscribe("mesh/app/a/#"), own.publish("mesh/app/a/x", "x", false)), (0, 0));
}

#[test]
fn another_users_session_is_not_to_be_had_by_its_client_id() {
    let guarded = Guarded::start_with("operator", "");
    for version in BOTH {
        let connect = Connect::new(version, "the-wall", "wall");
        let mut wall = Client::connect(guarded.hub.mqtt, connect).unwrap();
        assert_eq!(wall.subscribe("mesh/app/#"), 0);
        let nobody = Connect { user: None, password: None, ..connect };
        for other in [Connect::new(version, "the-wall", "web1"), nobody] {
            let mut other = Client::connect(guarded.hub.mqtt, other).unwrap();
            assert_eq!(other.topics(), Vec::<String>::new(), "{version:?}: its own session");
        }
        let mut anna =
            Client::connect(guarded.hub.mqtt, Connect::new(version, "a", "anna")).unwrap();
        assert_eq!(anna.publish("mesh/app/x", "x", false), 0);
        assert_eq!(wall.message(), "mesh/app/x", "who was there is there still");
        let _again = Client::connect(guarded.hub.mqtt, connect).unwrap();
        wall.ended();
    }
}

#[test]
fn a_session_that_was_left_is_no_other_users_inheritance() {
    let guarded = Guarded::start();
    for version in BOTH {
        let id = format!("left-{version:?}");
        let connect = Connect { clean: false, ..Connect::new(version, &id, "wall") };
        let mut wall = Client::connect(guarded.hub.mqtt, connect).unwrap();
        assert_eq!(wall.subscribe("mesh/app/#"), 0);
        drop(wall);
        let mut anna =
            Client::connect(guarded.hub.mqtt, Connect::new(version, "a", "anna")).unwrap();
        assert_eq!(anna.publish("mesh/app/secret", "x", false), 0);
        let connect = Connect { clean: false, ..Connect::new(version, &id, "web1") };
        let mut node = Client::connect(guarded.hub.mqtt, connect).unwrap();
        assert_eq!(anna.publish("mesh/app/secret", "x", false), 0);
        assert_eq!(node.topics(), Vec::<String>::new(), "{version:?}");
    }
}

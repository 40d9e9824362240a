use super::*;
use crate::name::Topic;

fn parse(topic: &str, payload: &[u8]) -> Result<Message, Malformed> {
    Message::parse(&Subject::of(&Topic::parse(topic).unwrap()).unwrap(), payload, false)
}

#[test]
fn the_heartbeat_already_in_use_is_accepted_byte_for_byte() {
    let payload = br#"{"node": "hauki-crm", "status": "ALIVE", "timestamp": "2026-06-16T14:19:07Z",
"uptime": "3490.81", "load": "3.63 3.55 3.53", "memory": "66/64217MB"}"#;
    let Ok(Message::Heartbeat(node, heartbeat)) = parse("mesh/nodes/hauki-crm/heartbeat", payload)
    else {
        panic!("refused")
    };
    assert_eq!(node.as_str(), "hauki-crm");
    assert_eq!(heartbeat.status.as_deref(), Some("ALIVE"));
    assert_eq!(heartbeat.timestamp.unwrap().to_string(), "2026-06-16T14:19:07Z");
}

#[test]
fn a_typed_heartbeat_with_unknown_fields_is_accepted() {
    let payload = br#"{"node":"n1","timestamp":"2026-06-16T14:19:07.5Z","boot_id":"b","interval_ms":1000,
        "uptime_s":12.5,"load":[0.1,0.2,0.3],"memory":{"used_bytes":1,"total_bytes":2},"colour":"red"}"#;
    let Ok(Message::Heartbeat(_, heartbeat)) = parse("mesh/nodes/n1/heartbeat", payload) else {
        panic!("refused")
    };
    assert_eq!(heartbeat.interval_ms, Some(1000));
}

#[test]
fn a_message_that_names_another_node_is_refused() {
    let other = br#"{"node":"n2","state":"online"}"#;
    for topic in [
        "mesh/nodes/n1/heartbeat",
        "mesh/nodes/n1/presence",
        "mesh/nodes/n1/services/web",
        "mesh/nodes/n1/capture",
    ] {
        assert!(matches!(parse(topic, other), Err(Malformed::OtherNode { .. })), "{topic}");
    }
}

#[test]
fn malformed_payloads_are_refused_with_the_reason() {
    for (topic, payload, named) in [
        ("mesh/nodes/n1/heartbeat", &b"ALIVE"[..], "object"),
        ("mesh/nodes/n1/heartbeat", b"[1]", "object"),
        ("mesh/nodes/n1/heartbeat", b"{\"node\":", "EOF"),
        ("mesh/nodes/n1/heartbeat", b"{} x", "trailing"),
        ("mesh/nodes/n1/heartbeat", b"\xff\xfe", "UTF-8"),
        ("mesh/nodes/n1/heartbeat", br#"{"node":7}"#, "string"),
        ("mesh/nodes/n1/heartbeat", br#"{"node":"n1","node":"n2"}"#, "duplicate"),
        ("mesh/nodes/n1/heartbeat", br#"{"timestamp":"yesterday"}"#, "JSON"),
        ("mesh/nodes/n1/heartbeat", br#"{"interval_ms":-1}"#, "u64"),
        ("mesh/nodes/n1/presence", br#"{"state":"asleep"}"#, "online"),
        ("mesh/nodes/n1/presence", b"{}", "state"),
        ("mesh/services/web/heartbeat", b"1", "object"),
        ("mesh/announce", br#"{"reason":"r","flush":true}"#, "flush"),
        ("mesh/announce/a1/close", br#"{"result":"ok"}"#, "not in this release"),
        ("mesh/irc/house/mesh/say", b"  ", "text"),
        ("mesh/nodes/n1/heartbeat", b"", "retain flag"),
    ] {
        let error = parse(topic, payload).expect_err(topic).to_string();
        assert!(error.contains(named), "{topic}: {error}");
    }
}

#[test]
fn an_empty_retained_payload_clears_and_an_empty_app_message_is_just_empty() {
    let heartbeat = Subject::of(&Topic::parse("mesh/nodes/n1/heartbeat").unwrap()).unwrap();
    assert_eq!(Message::parse(&heartbeat, b"", true), Ok(Message::Cleared(heartbeat.clone())));
    assert_eq!(Message::parse(&Subject::App, b"", false), Ok(Message::Opaque));
}

#[test]
fn say_takes_an_object_or_plain_text() {
    for payload in [&b"hello mesh"[..], br#"{"text":"hello mesh"}"#] {
        let Ok(Message::Say(network, channel, text)) = parse("mesh/irc/house/mesh/say", payload)
        else {
            panic!("refused")
        };
        assert_eq!((network.as_str(), channel.as_str()), ("house", "#mesh"));
        assert_eq!(text, "hello mesh");
    }
}

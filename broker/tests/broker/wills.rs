//! Wills: said when a client dies, and only then.

use std::time::Duration;

use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, properties};

fn mortal(version: Version, client_id: &str) -> Connect {
    let will = Publish::new(&format!("will/{client_id}"), "gone").qos(1);
    Connect::new(version, client_id).will(will)
}

fn watcher(server: &Server) -> Client {
    let mut watcher = server.plain(Version::V5, "watcher");
    watcher.subscribe("will/#", 2);
    watcher
}

#[test]
fn an_abrupt_end_publishes_the_will() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    for version in VERSIONS {
        server.connect(&mortal(version, "abrupt")).vanish();
        let will = watcher.message();
        assert_eq!((will.topic.as_str(), will.text(), will.qos), ("will/abrupt", "gone", 1));
        assert!(!will.retain);
    }
}

#[test]
fn a_protocol_error_publishes_the_will() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    for version in VERSIONS {
        let mut client = server.connect(&mortal(version, "rude"));
        client.send(&[0x00, 0x00]);
        client.closed();
        assert_eq!(watcher.message().topic, "will/rude");
    }
}

#[test]
fn silence_publishes_the_will_even_while_messages_stream_to_the_dead() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    let mut dead = server.connect(&mortal(Version::V4, "dead").keep_alive(1));
    dead.subscribe("busy", 0);
    let mut publisher = server.plain(Version::V4, "busy");
    let mut will = None;
    for count in 0_u32..500 {
        publisher.publish(&Publish::new("busy", count.to_string()));
        will = watcher.try_next(Duration::from_millis(20));
        if will.is_some() {
            break;
        }
    }
    assert!(will.is_some(), "no will although the client was silent for ten seconds");
}

#[test]
fn a_disconnect_cancels_the_will() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    for version in VERSIONS {
        server.connect(&mortal(version, "orderly")).disconnect();
        server.connect(&mortal(version, "abrupt")).vanish();
        assert_eq!(watcher.message().topic, "will/abrupt", "and not the orderly one's");
    }
}

#[test]
fn a_disconnect_with_0x04_asks_for_the_will() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    let mut client = server.connect(&mortal(Version::V5, "asks"));
    client.send(&[0xE0, 1, 4]);
    client.closed();
    assert_eq!(watcher.message().topic, "will/asks");
}

#[test]
fn a_retained_will_is_there_for_later_subscribers() {
    let server = Server::start();
    let mut first = watcher(&server);
    let will = Publish::new("will/kept", "gone").qos(1).retained();
    server.connect(&Connect::new(Version::V4, "kept").will(will)).vanish();
    assert!(!first.message().retain);
    let mut late = server.plain(Version::V4, "late");
    late.subscribe("will/#", 1);
    let kept = late.message();
    assert_eq!((kept.topic.as_str(), kept.text(), kept.retain), ("will/kept", "gone", true));
}

#[test]
fn a_takeover_publishes_the_will_of_the_old_session_and_keeps_that_of_the_new() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    for version in VERSIONS {
        let with = |payload: &str| {
            Connect::new(version, "same").will(Publish::new("will/same", payload).qos(1))
        };
        let _first = server.connect(&with("first"));
        let mut second = server.connect(&with("second"));
        assert_eq!(watcher.message().text(), "first");
        second.ping();
        second.vanish();
        assert_eq!(watcher.message().text(), "second");
    }
}

#[test]
fn a_will_carries_its_properties() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    let will = Publish::new("will/rich", "gone")
        .with(properties::content_type("text/plain"))
        .with(properties::user("a", "1"))
        .with(properties::user("a", "2"))
        .with(properties::correlation_data(&[0, 255]));
    let sent = will.properties.clone();
    server.connect(&Connect::new(Version::V5, "rich").will(will)).vanish();
    assert_eq!(watcher.message().properties, sent);
}

#[test]
fn a_delayed_will_is_cancelled_by_a_return_in_time() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    let delayed = |id: &str, delay_s| {
        let will =
            Publish::new(&format!("will/{id}"), "gone").with(properties::will_delay(delay_s));
        Connect::persistent(Version::V5, id).will(will)
    };
    server.connect(&delayed("returns", 1)).vanish();
    let mut returned = server.connect(&Connect::persistent(Version::V5, "returns"));
    assert!(returned.session_present);
    // Its delay begins later, so it could only come after the cancelled one.
    server.connect(&delayed("stays-away", 2)).vanish();
    assert_eq!(watcher.message().topic, "will/stays-away");
    returned.ping();
}

#[test]
fn a_will_is_not_delayed_beyond_the_session() {
    let server = Server::start();
    let mut watcher = watcher(&server);
    let will = Publish::new("will/brief", "gone").with(properties::will_delay(3600));
    let connect = Connect::new(Version::V5, "brief").with(properties::session_expiry(1));
    server.connect(&connect.will(will)).vanish();
    assert_eq!(watcher.message().topic, "will/brief");
}

#[test]
fn a_malformed_will_is_refused_at_connect() {
    let server = Server::start();
    for version in VERSIONS {
        for topic in ["will/#", "a\0b", ""] {
            let connect = Connect::new(version, "bad-will").will(Publish::new(topic, "x"));
            let mut client = Client::dial(server.address, version);
            client.send(&connect.encode());
            client.closed();
        }
        let mut qos_3 = Connect::new(version, "bad-will").will(Publish::new("t", "x")).encode();
        qos_3[9] |= 0x18;
        let mut client = Client::dial(server.address, version);
        client.send(&qos_3);
        client.closed();
    }
    server.plain(Version::V4, "fine").ping();
}

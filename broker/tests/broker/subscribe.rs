//! SUBSCRIBE and UNSUBSCRIBE: filters, options, answers.

use crate::support::properties::{self, SUBSCRIPTION_ID};
use crate::support::{Packet, Publish, Server, VERSIONS, Version, wire};

const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;

#[test]
fn filters_match_as_the_standard_says() {
    let server = Server::start();
    let topics = ["a", "a/b", "a/b/c", "/a", "a/", "b", "$x/a"];
    let table: &[(&str, &[&str])] = &[
        ("#", &["a", "a/b", "a/b/c", "/a", "a/", "b"]),
        ("+", &["a", "b"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/"]),
        ("a/+", &["a/b", "a/"]),
        ("+/+", &["a/b", "/a", "a/"]),
        ("/+", &["/a"]),
        ("+/a", &["/a"]),
        ("a/+/c", &["a/b/c"]),
        ("+/b/#", &["a/b", "a/b/c"]),
        ("a/b", &["a/b"]),
        ("$x/#", &["$x/a"]),
        ("$x/+", &["$x/a"]),
    ];
    for version in VERSIONS {
        for (filter, expected) in table {
            let mut client = server.plain(version, "matcher");
            assert_eq!(client.subscribe(filter, 0), 0, "{filter}");
            for topic in topics {
                client.publish(&Publish::new(topic, "x"));
            }
            client.subscribe("end", 0);
            client.publish(&Publish::new("end", "x"));
            let mut got: Vec<String> =
                client.messages_until("end").into_iter().map(|message| message.topic).collect();
            got.dedup();
            assert_eq!(got, *expected, "{filter}");
        }
    }
}

#[test]
fn a_malformed_filter_is_refused() {
    let server = Server::start();
    for version in VERSIONS {
        for filter in ["a/#/b", "a#", "#a", "a+", "+a/b", "", "a/b#"] {
            let mut client = server.plain(version, "malformed");
            client.send(&wire::subscribe(version, 5, &[(filter, 0)], &[]));
            if !server.is_ours() {
                continue; // mosquitto closes the connection, which is allowed too
            }
            match client.next() {
                Packet::Suback { id: 5, codes, .. } => {
                    let refused = if version == Version::V4 { 0x80 } else { 0x8F };
                    assert_eq!(codes, [refused], "{filter}");
                    client.ping();
                }
                other => panic!("{other:?} for {filter:?}"),
            }
        }
    }
}

#[test]
fn one_bad_filter_does_not_spoil_the_others() {
    let server = Server::start();
    if !server.is_ours() {
        return;
    }
    for version in VERSIONS {
        let mut client = server.plain(version, "mixed");
        let codes = client.subscribe_all(&[("good/1", 1), ("a/#/b", 0), ("good/2", 2)], &[]);
        let refused = if version == Version::V4 { 0x80 } else { 0x8F };
        assert_eq!(codes, [1, refused, 2]);
        client.publish(&Publish::new("good/2", "x").qos(1));
        assert_eq!(client.message().topic, "good/2");
    }
}

#[test]
fn a_broken_subscribe_ends_the_connection() {
    let server = Server::start();
    let empty = [0x82, 2, 0, 1];
    let wrong_flags =
        [&[0x80][..], &wire::subscribe(Version::V4, 1, &[("a", 0)], &[])[1..]].concat();
    let qos_3 = wire::subscribe(Version::V4, 1, &[("a", 3)], &[]);
    let id_0 = wire::subscribe(Version::V4, 0, &[("a", 0)], &[]);
    for packet in [&empty[..], &wrong_flags, &qos_3, &id_0] {
        let mut client = server.plain(Version::V4, "broken");
        client.send(packet);
        client.closed();
    }
    server.plain(Version::V4, "whole").ping();
}

#[test]
fn after_unsubscribe_nothing_more_arrives() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "leaver");
        client.subscribe_all(&[("a/#", 1), ("b/+", 1), ("end", 1)], &[]);
        let codes = client.unsubscribe(&["a/#", "never/known", "b/+"]);
        match version {
            Version::V4 => assert!(codes.is_empty()),
            Version::V5 => assert_eq!(codes, [0, 0x11, 0]),
        }
        for topic in ["a/x", "b/x", "end"] {
            client.publish(&Publish::new(topic, "x").qos(1));
        }
        assert!(client.messages_until("end").is_empty());
    }
}

#[test]
fn subscribing_again_replaces_the_qos() {
    let server = Server::start();
    for version in VERSIONS {
        let mut client = server.plain(version, "again");
        assert_eq!(client.subscribe("t", 2), 2);
        assert_eq!(client.subscribe("t", 0), 0);
        client.publish(&Publish::new("t", "x").qos(2));
        client.subscribe("end", 0);
        client.publish(&Publish::new("end", "x"));
        let got = client.messages_until("end");
        assert_eq!(got.iter().map(|message| message.qos).collect::<Vec<_>>(), [0]);
    }
}

#[test]
fn no_local_keeps_own_messages_away() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "me");
    assert_eq!(client.subscribe("t/#", 1 | NO_LOCAL), 1);
    client.publish(&Publish::new("t/mine", "x").qos(1));
    server.plain(Version::V5, "other").publish(&Publish::new("t/theirs", "x").qos(1));
    assert_eq!(client.message().topic, "t/theirs");
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let server = Server::start();
    let mut keeps = server.plain(Version::V5, "keeps");
    keeps.subscribe("t", 1 | RETAIN_AS_PUBLISHED);
    let mut clears = server.plain(Version::V5, "clears");
    clears.subscribe("t", 1);
    let mut writer = server.plain(Version::V5, "writer");
    for retain in [true, false] {
        writer.publish(&Publish { retain, ..Publish::new("t", "x").qos(1) });
        assert_eq!(keeps.message().retain, retain);
        assert!(!clears.message().retain);
    }
}

#[test]
fn the_ids_of_all_matching_subscriptions_come_along() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "ids");
    client.subscribe_all(&[("a/#", 1)], &[properties::subscription_id(7)]);
    client.subscribe_all(&[("a/+", 1)], &[properties::subscription_id(300_000)]);
    client.subscribe_all(&[("b", 1), ("end", 1)], &[]);
    for topic in ["a/x", "a/x/y", "b", "end"] {
        client.publish(&Publish::new(topic, "x").qos(1));
    }
    let mut ids = Vec::new();
    for message in client.messages_until("end") {
        for (id, value) in message.properties {
            if id == SUBSCRIPTION_ID {
                ids.push((message.topic.clone(), value));
            }
        }
    }
    ids.sort_by_key(|(topic, value)| (topic.clone(), format!("{value:?}")));
    let variable = properties::Value::Variable;
    let expected = [
        ("a/x".to_owned(), variable(300_000)),
        ("a/x".to_owned(), variable(7)),
        ("a/x/y".to_owned(), variable(7)),
    ];
    assert_eq!(ids, expected);
}

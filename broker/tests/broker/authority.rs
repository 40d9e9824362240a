//! Who may come in, publish and subscribe; and what the host learns about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshfs_broker::{
    Admitted, ConnectRefused, Identity, Outgoing, PropertiesBuilder, QoS, Refusal, RefusalReason,
};

use crate::support::host::House;
use crate::support::{Client, Connect, LIMIT, Publish, Server, VERSIONS, Version, wait_until};

#[test]
fn a_client_that_is_refused_hears_why() {
    let house = House {
        login: Box::new(|who| match (who.user, who.password) {
            (Some("anna"), Some(b"secret")) => Ok(()),
            (Some("anna"), _) => Err(ConnectRefused::BadCredentials),
            (Some("later"), _) => Err(ConnectRefused::Unavailable),
            _ => Err(ConnectRefused::NotAuthorized),
        }),
        ..House::default()
    };
    let server = Server::with(house);
    let connect = |version| Connect::new(version, "client");
    for version in VERSIONS {
        let v5 = version == Version::V5;
        let cases = [
            (connect(version).login("anna", "secret"), 0),
            (connect(version).login("anna", "wrong"), if v5 { 0x86 } else { 4 }),
            (connect(version).login("later", ""), if v5 { 0x88 } else { 3 }),
            (connect(version).login("", ""), if v5 { 0x87 } else { 5 }),
            (connect(version), if v5 { 0x87 } else { 5 }),
        ];
        for (connect, expected) in cases {
            let (mut client, code) = Client::try_connect(server.address, &connect);
            assert_eq!(code, expected, "{connect:?}");
            if code != 0 {
                client.closed();
            }
        }
    }
    wait_until("all are gone", || server.stats().sessions == 0);
}

#[test]
fn passwords_are_any_bytes() {
    let house = House {
        login: Box::new(|who| match who.password {
            Some([0, 0xFF, 0xC3]) => Ok(()),
            _ => Err(ConnectRefused::BadCredentials),
        }),
        ..House::default()
    };
    let server = Server::with(house);
    for version in VERSIONS {
        let connect = Connect {
            user: Some("u".into()),
            password: Some(vec![0, 0xFF, 0xC3]),
            ..Connect::new(version, "binary")
        };
        server.connect(&connect).ping();
    }
}

#[test]
fn a_denied_publish_goes_nowhere() {
    let house = House {
        may_publish: Box::new(|who, topic| topic != "secret" || &*who.client_id == "king"),
        ..House::default()
    };
    let server = Server::with(house);
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("#", 2);
    for version in VERSIONS {
        let mut writer = server.plain(version, "writer");
        for qos in 1..=2 {
            let code = writer.publish(&Publish::new("secret", "mine").qos(qos));
            assert_eq!(code, if version == Version::V5 { 0x87 } else { 0 });
        }
        writer.publish(&Publish::new("secret", "mine"));
        writer.ping();
        let mut king = server.plain(version, "king");
        king.publish(&Publish::new("secret", "royal").qos(1));
        assert_eq!(reader.message().text(), "royal");
    }
}

#[test]
fn a_denied_filter_is_refused_in_its_place() {
    let house =
        House { may_subscribe: Box::new(|_, filter| filter != "secret/#"), ..House::default() };
    let server = Server::with(house);
    for version in VERSIONS {
        let mut client = server.plain(version, "client");
        let codes = client.subscribe_all(&[("open", 1), ("secret/#", 1), ("free", 2)], &[]);
        assert_eq!(codes, [1, if version == Version::V5 { 0x87 } else { 0x80 }, 2]);
        client.publish(&Publish::new("secret/x", "x").qos(1));
        client.publish(&Publish::new("open", "x").qos(1));
        assert_eq!(client.message().topic, "open");
    }
}

#[test]
fn a_will_the_client_may_not_say_keeps_it_out() {
    let house = House { may_publish: Box::new(|_, topic| topic != "secret"), ..House::default() };
    let server = Server::with(house);
    for version in VERSIONS {
        let connect = Connect::new(version, "client").will(Publish::new("secret", "x"));
        let (mut client, code) = Client::try_connect(server.address, &connect);
        assert_eq!(code, if version == Version::V5 { 0x87 } else { 5 });
        client.closed();
    }
    assert_eq!(server.stats().sessions, 0);
}

#[test]
fn changed_rules_hold_once_the_broker_is_told() {
    let open = Arc::new(AtomicBool::new(true));
    let rule = open.clone();
    let house = House {
        may_publish: Box::new(move |_, _| rule.load(Ordering::SeqCst)),
        ..House::default()
    };
    let server = Server::with(house);
    let mut writer = server.plain(Version::V5, "writer");
    let message = Publish::new("t", "x").qos(1);
    assert_eq!(writer.publish(&message), 0);
    for allowed in [false, true] {
        open.store(allowed, Ordering::SeqCst);
        server.broker().rules_changed();
        assert_eq!(writer.publish(&message), if allowed { 0 } else { 0x87 });
    }
}

#[test]
fn a_login_that_takes_for_ever_holds_up_only_itself() {
    let house = House {
        login: Box::new(|_| Ok(())),
        login_delay: Box::new(|id| (id == "slow").then_some(Duration::from_secs(3600))),
        ..House::default()
    };
    let limits =
        meshfs_broker::Limits { handshake_limit: Duration::from_secs(1), ..Default::default() };
    let server = Server::build(house, limits, Arc::new(meshfs_broker::MemoryStore::new()));
    let mut slow = Client::dial(server.address, Version::V5);
    slow.send(&Connect::new(Version::V5, "slow").encode());
    server.plain(Version::V5, "quick").ping();
    slow.closed();
}

/// Identity, topic and the other things a host learns about each message.
type Seen = Arc<Mutex<Vec<(Identity, String, QoS, bool)>>>;

fn curious() -> (House, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let admit = move |message: &meshfs_broker::Incoming<'_>| {
        let note =
            (Identity::clone(message.by), message.topic.to_owned(), message.qos, message.retain);
        notes.lock().unwrap().push(note);
        Admitted::Accepted
    };
    (House { admit: Box::new(admit), ..House::default() }, seen)
}

#[test]
fn every_message_carries_its_publishers_identity() {
    let (house, seen) = curious();
    let server = Server::with(house);
    let connect = Connect::new(Version::V5, "node-1")
        .login("anna", "x")
        .will(Publish::new("wills/node-1", "gone").qos(2));
    let mut client = server.connect(&connect);
    let address: SocketAddr = client.local_address();
    client.publish(&Publish::new("t", "x").qos(1).retained());
    client.vanish();
    wait_until("the will is said", || seen.lock().unwrap().len() == 2);
    let by = Identity {
        client_id: "node-1".into(),
        user: Some("anna".into()),
        address: Some(address),
        note: 0,
    };
    let expected = [
        (by.clone(), "t".to_owned(), QoS::AtLeastOnce, true),
        (by, "wills/node-1".to_owned(), QoS::ExactlyOnce, false),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn the_host_publishes_through_the_same_door() {
    let (house, seen) = curious();
    let server = Server::with(house);
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("host/#", 1);
    let by = Arc::new(Identity { client_id: "hub".into(), user: None, address: None, note: 0 });
    let outgoing = Outgoing {
        topic: "host/x".into(),
        payload: "payload".into(),
        qos: QoS::ExactlyOnce,
        retain: true,
        properties: PropertiesBuilder::new().content_type("text/plain").user("a", "b").build(),
        expiry: Some(Duration::from_secs(1000)),
    };
    let publish = server.broker().publish(&by, outgoing);
    server
        .runtime()
        .block_on(async { tokio::time::timeout(LIMIT, publish).await })
        .expect("publishes in time")
        .expect("is accepted");
    let live = reader.message();
    assert_eq!((live.topic.as_str(), live.text(), live.qos), ("host/x", "payload", 1));
    assert_eq!(seen.lock().unwrap()[0].0, *by);
    let mut late = server.plain(Version::V4, "late");
    late.subscribe("host/x", 1);
    assert!(late.message().retain);
    use crate::support::properties::{CONTENT_TYPE, MESSAGE_EXPIRY, number, text};
    assert_eq!(text(&live.properties, CONTENT_TYPE), Some("text/plain"));
    let left = number(&live.properties, MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (950..=1000).contains(&left)), "{left:?}");
}

#[test]
fn what_the_host_may_not_publish_it_is_told() {
    let house = House {
        admit: Box::new(|message| match message.topic {
            "bad" => Admitted::Refused(Refusal {
                reason: RefusalReason::QuotaExceeded,
                text: "full".into(),
                temporary: false,
            }),
            _ => Admitted::Accepted,
        }),
        ..House::default()
    };
    let server = Server::with(house);
    let by = Arc::new(Identity { client_id: "hub".into(), user: None, address: None, note: 0 });
    let publish = |topic: &str| {
        let outgoing = Outgoing {
            topic: topic.into(),
            payload: "x".into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: bytes::Bytes::new(),
            expiry: None,
        };
        server.runtime().block_on(server.broker().publish(&by, outgoing))
    };
    assert_eq!(publish("good"), Ok(()));
    assert_eq!(publish("bad").map_err(|refusal| refusal.reason), Err(RefusalReason::QuotaExceeded));
    for topic in ["", "a/#", "a/+", "a\0b"] {
        let refused = publish(topic).map_err(|refusal| refusal.reason);
        assert_eq!(refused, Err(RefusalReason::TopicNameInvalid), "{topic:?}");
    }
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("#", 1);
    assert_eq!(reader.message().topic, "good");
}

#[test]
fn a_will_the_host_refuses_is_not_said() {
    let house = House {
        admit: Box::new(|message| match message.topic {
            "bad" => Admitted::Refused(Refusal {
                reason: RefusalReason::PayloadFormatInvalid,
                text: "no".into(),
                temporary: false,
            }),
            _ => Admitted::Accepted,
        }),
        ..House::default()
    };
    let server = Server::with(house);
    let mut watcher = server.plain(Version::V4, "watcher");
    watcher.subscribe("#", 1);
    for version in VERSIONS {
        for topic in ["bad", "good"] {
            let connect = Connect::new(version, "mortal").will(Publish::new(topic, "x"));
            server.connect(&connect).vanish();
            wait_until("it is gone", || server.stats().connections == 1);
        }
        assert_eq!(watcher.message().topic, "good");
    }
    assert_eq!(server.stats().refused, 2);
}

#[test]
fn too_many_sessions_are_refused_and_those_there_live_on() {
    let server = Server::limited(|limits| limits.sessions_max = 3);
    for version in VERSIONS {
        let v5 = version == Version::V5;
        server.connect(&Connect::persistent(version, "away")).disconnect();
        let mut held = [server.plain(version, "one"), server.plain(version, "two")];
        let (mut refused, code) =
            Client::try_connect(server.address, &Connect::new(version, "three"));
        assert!(code == if v5 { 0x97 } else { 3 }, "code {code:#x}");
        refused.closed();
        held.iter_mut().for_each(Client::ping);
        // One that is known takes no new place.
        server.connect(&Connect::persistent(version, "away")).disconnect();
        let [one, two] = held;
        one.disconnect();
        two.disconnect();
        server.plain(version, "away").disconnect();
        wait_until("all are gone", || server.stats().sessions == 0);
    }
}

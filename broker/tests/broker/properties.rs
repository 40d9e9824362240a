//! MQTT 5 properties: passed on, stripped, counted down, never half.

use crate::support::process::{self, available};
use crate::support::properties::{self as property, MESSAGE_EXPIRY, Value};
use crate::support::{Connect, Publish, Server, Version};

fn rich(topic: &str) -> Publish {
    Publish::new(topic, "payload")
        .qos(1)
        .with(property::payload_format(true))
        .with(property::content_type("text/plain; charset=utf-8"))
        .with(property::response_topic("answers/here"))
        .with(property::correlation_data(&[0, 1, 2, 255]))
        .with(property::user("key", "first"))
        .with(property::user("key", "second"))
        .with(property::user("", "é"))
}

#[test]
fn what_a_publisher_says_about_its_message_reaches_the_subscriber_unchanged() {
    let server = Server::start();
    let mut writer = server.plain(Version::V5, "writer");
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("rich/#", 1);
    writer.publish(&rich("rich/live"));
    assert_eq!(reader.message().properties, rich("").properties);
    writer.publish(&rich("rich/kept").retained());
    assert_eq!(reader.message().properties, rich("").properties);
    let mut late = server.plain(Version::V5, "late");
    late.subscribe("rich/kept", 1);
    let kept = late.message();
    assert!(kept.retain);
    assert_eq!(kept.properties, rich("").properties);
}

#[test]
fn an_old_subscriber_gets_the_message_without_properties() {
    let server = Server::start();
    let mut writer = server.plain(Version::V5, "writer");
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("rich/#", 1);
    writer.publish(&rich("rich/live"));
    writer.publish(&rich("rich/kept").retained());
    for topic in ["rich/live", "rich/kept"] {
        let message = reader.message();
        assert_eq!((message.topic.as_str(), message.text()), (topic, "payload"));
    }
    let mut late = server.plain(Version::V4, "late");
    late.subscribe("rich/#", 1);
    let kept = late.message();
    assert_eq!((kept.text(), kept.retain), ("payload", true));
}

#[test]
fn a_message_that_expired_is_not_delivered() {
    let server = Server::start();
    let mut away = server.connect(&Connect::persistent(Version::V5, "away"));
    away.subscribe("t/#", 1);
    away.disconnect();
    let mut writer = server.plain(Version::V5, "writer");
    writer.publish(&Publish::new("t/short", "x").qos(1).with(property::message_expiry(1)));
    writer
        .publish(&Publish::new("t/kept", "x").qos(1).retained().with(property::message_expiry(1)));
    writer.publish(&Publish::new("t/long", "x").qos(1).with(property::message_expiry(1000)));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let mut back = server.connect(&Connect::persistent(Version::V5, "away"));
    let message = back.message();
    assert_eq!(message.topic, "t/long", "the two others have expired");
    let left = property::number(&message.properties, MESSAGE_EXPIRY).expect("time left");
    assert!((900..=998).contains(&left), "{left} s left of 1000 after two");
    let mut late = server.plain(Version::V5, "late");
    late.subscribe("t/kept", 1);
    late.publish(&Publish::new("t/kept", "new").qos(1));
    assert_eq!(late.message().text(), "new", "the retained one has expired");
}

#[test]
fn a_retained_message_ages_by_the_clock_and_not_by_its_readers() {
    let server = Server::start();
    let mut writer = server.plain(Version::V5, "writer");
    writer.publish(&Publish::new("t", "x").qos(1).retained().with(property::message_expiry(1000)));
    let mut reader = server.plain(Version::V5, "reader");
    for _ in 0..50 {
        reader.subscribe("t", 1);
        let left = property::number(&reader.message().properties, MESSAGE_EXPIRY);
        assert!(left.is_some_and(|left| (950..=1000).contains(&left)), "{left:?}");
    }
}

#[test]
fn a_subscriber_is_told_how_long_a_message_keeps_its_value() {
    let server = Server::start();
    let mut client = server.plain(Version::V5, "client");
    client.subscribe_all(&[("t", 1), ("end", 1)], &[]);
    client.publish(&Publish::new("t", "x").qos(1).with(property::message_expiry(1000)));
    let left = property::number(&client.message().properties, MESSAGE_EXPIRY);
    assert!(left.is_some_and(|left| (990..=1000).contains(&left)), "{left:?}");
}

#[test]
fn malformed_properties_end_the_connection_and_nothing_else() {
    let server = Server::start();
    let mut witness = server.plain(Version::V5, "witness");
    witness.subscribe("#", 1);
    let twice = |what: property::Property| vec![what.clone(), what];
    let bad = [
        twice(property::content_type("a")),
        twice(property::message_expiry(5)),
        twice(property::payload_format(true)),
        twice(property::topic_alias(1)),
        vec![property::topic_alias(0)],
        vec![property::topic_alias(u16::MAX)],
        vec![property::subscription_id(1)],
        vec![property::session_expiry(1)],
        vec![property::response_topic("a/#")],
        vec![(property::PAYLOAD_FORMAT, Value::Byte(2))],
        vec![(99, Value::Byte(0))],
        vec![(property::CONTENT_TYPE, Value::Binary(vec![0xC3, 0x28]))],
        vec![(property::CONTENT_TYPE, Value::Byte(200))],
    ];
    for properties in bad {
        let mut client = server.plain(Version::V5, "malformed");
        let message = Publish { properties, ..Publish::new("bad", "x").qos(1) };
        client.send(&message.encode(Version::V5, 1));
        if server.is_ours() {
            let reason = client.closed();
            assert!(reason.is_some_and(|code| code >= 0x80), "{reason:?} for {message:?}");
        }
    }
    if server.is_ours() {
        server.plain(Version::V5, "fine").publish(&Publish::new("good", "x").qos(1));
        assert_eq!(witness.message().topic, "good");
    }
}

#[test]
fn mosquitto_rr_gets_its_answer() {
    if !available("mosquitto_rr", "mosquitto_rr_gets_its_answer") {
        return;
    }
    let server = Server::start();
    let mut service = server.plain(Version::V5, "service");
    service.subscribe("ask", 1);
    let arguments = ["-V", "5", "-t", "ask", "-e", "reply/1", "-m", "2+2", "-q", "1", "-W", "20"];
    let asker = process::client("mosquitto_rr", server.address, &arguments);
    let question = service.message();
    assert_eq!(question.text(), "2+2");
    let to = property::text(&question.properties, property::RESPONSE_TOPIC).expect("topic");
    assert_eq!(to, "reply/1");
    service.publish(&Publish::new(to, "4").qos(1));
    assert_eq!(asker.finish(), ["4"]);
}

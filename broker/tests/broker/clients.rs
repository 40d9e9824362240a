//! Real clients: mosquitto's programs and rumqttc.

use std::collections::BTreeSet;
use std::time::Duration;

use rumqttc::{Event, MqttOptions, QoS};

use crate::retained::fill;
use crate::support::process::{self, available};
use crate::support::{Publish, Server, Version};

const COUNT: u32 = 10_000;

#[test]
fn mosquitto_sub_gets_ten_thousand_retained_topics_fresh_and_again() {
    if !available("mosquitto_sub", "mosquitto_sub_gets_ten_thousand_retained_topics") {
        return;
    }
    let server = Server::start();
    fill(&server, COUNT);
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let id = format!("sub-{version}-{qos}");
            for attempt in ["fresh", "again"] {
                // A session that lasts: the second time the same subscription is made again.
                let mut arguments = vec!["-V", version, "-q", qos, "-t", "many/#", "-W", "40"];
                arguments.extend(["-C", "10000", "-i", &id, "-c", "-F", "%r %t"]);
                if version == "5" {
                    arguments.extend(["-x", "60"]);
                }
                let lines = process::client("mosquitto_sub", server.address, &arguments).finish();
                let topics: BTreeSet<&String> = lines.iter().collect();
                let what = format!("version {version} qos {qos} {attempt}");
                assert_eq!((lines.len(), topics.len()), (10_000, 10_000), "{what}");
                assert!(lines.iter().all(|line| line.starts_with("1 many/")), "{what}");
            }
        }
    }
}

#[test]
fn mosquitto_pub_reaches_mosquitto_sub_in_every_version_and_qos() {
    let test = "mosquitto_pub_reaches_mosquitto_sub_in_every_version_and_qos";
    if !available("mosquitto_pub", test) || !available("mosquitto_sub", test) {
        return;
    }
    let server = Server::start();
    for version in ["311", "5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("t/{version}/{qos}");
            let mut arguments = vec!["-V", version, "-q", qos, "-t", &topic, "-W", "30"];
            arguments.extend(["-C", "1", "-F", "%q %t %p"]);
            // The message is retained, so it does not matter which of the two is first.
            let subscriber = process::client("mosquitto_sub", server.address, &arguments);
            let message = ["-V", version, "-q", qos, "-t", &topic, "-m", "hällo", "-r"];
            process::client("mosquitto_pub", server.address, &message).finish();
            assert_eq!(subscriber.finish(), [format!("{qos} {topic} hällo")]);
        }
    }
}

fn options(server: &Server, id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", server.address.port());
    options.set_keep_alive(Duration::from_secs(30)).set_inflight(100);
    options
}

#[test]
fn rumqttc_gets_ten_thousand_retained_topics_fresh_and_again() {
    let server = Server::start();
    fill(&server, COUNT);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (client, mut connection) = rumqttc::Client::new(options(&server, "rumqttc"), 10);
        client.subscribe("many/#", qos).unwrap();
        let mut topics = BTreeSet::new();
        let mut attempt = 0;
        loop {
            let event = connection.recv_timeout(Duration::from_secs(30)).expect("an event in time");
            if let Event::Incoming(rumqttc::Packet::Publish(publish)) = event.expect("connected") {
                assert!(publish.retain && publish.qos == qos);
                assert!(topics.insert(publish.topic), "twice in one replay");
            }
            if topics.len() == COUNT as usize {
                topics.clear();
                attempt += 1;
                if attempt == 2 {
                    break;
                }
                client.subscribe("many/#", qos).unwrap();
            }
        }
        client.disconnect().unwrap();
    }
}

#[test]
fn rumqttc_v5_gets_ten_thousand_retained_topics_fresh_and_again() {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{Client, Event, MqttOptions};
    let server = Server::start();
    fill(&server, COUNT);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut options = MqttOptions::new("rumqttc-5", "127.0.0.1", server.address.port());
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut connection) = Client::new(options, 10);
        client.subscribe("many/#", qos).unwrap();
        let mut topics = BTreeSet::new();
        for attempt in 0..2 {
            while topics.len() < COUNT as usize {
                let event = connection.recv_timeout(Duration::from_secs(30)).expect("in time");
                if let Event::Incoming(Packet::Publish(publish)) = event.expect("connected") {
                    assert!(publish.retain && publish.qos == qos);
                    assert!(topics.insert(publish.topic), "twice in replay {attempt}");
                }
            }
            topics.clear();
            client.subscribe("many/#", qos).unwrap();
        }
        client.disconnect().unwrap();
    }
}

#[test]
fn rumqttc_publishes_at_every_qos() {
    let server = Server::start();
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t/#", 2);
    let (client, mut connection) = rumqttc::Client::new(options(&server, "rumqttc"), 100);
    let driver = std::thread::spawn(move || {
        for event in connection.iter() {
            if event.is_err() || matches!(event, Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)))
            {
                return;
            }
        }
    });
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for count in 0..300_usize {
        client.publish(format!("t/{count}"), all[count % 3], false, count.to_string()).unwrap();
        let message: Publish = reader.message();
        assert_eq!((message.text(), message.qos), (count.to_string().as_str(), (count % 3) as u8));
    }
    client.disconnect().unwrap();
    driver.join().unwrap();
}

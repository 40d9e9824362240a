//! Why stock rumqttd is not the engine of this crate.
//!
//! These tests pass as long as it has the faults that ruled it out. If one
//! fails after an upgrade, rumqttd has got better: look at the choice again.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::process::{Running, free_address};
use crate::support::{Client, Packet, Publish, Version, wait_until};

const ADDRESS: &str = "STOCK_RUMQTTD_ADDRESS";
const RECONSIDER: &str = "stock rumqttd no longer has this fault: reconsider the choice of engine";

/// Not a test: the child process of the tests below, with rumqttd's defaults.
#[test]
#[ignore = "runs a stock rumqttd for the other tests until it is killed"]
fn serve() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let listen: SocketAddr = address.parse().expect("an address");
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "stock".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let router = rumqttd::RouterConfig {
        max_connections: 1_000,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 << 20,
        max_segment_count: 10,
        ..rumqttd::RouterConfig::default()
    };
    let v4 = Some(HashMap::from([("stock".to_owned(), server)]));
    let config = rumqttd::Config { router, v4, ..rumqttd::Config::default() };
    rumqttd::Broker::new(config).start().expect("rumqttd starts");
}

fn stock() -> (Running, SocketAddr) {
    let address = free_address();
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "rumqttd::serve", "--ignored", "--nocapture"])
        .env(ADDRESS, address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program starts again");
    wait_until("rumqttd listens", || TcpStream::connect(address).is_ok());
    (Running::new(child), address)
}

/// A plain connection; rumqttd refuses keep-alive 0.
fn connect(address: SocketAddr, id: &str) -> Client {
    Client::connect(address, &crate::support::Connect::new(Version::V4, id).keep_alive(60))
}

#[test]
fn one_publish_to_a_topic_that_begins_with_an_accent_kills_its_router() {
    let (mut process, address) = stock();
    let mut witness = connect(address, "witness");
    witness.subscribe("t", 1);
    witness.publish(&Publish::new("t", "well").qos(1));
    assert_eq!(witness.message().text(), "well", "it works before");
    connect(address, "killer").send_publish(&Publish::new("é/x", "x"));
    // The router is gone, so either the connection breaks or nothing is answered any more.
    let mut alive = false;
    for _ in 0..20 {
        witness.send_anyway(&Publish::new("t", "still well?").encode(Version::V4, 0));
        while let Some(packet) = witness.try_next(Duration::from_millis(100)) {
            alive = matches!(&packet, Packet::Publish(message) if message.text() == "still well?");
        }
        if alive {
            break;
        }
    }
    assert!(!alive, "{RECONSIDER}");
    assert!(!process.ended(), "the process lives on although the broker is dead");
    assert!(TcpStream::connect(address).is_ok(), "and its port still accepts");
}

#[test]
fn of_a_thousand_retained_messages_at_most_two_hundred_arrive() {
    let (_process, address) = stock();
    let mut writer = connect(address, "writer");
    for number in 0..1_000 {
        writer.publish(&Publish::new(&format!("many/{number}"), "x").qos(1).retained());
    }
    for qos in [0, 1] {
        let mut reader = connect(address, &format!("reader-{qos}"));
        reader.subscribe("many/#", qos);
        let mut retained = 0;
        // What comes after the retained messages shows that they are over.
        reader.subscribe("end", qos);
        writer.publish(&Publish::new("end", "x").qos(1));
        for message in reader.messages_until("end") {
            retained += usize::from(message.retain);
        }
        assert!(retained > 0, "some do arrive");
        assert!(retained <= 200, "{retained} of 1000 at QoS {qos}: {RECONSIDER}");
    }
}

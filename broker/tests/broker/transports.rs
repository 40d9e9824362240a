//! What holds over every transport: TCP, TLS, WebSocket, and WebSocket over TLS.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{Limits, MemoryStore};

use crate::support::host::House;
use crate::support::tunnel::{Over, Tunnel};
use crate::support::{Client, Connect, Packet, Publish, Server, VERSIONS, Version, wait_until};

/// A broker behind a tunnel, and the real address of the broker.
struct Behind {
    server: Server,
    tunnel: std::net::SocketAddr,
}

impl Behind {
    fn new(over: &Over, limits: Limits) -> Self {
        Self::with(over, House::default(), limits)
    }

    fn with(over: &Over, house: House, limits: Limits) -> Self {
        let server = Server::listening(over.listen(), house, limits, Arc::new(MemoryStore::new()));
        let tunnel = Tunnel::dig(server.runtime(), server.address, over).address;
        Self { server, tunnel }
    }

    fn plain(&self, version: Version, id: &str) -> Client {
        Client::plain(self.tunnel, version, id)
    }
}

fn all() -> [Over; 3] {
    [Over::tls(), Over::websocket(), Over::websocket_and_tls()]
}

#[test]
fn both_versions_publish_and_subscribe_at_every_qos() {
    for over in all() {
        let behind = Behind::new(&over, Limits::default());
        for version in VERSIONS {
            let mut reader = behind.plain(version, "reader");
            let mut writer = behind.plain(version, "writer");
            reader.subscribe("t/#", 2);
            for qos in 0..=2 {
                assert_eq!(writer.publish(&Publish::new("t/x", "hällo").qos(qos)), 0);
                let message = reader.message();
                assert_eq!((message.text(), message.qos), ("hällo", qos));
            }
            reader.ping();
            reader.disconnect();
            writer.disconnect();
        }
        wait_until("all have left", || behind.server.stats().connections == 0);
    }
}

#[test]
fn a_megabyte_passes_both_ways_and_in_order() {
    let limits = Limits { packet_max_bytes: 4 << 20, ..Limits::default() };
    for over in all() {
        let behind = Behind::new(&over, limits.clone());
        let mut client = behind.plain(Version::V5, "client");
        client.subscribe("big", 1);
        for size in [1_usize << 20, 3 << 20, 65_536, 65_535, 1] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            client.send_publish(&Publish::new("big", payload.clone()).qos(1));
            assert!(client.message().payload == payload, "{size} bytes arrive as they were");
        }
        for number in 0..20_000 {
            client.send_publish(&Publish::new("big", number.to_string()));
        }
        for number in 0..20_000 {
            assert_eq!(client.message().text(), number.to_string());
        }
    }
}

#[test]
fn who_says_nothing_or_stops_half_way_is_dropped_and_delays_nobody() {
    let limits = Limits { handshake_limit: Duration::from_secs(2), ..Limits::default() };
    for over in all() {
        let behind = Behind::new(&over, limits.clone());
        let address = behind.server.address;
        let mut silent: Vec<TcpStream> = Vec::new();
        let beginnings: [&[u8]; 5] = [
            b"",
            // The head of a TLS record that never comes.
            &[0x16, 3, 1, 2, 0],
            b"GET /mqtt HTTP/1.1\r\nHost: a\r\n",
            b"G",
            &[0x10],
        ];
        for beginning in beginnings.iter().cycle().take(50) {
            let mut stream = TcpStream::connect(address).expect("accepted");
            stream.write_all(beginning).expect("taken");
            silent.push(stream);
        }
        for version in VERSIONS {
            behind.plain(version, "lively").ping();
        }
        for mut stream in silent {
            stream.set_read_timeout(Some(crate::support::LIMIT)).expect("limit");
            // An end or a reset; only waiting for ever is wrong.
            if let Err(error) = std::io::copy(&mut stream, &mut std::io::sink()) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
        }
        wait_until("all are counted", || behind.server.stats().connections_refused == 50);
        behind.plain(Version::V5, "later").ping();
    }
}

#[test]
fn the_time_limit_counts_from_the_first_byte_to_connect() {
    let limits = Limits { handshake_limit: Duration::from_millis(500), ..Limits::default() };
    for over in all() {
        let behind = Behind::new(&over, limits.clone());
        // The tunnel does TLS and WebSocket; the client says no word of MQTT.
        let mut client = Client::dial(behind.tunnel, Version::V5);
        assert!(client.packets_until_closed().is_empty());
        wait_until("it is counted", || behind.server.stats().connections_refused == 1);
    }
}

#[test]
fn a_lost_connection_publishes_the_will_and_an_orderly_one_does_not() {
    for over in all() {
        let behind = Behind::new(&over, Limits::default());
        let mut witness = behind.plain(Version::V5, "witness");
        witness.subscribe("will/#", 1);
        let with_will = |id: &str| {
            let will = Publish::new(&format!("will/{id}"), "gone");
            Client::connect(behind.tunnel, &Connect::new(Version::V5, id).will(will))
        };
        with_will("orderly").disconnect();
        with_will("lost").vanish();
        assert_eq!(witness.message().topic, "will/lost");
    }
}

#[test]
fn a_refused_client_is_told_why() {
    for over in all() {
        let house = House {
            login: Box::new(|_| Err(meshfs_broker::ConnectRefused::BadCredentials)),
            ..House::default()
        };
        let behind = Behind::with(&over, house, Limits::default());
        for (version, code) in [(Version::V4, 4), (Version::V5, 0x86)] {
            let (mut client, answer) =
                Client::try_connect(behind.tunnel, &Connect::new(version, "nobody"));
            assert_eq!(answer, code);
            client.closed();
        }
    }
}

#[test]
fn too_many_connections_are_closed() {
    for over in all() {
        let behind = Behind::new(&over, Limits { connections_max: 2, ..Limits::default() });
        let kept = [behind.plain(Version::V4, "one"), behind.plain(Version::V5, "two")];
        assert!(Client::dial(behind.tunnel, Version::V5).packets_until_closed().is_empty());
        drop(kept);
        wait_until("there is room again", || {
            let mut client = Client::dial(behind.tunnel, Version::V5);
            client.send_anyway(&Connect::new(Version::V5, "three").encode());
            client.try_next(crate::support::LIMIT).is_some()
        });
    }
}

#[test]
fn a_reader_that_stops_is_disconnected_and_delays_nobody() {
    let limits = Limits {
        queue_max_bytes: 1 << 20,
        stuck_limit: Duration::from_secs(1),
        stall_grace: Duration::from_millis(200),
        ..Limits::default()
    };
    for over in all() {
        let behind = Behind::new(&over, limits.clone());
        let mut stuck = behind.plain(Version::V5, "stuck");
        let mut healthy = behind.plain(Version::V5, "healthy");
        stuck.subscribe("t", 1);
        healthy.subscribe("t", 1);
        let mut writer = behind.plain(Version::V4, "writer");
        let reading = std::thread::spawn(move || {
            for number in 0..4_000 {
                assert_eq!(healthy.message().text()[..4], format!("{number:04}"));
            }
        });
        for number in 0..4_000 {
            writer.send_publish(&Publish::new("t", format!("{number:04}{:8000}", "")).qos(1));
            if number % 100 == 99 {
                writer.ping();
            }
        }
        reading.join().expect("the healthy reader got everything");
        wait_until("the stuck reader is gone", || behind.server.stats().connections <= 1);
        drop(stuck);
    }
}

#[test]
fn shutdown_says_goodbye_writes_out_what_is_queued_and_frees_the_port() {
    for over in all() {
        let behind = Behind::new(&over, Limits::default());
        let mut reader = behind.plain(Version::V5, "reader");
        reader.subscribe("t", 0);
        let mut writer = behind.plain(Version::V4, "writer");
        for _ in 0..1_000 {
            writer.publish(&Publish::new("t", vec![b'x'; 1000]));
        }
        writer.ping();
        let silent = TcpStream::connect(behind.server.address).expect("accepted");
        let reading = std::thread::spawn(move || {
            let mut messages = 0;
            loop {
                match reader.next() {
                    Packet::Publish(_) => messages += 1,
                    Packet::Disconnect { code, .. } => break (messages, code),
                    other => panic!("{other:?}"),
                }
            }
        });
        behind.server.shutdown();
        assert_eq!(reading.join().expect("read"), (1_000, 0x8B));
        drop(silent);
        TcpListener::bind(behind.server.address).expect("the port is free");
    }
}

//! MQTT over WebSocket: the handshake, frames of every kind, and connections handed over.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{Limits, MemoryStore};

use crate::memory::{assert_grew_less_than, resident_mib};
use crate::support::host::House;
use crate::support::tunnel::{Over, Tunnel};
use crate::support::wire::{self, decode};
use crate::support::{
    Client, Connect, LIMIT, Packet, Publish, Server, VERSIONS, Version, wait_until,
};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// This frame is the last one of its message.
const FIN: u8 = 0x80;

fn server(change: impl FnOnce(&mut Limits)) -> Server {
    let mut limits = Limits::default();
    change(&mut limits);
    let store = Arc::new(MemoryStore::new());
    Server::listening(Over::websocket().listen(), House::default(), limits, store)
}

/// A client that builds its frames itself.
struct Frames(TcpStream);

impl Frames {
    fn ask(address: SocketAddr, request: &str) -> (Self, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(request.replace('\n', "\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            answer.push(byte[0]);
        }
        (Self(stream), String::from_utf8(answer).unwrap())
    }

    fn open(address: SocketAddr) -> Self {
        let (frames, answer) = Self::ask(address, &request("Sec-WebSocket-Protocol: mqtt\n"));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.to_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
        frames
    }

    /// A connection on which a client is let in.
    fn greeted(address: SocketAddr, version: Version) -> Self {
        let mut frames = Self::open(address);
        frames.send(FIN | BINARY, &Connect::new(version, "frames").encode());
        let (kind, bytes) = frames.next().unwrap();
        assert_eq!(kind, FIN | BINARY);
        assert!(matches!(decode(version, &bytes), Packet::Connack { code: 0, .. }));
        frames
    }

    fn send(&mut self, head: u8, payload: &[u8]) {
        let _ = self.0.write_all(&frame(head, payload));
    }

    fn send_all(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the broker has closed.
    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).ok()?;
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let length = match head[1] {
            126 => {
                let mut long = [0; 2];
                self.0.read_exact(&mut long).ok()?;
                u16::from_be_bytes(long).into()
            }
            127 => panic!("no frame of these tests is as long"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[0], payload))
    }

    /// Waits for the end; gives the code of the close frame.
    fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((kind, payload)) = self.next() {
            if kind == FIN | CLOSE {
                code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
        code
    }
}

fn request(more: &str) -> String {
    format!(
        "GET /mqtt HTTP/1.1\nHost: localhost\nConnection: Upgrade\nUpgrade: websocket\n\
         Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n{more}\n"
    )
}

fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn a_packet_may_span_frames_and_a_frame_hold_many_packets() {
    let server = server(|_| {});
    for version in VERSIONS {
        for size in [1, 2, 7, 1000] {
            let over = Over { websocket: Some(size), ..Over::websocket() };
            let tunnel = Tunnel::dig(server.runtime(), server.address, &over).address;
            let mut client = Client::plain(tunnel, version, "pieces");
            client.subscribe("t", 1);
            let mut many = Vec::new();
            for id in 1..=20 {
                many.extend(Publish::new("t", format!("{id}")).qos(1).encode(version, id));
            }
            client.send(&many);
            for id in 1..=20 {
                assert_eq!(client.message().text(), format!("{id}"), "frames of {size}");
            }
            client.disconnect();
        }
    }
}

#[test]
fn a_message_in_fragments_with_a_ping_between_is_put_together() {
    let server = server(|_| {});
    for version in VERSIONS {
        let mut frames = Frames::open(server.address);
        let connect = Connect::new(version, "fragments").encode();
        let (first, rest) = connect.split_at(5);
        let (second, third) = rest.split_at(3);
        frames.send(BINARY, first);
        frames.send(FIN | PING, b"are you there");
        frames.send(0, second);
        frames.send(FIN, third);
        assert_eq!(frames.next(), Some((FIN | PONG, b"are you there".to_vec())));
        let (_, bytes) = frames.next().unwrap();
        assert!(matches!(decode(version, &bytes), Packet::Connack { code: 0, .. }));
    }
}

#[test]
fn the_client_that_closes_is_answered_and_leaves_nothing() {
    let server = server(|_| {});
    let mut frames = Frames::greeted(server.address, Version::V5);
    frames.send(FIN | BINARY, &[0xE0, 0]);
    frames.send(FIN | CLOSE, &1000_u16.to_be_bytes());
    assert_eq!(frames.closed(), Some(1000));
    wait_until("it is gone", || server.stats().connections == 0);
}

#[test]
fn the_broker_that_ends_a_connection_says_so_in_both_languages() {
    let server = server(|_| {});
    let mut first = Frames::greeted(server.address, Version::V5);
    let _second = Frames::greeted(server.address, Version::V5);
    let (_, bytes) = first.next().unwrap();
    assert!(matches!(decode(Version::V5, &bytes), Packet::Disconnect { code: 0x8E, .. }));
    assert_eq!(first.closed(), Some(1000));
}

#[test]
fn a_text_frame_closes() {
    let server = server(|_| {});
    let mut before = Frames::open(server.address);
    before.send(FIN | TEXT, b"hello");
    assert_eq!(before.closed(), Some(1003));
    let mut later = Frames::greeted(server.address, Version::V4);
    later.send(FIN | TEXT, b"{}");
    assert_eq!(later.closed(), Some(1003));
}

#[test]
fn a_frame_or_message_that_is_too_long_closes_before_it_is_read() {
    let server = server(|limits| limits.packet_max_bytes = 100_000);
    for head in [FIN | BINARY, BINARY] {
        let mut frames = Frames::greeted(server.address, Version::V5);
        let mut claim = frame(head, &[0; 126]);
        claim.truncate(10);
        claim[2..10].copy_from_slice(&u64::MAX.wrapping_shr(1).to_be_bytes());
        frames.0.write_all(&claim).unwrap();
        frames.0.write_all(&[1, 2, 3, 4]).unwrap();
        assert_eq!(frames.closed(), Some(1009));
    }
    let mut frames = Frames::greeted(server.address, Version::V5);
    frames.send(BINARY, &[0xC0, 0]);
    for _ in 0..20 {
        frames.send(0, &[0; 10_000]);
    }
    assert_eq!(frames.closed(), Some(1009));
}

#[test]
fn frames_that_break_the_standard_close() {
    let server = server(|_| {});
    let ping = [0xC0, 0];
    let mut unmasked = vec![FIN | BINARY, 2];
    unmasked.extend(ping);
    let cases: [(&str, Vec<u8>); 6] = [
        ("unmasked", unmasked),
        ("reserved bits", frame(FIN | BINARY | 0x40, &ping)),
        ("unknown kind", frame(FIN | 3, &ping)),
        ("continuation of nothing", frame(FIN, &ping)),
        ("fragmented ping", frame(PING, &ping)),
        ("long ping", frame(FIN | PING, &[0; 126])),
    ];
    for (what, bytes) in cases {
        let mut frames = Frames::greeted(server.address, Version::V5);
        frames.0.write_all(&bytes).unwrap();
        assert_eq!(frames.closed(), Some(1002), "{what}");
    }
    let mut frames = Frames::greeted(server.address, Version::V5);
    frames.send(FIN | BINARY, &ping);
    assert_eq!(frames.next(), Some((FIN | BINARY, vec![0xD0, 0])), "the broker is well");
}

#[test]
fn no_subprotocol_or_another_one_is_refused() {
    let server = server(|_| {});
    for offers in ["", "Sec-WebSocket-Protocol: chat\n", "Sec-WebSocket-Protocol: mqttv3.1\n"] {
        let (_, answer) = Frames::ask(server.address, &request(offers));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    wait_until("all are counted", || server.stats().connections_refused == 3);
    let (_, answer) =
        Frames::ask(server.address, &request("Sec-WebSocket-Protocol: mqttv3.1, mqtt\n"));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

#[test]
fn what_is_no_handshake_is_closed() {
    let server = server(|_| {});
    let huge = format!("GET / HTTP/1.1\nX: {}\n\n", "x".repeat(200_000));
    let requests =
        ["GET / HTTP/1.1\nHost: a\n\n", "POST /mqtt HTTP/1.1\n\n", "\u{1}\u{2}\n\n", &huge];
    for request in requests {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let _ = stream.write_all(request.replace('\n', "\r\n").as_bytes());
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert!(!answer.starts_with(b"HTTP/1.1 101"));
    }
    Frames::greeted(server.address, Version::V5);
}

#[test]
fn a_flood_of_pings_costs_no_memory_and_delays_nobody() {
    let server = server(|_| {});
    let mut flood = Frames::greeted(server.address, Version::V4);
    let pings = frame(FIN | PING, &[b'x'; 125]).repeat(1000);
    let before = resident_mib();
    // It never reads its pongs: they are dropped.
    for _ in 0..400 {
        flood.send_all(&pings);
    }
    assert_grew_less_than(10.0, before, resident_mib());
    let over = Over::websocket();
    let tunnel = Tunnel::dig(server.runtime(), server.address, &over).address;
    Client::plain(tunnel, Version::V5, "healthy").ping();
}

/// A connection that came in elsewhere, with its HTTP part done.
fn hand_over(server: &Server) -> Frames {
    let listener = std::net::TcpListener::bind(crate::support::server::any_port()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let (stream, peer) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    server.runtime().block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        server.broker().serve_websocket(stream, peer, Some("web1".into()));
    });
    Frames(client)
}

#[test]
fn who_is_handed_over_and_says_nothing_ends() {
    let server = Server::limited(|limits| limits.handshake_limit = Duration::from_millis(500));
    assert_eq!(hand_over(&server).closed(), Some(1000));
    wait_until("it is counted", || server.stats().connections_refused == 1);
}

#[test]
fn a_connection_handed_over_counts_and_ends_with_the_broker() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let house = House {
        login: Box::new(|credentials| {
            assert_eq!(credentials.certificate, Some("web1"));
            Ok(())
        }),
        ..House::default()
    };
    let server = Server::build(house, limits, Arc::new(MemoryStore::new()));
    let hand_over = || hand_over(&server);
    let (mut one, mut two) = (hand_over(), hand_over());
    for (frames, id) in [(&mut one, "one"), (&mut two, "two")] {
        frames.send(FIN | BINARY, &Connect::new(Version::V5, id).encode());
        let (_, bytes) = frames.next().unwrap();
        assert!(matches!(decode(Version::V5, &bytes), Packet::Connack { code: 0, .. }));
    }
    assert_eq!(server.stats().connections, 2);
    assert_eq!(hand_over().closed(), None, "there are two places");
    two.send(FIN | BINARY, &wire::subscribe(Version::V5, 1, &[("t", 0)], &[]));
    assert_eq!(two.next().map(|(_, bytes)| bytes[0]), Some(0x90));
    server.shutdown();
    let (_, bytes) = one.next().unwrap();
    assert!(matches!(decode(Version::V5, &bytes), Packet::Disconnect { code: 0x8B, .. }));
}

//! Hostile HTTP: framing, paths, origins, bodies, and clients that do not read.

use super::attacks::Target;
use super::hub::{LIMIT, until};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// Sends bytes and gives whatever comes until the hub closes.
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_request_whose_end_is_doubtful_is_refused_whole() {
    let target = Target::start();
    let hidden = "POST /v1/announcements HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhidden";
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length : 5\r\n",
        "Content-Length: 5\r\n folded: x\r\n",
    ] {
        let request = format!(
            "POST /v1/announcements HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n0\r\n\r\n{hidden}"
        );
        let answer = exchange(target.hub.http, request.as_bytes());
        assert!(!answer.contains("\"hidden\""), "{framing}: {answer}");
        assert!(!answer.contains("HTTP/1.1 201"), "{framing}: {answer}");
    }
    let (_, listed) = target.hub.request("GET", "/v1/announcements", "");
    assert!(!listed.contains("hidden"), "{listed}");
    target.is_well();
}

#[test]
fn both_lengths_at_once_hide_no_second_request() {
    let target = Target::start();
    let hidden = "GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = format!(
        "POST /v1/announcements HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n{hidden}",
        hidden.len() + 5
    );
    let answer = exchange(target.hub.http, request.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    target.is_well();
}

#[test]
fn heads_and_bodies_beyond_bounds_are_refused() {
    let target = Target::start();
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(2 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(1 << 20));
    for request in [huge, many, path] {
        let answer = exchange(target.hub.http, request.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:.200}");
    }
    let deep = format!(r#"{{"reason":"x","more":{}{}}}"#, "[".repeat(7_000), "]".repeat(7_000));
    assert_eq!(target.hub.request("POST", "/v1/announcements", &deep).0, 400);
    let deep = format!(r#"{{"filter":{}"#, "{\"a\":".repeat(3_000));
    assert_eq!(target.hub.request("POST", "/v1/live/purge", &deep).0, 400);
    let large = "x".repeat(17 << 10);
    assert_eq!(target.hub.request("POST", "/v1/announcements", &large).0, 413);
    target.is_well();
}

#[test]
fn no_path_leads_out_of_the_retained_messages() {
    let target = Target::start();
    for path in [
        "/v1/live/../../witness",
        "/v1/live/%2e%2e/%2e%2e/witness",
        "/v1/live/..%2f..%2fwitness",
        "/v1/live//etc/passwd",
        "/v1/live/%00",
        "/v1/live/%ff",
        "/v1/live/app/%23",
        "/v1/live/%2b/%23",
        "/v1/live/app/..%5c..%5cwitness",
        "/v1/live/hub.json",
        "/v1/live/HUB",
        "/v1/nodes/..%2f..%2fwitness",
        "/v1/snapshots/..%2f..",
        "/v1/announcements/..%2f..",
    ] {
        let (status, body) = target.hub.request("GET", path, "");
        assert!((400..500).contains(&status), "{path}: {status}");
        assert!(!body.contains("untouched"), "{path}");
    }
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "POST"] {
        let (status, _) = target.hub.request(method, "/v1/live/hub", "");
        assert!((400..500).contains(&status), "{method}: {status}");
    }
    let head = "HEAD /v1/live/hub HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-0,-1,5-1\r\nConnection: close\r\n\r\n";
    let answer = exchange(target.hub.http, head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    target.is_well();
}

#[test]
fn pages_of_other_origins_reach_no_door() {
    let target = Target::start();
    let socket = "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n";
    for whose in [
        "Host: localhost\r\nOrigin: http://evil.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\nOrigin: http://localhost.evil.example\r\n",
    ] {
        for request in [
            format!("GET /mqtt HTTP/1.1\r\n{whose}{socket}\r\n"),
            format!("GET /v1/live HTTP/1.1\r\n{whose}Connection: close\r\n\r\n"),
            format!(
                "POST /v1/announcements HTTP/1.1\r\n{whose}Connection: close\r\nContent-Length: 1\r\n\r\nx"
            ),
            format!(
                "POST /v1/live/purge HTTP/1.1\r\n{whose}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        ] {
            let answer = exchange(target.hub.http, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 403"), "{request}: {answer}");
        }
    }
    let (_, listed) = target.hub.request("GET", "/v1/announcements", "");
    assert_eq!(listed, "[]");
    target.is_well();
}

#[test]
fn clients_that_send_half_a_request_are_let_go() {
    let target = Target::start();
    let halves: [&[u8]; 3] = [
        b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /v1/announcements HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx",
        b"POST /v1/announcements HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nx",
    ];
    let mut streams: Vec<TcpStream> = (0..300)
        .map(|n| {
            let mut stream = TcpStream::connect(target.hub.http).unwrap();
            stream.write_all(halves[n % halves.len()]).unwrap();
            stream
        })
        .collect();
    target.is_well();
    for stream in &mut streams {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(timed_out), "kept open");
    }
    target.is_well();
}

#[test]
fn clients_that_read_no_answer_do_not_keep_the_others_out() {
    let target = Target::start();
    let mut writer = target.client("writer");
    let large = super::raw::Publish::new("mesh/app/large", vec![b'x'; 900_000]).qos(1).retained();
    assert_eq!(writer.publish(&large), 0);
    let request = "GET /v1/live/app/large HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
    // More than there are places, each asking for more than any socket holds.
    let streams: Vec<TcpStream> = (0..1_100)
        .map(|_| {
            let mut stream = TcpStream::connect(target.hub.http).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    until("a place for somebody else", || {
        let mut stream = TcpStream::connect(target.hub.http).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let healthy = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(healthy).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    });
    drop(streams);
    target.is_well();
}

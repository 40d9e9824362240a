//! Hostile connections: silent, slow, many, and with bytes that no client sends.

use super::attacks::Target;
use super::hub::LIMIT;
use super::raw::wire::{frame, string};
use super::raw::{Client, Connect, Publish, Version};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

/// What the hub's process keeps in memory, in MB; what is counted is the growth.
fn resident_mb(target: &Target) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", target.hub.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn clients_that_never_finish_their_connect_are_let_go_and_delay_nobody() {
    let target = Target::start();
    let whole = Connect::new(Version::V5, "slow").encode();
    let starts: [&[u8]; 4] = [b"", b"\x10", b"\x10\xff\xff", &whole[..whole.len() - 1]];
    let mut streams: Vec<TcpStream> = (0..400)
        .map(|n| {
            let mut stream = TcpStream::connect(target.hub.mqtt).unwrap();
            stream.write_all(starts[n % starts.len()]).unwrap();
            stream
        })
        .collect();
    target.is_well();
    for stream in &mut streams {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        let kept = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!kept, "kept open");
    }
    target.is_well();
}

#[test]
fn bytes_that_no_client_sends_end_only_the_connection_they_come_on() {
    let target = Target::start();
    let mut healthy = target.client("healthy");
    healthy.subscribe("mesh/app/#", 1);
    let connect = Connect::new(Version::V5, "hostile").encode();
    let before: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x10\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\x7f",
        b"\x30\x05\x00\x01ax",
        b"\x20\x02\x00\x00",
        b"\xc0\x00",
        &[0xff; 4096],
    ];
    for bytes in before {
        let mut client = Client::dial(target.hub.mqtt, Version::V5);
        client.send(bytes);
        assert_eq!(client.bytes_until_closed(), b"", "{bytes:x?}");
    }
    let after: [Vec<u8>; 9] = [
        connect,
        vec![0x20, 3, 0, 0, 0],
        vec![0x90, 4, 0, 1, 0, 1],
        vec![0x30, 0xff, 0xff, 0xff, 0x7f],
        vec![0x36, 5, 0, 1, b'x', 0, 1],
        vec![0x82, 3, 0, 1, 0],
        vec![0x80, 6, 0, 1, 0, 0, 1, b'x'],
        vec![0x00, 0],
        frame(0x32, &[string("mesh/app/x"), vec![0, 0, 0]].concat()),
    ];
    for bytes in after {
        let mut client = target.client("hostile");
        client.send(&bytes);
        let packets = format!("{:?}", client.packets_until_closed());
        assert!(!packets.contains("Ack"), "{bytes:x?}: {packets}");
    }
    let mut writer = target.client("writer");
    assert_eq!(writer.publish(&Publish::new("mesh/app/x", "well").qos(1)), 0);
    assert_eq!(healthy.message().text(), "well", "nothing hostile was delivered before");
    target.is_well();
}

#[test]
fn five_thousand_idle_connections_leave_room_for_everybody_else() {
    const COUNT: usize = 5_000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
    if limit.current.is_some_and(|files| files < 2 * COUNT as u64 + 200) {
        eprintln!("SKIP five_thousand_idle_connections: too few file descriptors may be open");
        return;
    }
    let target = Target::start();
    let before = resident_mb(&target);
    let clients: Vec<_> = (0..COUNT).map(|n| target.client(&format!("idle-{n}"))).collect();
    target.is_well();
    let grown = resident_mb(&target).saturating_sub(before);
    // 20 KB each, many times what one takes; a buffer for each of them would be 64 KB.
    assert!(grown < 100, "{grown} MB for {} connections", clients.len());
    drop(clients);
    target.is_well();
}

#[test]
fn a_hundred_clients_with_every_subscription_they_may_have_slow_nobody_down() {
    let target = Target::start();
    let clients: Vec<_> = (0..100)
        .map(|n| {
            let mut client = target.client(&format!("greedy-{n}"));
            let filters: Vec<_> = (0..1_100).map(|f| format!("mesh/app/{n}/{f}/+/#")).collect();
            let mut granted = 0;
            for some in filters.chunks(100) {
                let some: Vec<_> = some.iter().map(|filter| (filter.as_str(), 1)).collect();
                let codes = client.subscribe_all(&some, &[]);
                granted += codes.iter().filter(|code| **code < 0x80).count();
            }
            assert!(granted <= 1_000, "{granted}");
            client
        })
        .collect();
    target.is_well();
    drop(clients);
    target.is_well();
}

#[test]
fn a_subscriber_that_never_reads_is_let_go_and_the_others_get_everything() {
    let target = Target::start();
    let mut stuck = target.client("stuck");
    stuck.subscribe("mesh/app/flood", 0);
    let mut healthy = target.client("healthy");
    healthy.subscribe("mesh/app/flood", 1);
    let mut writer = target.client("writer");
    let reading = std::thread::spawn(move || (0..2_000).map(|_| healthy.message()).count());
    let large = Publish::new("mesh/app/flood", vec![b'x'; 50_000]).qos(1);
    for _ in 0..2_000 {
        assert_eq!(writer.publish(&large), 0);
    }
    assert_eq!(reading.join().unwrap(), 2_000);
    target.is_well();
}

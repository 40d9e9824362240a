//! Everything a client brought is freed, and nobody can make the broker hoard.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::killers::Witness;
use crate::support::{
    Client, Connect, LIMIT, Publish, Server, VERSIONS, Version, wait_until, wire,
};

/// Resident memory of this process (broker and test) in MiB.
pub fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status of this process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("resident memory");
    let kib = line.split_whitespace().nth(1).and_then(|number| number.parse::<f64>().ok());
    kib.expect("a number") / 1024.0
}

/// Only where a test has its process to itself; otherwise it would measure its neighbours.
pub fn assert_grew_less_than(mib: f64, before: f64, after: f64) {
    let alone = std::env::var_os("NEXTEST").is_some();
    assert!(!alone || after < before + mib, "{before:.1} MiB grew to {after:.1}");
}

/// A whole life in one write: connect, subscribe, publish, leave.
fn life(number: usize, version: Version, connect: &Connect) -> Vec<u8> {
    let (filter, topic) = (format!("soak/{number}/#"), format!("soak/{number}/{number}"));
    let mut bytes = connect.encode();
    bytes.extend(wire::subscribe(version, 1, &[(&filter, 1), ("soak/+/all", 0)], &[]));
    bytes.extend(Publish::new(&topic, "x").qos(1).encode(version, 2));
    bytes.extend([0xE0, 0]);
    bytes
}

fn live(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("broker accepts");
    stream.set_read_timeout(Some(LIMIT)).expect("time limit");
    stream.write_all(bytes).expect("broker takes it");
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    assert_eq!(answers.first(), Some(&0x20), "a CONNACK");
}

#[test]
fn twenty_thousand_clients_leave_nothing_behind() {
    let server = Server::start();
    let address = server.address;
    let soak = |from: usize, to: usize| {
        let halves: Vec<_> = [0, 1]
            .map(|half| {
                std::thread::spawn(move || {
                    for number in (from..to).filter(|number| number % 2 == half) {
                        let version = VERSIONS[number / 2 % 2];
                        let connect = Connect::new(version, &format!("soak-{number}"));
                        live(address, &life(number, version, &connect));
                    }
                })
            })
            .into();
        halves.into_iter().for_each(|half| half.join().unwrap());
    };
    soak(0, 2_000);
    let before = resident_mib();
    soak(2_000, 20_000);
    let after = resident_mib();
    eprintln!("resident memory: {before:.1} MiB after 2,000 clients, {after:.1} after 20,000");
    wait_until("every session is gone", || {
        let stats = server.stats();
        (stats.connections, stats.sessions, stats.subscriptions) == (0, 0, 0)
    });
    assert_eq!(server.stats().connections_total, 20_000);
    assert_grew_less_than(40.0, before, after);
}

#[test]
fn persistent_sessions_leave_nothing_behind_once_they_are_ended() {
    let server = Server::start();
    let numbers = 0..1_000;
    for number in numbers.clone() {
        let version = VERSIONS[number % 2];
        let connect = Connect::persistent(version, &format!("lasting-{number}"));
        live(server.address, &life(number, version, &connect));
    }
    wait_until("all are away", || server.stats().connections == 0);
    let stats = server.stats();
    assert_eq!((stats.sessions, stats.subscriptions), (1_000, 2_000));
    for number in numbers {
        let version = VERSIONS[number % 2];
        let connect = Connect::new(version, &format!("lasting-{number}"));
        live(server.address, &[connect.encode(), vec![0xE0, 0]].concat());
    }
    wait_until("every session is gone", || {
        let stats = server.stats();
        (stats.sessions, stats.subscriptions) == (0, 0)
    });
}

#[test]
fn a_reader_that_never_reads_is_bounded_and_then_sent_away() {
    let server = Server::limited(|limits| {
        limits.queue_max_messages = 5_000;
        limits.queue_max_bytes = 1 << 20;
        limits.stuck_limit = Duration::from_secs(2);
    });
    let mut stuck = server.plain(Version::V5, "stuck");
    stuck.subscribe("t/#", 0);
    let mut healthy = server.plain(Version::V5, "healthy");
    healthy.subscribe_all(&[("t/#", 0), ("end", 0)], &[]);
    let before = resident_mib();
    let address = server.address;
    const COUNT: usize = 60_000;
    let writer = std::thread::spawn(move || {
        let mut writer = Client::plain(address, Version::V4, "writer");
        let burst = Publish::new("t/x", vec![b'x'; 1000]).encode(Version::V4, 0).repeat(20);
        for _ in 0..COUNT / 20 {
            writer.send(&burst);
        }
        writer.publish(&Publish::new("end", "").qos(1));
        writer.disconnect();
    });
    let received = std::iter::repeat_with(|| healthy.message())
        .take_while(|message| message.topic != "end")
        .count();
    writer.join().unwrap();
    let after = resident_mib();
    eprintln!("resident memory: {before:.1} MiB, {after:.1} after 60 MB for a dead reader");
    assert_eq!(received, COUNT, "the healthy reader gets everything");
    assert_grew_less_than(60.0, before, after);
    assert!(server.stats().dropped > 0, "what the dead reader lost is counted");
    wait_until("the dead reader is sent away", || server.stats().connections == 1);
    healthy.ping();
}

#[test]
fn an_absent_session_keeps_the_first_messages_up_to_its_bound() {
    let server = Server::limited(|limits| limits.queue_max_messages = 500);
    let mut away = server.connect(&Connect::persistent(Version::V4, "away"));
    away.subscribe("t", 1);
    away.disconnect();
    wait_until("it is away", || server.stats().connections == 0);
    let mut writer = server.plain(Version::V5, "writer");
    for count in 0..2_000_u32 {
        writer.publish(&Publish::new("t", count.to_string()).qos(1));
    }
    let mut back = server.connect(&Connect::persistent(Version::V4, "away"));
    for count in 0..500_u32 {
        assert_eq!(back.message().text(), count.to_string());
    }
    assert_eq!(server.stats().dropped, 1_500, "the rest is counted");
    writer.publish(&Publish::new("t", "live").qos(1));
    assert_eq!(back.message().text(), "live");
}

#[test]
fn a_slow_reader_loses_nothing_of_what_was_acknowledged() {
    let server = Server::limited(|limits| {
        limits.queue_max_messages = 1_000;
        limits.stuck_limit = Duration::from_secs(60);
        limits.stall_grace = Duration::from_secs(60);
    });
    let mut slow = server.plain(Version::V4, "slow");
    slow.subscribe("t", 1);
    let address = server.address;
    let writer = std::thread::spawn(move || {
        let mut writer = Client::plain(address, Version::V4, "writer");
        for count in 0..20_000_u32 {
            writer.publish(&Publish::new("t", format!("{count:0500}")).qos(1));
        }
    });
    for count in 0..20_000_u32 {
        if count % 1_000 == 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(slow.message().text().trim_start_matches('0').parse().unwrap_or(0), count);
    }
    writer.join().unwrap();
    assert_eq!(server.stats().dropped, 0);
}

#[test]
fn thousands_of_idle_connections_are_served() {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits of this process");
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok())
        .unwrap_or(1024);
    // Both ends of each connection are in this process.
    let count = 5_000.min(files.saturating_sub(200) / 2);
    let server = Server::start();
    let mut witness = Witness::of(&server);
    let before = resident_mib();
    let mut idle: Vec<Client> = (0..count)
        .map(|at| {
            let mut client = server.plain(VERSIONS[at % 2], &format!("idle-{at}"));
            client.subscribe(&format!("idle/{at}"), 1);
            client
        })
        .collect();
    eprintln!("{count} idle connections: {:.1} MiB for both ends", resident_mib() - before);
    assert_eq!(server.stats().connections, count as u64 + 2);
    witness.confirm();
    let mut writer = server.plain(Version::V4, "writer");
    for at in (0..count).step_by(97) {
        writer.publish(&Publish::new(&format!("idle/{at}"), at.to_string()).qos(1));
        assert_eq!(idle[at].message().text(), at.to_string());
    }
    drop(idle);
    wait_until("all are gone", || server.stats().sessions <= 3);
    witness.confirm();
}

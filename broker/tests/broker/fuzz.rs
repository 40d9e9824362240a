//! Damaged packets on real connections: none may hurt anybody but its sender.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::killers::Witness;
use crate::support::wire::{self, PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::support::{Connect, Publish, Server, Version, properties};

/// Small, repeatable randomness (xorshift): a failure comes back with its seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

fn good_packet(version: Version, dice: &mut Dice) -> Vec<u8> {
    let id = dice.roll(5) as u16;
    let topics = ["f/a", "f/é", "f/b/c", "", "$f/x", "f/+"];
    let topic = topics[dice.roll(topics.len())];
    match dice.roll(9) {
        0..=2 => {
            let mut publish = Publish::new(topic, "payload").qos(dice.roll(3) as u8);
            publish.retain = dice.roll(2) == 0;
            if version == Version::V5 {
                publish = publish
                    .with(properties::topic_alias(dice.roll(20) as u16))
                    .with(properties::user("k", "v"))
                    .with(properties::message_expiry(dice.roll(100) as u32));
            }
            publish.encode(version, id)
        }
        3 => {
            let options = dice.roll(64) as u8;
            wire::subscribe(version, id, &[("f/#", options), (topic, 1)], &[])
        }
        4 => wire::unsubscribe(version, id, &["f/#", topic]),
        5 => wire::ack([PUBACK, PUBREC, PUBREL, PUBCOMP][dice.roll(4)], id),
        6 => vec![0xC0, 0],
        7 => hello(version, dice),
        _ => vec![0xE0, 0],
    }
}

fn hello(version: Version, dice: &mut Dice) -> Vec<u8> {
    let mut connect = Connect::new(version, &format!("fuzz-{}", dice.roll(30)));
    connect.clean = dice.roll(2) == 0;
    connect.keep_alive_s = dice.roll(100) as u16;
    if dice.roll(3) == 0 {
        connect = connect.will(Publish::new("f/will", "gone").qos(dice.roll(3) as u8));
    }
    if dice.roll(3) == 0 {
        connect = connect.login("user", "password");
    }
    if version == Version::V5 {
        connect = connect
            .with(properties::session_expiry(dice.roll(3) as u32))
            .with(properties::receive_maximum(dice.roll(5) as u16))
            .with(properties::topic_alias_maximum(dice.roll(5) as u16));
    }
    connect.encode()
}

fn damage(packet: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let at = dice.roll(packet.len());
        match dice.roll(6) {
            0 => packet.truncate(at.max(1)),
            1 => packet.insert(at, dice.roll(256) as u8),
            2 => packet[at] = [0, 1, 0x7F, 0x80, 0xFF][dice.roll(5)],
            3 => packet[at] ^= 1 << dice.roll(8),
            4 => packet.extend_from_within(at..),
            _ => packet[at] = dice.roll(256) as u8,
        }
    }
}

#[test]
fn damaged_packets_hurt_nobody_but_their_sender() {
    let server = Server::start();
    let mut witness = Witness::of(&server);
    for seed in 1..=600_u64 {
        let mut dice = Dice::new(seed);
        let version = [Version::V4, Version::V5][seed as usize % 2];
        let mut stream = TcpStream::connect(server.address).expect("broker is alive");
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut bytes = hello(version, &mut dice);
        if seed % 5 == 0 {
            damage(&mut bytes, &mut dice);
        }
        for _ in 0..dice.roll(25) {
            let mut packet = good_packet(version, &mut dice);
            if dice.roll(4) == 0 {
                damage(&mut packet, &mut dice);
            }
            bytes.extend(packet);
        }
        // The broker may hang up in the middle; that is its right.
        let _ = stream.write_all(&bytes);
        if seed % 3 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.read(&mut [0; 4096]);
        }
        if seed % 100 == 0 {
            witness.confirm();
        }
    }
    witness.confirm();
}

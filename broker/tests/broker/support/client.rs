//! A client that blocks, keeps every packet it got, and shows all of it.

use std::collections::{HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::properties::{Properties, Property};
use super::wire::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Version};

/// How long a test waits for what must come. Never waited for in a run that passes.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A connection to a broker, before or after its CONNECT.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    version: Version,
    input: Vec<u8>,
    inbox: VecDeque<Packet>,
    last_id: u16,
    /// Acknowledge what comes in, as an ordinary client does.
    pub acknowledges: bool,
    pub session_present: bool,
    pub connack_properties: Properties,
    released: HashSet<u16>,
}

impl Client {
    /// A TCP connection on which nothing has been said.
    pub fn dial(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect(address).expect("broker accepts a TCP connection");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_write_timeout(Some(LIMIT)).expect("write time limit");
        Self {
            stream,
            version,
            input: Vec::new(),
            inbox: VecDeque::new(),
            last_id: 0,
            acknowledges: true,
            session_present: false,
            connack_properties: Vec::new(),
            released: HashSet::new(),
        }
    }

    /// A session with the broker; anything but CONNACK 0 fails the test.
    pub fn connect(address: SocketAddr, connect: &Connect) -> Self {
        let (client, code) = Self::try_connect(address, connect);
        assert_eq!(code, 0, "{connect:?} was refused");
        client
    }

    /// A clean session without anything special.
    pub fn plain(address: SocketAddr, version: Version, client_id: &str) -> Self {
        Self::connect(address, &Connect::new(version, client_id))
    }

    /// Sends CONNECT and returns the CONNACK's code.
    pub fn try_connect(address: SocketAddr, connect: &Connect) -> (Self, u8) {
        let mut client = Self::dial(address, connect.version);
        client.send(&connect.encode());
        match client.next() {
            Packet::Connack { session_present, code, properties } => {
                client.session_present = session_present;
                client.connack_properties = properties;
                (client, code)
            }
            other => panic!("{other:?} instead of a CONNACK"),
        }
    }

    /// How the broker sees this client.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    /// Another handle to send by, for a thread of its own.
    pub fn sender(&self) -> TcpStream {
        self.stream.try_clone().expect("a second handle")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("broker takes the bytes");
    }

    /// Sends to a broker that may have hung up already.
    pub fn send_anyway(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    /// The next packet in the order of arrival.
    pub fn next(&mut self) -> Packet {
        match self.inbox.pop_front() {
            Some(packet) => packet,
            None => self.read(LIMIT).expect("a packet, but the broker closed the connection"),
        }
    }

    /// The next packet that `wanted` likes; the others are kept for later.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        if let Some(at) = self.inbox.iter().position(&wanted) {
            return self.inbox.remove(at).expect("position is inside");
        }
        loop {
            let Some(packet) = self.read(LIMIT) else {
                panic!("connection closed while waiting for {what}; got {:?}", self.inbox);
            };
            if wanted(&packet) {
                return packet;
            }
            self.inbox.push_back(packet);
        }
    }

    /// The next message.
    pub fn message(&mut self) -> Publish {
        match self.wait_for("a message", |packet| matches!(packet, Packet::Publish(_))) {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// All messages up to the first one on `topic`, which is left out.
    pub fn messages_until(&mut self, topic: &str) -> Vec<Publish> {
        let mut messages = Vec::new();
        loop {
            let message = self.message();
            if message.topic == topic {
                return messages;
            }
            messages.push(message);
        }
    }

    /// Sends a PUBLISH and does not wait for its acknowledgement.
    pub fn send_publish(&mut self, publish: &Publish) -> u16 {
        let id = if publish.qos > 0 { self.next_id() } else { 0 };
        self.send(&publish.encode(self.version, id));
        id
    }

    /// Publishes and returns the reason code of its acknowledgement (0 for QoS 0).
    pub fn publish(&mut self, publish: &Publish) -> u8 {
        self.publish_explained(publish).0
    }

    /// Publishes and returns code and properties of the acknowledgement.
    pub fn publish_explained(&mut self, publish: &Publish) -> (u8, Properties) {
        let id = self.send_publish(publish);
        match publish.qos {
            0 => (0, Vec::new()),
            1 => self.ack(PUBACK, id),
            _ => {
                let (code, properties) = self.ack(PUBREC, id);
                if code < 0x80 {
                    self.send(&wire::ack(PUBREL, id));
                    self.ack(PUBCOMP, id);
                }
                (code, properties)
            }
        }
    }

    /// Waits for one acknowledgement.
    pub fn ack(&mut self, wanted: u8, wanted_id: u16) -> (u8, Properties) {
        let what = format!("acknowledgement {wanted} of {wanted_id}");
        let found = self.wait_for(
            &what,
            |packet| matches!(packet, Packet::Ack { kind, id, .. } if (*kind, *id) == (wanted, wanted_id)),
        );
        match found {
            Packet::Ack { code, properties, .. } => (code, properties),
            other => panic!("{other:?}"),
        }
    }

    /// Subscribes to one filter; `options` is the options byte (the QoS in 3.1.1).
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_all(&[(filter, options)], &[])[0]
    }

    pub fn subscribe_all(&mut self, filters: &[(&str, u8)], with: &[Property]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&wire::subscribe(self.version, id, filters, with));
        match self.wait_for("SUBACK", |packet| matches!(packet, Packet::Suback { .. })) {
            Packet::Suback { id: answered, codes, .. } => {
                assert_eq!(answered, id);
                codes
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&wire::unsubscribe(self.version, id, filters));
        match self.wait_for("UNSUBACK", |packet| matches!(packet, Packet::Unsuback { .. })) {
            Packet::Unsuback { id: answered, codes, .. } => {
                assert_eq!(answered, id);
                codes
            }
            other => panic!("{other:?}"),
        }
    }

    /// Everything sent before has been handled when this returns.
    pub fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        self.wait_for("PINGRESP", |packet| *packet == Packet::Pingresp);
    }

    /// Leaves in the orderly way: no will.
    pub fn disconnect(mut self) {
        self.send(&[0xE0, 0]);
        self.closed();
    }

    /// Vanishes without a word.
    pub fn vanish(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Closes the half of the connection that leads to the broker.
    pub fn finish_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits until the other side has closed; returns what it sent, MQTT or not.
    pub fn bytes_until_closed(&mut self) -> Vec<u8> {
        self.stream.set_read_timeout(Some(LIMIT)).expect("read time limit");
        let _ = self.stream.read_to_end(&mut self.input);
        std::mem::take(&mut self.input)
    }

    /// Waits until the broker has closed; returns what it still sent.
    pub fn packets_until_closed(&mut self) -> Vec<Packet> {
        std::iter::from_fn(|| self.inbox.pop_front().or_else(|| self.read(LIMIT))).collect()
    }

    /// Waits until the broker has closed; returns the reason of its DISCONNECT, if it sent one.
    pub fn closed(&mut self) -> Option<u8> {
        let packets = self.packets_until_closed();
        let at = packets.iter().position(|packet| matches!(packet, Packet::Disconnect { .. }))?;
        assert_eq!(packets[at + 1..], [], "nothing comes after DISCONNECT");
        match packets[at] {
            Packet::Disconnect { code, .. } => Some(code),
            _ => None,
        }
    }

    /// Whether a packet comes within `limit`; for what must not come, after a barrier.
    pub fn try_next(&mut self, limit: Duration) -> Option<Packet> {
        let deadline = Instant::now() + limit;
        self.inbox.pop_front().or_else(|| match self.fill(deadline) {
            Filled::Frame => self.take_frame(),
            Filled::Closed | Filled::TimedOut => None,
        })
    }

    /// The next packet off the wire, `None` when the broker has closed.
    fn read(&mut self, limit: Duration) -> Option<Packet> {
        let deadline = Instant::now() + limit;
        loop {
            match self.fill(deadline) {
                Filled::Frame => {}
                Filled::Closed => return None,
                Filled::TimedOut => panic!("nothing came within {limit:?}; kept {:?}", self.inbox),
            }
            if let Some(packet) = self.take_frame() {
                return Some(packet);
            }
        }
    }

    fn take_frame(&mut self) -> Option<Packet> {
        let length = wire::frame_length(&self.input)?;
        let frame: Vec<u8> = self.input.drain(..length).collect();
        let packet = wire::decode(self.version, &frame);
        if self.acknowledges { self.acknowledge(packet) } else { Some(packet) }
    }

    /// Reads until a whole frame is there.
    fn fill(&mut self, deadline: Instant) -> Filled {
        let mut chunk = [0; 16 * 1024];
        while wire::frame_length(&self.input).is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Filled::TimedOut;
            }
            self.stream.set_read_timeout(Some(left)).expect("read time limit");
            match self.stream.read(&mut chunk) {
                Ok(0) => return Filled::Closed,
                Ok(length) => self.input.extend(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Filled::TimedOut,
                    ErrorKind::Interrupted => {}
                    _ => return Filled::Closed,
                },
            }
        }
        Filled::Frame
    }

    /// Answers as a client must; `None` for what is no news to the test.
    fn acknowledge(&mut self, packet: Packet) -> Option<Packet> {
        match &packet {
            Packet::Publish(publish) if publish.qos == 1 => {
                self.send_anyway(&wire::ack(PUBACK, publish.id));
            }
            Packet::Publish(publish) if publish.qos == 2 => {
                self.send_anyway(&wire::ack(PUBREC, publish.id));
                if !self.released.insert(publish.id) {
                    return None;
                }
            }
            Packet::Ack { kind: PUBREL, id, .. } => {
                self.released.remove(id);
                self.send_anyway(&wire::ack(PUBCOMP, *id));
                return None;
            }
            _ => {}
        }
        Some(packet)
    }
}

enum Filled {
    Frame,
    Closed,
    TimedOut,
}

//! MQTT packets by hand, of both versions, so that nothing a client library would refuse is missed.

use super::hub::LIMIT;
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Version {
    V3 = 4,
    V5 = 5,
}

pub(super) const BOTH: [Version; 2] = [Version::V3, Version::V5];

/// What a CONNECT says.
#[derive(Clone, Copy)]
pub(super) struct Connect<'a> {
    pub(super) version: Version,
    pub(super) client: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    /// Topic and payload.
    pub(super) will: Option<(&'a str, &'a str)>,
    pub(super) clean: bool,
}

impl<'a> Connect<'a> {
    pub(super) fn new(version: Version, client: &'a str, user: &'a str) -> Self {
        let (user, password) = (Some(user), Some(super::PASSWORD));
        Self { version, client, user, password, will: None, clean: true }
    }

    fn packet(&self) -> Vec<u8> {
        let v5 = self.version == Version::V5;
        let mut flags = if self.clean { 2 } else { 0 };
        let mut payload = text(self.client);
        if let Some((topic, message)) = self.will {
            flags |= 4;
            payload.extend(v5.then_some(0));
            payload.extend([text(topic), text(message)].concat());
        }
        if let Some(user) = self.user {
            flags |= 0x80;
            payload.extend(text(user));
        }
        if let Some(password) = self.password {
            flags |= 0x40;
            payload.extend(text(password));
        }
        let mut body = text("MQTT");
        body.extend([self.version as u8, flags, 0, 0]);
        if v5 && !self.clean {
            body.extend([5, 0x11, 0, 0, 0xff, 0xff]); // session expiry
        } else {
            body.extend(v5.then_some(0));
        }
        frame(0x10, &[body, payload].concat())
    }
}

/// A connected client.
pub(super) struct Client {
    stream: TcpStream,
    version: Version,
    /// Topics of messages that came while something else was waited for.
    heard: VecDeque<String>,
}

impl Client {
    /// Connects; the code of a refusal if it is one.
    pub(super) fn connect(to: SocketAddr, connect: Connect<'_>) -> Result<Self, u8> {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&connect.packet()).unwrap();
        let mut client = Self { stream, version: connect.version, heard: VecDeque::new() };
        let (kind, body) = client.packet().expect("an answer to CONNECT");
        assert_eq!(kind, 0x20, "CONNACK");
        match body[1] {
            0 => Ok(client),
            code => Err(code),
        }
    }

    /// Subscribes to a filter and gives the code of the answer.
    pub(super) fn subscribe(&mut self, filter: &str) -> u8 {
        self.subscribe_all(&[filter])[0]
    }

    pub(super) fn subscribe_all(&mut self, filters: &[&str]) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend((self.version == Version::V5).then_some(0));
        for filter in filters {
            body.extend(text(filter));
            body.push(0);
        }
        self.stream.write_all(&frame(0x82, &body)).unwrap();
        let body = self.answer(0x90);
        body[body.len() - filters.len()..].to_vec()
    }

    /// Publishes at QoS 1 and gives the code of the answer; always 0 in version 3.1.1.
    pub(super) fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> u8 {
        let mut body = [text(topic), vec![0, 7]].concat();
        body.extend((self.version == Version::V5).then_some(0));
        body.extend(payload.as_bytes());
        self.stream.write_all(&frame(0x32 | u8::from(retain), &body)).unwrap();
        self.answer(0x40).get(2).copied().unwrap_or(0)
    }

    /// The topics of the messages that have come until the hub answers a PING.
    pub(super) fn topics(&mut self) -> Vec<String> {
        self.stream.write_all(&[0xc0, 0]).unwrap();
        self.answer(0xd0);
        self.heard.drain(..).collect()
    }

    /// Waits for the next message and gives its topic.
    pub(super) fn message(&mut self) -> String {
        loop {
            if let Some(topic) = self.heard.pop_front() {
                return topic;
            }
            let (kind, body) = self.packet().expect("a message");
            self.hear(kind, &body);
        }
    }

    /// Waits for a packet of a kind.
    fn answer(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            let (kind, body) = self.packet().expect("an answer");
            if kind == wanted {
                return body;
            }
            self.hear(kind, &body);
        }
    }

    fn hear(&mut self, kind: u8, body: &[u8]) {
        if kind & 0xf0 == 0x30 {
            self.heard.push_back(topic(body));
        }
    }

    /// Waits until the hub ends the connection; the reason if it gave one.
    pub(super) fn ended(&mut self) -> Option<u8> {
        let mut reason = None;
        while let Some((kind, body)) = self.packet() {
            if kind == 0xe0 {
                reason = body.first().copied();
            }
        }
        reason
    }

    /// `None` at the end of the connection.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(1) => {}
            Ok(_) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
        let kind = byte[0];
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            self.stream.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some((kind, body))
    }
}

fn topic(publish: &[u8]) -> String {
    let length = usize::from(publish[0]) << 8 | usize::from(publish[1]);
    String::from_utf8(publish[2..2 + length].to_vec()).unwrap()
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut rest = body.len();
    loop {
        let byte = (rest & 0x7f) as u8;
        rest >>= 7;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

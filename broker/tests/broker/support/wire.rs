//! MQTT packets to bytes and back, written for these tests alone.
//!
//! The broker's own codec is what is being tested, and a client library hides
//! the fields that matter (DUP, packet ids, reason codes), so neither is used.

use super::properties::{self, Properties, Property};

/// The protocol level a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V5,
}

pub const VERSIONS: [Version; 2] = [Version::V4, Version::V5];

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

/// A packet a broker may send.
#[derive(Clone, Debug, PartialEq)]
pub enum Packet {
    Connack { session_present: bool, code: u8, properties: Properties },
    Publish(Publish),
    Ack { kind: u8, id: u16, code: u8, properties: Properties },
    Suback { id: u16, codes: Vec<u8>, properties: Properties },
    Unsuback { id: u16, codes: Vec<u8>, properties: Properties },
    Pingresp,
    Disconnect { code: u8, properties: Properties },
}

/// A PUBLISH in either direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    pub id: u16,
    pub properties: Properties,
}

impl Publish {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { topic: topic.into(), payload: payload.as_ref().to_vec(), ..Self::default() }
    }

    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn duplicate(mut self) -> Self {
        self.dup = true;
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("payload is text")
    }

    pub fn encode(&self, version: Version, id: u16) -> Vec<u8> {
        let mut body = string(&self.topic);
        if self.qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if version == Version::V5 {
            body.extend(properties::encode(&self.properties));
        }
        body.extend(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        frame(0x30 | flags, &body)
    }
}

/// A CONNECT.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive_s: u16,
    pub user: Option<String>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Publish>,
    pub properties: Properties,
}

impl Connect {
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.into(),
            clean: true,
            keep_alive_s: 0,
            user: None,
            password: None,
            will: None,
            properties: Vec::new(),
        }
    }

    /// A session that outlives its connection: by flag in 3.1.1, by expiry in 5.
    pub fn persistent(version: Version, client_id: &str) -> Self {
        let connect = Self { clean: false, ..Self::new(version, client_id) };
        match version {
            Version::V4 => connect,
            Version::V5 => connect.with(properties::session_expiry(3600)),
        }
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive_s = seconds;
        self
    }

    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.into());
        self.password = Some(password.into());
        self
    }

    /// Properties of the will (among them its delay) are those of the message.
    pub fn will(mut self, message: Publish) -> Self {
        self.will = Some(message);
        self
    }

    pub fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let v5 = self.version == Version::V5;
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.user.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        let mut body = string("MQTT");
        body.extend([if v5 { 5 } else { 4 }, flags]);
        body.extend(self.keep_alive_s.to_be_bytes());
        if v5 {
            body.extend(properties::encode(&self.properties));
        }
        body.extend(string(&self.client_id));
        if let Some(will) = &self.will {
            if v5 {
                body.extend(properties::encode(&will.properties));
            }
            body.extend(string(&will.topic));
            body.extend(binary(&will.payload));
        }
        body.extend(self.user.as_deref().map(string).unwrap_or_default());
        body.extend(self.password.as_deref().map(binary).unwrap_or_default());
        frame(0x10, &body)
    }
}

pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], with: &[Property]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.extend(properties::encode(with));
    }
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    frame(0x82, &body)
}

pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    filters.iter().for_each(|filter| body.extend(string(filter)));
    frame(0xA2, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    let flags = if kind == PUBREL { 2 } else { 0 };
    frame(kind << 4 | flags, &id.to_be_bytes())
}

pub fn string(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(properties::variable(body.len() as u32));
    out.extend(body);
    out
}

/// Length of the whole frame at the start of `bytes`, once it is all there.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let whole = 2 + at + length;
            return (bytes.len() >= whole).then_some(whole);
        }
    }
    None
}

/// One whole frame as a packet; a malformed one fails the test.
pub fn decode(version: Version, frame: &[u8]) -> Packet {
    let header = 1 + frame[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let (first, body) = (frame[0], &frame[header..]);
    let v5 = version == Version::V5;
    let id = |body: &[u8]| u16::from_be_bytes([body[0], body[1]]);
    match first >> 4 {
        2 => Packet::Connack {
            session_present: body[0] & 1 == 1,
            code: body[1],
            properties: if v5 { properties::decode(&body[2..]).0 } else { Vec::new() },
        },
        3 => Packet::Publish(decode_publish(v5, first, body)),
        kind @ PUBACK..=PUBCOMP => {
            assert_eq!(first & 0x0F, if kind == PUBREL { 2 } else { 0 }, "flags of {frame:02x?}");
            let (code, properties) = code_and_properties(v5, &body[2..]);
            Packet::Ack { kind, id: id(body), code, properties }
        }
        kind @ (9 | 11) => {
            let (properties, codes) = match v5 {
                true => properties::decode(&body[2..]),
                false => (Vec::new(), &body[2..]),
            };
            let (id, codes) = (id(body), codes.to_vec());
            match kind {
                9 => Packet::Suback { id, codes, properties },
                _ => Packet::Unsuback { id, codes, properties },
            }
        }
        13 => {
            assert!(body.is_empty(), "PINGRESP has a body: {frame:02x?}");
            Packet::Pingresp
        }
        14 if v5 => {
            let (code, properties) = code_and_properties(v5, body);
            Packet::Disconnect { code, properties }
        }
        _ => panic!("a broker may not send {frame:02x?}"),
    }
}

fn code_and_properties(v5: bool, rest: &[u8]) -> (u8, Properties) {
    assert!(v5 || rest.is_empty(), "bytes behind the packet: {rest:02x?}");
    let code = rest.first().copied().unwrap_or(0);
    let properties = match rest.len() {
        0 | 1 => Vec::new(),
        _ => {
            let (properties, rest) = properties::decode(&rest[1..]);
            assert!(rest.is_empty(), "bytes behind the properties: {rest:02x?}");
            properties
        }
    };
    (code, properties)
}

fn decode_publish(v5: bool, first: u8, body: &[u8]) -> Publish {
    let (topic, mut rest) = properties::take_string(body);
    let qos = first >> 1 & 3;
    let mut id = 0;
    if qos > 0 {
        id = u16::from_be_bytes([rest[0], rest[1]]);
        assert_ne!(id, 0, "packet id 0");
        rest = &rest[2..];
    }
    let properties = if v5 {
        let (properties, after) = properties::decode(rest);
        rest = after;
        properties
    } else {
        Vec::new()
    };
    let (retain, dup) = (first & 1 == 1, first & 8 == 8);
    Publish { topic, payload: rest.to_vec(), qos, retain, dup, id, properties }
}

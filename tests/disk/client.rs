//! An MQTT client that hides nothing: what is acknowledged, how, and when not.

use super::hub::LIMIT;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// An acknowledgement, or a message that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    Ack { id: u16, code: u8, text: String },
    Message { topic: String, payload: String },
    Other(u8),
}

pub(crate) struct Client {
    stream: TcpStream,
    version5: bool,
    received: Vec<u8>,
    next_id: u16,
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut rest) = (vec![first], body.len());
    loop {
        let more = if rest > 127 { 128 } else { 0 };
        packet.push(u8::try_from(rest & 127).unwrap() | more);
        rest >>= 7;
        if rest == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

impl Client {
    pub(crate) fn connect(hub: SocketAddr, id: &str, version5: bool) -> Self {
        Self::try_connect(hub, id, version5).expect("the hub lets everybody in")
    }

    /// `None`: the hub is gone.
    pub(crate) fn try_connect(hub: SocketAddr, id: &str, version5: bool) -> Option<Self> {
        let stream = TcpStream::connect(hub).ok()?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Self { stream, version5, received: Vec::new(), next_id: 0 };
        let mut body = text("MQTT");
        body.extend([if version5 { 5 } else { 4 }, 2, 0, 0]);
        body.extend(client.no_properties());
        body.extend(text(id));
        client.stream.write_all(&frame(0x10, &body)).ok()?;
        (client.next()? == Packet::Other(2)).then_some(client)
    }

    fn no_properties(&self) -> &'static [u8] {
        if self.version5 { &[0] } else { &[] }
    }

    /// Publishes with the retain flag and gives the packet id. False: the hub is gone.
    pub(crate) fn send(&mut self, topic: &str, payload: &str, qos: u8) -> (u16, bool) {
        self.send_with(topic, payload, qos, None)
    }

    pub(crate) fn send_with(
        &mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        expiry_s: Option<u32>,
    ) -> (u16, bool) {
        let mut body = text(topic);
        if qos > 0 {
            self.next_id = self.next_id % 60_000 + 1;
            body.extend(self.next_id.to_be_bytes());
        }
        match expiry_s {
            Some(seconds) => {
                body.extend([5, 2]);
                body.extend(seconds.to_be_bytes());
            }
            None => body.extend(self.no_properties()),
        }
        body.extend_from_slice(payload.as_bytes());
        let sent = self.stream.write_all(&frame(0x31 | qos << 1, &body)).is_ok();
        (self.next_id, sent)
    }

    /// Publishes and waits for the acknowledgement: reason code and reason, `None` if the
    /// connection ended without one.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: u8) -> Option<(u8, String)> {
        let (wanted, _) = self.send(topic, payload, qos);
        loop {
            match self.next()? {
                Packet::Ack { id, code, text } if id == wanted => return Some((code, text)),
                _ => {}
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        let mut body = vec![0, 1];
        body.extend(self.no_properties());
        body.extend(text(filter));
        body.push(0);
        self.stream.write_all(&frame(0x82, &body)).unwrap();
        assert_eq!(self.next(), Some(Packet::Other(9)), "SUBACK");
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> (String, String) {
        loop {
            match self.next().expect("a message") {
                Packet::Message { topic, payload } => return (topic, payload),
                _ => continue,
            }
        }
    }

    /// The next packet; `None`: the connection is over.
    pub(crate) fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, size)) = self.parse() {
                self.received.drain(..size);
                return Some(packet);
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came within {LIMIT:?}: {error}"),
            }
        }
    }

    fn parse(&self) -> Option<(Packet, usize)> {
        let (mut length, mut at) = (0_usize, 1);
        loop {
            let byte = *self.received.get(at)?;
            length |= usize::from(byte & 127) << (7 * (at - 1));
            at += 1;
            if byte < 128 {
                break;
            }
        }
        let body = self.received.get(at..at + length)?;
        let string = |from: usize| {
            let size = usize::from(u16::from_be_bytes([body[from], body[from + 1]]));
            let text = String::from_utf8_lossy(&body[from + 2..from + 2 + size]).into_owned();
            (text, from + 2 + size)
        };
        let packet = match self.received[0] >> 4 {
            4 | 5 => {
                let id = u16::from_be_bytes([body[0], body[1]]);
                // A reason string (0x1F) is the only property the hub sends with it.
                let properties = if body.get(3).is_some_and(|byte| *byte > 127) { 5 } else { 4 };
                let explained = body.get(properties) == Some(&0x1F);
                let text = if explained { string(properties + 1).0 } else { String::new() };
                Packet::Ack { id, code: body.get(2).copied().unwrap_or(0), text }
            }
            3 => {
                let (topic, mut from) = string(0);
                from += if self.received[0] & 6 == 0 { 0 } else { 2 };
                from += if self.version5 { 1 + usize::from(body[from]) } else { 0 };
                let payload = String::from_utf8_lossy(&body[from..]).into_owned();
                Packet::Message { topic, payload }
            }
            other => Packet::Other(other),
        };
        Some((packet, at + length))
    }
}

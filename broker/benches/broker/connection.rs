//! Raw MQTT 3.1.1 frames on a socket, many to a system call.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Outcome;

/// After so long without a message the rest counts as lost.
pub const SILENCE: Duration = Duration::from_millis(2_500);

/// A connected client.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    pub frames: Frames,
}

/// Bytes read and not yet looked at.
#[derive(Debug)]
pub struct Frames {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Frames {
    pub fn new() -> Self {
        Self { buffer: vec![0; 256 * 1024].into(), from: 0, to: 0 }
    }

    /// Where the next bytes are to be read to.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        &mut self.buffer[self.to..]
    }

    pub fn filled(&mut self, count: usize) {
        self.to += count;
    }

    /// The next whole frame: its first byte and what follows the length.
    pub fn next(&mut self) -> Option<(u8, &[u8])> {
        let bytes = &self.buffer[self.from..self.to];
        let (mut length, mut at) = (0, 1);
        loop {
            let byte = *bytes.get(at)?;
            length |= usize::from(byte & 0x7F) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = bytes.get(at..at + length)?;
        self.from += at + length;
        Some((bytes[0], body))
    }
}

impl Connection {
    /// Connects with a clean session.
    pub fn open(address: SocketAddr, client_id: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut connection = Self { stream, frames: Frames::new() };
        connection.stream.write_all(&connect(client_id))?;
        match connection.frame()? {
            Some((0x20, body)) if body == [0, 0] => Ok(connection),
            other => Err(format!("{other:02x?} instead of a CONNACK").into()),
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Outcome<()> {
        self.stream.write_all(&subscribe(filter, qos))?;
        match self.frame()? {
            Some((0x90, body)) if body[2..] == [qos] => Ok(()),
            other => Err(format!("{other:02x?} instead of a SUBACK").into()),
        }
    }

    /// The next frame; `None` after too much silence.
    pub fn frame(&mut self) -> Outcome<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((first, body)) = self.frames.next() {
                return Ok(Some((first, body.to_vec())));
            }
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// Reads once; `false` after too much silence.
    pub fn read_more(&mut self) -> Outcome<bool> {
        match self.stream.read(self.frames.room()) {
            Ok(0) => Err("the broker closed the connection".into()),
            Ok(count) => {
                self.frames.filled(count);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub fn connect(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02".to_vec();
    body.extend(600_u16.to_be_bytes()); // stock rumqttd refuses keep-alive 0
    body.extend(string(client_id));
    frame(0x10, &body)
}

pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(string(filter));
    body.push(qos);
    frame(0x82, &body)
}

/// A PUBLISH; `id` is left out at QoS 0.
pub fn publish(topic: &str, qos: u8, retain: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload);
    frame(0x30 | qos << 1 | u8::from(retain), &body)
}

/// Appends a PUBACK for a received PUBLISH of QoS 1.
pub fn acknowledge(body: &[u8], acks: &mut Vec<u8>) {
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    acks.extend([0x40, 2, body[2 + topic], body[3 + topic]]);
}

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let low = (length & 0x7F) as u8;
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

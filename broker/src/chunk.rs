//! Messages encoded once and shared by every session that takes them.
//!
//! A chunk holds consecutive messages of one publisher in one wire form. There are four forms
//! (3.1.1 or 5, with or without packet id); a session copies a message out of the chunk of its form
//! and patches the first byte and the packet id, or writes the chunk as it is.

use std::sync::Arc;

use crate::{
    bounds::{Budget, Held},
    codec::{
        frame::{put_variable_int, variable_int, variable_int_size},
        properties::{MESSAGE_EXPIRY, SUBSCRIPTION_ID, TOPIC_ALIAS},
        publish::Publish,
    },
    retained::Retained,
    session::aliases::Alias,
};

/// The wire form of a chunk or a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) version5: bool,
    pub(crate) with_id: bool,
}

impl Form {
    pub(crate) const COUNT: usize = 4;

    pub(crate) fn new(version5: bool, qos: u8) -> Self {
        Self { version5, with_id: qos > 0 }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.version5) * 2 + usize::from(self.with_id)
    }

    pub(crate) fn of_index(index: usize) -> Self {
        Self { version5: index > 1, with_id: index & 1 == 1 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    end: u32,
    /// Where the packet id is, or would be.
    id_at: u32,
    topic_len: u16,
    retain: bool,
    /// 0: never.
    expires_ms: u64,
}

/// Consecutive messages in one wire form.
#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    metas: Vec<Meta>,
    form: Form,
    /// Some message expires.
    expiring: bool,
    /// Some message has its RETAIN flag set (the flag is not in the bytes).
    retaining: bool,
    largest: usize,
    /// Its part of what all queues may hold together, however many they are.
    held: Option<Held>,
}

/// What a subscriber makes of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) version5: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: u16,
    pub(crate) subscription_ids: &'a [u32],
    /// For version 5 only.
    pub(crate) alias: Alias,
}

impl Delivery<'_> {
    fn first_byte(&self) -> u8 {
        0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain)
    }

    /// Writes a message from its parts.
    fn put(
        &self,
        out: &mut Vec<u8>,
        topic: &[u8],
        properties: &[u8],
        left_s: Option<u32>,
        payload: &[u8],
    ) {
        let (topic, alias) = match self.alias {
            Alias::None => (topic, None),
            Alias::New(alias) => (topic, Some(alias)),
            Alias::Known(alias) => (&[][..], Some(alias)),
        };
        let ids = self.subscription_ids.iter().map(|id| 1 + variable_int_size(*id as usize));
        let section = properties.len() + left_s.map_or(0, |_| 5) + ids.sum::<usize>();
        let section = section + alias.map_or(0, |_| 3);
        let head = 2 + topic.len() + if self.qos > 0 { 2 } else { 0 };
        let length = if self.version5 { variable_int_size(section) + section } else { 0 };
        out.push(self.first_byte());
        put_variable_int(out, head + length + payload.len());
        out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        out.extend_from_slice(topic);
        if self.qos > 0 {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if self.version5 {
            put_variable_int(out, section);
            out.extend_from_slice(properties);
            if let Some(left_s) = left_s {
                out.push(MESSAGE_EXPIRY);
                out.extend_from_slice(&left_s.to_be_bytes());
            }
            if let Some(alias) = alias {
                out.push(TOPIC_ALIAS);
                out.extend_from_slice(&alias.to_be_bytes());
            }
            for id in self.subscription_ids {
                out.push(SUBSCRIPTION_ID);
                put_variable_int(out, *id as usize);
            }
        }
        out.extend_from_slice(payload);
    }

    /// Writes a retained message.
    pub(crate) fn put_retained(&self, out: &mut Vec<u8>, message: &Retained, left_s: Option<u32>) {
        self.put(out, message.topic.as_bytes(), &message.properties, left_s, &message.payload);
    }
}

/// What is left of a message's life, in whole seconds, rounded up; `None` when it is over.
pub(crate) fn seconds_left(expires_ms: u64, now_ms: u64) -> Option<u32> {
    let left = expires_ms.checked_sub(now_ms).filter(|left| *left > 0)?;
    Some(u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX))
}

impl Chunk {
    pub(crate) fn new(form: Form) -> Self {
        Self {
            bytes: Vec::new(),
            metas: Vec::new(),
            form,
            expiring: false,
            retaining: false,
            largest: 0,
            held: None,
        }
    }

    pub(crate) fn add(&mut self, publish: &Publish<'_>, expires_ms: u64) {
        let start = self.bytes.len();
        match publish.raw {
            Some(frame)
                if publish.version5 == self.form.version5
                    && (publish.qos > 0) == self.form.with_id =>
            {
                self.bytes.extend_from_slice(frame);
                self.bytes[start] = 0x30 | publish.qos << 1;
            }
            _ => Delivery {
                version5: self.form.version5,
                qos: if self.form.with_id { publish.qos } else { 0 },
                retain: false,
                dup: false,
                packet_id: 0,
                subscription_ids: &[],
                alias: Alias::None,
            }
            .put(
                &mut self.bytes,
                publish.topic,
                &publish.properties,
                None,
                publish.payload,
            ),
        }
        let length_size = variable_int(&self.bytes[start + 1..]).map_or(1, |(_, size)| size);
        self.expiring |= expires_ms != 0;
        self.retaining |= publish.retain;
        self.largest = self.largest.max(self.bytes.len() - start);
        self.metas.push(Meta {
            end: self.bytes.len() as u32,
            id_at: (start + 3 + length_size + publish.topic.len()) as u32,
            topic_len: publish.topic.len() as u16,
            retain: publish.retain,
            expires_ms,
        });
    }

    /// Counts from here on as held for clients.
    pub(crate) fn hold(&mut self, budget: &Arc<Budget>) {
        let bytes = self.bytes.capacity() + self.metas.capacity() * size_of::<Meta>();
        self.held = Some(Held::new(budget, bytes));
    }

    pub(crate) fn len(&self) -> usize {
        self.metas.len()
    }

    /// Bytes of the messages before `index`.
    pub(crate) fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.metas[before].end as usize)
    }

    pub(crate) fn size(&self, index: usize) -> usize {
        self.metas[index].end as usize - self.start(index)
    }

    pub(crate) fn topic(&self, index: usize) -> &[u8] {
        let Meta { id_at, topic_len, .. } = self.metas[index];
        &self.bytes[id_at as usize - usize::from(topic_len)..id_at as usize]
    }

    pub(crate) fn retain_flag(&self, index: usize) -> bool {
        self.metas[index].retain
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// May a QoS 0 subscriber of this version get the bytes as they are?
    pub(crate) fn fits_whole(&self, version5: bool, flags: bool, packet_max_bytes: usize) -> bool {
        let seen = self.expiring || (flags && self.retaining);
        !seen && self.form.version5 == version5 && self.largest <= packet_max_bytes
    }

    /// Writes one message for one subscriber. False, and nothing written, when it has expired.
    pub(crate) fn put(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        to: &Delivery<'_>,
        now_ms: u64,
    ) -> bool {
        let (meta, start) = (self.metas[index], self.start(index));
        let left_s = match meta.expires_ms {
            0 => None,
            at => match seconds_left(at, now_ms) {
                // A message that was sent once is redelivered whatever its age.
                None if to.dup => Some(1),
                None => return false,
                left => left,
            },
        };
        let (end, id_at) = (meta.end as usize, meta.id_at as usize);
        let form = Form::new(to.version5, to.qos);
        let unchanged = (left_s.is_none() || !to.version5) && to.alias == Alias::None;
        if form == self.form && to.subscription_ids.is_empty() && unchanged {
            let at = out.len();
            out.extend_from_slice(&self.bytes[start..end]);
            out[at] = to.first_byte();
            if to.qos > 0 {
                let id_at = at + id_at - start;
                out[id_at..id_at + 2].copy_from_slice(&to.packet_id.to_be_bytes());
            }
            return true;
        }
        let topic = self.topic(index);
        let mut rest = &self.bytes[id_at + if self.form.with_id { 2 } else { 0 }..end];
        let mut properties = &[][..];
        if self.form.version5
            && let Some((length, size)) = variable_int(rest)
        {
            (properties, rest) = rest[size..].split_at(length);
        }
        to.put(out, topic, properties, left_s, rest);
        true
    }
}

/// A chunk as one session takes it.
#[derive(Debug, Clone)]
pub(crate) struct Take {
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) qos: u8,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_ids: Arc<[u32]>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::publish::parse;

    fn delivery(version5: bool, qos: u8, ids: &[u32]) -> Delivery<'_> {
        Delivery {
            version5,
            qos,
            retain: false,
            dup: false,
            packet_id: 9,
            subscription_ids: ids,
            alias: Alias::None,
        }
    }

    #[test]
    fn a_message_reads_the_same_in_every_form() {
        let frame = [0x33, 10, 0, 1, b't', 0, 7, 2, 1, 1, b'h', b'i'];
        let publish = parse(&frame, 2, true).unwrap();
        for index in 0..Form::COUNT {
            let mut chunk = Chunk::new(Form::of_index(index));
            chunk.add(&publish, 0);
            chunk.add(&publish, 0);
            for (version5, qos) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
                let mut out = Vec::new();
                assert!(chunk.put(&mut out, 1, &delivery(version5, qos, &[]), 0));
                let read = parse(&out, 2, version5).unwrap();
                assert_eq!((read.qos, read.retain, read.topic), (qos, false, &b"t"[..]));
                assert_eq!((read.packet_id, read.payload), (u16::from(qos) * 9, &b"hi"[..]));
                if version5 && Form::of_index(index).version5 {
                    assert_eq!(&*read.properties, &[1, 1]);
                }
            }
        }
    }

    #[test]
    fn a_topic_is_said_by_its_alias() {
        let frame = [0x30, 6, 0, 1, b't', 0, b'h', b'i'];
        let mut chunk = Chunk::new(Form { version5: true, with_id: false });
        chunk.add(&parse(&frame, 2, true).unwrap(), 0);
        let sent = |alias| {
            let mut out = Vec::new();
            assert!(chunk.put(&mut out, 0, &Delivery { alias, ..delivery(true, 0, &[]) }, 0));
            out
        };
        assert_eq!(sent(Alias::None), frame);
        let first = [0x30, 9, 0, 1, b't', 3, TOPIC_ALIAS, 0, 7, b'h', b'i'];
        assert_eq!(sent(Alias::New(7)), first);
        assert_eq!(sent(Alias::Known(7)), [0x30, 8, 0, 0, 3, TOPIC_ALIAS, 0, 7, b'h', b'i']);
    }

    #[test]
    fn an_expiring_message_carries_what_is_left_and_ends() {
        let publish = parse(&[0x30, 4, 0, 1, b't', 0], 2, true).unwrap();
        let mut chunk = Chunk::new(Form { version5: true, with_id: false });
        chunk.add(&publish, 5_000);
        let mut out = Vec::new();
        assert!(chunk.put(&mut out, 0, &delivery(true, 0, &[3]), 2_500));
        assert_eq!(out, [0x30, 11, 0, 1, b't', 7, MESSAGE_EXPIRY, 0, 0, 0, 3, SUBSCRIPTION_ID, 3]);
        assert!(!chunk.put(&mut out, 0, &delivery(true, 0, &[]), 5_000));
        assert!(!chunk.fits_whole(true, false, 1000));
        assert_eq!(out.len(), 13);
    }
}

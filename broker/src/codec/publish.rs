//! PUBLISH, by hand: rumqttc's type owns its fields, and this packet is the hot path.
//!
//! Properties are checked and kept as the bytes they came in; only the topic alias and the expiry,
//! which end at this broker, are taken out.

use std::borrow::Cow;

use super::{
    Reason,
    frame::Reader,
    properties::{
        CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, RESPONSE_TOPIC,
        TOPIC_ALIAS, USER, Value, walk,
    },
};
use crate::topic::valid_topic;

/// One message as its publisher sent it.
#[derive(Debug)]
pub(crate) struct Publish<'a> {
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) packet_id: u16,
    pub(crate) topic: &'a [u8],
    pub(crate) properties: Cow<'a, [u8]>,
    pub(crate) payload: &'a [u8],
    pub(crate) alias: Option<u16>,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) user_properties: usize,
    /// The frame, when it may be copied whole into a subscriber's stream.
    pub(crate) raw: Option<&'a [u8]>,
    pub(crate) version5: bool,
}

/// Reads a frame whose body begins at `body`.
pub(crate) fn parse(frame: &[u8], body: usize, version5: bool) -> Result<Publish<'_>, Reason> {
    let flags = frame[0] & 15;
    let qos = (flags >> 1) & 3;
    if qos > 2 || (qos == 0 && flags & 8 != 0) {
        return Err(Reason::Malformed);
    }
    let mut reader = Reader(&frame[body..]);
    let topic = reader.binary()?;
    let packet_id = if qos > 0 { reader.u16()? } else { 0 };
    if qos > 0 && packet_id == 0 {
        return Err(Reason::Protocol);
    }
    let mut publish = Publish {
        qos,
        retain: flags & 1 == 1,
        packet_id,
        topic,
        properties: Cow::Borrowed(&[]),
        payload: &[],
        alias: None,
        expiry_s: None,
        user_properties: 0,
        raw: Some(frame),
        version5,
    };
    if version5 {
        let length = reader.variable_int()?;
        let section = reader.bytes(length)?;
        if !section.is_empty() {
            publish.read_properties(section)?;
        }
    }
    publish.payload = reader.0;
    Ok(publish)
}

impl<'a> Publish<'a> {
    fn read_properties(&mut self, section: &'a [u8]) -> Result<(), Reason> {
        const ALLOWED: [u8; 7] = [
            PAYLOAD_FORMAT,
            MESSAGE_EXPIRY,
            CONTENT_TYPE,
            RESPONSE_TOPIC,
            CORRELATION_DATA,
            TOPIC_ALIAS,
            USER,
        ];
        let mut kept = Vec::new();
        let (mut alias, mut expiry, mut users) = (None, None, 0);
        walk(section, &ALLOWED, |property| {
            users += usize::from(property.id == USER);
            match (property.id, property.value) {
                (TOPIC_ALIAS, value) => alias = Some(value.number() as u16),
                (MESSAGE_EXPIRY, value) => expiry = Some(value.number()),
                (RESPONSE_TOPIC, Value::Text(topic)) if !valid_topic(topic) => {
                    return Err(Reason::Protocol);
                }
                _ => kept.extend_from_slice(property.raw),
            }
            Ok(())
        })?;
        (self.alias, self.expiry_s, self.user_properties) = (alias, expiry, users);
        if kept.len() == section.len() {
            self.properties = Cow::Borrowed(section);
        } else {
            self.properties = Cow::Owned(kept);
            self.raw = None;
        }
        Ok(())
    }
}

/// Reads a PUBLISH as a subscriber would: with subscription identifiers.
#[cfg(test)]
pub(crate) fn parse_any(frame: &[u8], body: usize) -> Publish<'_> {
    let mut reader = Reader(&frame[body..]);
    let mut publish = parse(frame, body, false).unwrap();
    publish.topic = reader.binary().unwrap();
    publish.packet_id = if publish.qos > 0 { reader.u16().unwrap() } else { 0 };
    let length = reader.variable_int().unwrap();
    publish.properties = reader.bytes(length).unwrap().into();
    publish.payload = reader.0;
    publish
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alias_and_expiry_stay_here_and_the_rest_passes() {
        let mut frame = vec![0x33, 0, 0, 1, b't', 0, 7];
        let user = [USER, 0, 1, b'k', 0, 1, b'v'];
        let section = [&[TOPIC_ALIAS, 0, 3][..], &user, &[MESSAGE_EXPIRY, 0, 0, 0, 9]].concat();
        frame.push(section.len() as u8);
        frame.extend_from_slice(&section);
        frame.extend_from_slice(b"payload");
        frame[1] = (frame.len() - 2) as u8;
        let publish = parse(&frame, 2, true).unwrap();
        assert_eq!((publish.qos, publish.retain, publish.packet_id), (1, true, 7));
        assert_eq!((publish.alias, publish.expiry_s), (Some(3), Some(9)));
        assert_eq!(&*publish.properties, &user);
        assert_eq!(publish.payload, b"payload");
        assert!(publish.raw.is_none());
    }

    #[test]
    fn broken_publishes_are_refused() {
        for (frame, version5, reason) in [
            (&[0x36, 3, 0, 1, b't'][..], false, Reason::Malformed), // QoS 3
            (&[0x38, 3, 0, 1, b't'], false, Reason::Malformed),     // DUP with QoS 0
            (&[0x32, 5, 0, 1, b't', 0, 0], false, Reason::Protocol), // packet id 0
            (&[0x30, 3, 0, 9, b't'], false, Reason::Malformed),     // topic longer than the frame
            (&[0x30, 3, 0, 1, b't'], true, Reason::Malformed),      // no property length
            (&[0x30, 6, 0, 1, b't', 2, SUB_ID, 1], true, Reason::Protocol),
        ] {
            assert_eq!(parse(frame, 2, version5).unwrap_err(), reason, "{frame:?}");
        }
    }
    const SUB_ID: u8 = super::super::properties::SUBSCRIPTION_ID;
}

//! The version 5 properties that travel with a message, for the host.

use bytes::Bytes;

use crate::codec::{
    frame::Reader,
    properties::{
        CONTENT_TYPE, CORRELATION_DATA, PAYLOAD_FORMAT, RESPONSE_TOPIC, USER, Value, next, walk,
    },
};

/// The properties of a message: raw bytes as on the wire, read when asked. Empty for MQTT 3.1.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// Reads the property section of a PUBLISH, without its length. What is malformed reads as
    /// absent.
    pub const fn new(raw: &'a [u8]) -> Self {
        Self(raw)
    }

    /// The bytes as they travel.
    pub const fn raw(&self) -> &'a [u8] {
        self.0
    }

    fn iter(self) -> impl Iterator<Item = (u8, Value<'a>)> {
        let mut reader = Reader(self.0);
        std::iter::from_fn(move || {
            let property = if reader.is_empty() { None } else { next(&mut reader).ok() }?;
            Some((property.id, property.value))
        })
    }

    fn text(self, wanted: u8) -> Option<&'a str> {
        self.iter().find_map(|(id, value)| match value {
            Value::Text(text) if id == wanted => Some(text),
            _ => None,
        })
    }

    /// 1: the payload is UTF-8 text, says its publisher. 0: it is bytes.
    pub fn payload_format(&self) -> Option<u8> {
        self.iter().find(|(id, _)| *id == PAYLOAD_FORMAT).map(|(_, value)| value.number() as u8)
    }

    /// What the payload is, usually a MIME type.
    pub fn content_type(&self) -> Option<&'a str> {
        self.text(CONTENT_TYPE)
    }

    /// Where an answer is expected.
    pub fn response_topic(&self) -> Option<&'a str> {
        self.text(RESPONSE_TOPIC)
    }

    /// What the answer must carry.
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.iter().find_map(|(id, value)| match value {
            Value::Binary(data) if id == CORRELATION_DATA => Some(data),
            _ => None,
        })
    }

    /// The user properties, in order.
    pub fn user(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(|(id, value)| match value {
            Value::Pair(key, value) if id == USER => Some((key, value)),
            _ => None,
        })
    }

    /// May these bytes be sent to a client?
    pub(crate) fn is_valid(&self) -> bool {
        const ALLOWED: [u8; 5] =
            [PAYLOAD_FORMAT, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, USER];
        walk(self.0, &ALLOWED, |_| Ok(())).is_ok()
    }
}

/// Writes properties for a message of the host. What is longer than 65,535 bytes is left out.
#[derive(Debug, Clone, Default)]
pub struct PropertiesBuilder(Vec<u8>);

impl PropertiesBuilder {
    /// Begins without any property.
    pub fn new() -> Self {
        Self::default()
    }

    fn put(mut self, id: u8, fields: &[&[u8]]) -> Self {
        if fields.iter().any(|field| field.len() > usize::from(u16::MAX)) {
            return self;
        }
        self.0.push(id);
        for field in fields {
            self.0.extend_from_slice(&(field.len() as u16).to_be_bytes());
            self.0.extend_from_slice(field);
        }
        self
    }

    /// Says that the payload is UTF-8 text.
    #[must_use]
    pub fn payload_is_text(mut self) -> Self {
        self.0.extend_from_slice(&[PAYLOAD_FORMAT, 1]);
        self
    }

    /// Says what the payload is.
    #[must_use]
    pub fn content_type(self, content_type: &str) -> Self {
        self.put(CONTENT_TYPE, &[content_type.as_bytes()])
    }

    /// Asks for an answer at a topic.
    #[must_use]
    pub fn response_topic(self, topic: &str) -> Self {
        self.put(RESPONSE_TOPIC, &[topic.as_bytes()])
    }

    /// What an answer must carry, or carries.
    #[must_use]
    pub fn correlation_data(self, data: &[u8]) -> Self {
        self.put(CORRELATION_DATA, &[data])
    }

    /// Adds a user property.
    #[must_use]
    pub fn user(self, key: &str, value: &str) -> Self {
        self.put(USER, &[key.as_bytes(), value.as_bytes()])
    }

    /// The bytes for [`Outgoing::properties`](crate::Outgoing::properties).
    pub fn build(self) -> Bytes {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let raw = PropertiesBuilder::new()
            .payload_is_text()
            .content_type("application/json")
            .response_topic("a/b")
            .correlation_data(&[0, 255])
            .user("k", "v")
            .user("k", "w")
            .build();
        let properties = Properties::new(&raw);
        assert!(properties.is_valid());
        assert_eq!(properties.payload_format(), Some(1));
        assert_eq!(properties.content_type(), Some("application/json"));
        assert_eq!(properties.response_topic(), Some("a/b"));
        assert_eq!(properties.correlation_data(), Some(&[0, 255][..]));
        assert_eq!(properties.user().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
    }

    #[test]
    fn malformed_bytes_read_as_absent() {
        let properties = Properties::new(&[CONTENT_TYPE, 0, 9, b'x']);
        assert_eq!(properties.content_type(), None);
        assert!(!properties.is_valid());
    }
}

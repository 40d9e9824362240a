//! A retained message as the desk keeps it.

use crate::bus::Restored;
use crate::name::{By, Door, Topic};
use bytes::Bytes;
use jiff::Timestamp;

/// A retained message.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) payload: Bytes,
    pub(super) by: By,
    pub(super) qos: u8,
    pub(super) received_at: Timestamp,
    pub(super) own: bool,
    /// The broker is known to retain it too; of interest for the hub's own.
    pub(super) known: bool,
    /// Whether its publisher sets the retain flag, once the broker was asked:
    /// live messages come without it. (MQTT 5 has an option, which mosquitto
    /// takes over only with the first subscription to a filter, and with the
    /// first one old messages could not be told from new ones.) Where it is not
    /// set the hub publishes again, since the contract keeps the message.
    pub(super) retains: Option<bool>,
    pub(super) content_type: Option<String>,
    pub(super) user_properties: Vec<(String, String)>,
    pub(super) expires_at: Option<Timestamp>,
}

impl Held {
    pub(super) fn new(payload: Bytes, by: By, received_at: Timestamp) -> Self {
        Self {
            payload,
            own: by.door == Door::Hub,
            by,
            qos: 1,
            received_at,
            known: false,
            retains: None,
            content_type: None,
            user_properties: Vec::new(),
            expires_at: None,
        }
    }

    pub(super) fn shown(&self, topic: &str) -> Option<Restored> {
        Some(Restored {
            by: self.by.clone(),
            topic: Topic::parse(topic).ok()?,
            payload: self.payload.clone(),
            qos: self.qos,
            content_type: self.content_type.clone(),
            user_properties: self.user_properties.clone(),
            expires_at: self.expires_at,
            received_at: self.received_at,
        })
    }

    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

//! What happens to the mesh, and what is to be done about it.

use super::Say;
use crate::message::{Entry, JournalLine, Message, Outcome, ReplyAddress};
use crate::name::{AnnouncementId, By, SnapshotName, Topic};
use bytes::Bytes;
use jiff::Timestamp;
use std::time::Duration;

/// A message as it came in by the front door.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Its topic.
    pub topic: Topic,
    /// Its payload, byte for byte.
    pub payload: Bytes,
    /// Who published it.
    pub by: By,
    /// When the hub received it.
    pub received_at: Timestamp,
    /// The quality of service it was published with.
    pub qos: u8,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// When it is to be forgotten.
    pub expires_at: Option<Timestamp>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A message was let in. `retained` is what the contract made of it.
    Arrived {
        /// The message.
        received: Box<Received>,
        /// What it means.
        message: Message,
        /// Whether it is kept.
        retained: bool,
        /// Where its sender waits for an answer.
        reply: Option<ReplyAddress>,
        /// An id for an announcement that brought none.
        fresh: Option<AnnouncementId>,
    },
    /// A message was refused at the door.
    Refused {
        /// Who sent it.
        by: By,
        /// Where to.
        topic: String,
        /// Why.
        why: String,
        /// Where its sender waits for an answer.
        reply: Option<ReplyAddress>,
    },
    /// A retained message was read back at start.
    Restored {
        /// What it means.
        message: Message,
        /// When the hub had received it.
        received_at: Timestamp,
    },
    /// The journal tells of an announcement that ended before the start.
    Remembered(Box<Outcome>),
    /// The journal tells of an announcement that was under way when the hub stopped.
    Interrupted {
        /// What was asked.
        asked: Asked,
        /// Where its sender waited for the answer.
        reply: Option<ReplyAddress>,
    },
    /// The time of a retained message is over.
    Expired(Topic),
    /// The hub found something worth a line in the journal.
    Noted(Entry),
    /// A second passed.
    Tick,
    /// The time that [`Mesh::wakes_in`](super::Mesh::wakes_in) gave has passed.
    Woken,
}

/// An announcement as the core knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its id.
    pub id: AnnouncementId,
    /// Why.
    pub reason: String,
    /// What announces.
    pub source: Option<String>,
    /// Whether it asked for a capture.
    pub flush: bool,
    /// Who sent it.
    pub by: By,
    /// When it was received.
    pub requested_at: Timestamp,
}

/// One snapshot for all announcements that waited.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The name of the snapshot.
    pub name: SnapshotName,
    /// The announcements, never none, in the order of arrival, and in how long
    /// each of them must have its outcome.
    pub asked: Vec<(Asked, Duration)>,
}

/// Something to be said on the bus in the hub's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Telling {
    /// Where.
    pub topic: Topic,
    /// What; empty clears a retained topic.
    pub payload: Bytes,
    /// Whether it is retained.
    pub retain: bool,
    /// Correlation data of an answer.
    pub correlation: Option<Bytes>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Write the file of a retained message.
    Store(Box<Received>),
    /// Remove the file of a retained message.
    Remove(Topic),
    /// Take a snapshot that holds all that was stored before, and end its announcements.
    Snapshot(Batch),
    /// Write a line into the journal, then say something that must not be said before.
    Journal {
        /// The line.
        line: Box<JournalLine>,
        /// What waits for it.
        then: Option<Telling>,
    },
    /// Say something on the bus.
    Publish(Telling),
    /// Say something on IRC.
    Say(Say),
}

//! A line of the journal, which is also what `mesh/events` carries.

use super::{Announcement, Outcome};
use crate::name::{AnnouncementId, By, NodeId, SnapshotName, Topic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalLine {
    /// When it happened.
    #[serde(with = "crate::clock::millis")]
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What the journal records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The hub started or stopped.
    Hub {
        /// `started` or `stopped`.
        state: String,
        /// The program's version.
        version: String,
        /// The snapshot engine in use.
        engine: String,
    },
    /// An announcement was accepted.
    Announcement {
        /// Its id.
        id: AnnouncementId,
        /// Who sent it.
        by: By,
        /// When it was received.
        #[serde(with = "crate::clock::millis")]
        requested_at: Timestamp,
        /// What was asked, as far as the hub understood it, and the rest as it came.
        request: serde_json::Value,
        /// Where its sender waits for the answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply: Option<ReplyAddress>,
    },
    /// An announcement ended.
    Outcome(Box<Outcome>),
    /// A snapshot could be taken, though nobody was waiting for it any more.
    Snapshot {
        /// Its name.
        name: SnapshotName,
        /// What is to be known about it.
        note: String,
    },
    /// The hub changed its mind about a node.
    Verdict {
        /// The node.
        node: NodeId,
        /// What it was; absent for a node never heard of before.
        was: Option<String>,
        /// What it is.
        verdict: String,
        /// Because of what.
        because: Vec<String>,
    },
    /// A message was refused at the door.
    Refusal {
        /// Who sent it.
        by: By,
        /// Where to.
        topic: String,
        /// Why.
        why: String,
    },
    /// More refusals than are worth a line each.
    Refusals {
        /// How many since the last line.
        count: u64,
    },
    /// An address tried too many passwords, and may try no more for a while.
    ShutOut {
        /// The address.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// The hub was asked to read some of its files again.
    Reload {
        /// What the files are about, such as `users`.
        what: String,
        /// `read`, or `refused`: then what was in force stays.
        state: String,
        /// What is in force now, or why it was refused.
        detail: String,
    },
    /// Somebody has retained messages cleared; written before the first of them goes.
    Purge {
        /// Who.
        by: By,
        /// Those that this filter selects.
        filter: String,
        /// How many they are.
        messages: u64,
        /// How many bytes their payloads have.
        bytes: u64,
    },
    /// A file of the live store was set aside.
    SetAside {
        /// Where it was, below the root.
        path: String,
        /// Where it is now, below the root.
        to: String,
        /// Why.
        why: String,
    },
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyAddress {
    /// The response topic, or `reply_to`.
    pub topic: Topic,
    /// MQTT 5 correlation data in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation: Option<String>,
}

impl Entry {
    /// The line for an accepted announcement.
    #[must_use]
    pub fn accepted(
        id: &AnnouncementId,
        by: &By,
        requested_at: Timestamp,
        announcement: &Announcement,
        reply: Option<ReplyAddress>,
    ) -> Self {
        // An announcement is strings, numbers and maps with string keys: it always serialises.
        let request = serde_json::to_value(announcement).unwrap_or_default();
        Self::Announcement { id: id.clone(), by: by.clone(), requested_at, request, reply }
    }
}

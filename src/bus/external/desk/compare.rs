//! What becomes of the difference between the tree and the broker.

use super::{Desk, Setting};
use crate::bus::Retention;
use crate::bus::external::outbox::Item;
use crate::bus::external::query::{Kind, NAMES_MAX, Query};
use crate::bus::external::wire::Packet;
use crate::bus::external::witness::{Memory, judge, will_of};
use bytes::Bytes;
use jiff::Timestamp;

impl Desk {
    /// The broker's memory is found out.
    pub(in crate::bus::external) fn witnessed(&mut self, query: &Query) -> Memory {
        let before = (self.connection > 0).then_some(self.connection);
        let found = judge(self.witness.as_deref(), query.presence.as_deref(), before);
        // After a restart of the hub too, nobody can say whose state is the later one.
        let alone = found == Memory::RolledBack && before.is_none();
        self.memory = if alone { Memory::Unknown } else { found };
        self.connection += 1;
        self.memory
    }

    /// The will for the connection that is made next.
    pub(in crate::bus::external) fn next_will(&mut self, will: &Bytes) -> Bytes {
        self.will = will_of(will, self.connection + 1);
        self.will.clone()
    }

    /// The broker has sent all that it retains.
    pub(in crate::bus::external) fn compared(&mut self, query: &Query, now: Timestamp) {
        let (mut again, mut expired) = (Vec::new(), Vec::new());
        for (topic, held) in &self.kept {
            if held.own && !held.known {
                again.push(topic.clone());
            } else if !held.own && !query.seen.contains(topic) {
                let list = if held.expired(now) { &mut expired } else { &mut self.missing };
                list.push(topic.clone());
            }
        }
        again.iter().for_each(|topic| self.give(topic));
        expired.iter().for_each(|topic| self.forget(topic, now));
        if self.memory != Memory::Unknown {
            for topic in &query.orphans {
                self.outbox.push(Item::new(topic, Bytes::new(), true));
            }
        }
        self.missing.sort_unstable();
    }

    /// The broker has said what it knows of topics asked for by name.
    pub(in crate::bus::external) fn answered(&mut self, query: &Query, now: Timestamp) {
        for topic in query.unanswered() {
            let Some(held) = self.kept.get_mut(topic) else { continue };
            let keeps = if query.kind == Kind::Unsure {
                held.retains = Some(false);
                self.door.retention(topic) == Retention::Always
            } else {
                self.memory != Memory::Intact
            };
            if keeps {
                self.give(topic);
            } else {
                self.forget(topic, now);
            }
        }
    }

    /// A topic was cleared while nobody looked.
    fn forget(&mut self, topic: &str, now: Timestamp) {
        let packet = Packet {
            topic: topic.into(),
            payload: Bytes::new(),
            qos: 0,
            retain: true,
            content_type: None,
            user_properties: Vec::new(),
            response_topic: None,
            correlation: None,
            expiry_s: None,
        };
        let setting = Setting { query: None, payload_max_bytes: 0, now };
        if self.admit(&packet, true, &setting) {
            self.keep(&packet, now);
        }
    }

    /// The next topics to ask for.
    pub(in crate::bus::external) fn next_question(&mut self) -> Option<Query> {
        if !self.missing.is_empty() {
            let rest = self.missing.split_off(self.missing.len().min(NAMES_MAX));
            return Some(Query::new(Kind::Missing, std::mem::replace(&mut self.missing, rest)));
        }
        if self.unsure.is_empty() {
            return None;
        }
        let asked: Vec<_> = self.unsure.iter().take(NAMES_MAX).cloned().collect();
        self.unsure.retain(|topic| asked.binary_search(topic).is_err());
        Some(Query::new(Kind::Unsure, asked))
    }

    /// The question about the hub's own presence.
    pub(in crate::bus::external) fn first_question(&self) -> Query {
        Query::new(Kind::Presence, vec![self.presence.clone()])
    }

    /// True if there is something to ask, or to be said again.
    pub(in crate::bus::external) fn has_questions(&self) -> bool {
        !(self.missing.is_empty() && self.unsure.is_empty() && self.forged.is_empty())
    }

    /// Says again what somebody else has published over.
    pub(in crate::bus::external) fn reassert(&mut self) {
        for topic in std::mem::take(&mut self.forged) {
            self.give(&topic);
        }
    }
}

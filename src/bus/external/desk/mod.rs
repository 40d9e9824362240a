//! What is retained, and what a packet of the broker means.
//!
//! The broker is the truth for what others publish, the hub for what it
//! publishes itself. Where the two differ after a time apart:
//! - the hub's own topics are published again, and what is left of them that
//!   the hub does not know is cleared;
//! - another's topic has the broker's message, unless the broker has gone back
//!   to an earlier state while the hub was running;
//! - another's topic that the broker has no more was cleared, unless the broker
//!   has lost its memory: then the message is given back.

mod compare;
mod held;

use super::echoes::Echoes;
use super::outbox::{Item, Outbox};
use super::query::{Kind, Query};
use super::suspects::Suspects;
use super::wire::Packet;
use super::witness::Memory;
use crate::bus::{Arrival, Door, Page, Publication, Refusal, RefusalKind, Restored, Retention};
use crate::name::{By, Door as DoorName, Topic};
use bytes::Bytes;
use held::Held;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Topics looked at for one page, so that a reader keeps nobody waiting for long.
const LOOKED_AT_MAX: usize = 10_000;

pub(in crate::bus::external) struct Desk {
    door: Arc<dyn Door>,
    /// The topic on which the hub says that it is there.
    presence: Box<str>,
    kept: BTreeMap<Box<str>, Held>,
    pub(in crate::bus::external) outbox: Outbox,
    pub(in crate::bus::external) echoes: Echoes,
    pub(in crate::bus::external) suspects: Suspects,
    /// Who waits until the broker has brought all that it had.
    pub(in crate::bus::external) fences: Vec<oneshot::Sender<()>>,
    /// Messages of others that are being given back, until their echo.
    giving: HashMap<Box<str>, Bytes>,
    /// Topics to ask for by name.
    unsure: BTreeSet<Box<str>>,
    missing: Vec<Box<str>>,
    /// The hub's own topics, on which somebody else has published.
    forged: BTreeSet<Box<str>>,
    /// The last presence that the broker had for certain.
    witness: Option<Bytes>,
    memory: Memory,
    /// The number of the last connection, from 1.
    connection: u64,
    /// What the broker says for the hub when this connection is lost.
    will: Bytes,
}

/// The circumstances in which a packet came.
pub(in crate::bus::external) struct Setting<'a> {
    pub(in crate::bus::external) query: Option<&'a mut Query>,
    pub(in crate::bus::external) payload_max_bytes: usize,
    pub(in crate::bus::external) now: Timestamp,
}

impl Desk {
    pub(in crate::bus::external) fn new(
        door: Arc<dyn Door>,
        presence: &str,
        retained: impl IntoIterator<Item = Restored>,
    ) -> Self {
        let held = |message: Restored| {
            let Restored { payload, by, qos, received_at, .. } = message;
            let Restored { content_type, user_properties, expires_at, .. } = message;
            let new = Held::new(payload, by, received_at);
            Held { qos, content_type, user_properties, expires_at, ..new }
        };
        let kept: BTreeMap<Box<str>, Held> = retained
            .into_iter()
            .map(|message| (message.topic.as_str().into(), held(message)))
            .collect();
        let witness = kept.get(presence).map(|held| held.payload.clone());
        Self {
            door,
            presence: presence.into(),
            kept,
            outbox: Outbox::default(),
            echoes: Echoes::default(),
            suspects: Suspects::default(),
            fences: Vec::new(),
            giving: HashMap::new(),
            unsure: BTreeSet::new(),
            missing: Vec::new(),
            forged: BTreeSet::new(),
            witness,
            memory: Memory::Unknown,
            connection: 0,
            will: Bytes::new(),
        }
    }

    /// Some of the retained messages of a filter, in topic order.
    pub(in crate::bus::external) fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Page {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut messages, mut next) = (Vec::new(), None);
        let behind = self.kept.range::<str, _>((after, Bound::Unbounded));
        for (looked, (topic, held)) in behind.enumerate() {
            if messages.len() == limit || looked == LOOKED_AT_MAX {
                return Page { messages, next };
            }
            next = Some(topic.clone());
            if meshfs_broker::filter_matches(filter, topic) {
                messages.extend(held.shown(topic));
            }
        }
        Page { messages, next: None }
    }

    pub(in crate::bus::external) fn get(&self, topic: &str, now: Timestamp) -> Option<Restored> {
        self.kept.get(topic).filter(|held| !held.expired(now))?.shown(topic)
    }

    /// Forgets what has expired.
    pub(in crate::bus::external) fn sweep(&mut self, now: Timestamp) -> Vec<Topic> {
        let expired = self.kept.extract_if(.., |_, held| held.expired(now));
        expired.filter_map(|(topic, _)| Topic::parse(&topic).ok()).collect()
    }

    /// The hub says something. Gives how many publications had to go for it.
    pub(in crate::bus::external) fn say(
        &mut self,
        publication: Publication,
        retained: bool,
        received_at: Timestamp,
    ) -> usize {
        let Publication { by, topic, payload, correlation, .. } = publication;
        let topic = topic.as_str();
        if retained && payload.is_empty() {
            self.kept.remove(topic);
        } else if retained {
            self.kept.insert(
                topic.into(),
                Held { own: true, ..Held::new(payload.clone(), by, received_at) },
            );
        }
        self.outbox.push(Item { correlation, ..Item::new(topic, payload, retained) })
    }

    /// A connection was lost. Gives the topic that is held to be the cause.
    pub(in crate::bus::external) fn disconnected(
        &mut self,
        under_way: Vec<Item>,
    ) -> Option<Box<str>> {
        let topics: Vec<&str> = under_way.iter().map(|item| &*item.topic).collect();
        let cause = self.suspects.lost(&topics).map(Into::into);
        self.fences.clear();
        self.echoes.clear();
        self.giving.clear();
        self.unsure.clear();
        self.missing.clear();
        self.forged.clear();
        for held in self.kept.values_mut() {
            held.known = false;
        }
        self.outbox.put_back(under_way);
        cause
    }

    /// The next publication, if it may be sent beside so many others. What this
    /// broker does not take is passed over and counted.
    pub(in crate::bus::external) fn next_to_send(
        &mut self,
        under_way: usize,
        dropped: &mut u64,
    ) -> Option<Item> {
        while self.outbox.next().is_some_and(|topic| self.suspects.refuses(topic)) {
            self.outbox.pop();
            *dropped += 1;
        }
        let alone = self.suspects.is_one(self.outbox.next()?);
        if alone && under_way > 0 {
            return None;
        }
        let item = self.outbox.pop()?;
        self.sending(&item);
        Some(item)
    }

    fn sending(&mut self, item: &Item) {
        self.echoes.expect(&item.topic, &item.payload);
        if item.given {
            self.giving.insert(item.topic.clone(), item.payload.clone());
        }
    }

    /// This has reached the broker.
    pub(in crate::bus::external) fn sent(&mut self, item: &Item) {
        self.suspects.cleared(&item.topic);
        if *item.topic == *self.presence {
            self.witness = Some(item.payload.clone());
        }
        if let Some(held) = self.kept.get_mut(&item.topic)
            && held.own
            && held.payload == item.payload
        {
            held.known = true;
        }
    }

    /// A packet came. True if the door refused it.
    pub(in crate::bus::external) fn heard(
        &mut self,
        mut packet: Packet,
        mut setting: Setting<'_>,
    ) -> bool {
        // To whoever is subscribed already a message comes without the flag.
        let replayed = packet.retain;
        if !replayed && self.echoes.take(&packet.topic, &packet.payload) {
            self.echoed(&packet);
            return false;
        }
        if let Some(query) = setting.query.as_deref_mut() {
            query.saw(&packet.topic, replayed);
        }
        match self.door.retention(&packet.topic) {
            Retention::Never if replayed => {
                // The contract keeps no such message, so that nobody takes an old one for new.
                if !packet.payload.is_empty() {
                    self.outbox.push(Item::new(&packet.topic, Bytes::new(), true));
                }
                false
            }
            Retention::Never => !self.admit(&packet, false, &setting),
            _ if self.door.hubs_own(&packet.topic) => self.heard_own(&packet, replayed, setting),
            _ if replayed => self.heard_replayed(&packet, &setting),
            retention => {
                let kept = self.kept.contains_key(&packet.topic);
                if retention == Retention::Always && packet.payload.is_empty() {
                    packet.retain = kept;
                }
                self.heard_live(&packet, retention, &setting)
            }
        }
    }

    /// The echo of something that was given back: if another has published
    /// meanwhile, the broker has the older one now.
    fn echoed(&mut self, packet: &Packet) {
        let Some(given) = self.giving.get(&packet.topic) else { return };
        if *given != packet.payload {
            return;
        }
        self.giving.remove(&packet.topic);
        let newest = self.kept.get(&packet.topic).map_or_else(Bytes::new, |h| h.payload.clone());
        if newest != packet.payload {
            self.give(&packet.topic);
        }
    }

    fn heard_own(&mut self, packet: &Packet, replayed: bool, setting: Setting<'_>) -> bool {
        let held = self.kept.get_mut(&packet.topic);
        if !replayed {
            if held.is_some() {
                self.forged.insert(packet.topic.clone());
            }
            // A broker that is being stopped says it to everybody.
            if packet.payload == self.will {
                return false;
            }
            return !self.admit(packet, true, &setting);
        }
        if let Some(query) = setting.query {
            if *packet.topic == *self.presence {
                query.presence = Some(packet.payload.clone());
            }
            if held.is_none() {
                query.orphans.push(packet.topic.clone());
            }
        }
        if let Some(held) = held {
            held.known = held.payload == packet.payload;
        }
        false
    }

    fn heard_replayed(&mut self, packet: &Packet, setting: &Setting<'_>) -> bool {
        // The hub was told to clear it, and the broker still has to be.
        if self.outbox.holds(&packet.topic) {
            return false;
        }
        let kind = setting.query.as_deref().map(|query| query.kind);
        if let Some(held) = self.kept.get_mut(&packet.topic) {
            let unsure = kind == Some(Kind::Unsure)
                && self.door.retention(&packet.topic) == Retention::Always;
            if unsure {
                held.retains = Some(held.payload == packet.payload);
            }
            if held.payload == packet.payload {
                return false;
            }
            if unsure || self.memory == Memory::RolledBack {
                self.give(&packet.topic);
                return false;
            }
        }
        let admitted = self.admit(packet, true, setting);
        if admitted {
            self.keep(packet, setting.now);
        }
        !admitted
    }

    fn heard_live(&mut self, packet: &Packet, retention: Retention, setting: &Setting<'_>) -> bool {
        let retained = retention == Retention::Always;
        if !self.admit(packet, retained, setting) {
            return true;
        }
        if !retained {
            self.unsure.insert(packet.topic.clone());
            return false;
        }
        self.keep(packet, setting.now);
        match self.kept.get(&packet.topic).map(|held| held.retains) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => self.give(&packet.topic),
            Some(None) => {
                self.unsure.insert(packet.topic.clone());
            }
        }
        false
    }

    fn keep(&mut self, packet: &Packet, now: Timestamp) {
        self.outbox.withdraw(&packet.topic);
        if packet.payload.is_empty() {
            self.kept.remove(&packet.topic);
            return;
        }
        let held = Held {
            retains: self.kept.get(&packet.topic).and_then(|held| held.retains),
            content_type: packet.content_type.clone(),
            user_properties: packet.user_properties.clone(),
            expires_at: expires_at(packet, now),
            qos: packet.qos,
            ..Held::new(packet.payload.clone(), theirs(), crate::clock::to_millis(now))
        };
        self.kept.insert(packet.topic.clone(), held);
    }

    fn admit(&self, packet: &Packet, retained: bool, setting: &Setting<'_>) -> bool {
        let arrival = Arrival {
            by: theirs(),
            inside: false,
            topic: packet.topic.clone(),
            payload: packet.payload.clone(),
            qos: packet.qos,
            retain: packet.retain,
            retained,
            content_type: packet.content_type.clone(),
            user_properties: packet.user_properties.clone(),
            response_topic: packet.response_topic.clone(),
            correlation: packet.correlation.clone(),
            expires_at: expires_at(packet, setting.now),
            received_at: crate::clock::to_millis(setting.now),
            // The broker has acknowledged it already.
            awaited: false,
        };
        if packet.payload.len() > setting.payload_max_bytes {
            let why = "larger than bus.packet_max_bytes".into();
            self.door.refuse(arrival, &Refusal { kind: RefusalKind::Quota, why });
            return false;
        }
        self.door.admit(arrival).is_ok()
    }

    /// Publishes what is retained of a topic, or that nothing is.
    fn give(&mut self, topic: &str) {
        let Some(held) = self.kept.get(topic) else {
            self.outbox.push(Item { given: true, ..Item::new(topic, Bytes::new(), true) });
            return;
        };
        self.outbox.push(Item {
            content_type: held.content_type.clone(),
            user_properties: held.user_properties.clone(),
            expires_at: held.expires_at,
            given: !held.own,
            ..Item::new(topic, held.payload.clone(), true)
        });
    }
}

/// Of a publisher on another's broker no more is known.
fn theirs() -> By {
    By::new(DoorName::Mqtt, "external")
}

fn expires_at(packet: &Packet, now: Timestamp) -> Option<Timestamp> {
    let seconds = i64::from(packet.expiry_s?);
    now.checked_add(SignedDuration::from_secs(seconds)).ok()
}

#[cfg(test)]
mod tests;

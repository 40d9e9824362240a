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

use super::echoes::Echoes;
use super::outbox::{Item, Outbox};
use super::query::{Kind, NAMES_MAX, Query};
use super::suspects::Suspects;
use super::wire::Packet;
use super::witness::{Memory, judge};
use super::{Arrival, Door, Publication, Restored, Retention};
use crate::bus::{Page, Refusal, RefusalKind};
use crate::name::{By, Door as DoorName, Topic};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Topics looked at for one page, so that a reader keeps nobody waiting for long.
const LOOKED_AT_MAX: usize = 10_000;

/// A retained message.
#[derive(Debug)]
struct Held {
    payload: Bytes,
    by: By,
    qos: u8,
    received_at: Timestamp,
    own: bool,
    /// The broker is known to retain it too; of interest for the hub's own.
    known: bool,
    /// Whether its publisher sets the retain flag, once the broker was asked:
    /// live messages come without it. (MQTT 5 has an option, which mosquitto
    /// takes over only with the first subscription to a filter, and with the
    /// first one old messages could not be told from new ones.) Where it is not
    /// set the hub publishes again, since the contract keeps the message.
    retains: Option<bool>,
    content_type: Option<String>,
    user_properties: Vec<(String, String)>,
    expires_at: Option<Timestamp>,
}

impl Held {
    fn new(payload: Bytes, by: By, received_at: Timestamp) -> Self {
        Self {
            payload,
            own: by.door == DoorName::Hub,
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

    fn shown(&self, topic: &str) -> Option<Restored> {
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

    fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

pub(super) struct Desk {
    door: Arc<dyn Door>,
    /// The topic on which the hub says that it is there.
    presence: Box<str>,
    kept: BTreeMap<Box<str>, Held>,
    pub(super) outbox: Outbox,
    pub(super) echoes: Echoes,
    pub(super) suspects: Suspects,
    /// Who waits until the broker has brought all that it had.
    pub(super) fences: Vec<oneshot::Sender<()>>,
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
    connected_before: bool,
}

/// The circumstances in which a packet came.
pub(super) struct Setting<'a> {
    pub(super) query: Option<&'a mut Query>,
    pub(super) payload_max_bytes: usize,
    pub(super) now: Timestamp,
}

impl Desk {
    pub(super) fn new(
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
            connected_before: false,
        }
    }

    /// Some of the retained messages of a filter, in topic order.
    pub(super) fn page(&self, filter: &str, after: Option<&str>, limit: usize) -> Page {
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

    pub(super) fn get(&self, topic: &str, now: Timestamp) -> Option<Restored> {
        self.kept.get(topic).filter(|held| !held.expired(now))?.shown(topic)
    }

    /// The hub says something. Gives how many publications had to go for it.
    pub(super) fn say(
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
    pub(super) fn disconnected(&mut self, under_way: Vec<Item>) -> Option<Box<str>> {
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
    pub(super) fn next_to_send(&mut self, under_way: usize, dropped: &mut u64) -> Option<Item> {
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
    pub(super) fn sent(&mut self, item: &Item) {
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
    pub(super) fn heard(&mut self, mut packet: Packet, mut setting: Setting<'_>) -> bool {
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

    /// The broker's memory is found out.
    pub(super) fn witnessed(&mut self, query: &Query) -> Memory {
        let found = judge(self.witness.as_deref(), query.presence.as_deref());
        // After a restart of the hub too, nobody can say whose state is the later one.
        let alone = found == Memory::RolledBack && !self.connected_before;
        self.memory = if alone { Memory::Unknown } else { found };
        self.connected_before = true;
        self.memory
    }

    /// The broker has sent all that it retains.
    pub(super) fn compared(&mut self, query: &Query, now: Timestamp) {
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
    pub(super) fn answered(&mut self, query: &Query, now: Timestamp) {
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
    pub(super) fn next_question(&mut self) -> Option<Query> {
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
    pub(super) fn first_question(&self) -> Query {
        Query::new(Kind::Presence, vec![self.presence.clone()])
    }

    /// True if there is something to ask, or to be said again.
    pub(super) fn has_questions(&self) -> bool {
        !(self.missing.is_empty() && self.unsure.is_empty() && self.forged.is_empty())
    }

    /// Says again what somebody else has published over.
    pub(super) fn reassert(&mut self) {
        for topic in std::mem::take(&mut self.forged) {
            self.give(&topic);
        }
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

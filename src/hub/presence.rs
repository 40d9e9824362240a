//! What the hub says of itself on `mesh/hub`.

use super::Addresses;
use crate::access::Access;
use crate::clock::Now;
use crate::disk::Health;
use crate::mesh::{HubView, Telling};
use crate::message::Entry;
use crate::message::contract::topics;
use crate::name::BrokerUrl;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the counters are published.
const INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct HubPresence {
    started_at: Timestamp,
    number: u64,
    addresses: Addresses,
    broker: Option<BrokerUrl>,
    engine: &'static str,
    why: Arc<str>,
    access: Arc<Access>,
    trouble: Option<Arc<str>>,
    next: Duration,
    /// Retained messages whose time was over.
    pub(super) expired: u64,
}

#[derive(serde::Serialize)]
struct Body<'a> {
    state: &'a str,
    version: &'a str,
    #[serde(with = "crate::clock::millis")]
    started_at: Timestamp,
    /// The how manieth since then; a will has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    listen: Addresses,
    /// The broker, if it is not the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<&'a BrokerUrl>,
    engine: Engine<'a>,
    trouble: Option<&'a str>,
    counters: Counters,
    /// How often clients reached each limit that somebody reached.
    limits_reached: BTreeMap<&'static str, u64>,
}

#[derive(serde::Serialize)]
struct Engine<'a> {
    name: &'a str,
    why: &'a str,
}

#[derive(serde::Serialize)]
struct Counters {
    clients: u64,
    sessions: u64,
    subscriptions: u64,
    messages_in: u64,
    messages_out: u64,
    dropped: u64,
    refused: u64,
    expired: u64,
    files_written: u64,
    syncs: u64,
    logins_refused: u64,
    connections_total: u64,
    connections_refused: u64,
    bytes_in: u64,
    bytes_out: u64,
    queued_bytes: u64,
}

impl HubPresence {
    pub(super) fn new(
        started_at: Timestamp,
        addresses: &Addresses,
        engine: &'static str,
        why: String,
        access: Arc<Access>,
    ) -> Self {
        Self {
            started_at,
            number: 0,
            addresses: *addresses,
            broker: None,
            engine,
            why: why.into(),
            access,
            trouble: None,
            next: Duration::ZERO,
            expired: 0,
        }
    }

    /// The same with all addresses known.
    pub(super) fn at(self, addresses: &Addresses) -> Self {
        Self { addresses: *addresses, ..self }
    }

    /// The same on another's broker.
    pub(super) fn on(self, broker: Option<&BrokerUrl>) -> Self {
        Self { broker: broker.cloned(), ..self }
    }

    /// True once an interval, and at once when the disk begins or ceases to refuse.
    pub(super) fn is_due(&mut self, now: Now, trouble: Option<Arc<str>>) -> bool {
        let changed = self.trouble != trouble;
        self.trouble = trouble;
        if changed || now.steady >= self.next {
            self.next = now.steady + INTERVAL;
            return true;
        }
        false
    }

    pub(super) fn telling(
        &mut self,
        state: &str,
        stats: &meshfs_broker::Stats,
        health: &Health,
    ) -> Telling {
        self.number += 1;
        self.body(state, Some(self.number), stats, health)
    }

    /// What another broker says for the hub when it loses it.
    pub(super) fn will(&self) -> Telling {
        self.body("offline", None, &meshfs_broker::Stats::default(), &Health::default())
    }

    fn body(
        &self,
        state: &str,
        number: Option<u64>,
        stats: &meshfs_broker::Stats,
        health: &Health,
    ) -> Telling {
        let body = Body {
            state,
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started_at,
            number,
            listen: self.addresses,
            broker: self.broker.as_ref(),
            engine: Engine { name: self.engine, why: &self.why },
            trouble: self.trouble.as_deref(),
            counters: Counters {
                clients: stats.connections,
                sessions: stats.sessions,
                subscriptions: stats.subscriptions,
                messages_in: stats.messages_in,
                messages_out: stats.messages_out,
                dropped: stats.dropped,
                refused: stats.refused,
                expired: self.expired,
                files_written: health.written(),
                syncs: health.syncs(),
                logins_refused: self.access.logins_refused(),
                connections_total: stats.connections_total,
                connections_refused: stats.connections_refused,
                bytes_in: stats.bytes_in,
                bytes_out: stats.bytes_out,
                queued_bytes: stats.queued_bytes,
            },
            limits_reached: stats.limits.iter().filter(|(_, times)| *times > 0).collect(),
        };
        // Strings and numbers: it always serialises.
        let payload = serde_json::to_vec(&body).unwrap_or_default().into();
        Telling { topic: topics::hub(), payload, retain: true, correlation: None }
    }

    pub(super) fn entry(&self, state: &str) -> Entry {
        Entry::Hub {
            state: state.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            engine: self.engine.to_owned(),
        }
    }

    pub(super) fn view(&self, trouble: Option<Arc<str>>) -> HubView {
        HubView {
            started_at: Some(self.started_at),
            engine: self.engine,
            engine_why: self.why.clone(),
            trouble,
        }
    }
}

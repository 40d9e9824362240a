//! How each network's connection is, as operators see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ConnectionError;
use super::outbox::Outbox;
use super::session::Session;
use crate::name::{Channel, NetworkName};

/// How one network's connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The network.
    pub network: NetworkName,
    /// Whether the server has welcomed us.
    pub connected: bool,
    /// The nick we have there.
    pub nick: Option<String>,
    /// The channels we are in.
    pub channels: Vec<Channel>,
    /// Lines written over this connection.
    pub lines_sent: u64,
    /// Events said, as the server confirmed, over all connections; counted for each channel.
    pub events_said: u64,
    /// Events that wait, or that were written and not yet confirmed.
    pub events_held: u64,
    /// Events given up: the queue was full, or no such channel is configured.
    pub events_dropped: u64,
    /// Answers to people that were given up.
    pub replies_dropped: u64,
    /// Connections lost so far.
    pub losses: u64,
    /// Why the last one was lost.
    pub last_error: Option<String>,
}

/// The status, written by the connection's task and read by anybody.
#[derive(Debug)]
pub(super) struct Status {
    now: Mutex<NetworkStatus>,
    dropped: AtomicU64,
}

impl Status {
    pub(super) const fn new(network: NetworkName) -> Self {
        let now = NetworkStatus {
            network,
            connected: false,
            nick: None,
            channels: Vec::new(),
            lines_sent: 0,
            events_said: 0,
            events_held: 0,
            events_dropped: 0,
            replies_dropped: 0,
            losses: 0,
            last_error: None,
        };
        Self { now: Mutex::new(now), dropped: AtomicU64::new(0) }
    }

    pub(super) fn read(&self) -> NetworkStatus {
        let mut status = self.lock().clone();
        status.events_dropped = self.dropped.load(Ordering::Relaxed);
        status
    }

    /// An event found the queue full.
    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// An event named a channel that is not configured.
    pub(super) fn unroutable(&self) {
        self.dropped();
    }

    pub(super) fn update(&self, session: &Session, outbox: &Outbox, lines: u64) {
        self.held(outbox);
        let mut now = self.lock();
        let joined = session.membership.iter().filter(|wanted| wanted.in_since().is_some());
        now.channels = joined.map(|wanted| wanted.channel.clone()).collect();
        now.connected = session.is_welcomed();
        if now.nick.as_deref() != Some(session.nick()) {
            now.nick = Some(session.nick().to_owned());
        }
        now.lines_sent = lines;
    }

    pub(super) fn held(&self, outbox: &Outbox) {
        let mut now = self.lock();
        now.events_held = outbox.held();
        (now.events_said, now.replies_dropped) = outbox.totals();
    }

    pub(super) fn lost(&self, error: &ConnectionError) {
        let mut now = self.lock();
        now.connected = false;
        now.nick = None;
        now.channels.clear();
        now.losses += 1;
        now.last_error = Some(error.to_string());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NetworkStatus> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

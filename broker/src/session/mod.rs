//! Sessions: what a client is owed, whether it is connected or not.
//!
//! One connection at a time lives a session. `connect` lets it in, `attach` gives it its session out of all `sessions`,
//! `connection` is its life, `rules` takes away what it may no longer; `publish` and `subscribe` are what it asks for, `queue` and `deliver` what it is owed, `will`
//! what it leaves behind, `leave` how it goes.
//!
//! Locks are taken in this order: order of retained messages, tree, `queue`; and `io` before
//! `queue`. Nobody holds one over an await.

pub(crate) mod acks;
pub(crate) mod aliases;
pub(crate) mod attach;
pub(crate) mod batch;
pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod deliver;
pub(crate) mod fill;
pub(crate) mod inflight;
pub(crate) mod leave;
pub(crate) mod pace;
pub(crate) mod publish;
pub(crate) mod queue;
pub(crate) mod rules;
pub(crate) mod sessions;
pub(crate) mod subscribe;
pub(crate) mod will;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::sync::Notify;

use self::{deliver::Io, queue::Queue, sessions::Key};
use crate::{codec::Reason, lock::lock};

/// What one client is owed.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Key,
    /// Distinguishes sessions that had the same key.
    pub(crate) uid: u64,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) io: Mutex<Io>,
    /// Something is queued that no writer has looked at yet.
    pub(crate) pending: AtomicBool,
    /// A helper task waits for the socket to be writable.
    pub(crate) writer: AtomicBool,
    /// The queue reached its bound and has not been half empty since.
    pub(crate) full: AtomicBool,
    /// The broker does not read from the client at present, so its silence means nothing.
    pub(crate) unread: AtomicBool,
    /// Wakes those who wait for the queue.
    pub(crate) room: Notify,
    /// Wakes the connection so that it looks at `ticket`, `ending` and the broker's phase.
    pub(crate) kick: Notify,
    /// Number of the newest connection to this session; an older one ends.
    pub(crate) ticket: AtomicU64,
    /// Ticket and reason of an end decided elsewhere: `ticket << 8 | code`.
    ending: AtomicU64,
    /// Held for the life of a connection. True once the session is forgotten.
    pub(crate) attached: Arc<tokio::sync::Mutex<bool>>,
    /// When bytes were last received.
    pub(crate) seen_ms: AtomicU64,
    /// When the client last took a fair amount of what it is owed.
    pub(crate) progress_ms: AtomicU64,
    /// Silence allowed; 0: any.
    pub(crate) silence_limit_ms: AtomicU64,
}

impl Session {
    pub(crate) fn new(key: Key, uid: u64) -> Self {
        Self {
            key,
            uid,
            queue: Mutex::new(Queue::new()),
            io: Mutex::default(),
            pending: AtomicBool::new(false),
            writer: AtomicBool::new(false),
            full: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            room: Notify::new(),
            kick: Notify::new(),
            ticket: AtomicU64::new(0),
            ending: AtomicU64::new(0),
            attached: Arc::default(),
            seen_ms: AtomicU64::new(0),
            progress_ms: AtomicU64::new(0),
            silence_limit_ms: AtomicU64::new(0),
        }
    }

    /// Ends the connection that has this ticket, if it is still there.
    pub(crate) fn end(&self, ticket: u64, reason: Reason) {
        self.ending.store(ticket << 8 | reason as u64, SeqCst);
        self.kick.notify_one();
    }

    /// Ends the connection that is there now, whoever waits to take over.
    pub(crate) fn end_present(&self, reason: Reason) {
        let ticket = lock(&self.queue).ticket;
        self.end(ticket, reason);
    }

    /// Was the end of this connection decided elsewhere?
    pub(crate) fn ending(&self, ticket: u64) -> Option<Reason> {
        if self.ticket.load(SeqCst) != ticket {
            return Some(Reason::TakenOver);
        }
        let ending = self.ending.load(SeqCst);
        (ending != 0 && ending >> 8 == ticket)
            .then(|| Reason::from_code(ending as u8).unwrap_or(Reason::Implementation))
    }
}

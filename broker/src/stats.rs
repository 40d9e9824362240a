//! What the broker counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::bounds::Bound;

/// Counters of a running broker, all at about the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections that are past CONNECT.
    pub connections: u64,
    /// Connections accepted since the start, those refused at CONNECT included.
    pub connections_total: u64,
    /// Connections closed because there were too many, or refused at CONNECT.
    pub connections_refused: u64,
    /// Sessions, those of absent clients included.
    pub sessions: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Messages received from clients, wills and the host.
    pub messages_in: u64,
    /// Messages sent to clients.
    pub messages_out: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Messages a session lost because its queue was full.
    pub dropped: u64,
    /// Messages the authority, the admission or a bound refused.
    pub refused: u64,
    /// Bytes of messages in queues and of unfinished packets, of all clients together.
    pub queued_bytes: u64,
    /// How often each bound was reached.
    pub limits: LimitStats,
}

/// How often each bound was reached, by the name of its key in [`Limits`](crate::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitStats(pub(crate) [u64; Bound::NAMES.len()]);

impl LimitStats {
    /// Names and counts, those never reached included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Bound::NAMES.into_iter().zip(self.0)
    }
}

macro_rules! counters {
    ($($name:ident),+) => {
        /// The same, as they are counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn stats(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)+ ..Stats::default() }
            }
        }
    };
}

counters!(
    connections_total,
    connections_refused,
    subscriptions,
    messages_in,
    messages_out,
    bytes_in,
    bytes_out,
    dropped,
    refused
);

pub(crate) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, amount: usize) {
    counter.fetch_sub(amount as u64, Relaxed);
}

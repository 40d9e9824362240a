//! What happens at a bound, and who holds how much.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use crate::{lock::lock, stats::LimitStats};

/// One line in the log for each bound in so long a time.
const LOG_PAUSE_MS: u64 = 10_000;

macro_rules! bounds {
    ($($bound:ident $name:literal,)+) => {
        /// A bound that clients can reach; named after its key in [`crate::Limits`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Bound { $($bound,)+ }

        impl Bound {
            pub(crate) const NAMES: [&'static str; [$($name),+].len()] = [$($name),+];
        }
    };
}

bounds! {
    Connections "connections_max",
    PerAddress "connections_per_address_max",
    Handshake "handshake_limit",
    Sessions "sessions_max",
    SessionsPerIdentity "sessions_per_identity_max",
    ClientId "client_id_max_bytes",
    Packet "packet_max_bytes",
    Payload "payload_max_bytes",
    Topic "topic_max_bytes",
    Properties "user_properties_max",
    RetainedTopics "retained_topics_per_identity_max",
    Subscriptions "subscriptions_per_session_max",
    Rate "publish_rate_max",
    Receive "receive_max",
    Queues "queues_max_bytes",
    Stuck "stuck_limit",
}

/// How often each bound was reached.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    counts: [AtomicU64; Bound::NAMES.len()],
    /// When a line in the log is due again.
    quiet_until_ms: [AtomicU64; Bound::NAMES.len()],
}

impl Reached {
    /// Counts and says that somebody reached a bound; the log is not the client's to fill.
    pub(crate) fn note(&self, bound: Bound, who: &dyn std::fmt::Display, now_ms: u64) {
        let at = bound as usize;
        let times = self.counts[at].fetch_add(1, Relaxed) + 1;
        let due = self.quiet_until_ms[at].load(SeqCst);
        let quiet_until = now_ms + LOG_PAUSE_MS;
        let first = now_ms >= due
            && self.quiet_until_ms[at].compare_exchange(due, quiet_until, SeqCst, SeqCst).is_ok();
        if first {
            tracing::warn!(limit = Bound::NAMES[at], %who, times, "limit reached");
        }
    }

    pub(crate) fn stats(&self) -> LimitStats {
        LimitStats(std::array::from_fn(|at| self.counts[at].load(Relaxed)))
    }
}

/// Memory that clients make the broker hold, all of them together.
#[derive(Debug, Default)]
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    pub(crate) fn used(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// A part of a budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    pub(crate) fn new(budget: &Arc<Budget>, bytes: usize) -> Self {
        budget.0.fetch_add(bytes, Relaxed);
        Self { budget: budget.clone(), bytes }
    }

    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            *self = Self::new(&self.budget, bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// By what an address is counted. IPv6 counts by network, since everybody there has as many
/// addresses as he likes.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        ip => ip,
    }
}

/// Connections by the address they come from.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place; free again when it is dropped. `None` inside: not counted.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Places>, IpAddr)>);

impl Places {
    /// A place for one more connection from there. This machine is not counted: everything that
    /// runs on it shares the address, and proxies too.
    pub(crate) fn take(self: &Arc<Self>, address: SocketAddr, max: usize) -> Option<Place> {
        let ip = network(address.ip());
        if max == 0 || address.ip().to_canonical().is_loopback() {
            return Some(Place(None));
        }
        let mut places = lock(&self.0);
        let taken = places.entry(ip).or_default();
        if *taken >= max {
            return None;
        }
        *taken += 1;
        Some(Place(Some((self.clone(), ip))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, ip)) = &self.0 else { return };
        let mut places = lock(&places.0);
        if let Some(taken) = places.get_mut(ip) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(ip);
            }
        }
        if places.len() * 4 < places.capacity() {
            places.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_this_machine_as_many_as_it_likes() {
        let places = Arc::new(Places::default());
        let take = |address: &str| places.take(address.parse().unwrap(), 2);
        let (first, second) = (take("192.0.2.1:1"), take("192.0.2.1:2"));
        assert!(first.is_some() && second.is_some());
        assert!(take("192.0.2.1:3").is_none());
        assert!(take("[::ffff:192.0.2.1]:3").is_none(), "the same address in another dress");
        let other = take("192.0.2.2:3");
        assert!(other.is_some());
        drop(first);
        assert!(take("192.0.2.1:3").is_some());
        let networks = [take("[2001:db8::1]:1"), take("[2001:db8::2]:1")];
        assert!(networks.iter().all(Option::is_some));
        assert!(take("[2001:db8::3]:1").is_none());
        let here: Vec<_> = (0..9).map(|_| take("127.0.0.1:1")).collect();
        assert!(here.iter().all(Option::is_some));
        drop((second, other, networks, here));
        assert!(lock(&places.0).is_empty());
    }

    #[test]
    fn what_is_held_is_given_back() {
        let budget = Arc::new(Budget::default());
        let mut held = Held::new(&budget, 10);
        let other = Held::new(&budget, 5);
        held.set(20);
        assert_eq!(budget.used(), 25);
        drop((held, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bounds_are_counted_each_for_itself() {
        let reached = Reached::default();
        reached.note(Bound::Payload, &"me", 1);
        reached.note(Bound::Payload, &"me", 2);
        let counts: Vec<_> = reached.stats().iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [("payload_max_bytes", 2)]);
    }
}

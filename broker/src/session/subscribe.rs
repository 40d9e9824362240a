//! What a client subscribes to.
//!
//! A subscription is entered and its retained messages are taken under the lock that orders
//! retained messages: whatever is published later comes after them, and nothing falls between.

use super::{
    Session,
    connection::{Connection, End},
};
use crate::{
    bounds::Bound,
    codec::{
        Reason,
        control::{Replay, Subscribe, Unsubscribe, Wanted},
        reply::{Granted, subscribed, unsubscribed},
    },
    fanout::Turn,
    lock::{lock, write},
    shared::Shared,
    stats::{add, subtract},
    subscriptions::Options,
    topic::{split_share, valid_filter},
};

impl Connection {
    pub(crate) fn subscribe(&mut self, turn: &mut Turn<'_>, packet: &Subscribe) -> Result<(), End> {
        let mut granted = Vec::with_capacity(packet.filters.len());
        for (count, wanted) in packet.filters.iter().enumerate() {
            let too_many = count >= self.shared.limits.subscriptions_per_session_max;
            granted.push(if too_many { Granted::Quota } else { self.may_subscribe(wanted)? });
        }
        let mut retained = packet.counted.then_some(0);
        // What this client published before belongs before its own retained messages.
        self.fanout.flush(&self.shared);
        lock(&self.session.queue).paused = true;
        for (wanted, granted) in packet.filters.iter().zip(&mut granted) {
            if let Granted::Qos(_) = granted {
                // One filter at a time, so that other publishers get their turn in between.
                turn.keep_order();
                *granted = self.enter(wanted, packet.id, &mut retained);
                self.shared.new_epoch();
                turn.release_order();
            }
        }
        let answer = subscribed(packet.packet_id, &granted, retained, self.version5);
        self.answers.extend_from_slice(&answer);
        let mut queue = lock(&self.session.queue);
        queue.paused = false;
        queue.answers.append(&mut self.answers);
        Ok(())
    }

    fn may_subscribe(&self, wanted: &Wanted) -> Result<Granted, Reason> {
        let parts = split_share(&wanted.filter).filter(|(_, filter)| valid_filter(filter));
        let Some((group, filter)) = parts else { return Ok(Granted::Invalid) };
        if !self.shared.limits.admit_topic(filter) {
            self.shared.reached(Bound::Topic, &self.who.client_id);
            return Ok(Granted::Invalid);
        }
        if group.is_some() && wanted.no_local {
            return Err(Reason::Protocol);
        }
        if self.shared.authority.may_subscribe(&self.who, filter) {
            Ok(Granted::Qos(wanted.qos))
        } else {
            tracing::debug!(client_id = %self.who.client_id, %filter, "subscription refused");
            let told = self.shared.authority.reveals_denials();
            Ok(if told { Granted::NotAuthorized } else { Granted::Unspecified })
        }
    }

    /// Enters one filter and adds its retained messages to the count, if there is one.
    fn enter(&self, wanted: &Wanted, id: u32, retained: &mut Option<usize>) -> Granted {
        let Some((group, filter)) = split_share(&wanted.filter) else { return Granted::Invalid };
        let (shared, session) = (&self.shared, &self.session);
        let options = Options {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            id,
        };
        let is_new = {
            let mut queue = lock(&session.queue);
            let is_new = !queue.subscriptions.contains_key(&*wanted.filter);
            let subscriptions_max = shared.limits.subscriptions_per_session_max;
            let too_many = is_new && queue.subscriptions.len() >= subscriptions_max;
            if too_many || !queue.may_replay(&shared.limits) {
                drop(queue);
                shared.reached(Bound::Subscriptions, &self.who.client_id);
                return Granted::Quota;
            }
            queue.subscriptions.insert(wanted.filter.as_str().into(), options);
            is_new
        };
        write(&shared.tree).insert(group, filter, session, options);
        add(&shared.counters.subscriptions, usize::from(is_new));
        let replay = match wanted.replay {
            _ if group.is_some() => false,
            Replay::Always => true,
            Replay::IfNew => is_new,
            Replay::Never => false,
        };
        if replay {
            let mut found = Vec::new();
            shared.retained.matching(filter, &mut found);
            let mut queue = lock(&session.queue);
            if let Some(count) = retained {
                found.retain(|message| queue.can_take(message, options));
                *count += found.len();
            }
            queue.push_replay(&wanted.filter, found, options, retained.is_some());
        }
        Granted::Qos(wanted.qos)
    }

    pub(crate) fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        packet: &Unsubscribe,
    ) -> Result<(), End> {
        self.fanout.flush(turn.shared);
        let leave = |filter: &String| leave(turn.shared, &self.session, filter);
        let existed: Vec<_> = packet.filters.iter().map(leave).collect();
        let answer = unsubscribed(packet.packet_id, &existed, self.version5);
        self.answers.extend_from_slice(&answer);
        Ok(())
    }
}

/// Ends one subscription; false when there was none.
pub(super) fn leave(shared: &Shared, session: &Session, filter: &str) -> bool {
    {
        let mut queue = lock(&session.queue);
        if queue.subscriptions.remove(filter).is_none() {
            return false;
        }
        if queue.subscriptions.len() * 4 < queue.subscriptions.capacity() {
            queue.subscriptions.shrink_to_fit();
        }
    }
    if let Some((group, filter)) = split_share(filter) {
        write(&shared.tree).remove(group, filter, session.uid);
    }
    subtract(&shared.counters.subscriptions, 1);
    shared.new_epoch();
    true
}

/// Ends all subscriptions of a session.
pub(crate) fn leave_all(shared: &Shared, session: &Session) {
    let filters: Vec<_> = lock(&session.queue).subscriptions.keys().cloned().collect();
    for filter in filters {
        leave(shared, session, &filter);
    }
}

//! What a client subscribes to.
//!
//! A subscription is entered and its retained messages are taken under the lock that orders
//! retained messages: whatever is published later comes after them, and nothing falls between.

use std::sync::Arc;

use super::{
    Session,
    connection::{Connection, End},
};
use crate::{
    codec::{
        Reason,
        control::{Replay, Subscribe, Unsubscribe, Wanted},
        reply::{Granted, subscribed, unsubscribed},
    },
    fanout::Turn,
    lock::{lock, write},
    retained::Retained,
    shared::Shared,
    stats::{add, subtract},
    subscriptions::Options,
    topic::{split_share, valid_filter},
};

impl Connection {
    pub(crate) fn subscribe(&mut self, turn: &mut Turn<'_>, packet: &Subscribe) -> Result<(), End> {
        let mut granted = Vec::with_capacity(packet.filters.len());
        for wanted in &packet.filters {
            granted.push(self.may_subscribe(wanted)?);
        }
        // What this client published before belongs before its own retained messages.
        self.fanout.flush(&self.shared);
        turn.keep_order();
        let mut replays = Vec::new();
        for (wanted, granted) in packet.filters.iter().zip(&mut granted) {
            if let Granted::Qos(_) = granted {
                *granted = self.enter(wanted, packet.id, &mut replays);
            }
        }
        self.shared.new_epoch();
        let answer = subscribed(packet.packet_id, &granted, self.version5);
        self.answers.extend_from_slice(&answer);
        let mut queue = lock(&self.session.queue);
        // Answers go out before replays, so the SUBACK comes first.
        queue.answers.append(&mut self.answers);
        for (messages, options) in replays {
            queue.push_replay(messages, options);
        }
        Ok(())
    }

    fn may_subscribe(&self, wanted: &Wanted) -> Result<Granted, Reason> {
        let parts = split_share(&wanted.filter).filter(|(_, filter)| valid_filter(filter));
        let Some((group, filter)) = parts else { return Ok(Granted::Invalid) };
        if group.is_some() && wanted.no_local {
            return Err(Reason::Protocol);
        }
        if self.shared.authority.may_subscribe(&self.who, filter) {
            Ok(Granted::Qos(wanted.qos))
        } else {
            tracing::debug!(client_id = %self.who.client_id, %filter, "subscription refused");
            Ok(Granted::NotAuthorized)
        }
    }

    fn enter(
        &self,
        wanted: &Wanted,
        id: u32,
        replays: &mut Vec<(Vec<Arc<Retained>>, Options)>,
    ) -> Granted {
        let Some((group, filter)) = split_share(&wanted.filter) else { return Granted::Invalid };
        let (shared, session) = (&self.shared, &self.session);
        let options = Options {
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            id,
        };
        let waiting: usize = replays.iter().map(|(messages, _)| messages.len()).sum();
        let is_new = {
            let mut queue = lock(&session.queue);
            let is_new = !queue.subscriptions.contains_key(&*wanted.filter);
            let subscriptions_max = shared.limits.subscriptions_per_session_max;
            let too_many = is_new && queue.subscriptions.len() >= subscriptions_max;
            if too_many || !queue.may_replay(waiting, &shared.limits) {
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
            replays.push((found, options));
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
fn leave(shared: &Shared, session: &Session, filter: &str) -> bool {
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

//! What becomes of clients and subscriptions when the authority changes its mind.
//!
//! A connection looks after itself between two batches; so a subscription that is being entered is
//! seen too. Sessions without a connection are looked after here.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use super::{
    Session,
    connection::{Connection, End},
    leave::forget,
    subscribe::leave,
};
use crate::{api::Identity, codec::Reason, lock::lock, shared::Shared, topic::split_share};

/// Makes everybody's rights be asked for again.
pub(crate) fn changed(shared: &Shared) {
    shared.rules.fetch_add(1, SeqCst);
    shared.new_epoch();
    for session in lock(&shared.online).values() {
        session.kick.notify_one();
    }
    shared.rules_changed.notify_one();
}

pub(crate) async fn look_after_the_absent(shared: Arc<Shared>) {
    let sessions = lock(&shared.sessions).all();
    for session in sessions {
        // Who is connected does it by itself; who is just leaving did so before the change.
        while !lock(&session.queue).online {
            if let Ok(mut dead) = session.attached.clone().try_lock_owned() {
                look_after(&shared, &session, &mut dead);
                break;
            }
            tokio::task::yield_now().await;
        }
        // Thousands of subscriptions are nobody else's delay.
        tokio::task::yield_now().await;
    }
}

fn look_after(shared: &Arc<Shared>, session: &Arc<Session>, dead: &mut bool) {
    let Some(who) = lock(&session.queue).who.clone().filter(|_| !*dead) else { return };
    if shared.authority.may_stay(&who) {
        give_up_subscriptions(shared, session, &who);
    } else {
        tracing::info!(client_id = %who.client_id, "session ended, it may no longer stay");
        forget(shared, session, dead);
    }
}

/// Ends the subscriptions that are no longer allowed, and their replays.
fn give_up_subscriptions(shared: &Shared, session: &Session, who: &Identity) {
    let filters: Vec<_> = lock(&session.queue).subscriptions.keys().cloned().collect();
    for filter in filters {
        let inner = split_share(&filter).map_or(&*filter, |(_, inner)| inner);
        if !shared.authority.may_subscribe(who, inner) {
            tracing::info!(client_id = %who.client_id, %filter, "subscription ended, no longer allowed");
            leave(shared, session, &filter);
            lock(&session.queue).drop_replays(&filter);
        }
    }
}

impl Connection {
    /// Asks for the client's rights again if the rules have changed since they were settled.
    pub(super) fn follow_rules(&mut self) -> Result<(), End> {
        let rules = self.shared.rules.load(SeqCst);
        if rules == self.rules {
            return Ok(());
        }
        self.rules = rules;
        if !self.shared.authority.may_stay(&self.who) {
            // Nothing is kept for who may not come back.
            self.session_expiry_s = 0;
            return Err(Reason::Administrative.into());
        }
        give_up_subscriptions(&self.shared, &self.session, &self.who);
        Ok(())
    }
}

//! What happens because time passed: keep-alive, stuck readers, delayed wills, expired sessions.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use crate::{
    codec::Reason,
    lock::{lock, try_lock},
    session::{Session, leave::forget, will::publish_delayed},
    shared::Shared,
};

const PERIOD: Duration = Duration::from_millis(250);
/// Idle publishers are woken so often, to let go of sessions that ended.
const SWEEP_TICKS: u32 = 20;

/// When, and which of those at the same moment.
pub(crate) type DeadlineKey = (u64, u64);

/// What is to happen to sessions whose clients are away. A client that returns takes its entries
/// out, so there are never more than two for a session.
pub(crate) type Deadlines = BTreeMap<DeadlineKey, (Deadline, Arc<Session>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// The will is published.
    Will,
    /// The session ends.
    Expiry,
}

impl Deadline {
    pub(crate) fn set(self, shared: &Shared, session: &Arc<Session>, after_s: u32) {
        let key = (shared.now_ms() + u64::from(after_s) * 1000, shared.next_uid());
        lock(&session.queue).deadlines.push(key);
        lock(&shared.deadlines).insert(key, (self, session.clone()));
    }

    pub(crate) fn clear_all(shared: &Shared, session: &Session) {
        let keys = std::mem::take(&mut lock(&session.queue).deadlines);
        let mut deadlines = lock(&shared.deadlines);
        for key in keys {
            deadlines.remove(&key);
        }
    }
}

/// Looks after time until the broker ends.
pub(crate) async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut tick, mut swept) = (0u32, 0);
    loop {
        tokio::select! {
            () = shared.ending() => return,
            _ = ticks.tick() => {}
        }
        tick = tick.wrapping_add(1);
        if tick.is_multiple_of(SWEEP_TICKS) {
            sweep_routes(&shared, &mut swept);
        }
        check_connections(&shared);
        while let Some((deadline, session)) = next_due(&shared) {
            act(&shared, deadline, &session);
        }
    }
}

fn check_connections(shared: &Shared) {
    let now_ms = shared.now_ms();
    let stuck_limit_ms = shared.limits.stuck_limit.as_millis() as u64;
    let online: Vec<_> = lock(&shared.online).values().cloned().collect();
    for session in online {
        let silence_limit_ms = session.silence_limit_ms.load(SeqCst);
        let ticket = session.ticket.load(SeqCst);
        let listens = silence_limit_ms > 0 && !session.unread.load(SeqCst);
        if listens && now_ms > session.seen_ms.load(SeqCst) + silence_limit_ms {
            session.end(ticket, Reason::KeepAlive);
            continue;
        }
        let blocked = try_lock(&session.io).is_some_and(|io| io.blocked);
        let owes = blocked || session.full.load(SeqCst);
        if owes && now_ms > session.progress_ms.load(SeqCst) + stuck_limit_ms {
            session.end(ticket, Reason::Quota);
        }
    }
}

fn sweep_routes(shared: &Shared, swept: &mut u64) {
    let epoch = shared.epoch.load(SeqCst);
    if std::mem::replace(swept, epoch) == epoch {
        return;
    }
    lock(&shared.host).routes.forget_if_stale(shared);
    for session in lock(&shared.online).values() {
        session.kick.notify_one();
    }
}

fn next_due(shared: &Shared) -> Option<(Deadline, Arc<Session>)> {
    let mut deadlines = lock(&shared.deadlines);
    let (key, _) = deadlines.first_key_value()?;
    if key.0 > shared.now_ms() {
        return None;
    }
    let (key, due) = deadlines.pop_first()?;
    drop(deadlines);
    let mut queue = lock(&due.1.queue);
    let at = queue.deadlines.iter().position(|known| *known == key);
    match at {
        Some(at) => drop(queue.deadlines.swap_remove(at)),
        // The client returned between the two locks.
        None => return None,
    }
    drop(queue);
    Some(due)
}

fn act(shared: &Arc<Shared>, deadline: Deadline, session: &Arc<Session>) {
    match deadline {
        Deadline::Will => publish_delayed(shared, session),
        Deadline::Expiry => {
            // Held by somebody: the client has just returned.
            if let Ok(mut dead) = session.attached.clone().try_lock_owned()
                && lock(&session.queue).deadlines.is_empty()
            {
                tracing::debug!(client_id = %session.id, "session expired");
                forget(shared, session, &mut dead);
            }
        }
    }
}

//! What happens because time passed: keep-alive, stuck readers, delayed wills, expired sessions.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use crate::{
    bounds::Bound,
    codec::Reason,
    lock::{lock, try_lock},
    session::{Session, leave::forget, rules::look_after_the_absent, will::publish_delayed},
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
            () = shared.rules_changed.notified() => {
                shared.tasks.spawn(look_after_the_absent(shared.clone()));
                continue;
            }
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
        let listens = silence_limit_ms > 0 && !session.unread.load(SeqCst);
        if listens && now_ms > session.seen_ms.load(SeqCst) + silence_limit_ms {
            session.end_present(Reason::KeepAlive);
            continue;
        }
        let blocked = try_lock(&session.io).is_some_and(|io| io.blocked);
        let owes = blocked || session.full.load(SeqCst);
        if owes && now_ms > session.progress_ms.load(SeqCst) + stuck_limit_ms {
            shared.reached(Bound::Stuck, &session.key.client_id);
            session.end_present(Reason::Quota);
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
                tracing::debug!(client_id = %session.key.client_id, "session expired");
                forget(shared, session, &mut dead);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::connect::Will,
        settings::Limits,
        shared::Phase,
        testing::{Bench, identity},
    };

    fn will() -> Will {
        Will {
            topic: "will".into(),
            payload: "gone".into(),
            qos: 0,
            retain: false,
            properties: Default::default(),
            expiry_s: None,
            delay_s: 5,
        }
    }

    async fn advance(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_too_long_is_ended_and_who_is_not_read_from_is_not() {
        let bench = Bench::new(Limits::default());
        let (silent, unread) = (bench.session("silent"), bench.session("unread"));
        silent.silence_limit_ms.store(1500, SeqCst);
        unread.silence_limit_ms.store(1500, SeqCst);
        unread.unread.store(true, SeqCst);
        bench.shared.tasks.spawn(keep_house(bench.shared.clone()));
        advance(1).await;
        assert_eq!(silent.ending(1), None);
        advance(1).await;
        assert_eq!(silent.ending(1), Some(Reason::KeepAlive));
        assert_eq!(unread.ending(1), None);
        bench.shared.enter(Phase::Ended);
        bench.shared.tasks.all_ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_progress_too_long_is_ended() {
        let bench = Bench::new(Limits::default());
        let stuck = bench.session("stuck");
        stuck.full.store(true, SeqCst);
        bench.shared.tasks.spawn(keep_house(bench.shared.clone()));
        advance(9).await;
        assert_eq!(stuck.ending(1), None);
        advance(2).await;
        assert_eq!(stuck.ending(1), Some(Reason::Quota));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_expires_with_its_subscriptions_after_its_delayed_will() {
        let bench = Bench::new(Limits::default());
        let session = bench.session("away");
        bench.subscribe(&session, "a/b", crate::testing::OPTIONS);
        bench.shared.counters.subscriptions.store(1, SeqCst);
        lock(&session.queue).go_offline();
        lock(&session.queue).delayed_will = Some((will(), identity("away")));
        Deadline::Will.set(&bench.shared, &session, 5);
        Deadline::Expiry.set(&bench.shared, &session, 10);
        bench.shared.tasks.spawn(keep_house(bench.shared.clone()));
        advance(6).await;
        assert_eq!(*lock(&bench.host.0), ["away will"]);
        assert_eq!(lock(&bench.shared.sessions).len(), 1);
        advance(5).await;
        assert_eq!(lock(&bench.shared.sessions).len(), 0);
        assert!(crate::lock::read(&bench.shared.tree).is_empty());
        assert!(lock(&bench.shared.deadlines).is_empty());
        assert_eq!(bench.shared.counters.stats().subscriptions, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_returns_takes_its_deadlines_out() {
        let bench = Bench::new(Limits::default());
        let session = bench.session("back");
        for _ in 0..1000 {
            Deadline::Expiry.set(&bench.shared, &session, 10);
            Deadline::clear_all(&bench.shared, &session);
        }
        assert!(lock(&bench.shared.deadlines).is_empty());
        bench.shared.tasks.spawn(keep_house(bench.shared.clone()));
        advance(20).await;
        assert_eq!(lock(&bench.shared.sessions).len(), 1);
    }
}

//! How a client that was let in comes to its session.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use bytes::BytesMut;
use tokio::sync::OwnedMutexGuard;

use super::{
    Session,
    acks::{AckForm, Acks},
    aliases::Aliases,
    connection::Connection,
    deliver::Io,
    pace::Pace,
    queue::Owed,
    sessions::Key,
    subscribe::leave_all,
    will,
};
use crate::{
    api::Identity,
    arrivals::Turnstile,
    bounds::Held,
    codec::{
        Reason,
        connect::Connect,
        reply::{Terms, welcome},
    },
    fanout::Fanout,
    housekeeping::Deadline,
    lock::lock,
    settings::Limits,
    shared::Shared,
    stream::Stream,
};

/// Finds or makes the session and waits until a former connection has left it.
///
/// Who waits here may be late: a still newer connection has a higher ticket by then. It is let in
/// all the same and ends by itself at once, so that there is one way out only.
///
/// The session is one of the user's own: nobody else comes to it, whatever his client id.
pub(super) async fn attach(
    shared: &Shared,
    client_id: &str,
    who: Arc<Identity>,
    rules: u64,
) -> Result<Attached, Reason> {
    loop {
        let key = Key::new(who.user.as_deref(), client_id);
        let (uid, limits) = (shared.next_uid(), &shared.limits);
        let found = lock(&shared.sessions).find_or_make(key, &who, uid, limits);
        let session = found.map_err(|(bound, holder)| {
            shared.reached(bound, &holder);
            Reason::Quota
        })?;
        let ticket = session.ticket.fetch_add(1, SeqCst) + 1;
        session.kick.notify_one();
        let guard = session.attached.clone().lock_owned().await;
        if !*guard {
            return Ok(Attached { session, who, rules, ticket, guard });
        }
    }
}

/// A session that is ours from here on. No await may come between this and the connection's life.
#[derive(Debug)]
pub(super) struct Attached {
    session: Arc<Session>,
    who: Arc<Identity>,
    rules: u64,
    ticket: u64,
    guard: OwnedMutexGuard<bool>,
}

impl Attached {
    pub(super) fn into_connection(
        self,
        shared: &Arc<Shared>,
        stream: &Arc<Stream>,
        connect: Connect<'_>,
        assigned: Option<String>,
    ) -> Connection {
        let Self { session, who, rules, ticket, guard } = self;
        let (version5, limits) = (connect.version5, &shared.limits);
        let packet_max_bytes = connect.packet_max_bytes as usize;
        let session_expiry_s = match (version5, connect.clean_start) {
            (true, _) => connect.session_expiry_s.min(shared.session_expiry_max_s()),
            (false, true) => 0,
            (false, false) => shared.session_expiry_max_s(),
        };
        let session_present = take_over_state(shared, &session, &who, connect.clean_start);
        let keep_alive_s = keep_alive_s(&connect, limits);
        let terms = Terms {
            keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            assigned_client_id: assigned,
            session_expiry_s: (connect.session_expiry_s != session_expiry_s)
                .then_some(session_expiry_s),
            packet_max_bytes: u32::try_from(limits.packet_max_bytes + 5).unwrap_or(u32::MAX),
            receive_maximum: limits.receive_max,
            topic_alias_maximum: limits.topic_alias_max,
        };
        let owed = Owed {
            version5,
            receive_maximum: limits.inflight_max.min(connect.receive_maximum.into()),
            packet_max_bytes,
        };
        lock(&session.queue).aliases =
            Aliases::new(limits.topic_alias_max.min(connect.topic_alias_maximum));
        go_online(shared, &session, ticket, owed, welcome(session_present, version5, terms));
        session.silence_limit_ms.store(u64::from(keep_alive_s) * 1500, SeqCst);
        *lock(&session.io) = Io::new(stream.clone());
        lock(&shared.online).insert(session.uid, session.clone());
        let problem_information = connect.problem_information;
        Connection {
            shared: shared.clone(),
            stream: stream.clone(),
            turnstile: Turnstile::new(shared.arrivals.clone()),
            ticket,
            rules,
            attached: guard,
            version5,
            will: connect.will,
            session_expiry_s,
            fanout: Fanout::new(session.uid, false),
            acks: Acks::new(AckForm { version5, problem_information, packet_max_bytes }),
            aliases: HashMap::new(),
            partial: BytesMut::new(),
            input: Held::new(&shared.budget, 0),
            pace: Pace::default(),
            scanned: 0,
            answers: Vec::new(),
            client_acks: Vec::new(),
            draining: false,
            held: false,
            ended: false,
            session,
            who,
        }
    }
}

/// Only a version 5 client can be told to use another keep-alive.
fn keep_alive_s(connect: &Connect<'_>, limits: &Limits) -> u16 {
    match (connect.keep_alive_s, limits.keep_alive_max_s) {
        (asked, max) if connect.version5 && max > 0 && (asked == 0 || asked > max) => max,
        (asked, _) => asked,
    }
}

/// Comes back to what the session holds, or begins anew; true when there is something.
fn take_over_state(
    shared: &Arc<Shared>,
    session: &Session,
    who: &Arc<Identity>,
    clean_start: bool,
) -> bool {
    Deadline::clear_all(shared, session);
    if clean_start {
        // The former session ends here, and with it the wait of its will.
        will::publish_delayed(shared, session);
        leave_all(shared, session);
        let mut queue = lock(&session.queue);
        queue.clear();
        queue.who = Some(who.clone());
        return false;
    }
    let mut queue = lock(&session.queue);
    queue.delayed_will = None;
    queue.who = Some(who.clone());
    queue.known
}

fn go_online(shared: &Shared, session: &Session, ticket: u64, owed: Owed, welcome: Vec<u8>) {
    let now_ms = shared.now_ms();
    session.seen_ms.store(now_ms, SeqCst);
    session.progress_ms.store(now_ms, SeqCst);
    session.full.store(false, SeqCst);
    let mut queue = lock(&session.queue);
    let other_form = queue.owed.version5 != owed.version5 && !queue.subscriptions.is_empty();
    queue.answers = welcome;
    queue.inflight.restart();
    queue.ticket = ticket;
    queue.owed = owed;
    queue.online = true;
    queue.known = true;
    drop(queue);
    if other_form {
        shared.new_epoch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::connect,
        testing::{Bench, OPTIONS, identity},
    };

    fn user(name: &str) -> Arc<Identity> {
        Arc::new(Identity { user: Some(name.into()), ..(*identity("id")).clone() })
    }

    fn connect(version5: bool, keep_alive: u16) -> Vec<u8> {
        let [high, low] = keep_alive.to_be_bytes();
        let head = [0, 4, b'M', b'Q', b'T', b'T', if version5 { 5 } else { 4 }, 2, high, low];
        [&head[..], if version5 { &[0, 0, 0][..] } else { &[0, 0] }].concat()
    }

    #[test]
    fn only_who_can_be_told_gets_another_keep_alive() {
        let limits = Limits { keep_alive_max_s: 60, ..Limits::default() };
        for (version5, asked, given) in
            [(true, 0, 60), (true, 61, 60), (true, 30, 30), (false, 0, 0), (false, 61, 61)]
        {
            let body = connect(version5, asked);
            assert_eq!(keep_alive_s(&connect::parse(&body).unwrap(), &limits), given);
        }
        let body = connect(true, 0);
        assert_eq!(keep_alive_s(&connect::parse(&body).unwrap(), &Limits::default()), 0);
    }

    #[test]
    fn who_comes_back_finds_his_session_unless_he_begins_anew() {
        let bench = Bench::new(Limits::default());
        let session = bench.session("id");
        let come = |clean| take_over_state(&bench.shared, &session, &identity("id"), clean);
        assert!(!come(false));
        lock(&session.queue).known = true;
        bench.subscribe(&session, "a", OPTIONS);
        bench.shared.counters.subscriptions.store(1, SeqCst);
        assert!(come(false));
        assert_eq!(lock(&session.queue).subscriptions.len(), 1);
        assert!(!come(true));
        assert_eq!(lock(&session.queue).subscriptions.len(), 0);
        assert!(crate::lock::read(&bench.shared.tree).is_empty());
    }

    #[tokio::test]
    async fn who_comes_to_a_session_that_just_ended_gets_a_new_one() {
        let bench = Bench::new(Limits { sessions_max: 1, ..Limits::default() });
        let come = |id: &'static str| {
            let shared = bench.shared.clone();
            async move { attach(&shared, id, identity(id), 0).await }
        };
        let Attached { session: first, ticket, mut guard, .. } = come("id").await.unwrap();
        assert_eq!(come("other").await.unwrap_err(), Reason::Quota);
        let waiting = tokio::spawn(come("id"));
        first.kick.notified().await;
        first.kick.notified().await;
        assert_eq!(first.ending(ticket), Some(Reason::TakenOver));
        crate::session::leave::forget(&bench.shared, &first, &mut guard);
        drop(guard);
        let second = waiting.await.unwrap().unwrap().session;
        assert_ne!(first.uid, second.uid);
    }

    #[tokio::test]
    async fn two_users_with_one_client_id_never_meet() {
        let bench = Bench::new(Limits::default());
        let come = |who| attach(&bench.shared, "id", who, 0);
        let anna = come(user("anna")).await.unwrap();
        for other in [user("bert"), identity("id")] {
            let other = come(other).await.unwrap();
            assert_ne!(other.session.uid, anna.session.uid);
        }
        assert_eq!(anna.session.ending(anna.ticket), None, "who is there stays");
        let (session, ticket) = (anna.session.clone(), anna.ticket);
        drop(anna);
        let again = come(user("anna")).await.unwrap();
        assert_eq!(again.session.uid, session.uid);
        assert_eq!(session.ending(ticket), Some(Reason::TakenOver));
    }
}

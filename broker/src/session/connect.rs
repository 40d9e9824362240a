//! How a client gets in: CONNECT, authentication, its session.
//!
//! Every connection does this in its own task and within one time limit, so a silent one delays
//! nobody.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::Shutdown,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use bytes::BytesMut;
use tokio::sync::OwnedMutexGuard;

use super::{
    Session,
    acks::{AckForm, Acks},
    connection::{Connection, End, caught},
    deliver::Io,
    leave::linger,
    queue::Owed,
    subscribe::leave_all,
    will,
};
use crate::{
    api::{ConnectRefused, Credentials, Identity},
    codec::{
        Reason,
        connect::{self, Connect},
        frame::first_frame,
        reply::{Terms, unwelcome, welcome},
    },
    fanout::Fanout,
    housekeeping::Deadline,
    lock::lock,
    settings::Limits,
    shared::Shared,
    stats::add,
    stream::{Peer, Stream},
};

/// Longest CONNECT. Nobody is known yet, so it is less than other packets may have.
const CONNECT_MAX_BYTES: usize = 256 * 1024;

/// Serves one client from its first byte to its last.
pub(crate) async fn serve(shared: Arc<Shared>, stream: Stream, peer: Peer) {
    let stream = Arc::new(stream);
    // Boxed, so that a connection at rest does not carry the room the handshake needed.
    let Some((connection, early)) = Box::pin(let_in(&shared, &stream, &peer)).await else {
        return;
    };
    if live_and_leave(connection, early).await {
        Box::pin(linger(&shared, &stream)).await;
    }
}

/// True: the client should be let read a last packet.
async fn live_and_leave(mut connection: Box<Connection>, early: Vec<u8>) -> bool {
    let end = caught(connection.live(early)).await.unwrap_or_else(|| {
        tracing::error!(client_id = %connection.who.client_id, "a connection panicked");
        End::Because(Reason::Implementation)
    });
    connection.leave(end)
}

/// The handshake within its time limit; `None` when the client does not get in.
async fn let_in(
    shared: &Arc<Shared>,
    stream: &Arc<Stream>,
    peer: &Peer,
) -> Option<(Box<Connection>, Vec<u8>)> {
    let (handshake, address) = (handshake(shared, stream, peer), peer.address);
    let connected = tokio::select! {
        () = shared.ending() => return None,
        connected = tokio::time::timeout_at(peer.deadline, handshake) => connected,
    };
    let refused = match connected {
        Ok(Ok((connection, early))) => return Some((Box::new(connection), early)),
        Ok(Err(refused)) => refused,
        Err(_) => {
            tracing::debug!(%address, "no connect in time");
            None
        }
    };
    add(&shared.counters.connections_refused, 1);
    if let Some(Refused { reason, version5 }) = refused {
        tracing::info!(%address, ?reason, "connection refused");
        let _ = stream.try_write(&unwelcome(reason, version5));
        stream.shutdown(Shutdown::Write);
        linger(shared, stream).await;
    }
    None
}

/// What a client is told that does not get in.
#[derive(Debug, Clone, Copy)]
struct Refused {
    reason: Reason,
    version5: bool,
}

/// `Err(None)`: the client is gone.
async fn handshake(
    shared: &Arc<Shared>,
    stream: &Arc<Stream>,
    peer: &Peer,
) -> Result<(Connection, Vec<u8>), Option<Refused>> {
    let (mut bytes, frame) = read_connect(shared, stream).await?;
    let early = bytes.split_off(frame.end);
    let body = &bytes[frame.body..];
    let version5 = connect::asks_version5(body);
    let refuse = |reason| Some(Refused { reason, version5 });
    if bytes[0] & 15 != 0 {
        return Err(refuse(Reason::Malformed));
    }
    let connect = connect::parse(body).map_err(refuse)?;
    if connect.extended_auth {
        return Err(refuse(Reason::AuthMethod));
    }
    let assigned = assigned_id(shared, &connect).map_err(refuse)?;
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let who = authenticate(shared, &connect, client_id, peer).await.map_err(refuse)?;
    if let Some(will) = &connect.will
        && !shared.authority.may_publish(&who, &will.topic)
    {
        return Err(refuse(Reason::NotAuthorized));
    }
    let (session, ticket, attached) = attach(shared, client_id).await.map_err(refuse)?;
    let attached = Attached { session, ticket, guard: attached };
    Ok((attached.into_connection(shared, stream, who, connect, assigned), early))
}

async fn read_connect(
    shared: &Shared,
    stream: &Stream,
) -> Result<(Vec<u8>, crate::codec::frame::Frame), Option<Refused>> {
    let mut bytes = Vec::new();
    loop {
        let read = std::future::poll_fn(|context| {
            stream.poll_read(context, |more| bytes.extend_from_slice(more))
        });
        if !matches!(read.await, Ok(Some(()))) {
            return Err(None);
        }
        if bytes[0] >> 4 != 1 {
            // Whatever this is, it does not speak MQTT: no answer.
            return Err(None);
        }
        match first_frame(&bytes, shared.limits.packet_max_bytes.min(CONNECT_MAX_BYTES)) {
            Ok(Some(frame)) => return Ok((bytes, frame)),
            Ok(None) => {}
            Err(_) => return Err(None),
        }
    }
}

fn assigned_id(shared: &Shared, connect: &Connect<'_>) -> Result<Option<String>, Reason> {
    if !connect.client_id.is_empty() {
        return Ok(None);
    }
    if !connect.version5 && !connect.clean_start {
        return Err(Reason::ClientId);
    }
    // Not to be guessed, so that nobody takes the session over.
    let random = RandomState::new().hash_one(shared.next_uid());
    Ok(Some(format!("auto-{random:016x}{:x}", shared.next_uid())))
}

async fn authenticate(
    shared: &Shared,
    connect: &Connect<'_>,
    client_id: &str,
    peer: &Peer,
) -> Result<Arc<Identity>, Reason> {
    let (user, password) = (connect.user, connect.password);
    let (certificate, address) = (peer.certificate.as_deref(), peer.address);
    let credentials = Credentials { client_id, user, password, certificate, address };
    shared.authority.authenticate(credentials).await.map_err(|refused| match refused {
        ConnectRefused::BadCredentials => Reason::Credentials,
        ConnectRefused::NotAuthorized => Reason::NotAuthorized,
        ConnectRefused::ClientId => Reason::ClientId,
        ConnectRefused::Banned => Reason::Banned,
        ConnectRefused::Unavailable => Reason::Unavailable,
    })
}

/// Finds or makes the session and waits until a former connection has left it.
///
/// Who waits here may be late: a still newer connection has a higher ticket by then. It is let in
/// all the same and ends by itself at once, so that there is one way out only.
async fn attach(
    shared: &Shared,
    client_id: &str,
) -> Result<(Arc<Session>, u64, OwnedMutexGuard<bool>), Reason> {
    loop {
        let session = {
            let mut sessions = lock(&shared.sessions);
            match sessions.get(client_id) {
                Some(session) => session.clone(),
                None if sessions.len() >= shared.limits.sessions_max => return Err(Reason::Quota),
                None => {
                    let session = Arc::new(Session::new(client_id.into(), shared.next_uid()));
                    sessions.insert(client_id.into(), session.clone());
                    session
                }
            }
        };
        let ticket = session.ticket.fetch_add(1, SeqCst) + 1;
        session.kick.notify_one();
        let guard = session.attached.clone().lock_owned().await;
        if !*guard {
            return Ok((session, ticket, guard));
        }
    }
}

/// A session that is ours from here on. No await may come between this and the connection's life.
struct Attached {
    session: Arc<Session>,
    ticket: u64,
    guard: OwnedMutexGuard<bool>,
}

impl Attached {
    fn into_connection(
        self,
        shared: &Arc<Shared>,
        stream: &Arc<Stream>,
        who: Arc<Identity>,
        connect: Connect<'_>,
        assigned: Option<String>,
    ) -> Connection {
        let Self { session, ticket, guard } = self;
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
        go_online(shared, &session, ticket, owed, welcome(session_present, version5, terms));
        session.silence_limit_ms.store(u64::from(keep_alive_s) * 1500, SeqCst);
        *lock(&session.io) = Io::new(stream.clone());
        lock(&shared.online).insert(session.uid, session.clone());
        let problem_information = connect.problem_information;
        Connection {
            shared: shared.clone(),
            stream: stream.clone(),
            ticket,
            attached: guard,
            version5,
            will: connect.will,
            session_expiry_s,
            fanout: Fanout::new(session.uid, false),
            acks: Acks::new(AckForm { version5, problem_information, packet_max_bytes }),
            aliases: HashMap::new(),
            partial: BytesMut::new(),
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
    who: &Identity,
    clean_start: bool,
) -> bool {
    Deadline::clear_all(shared, session);
    let foreign = {
        let queue = lock(&session.queue);
        queue.known && queue.user != who.user
    };
    if clean_start || foreign {
        // The former session ends here, and with it the wait of its will.
        will::publish_delayed(shared, session);
        leave_all(shared, session);
        let mut queue = lock(&session.queue);
        queue.clear();
        queue.user.clone_from(&who.user);
        return false;
    }
    let mut queue = lock(&session.queue);
    queue.delayed_will = None;
    queue.user.clone_from(&who.user);
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
    use crate::testing::{Bench, OPTIONS, identity};

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
    fn another_user_with_the_same_client_id_does_not_inherit_the_session() {
        let bench = Bench::new(Limits::default());
        let session = bench.session("id");
        let user = |name: &str| Identity { user: Some(name.into()), ..(*identity("id")).clone() };
        let come = |name: &str, clean| take_over_state(&bench.shared, &session, &user(name), clean);
        assert!(!come("anna", false));
        lock(&session.queue).known = true;
        bench.subscribe(&session, "a", OPTIONS);
        bench.shared.counters.subscriptions.store(1, SeqCst);
        assert!(come("anna", false));
        assert_eq!(lock(&session.queue).subscriptions.len(), 1);
        assert!(!come("bert", false));
        assert_eq!(lock(&session.queue).subscriptions.len(), 0);
        assert!(crate::lock::read(&bench.shared.tree).is_empty());
        lock(&session.queue).known = true;
        assert!(come("bert", false));
        assert!(!come("bert", true), "a clean start begins anew");
    }

    #[tokio::test]
    async fn who_comes_to_a_session_that_just_ended_gets_a_new_one() {
        let bench = Bench::new(Limits { sessions_max: 1, ..Limits::default() });
        let (first, ticket, mut guard) = attach(&bench.shared, "id").await.unwrap();
        assert_eq!(attach(&bench.shared, "other").await.unwrap_err(), Reason::Quota);
        let shared = bench.shared.clone();
        let waiting = tokio::spawn(async move { attach(&shared, "id").await.map(|a| a.0) });
        first.kick.notified().await;
        first.kick.notified().await;
        assert_eq!(first.ending(ticket), Some(Reason::TakenOver));
        crate::session::leave::forget(&bench.shared, &first, &mut guard);
        drop(guard);
        let second = waiting.await.unwrap().unwrap();
        assert_ne!(first.uid, second.uid);
    }
}

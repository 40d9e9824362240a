//! How a client gets in: CONNECT, authentication, its session.
//!
//! Every connection does this in its own task and within one time limit, so a silent one delays
//! nobody.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::Shutdown,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use super::{
    attach::attach,
    connection::{Connection, End, caught},
    leave::linger,
};
use crate::{
    api::{ConnectRefused, Credentials, Identity},
    bounds::Bound,
    codec::{
        Reason,
        connect::{self, Connect},
        frame::first_frame,
        reply::unwelcome,
    },
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
            shared.reached(Bound::Handshake, &address.ip());
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
    if connect.client_id.len() > shared.limits.client_id_max_bytes {
        shared.reached(Bound::ClientId, &peer.address.ip());
        return Err(refuse(Reason::ClientId));
    }
    let assigned = assigned_id(shared, &connect).map_err(refuse)?;
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    // Before the authority is asked: what changes from here on is noticed later.
    let rules = shared.rules.load(SeqCst);
    let who = authenticate(shared, &connect, client_id, peer).await.map_err(refuse)?;
    if let Some(will) = &connect.will
        && !shared.authority.may_publish(&who, &will.topic)
    {
        return Err(refuse(Reason::NotAuthorized));
    }
    let attached = attach(shared, client_id, who, rules).await.map_err(refuse)?;
    Ok((attached.into_connection(shared, stream, connect, assigned), early))
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

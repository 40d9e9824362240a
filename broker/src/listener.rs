//! Lets connections in, each into its own task: whatever a client has to do before it speaks MQTT
//! it does there, within one time limit, so that a silent one delays nobody.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::{
    bounds::{Bound, Place},
    carry::{carry_bytes, serve_over},
    lock::lock,
    session::connect::serve,
    settings::{Listen, StartError},
    shared::Shared,
    stats::add,
    stream::{Peer, Stream, no_delay},
    websocket,
};

/// Connections the system keeps until they are accepted.
const BACKLOG: u32 = 4096;

/// Opens an address.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Otherwise connections of a former run keep the port for a minute.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| StartError::Listen { address, source })
}

/// Accepts until the broker ends; the port is free when this is over.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, how: Listen) {
    let mut ending = std::pin::pin!(shared.ending());
    loop {
        let accepted = tokio::select! {
            () = &mut ending => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => admit(&shared, stream, address, &how),
            Err(error) => {
                // Usually out of file descriptors: waiting gives others time to close.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr, how: &Listen) {
    let Some(connection) = Counted::admit(shared, address) else { return };
    let (served, peer) = (shared.clone(), Peer::new(shared, address));
    if how.tls.is_none() && !how.websocket {
        shared.tasks.spawn(async move {
            let _connection = connection;
            serve(served, Stream::tcp(stream), peer).await;
        });
        return;
    }
    let how = how.clone();
    shared.tasks.spawn(async move {
        let _connection = connection;
        no_delay(&stream);
        secure(served, stream, peer, how).await;
    });
}

/// TLS, if it is to be.
async fn secure(shared: Arc<Shared>, stream: TcpStream, mut peer: Peer, how: Listen) {
    let Some(tls) = how.tls else { return frame(shared, stream, peer, how.websocket).await };
    let Some(secured) = in_time(&shared, &peer, tls.accept(stream)).await else { return };
    peer.certificate = secured.client;
    frame(shared, secured.stream, peer, how.websocket).await;
}

/// WebSocket, if it is to be.
async fn frame<T>(shared: Arc<Shared>, stream: T, peer: Peer, websocket: bool)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if !websocket {
        return serve_over(shared, peer, |far| carry_bytes(stream, far)).await;
    }
    let accepted = websocket::accept(stream, shared.limits.packet_max_bytes);
    let Some(socket) = in_time(&shared, &peer, accepted).await else { return };
    serve_over(shared, peer, |far| websocket::carry_frames(socket, far)).await;
}

/// Waits for one step of the way in; `None` when the client does not manage it.
async fn in_time<T, E: std::fmt::Display>(
    shared: &Shared,
    peer: &Peer,
    step: impl Future<Output = Result<T, E>>,
) -> Option<T> {
    let step = tokio::select! {
        () = shared.ending() => return None,
        step = timeout_at(peer.deadline, Box::pin(step)) => step,
    };
    match step {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(error)) => tracing::debug!(address = %peer.address, %error, "handshake failed"),
        Err(_) => shared.reached(Bound::Handshake, &peer.address.ip()),
    }
    add(&shared.counters.connections_refused, 1);
    None
}

/// Serves a WebSocket whose HTTP part the host has done.
pub(crate) fn admit_websocket<T>(
    shared: &Arc<Shared>,
    stream: T,
    address: SocketAddr,
    certificate: Option<Box<str>>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(connection) = Counted::admit(shared, address) else { return };
    let peer = Peer { certificate, ..Peer::new(shared, address) };
    let served = shared.clone();
    shared.tasks.spawn(async move {
        let _connection = connection;
        let socket = websocket::upgraded(stream, served.limits.packet_max_bytes).await;
        serve_over(served, peer, |far| websocket::carry_frames(socket, far)).await;
    });
}

impl Peer {
    fn new(shared: &Shared, address: SocketAddr) -> Self {
        let deadline = Instant::now() + shared.limits.handshake_limit;
        Self { address, certificate: None, deadline }
    }
}

/// A connection that counts as long as it is open.
struct Counted {
    shared: Arc<Shared>,
    _place: Option<Place>,
}

impl Counted {
    /// `None` when there is no place for one more.
    fn admit(shared: &Arc<Shared>, address: SocketAddr) -> Option<Self> {
        add(&shared.counters.connections_total, 1);
        *lock(&shared.open) += 1;
        let place = shared.places.take(address, shared.limits.connections_per_address_max);
        let crowded = place.is_none();
        let connection = Self { shared: shared.clone(), _place: place };
        let bound = if *lock(&shared.open) > shared.limits.connections_max {
            Bound::Connections
        } else if crowded {
            Bound::PerAddress
        } else {
            return Some(connection);
        };
        add(&shared.counters.connections_refused, 1);
        shared.reached(bound, &address.ip());
        None
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *lock(&self.shared.open) -= 1;
    }
}

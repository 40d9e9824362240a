//! Lets connections in, each into its own task.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::{
    lock::lock, session::connect::serve, settings::StartError, shared::Shared, stats::add,
    stream::Stream,
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
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut ending = std::pin::pin!(shared.ending());
    loop {
        let accepted = tokio::select! {
            () = &mut ending => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => admit(&shared, stream, address),
            Err(error) => {
                // Usually out of file descriptors: waiting gives others time to close.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr) {
    add(&shared.counters.connections_total, 1);
    let connection = Counted::new(shared);
    if *lock(&shared.open) > shared.limits.connections_max {
        add(&shared.counters.connections_refused, 1);
        tracing::debug!(%address, "too many connections");
        return;
    }
    let served = shared.clone();
    shared.tasks.spawn(async move {
        let _connection = connection;
        serve(served, Stream::tcp(stream), address).await;
    });
}

/// A connection that counts as long as it is open.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        *lock(&shared.open) += 1;
        Self(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *lock(&self.0.open) -= 1;
    }
}

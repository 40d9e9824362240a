//! The house server: a small IRC network of the hub's own, so that a fresh machine has one.
//!
//! It keeps nothing, links to nobody and has no operators. Everything a client can make it hold
//! is bounded: clients, channels, members, line lengths and the lines that wait for a slow reader.

mod client;
mod query;
mod register;
mod state;
mod talk;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info, warn};

use crate::name::{Channel, NetworkName};
use state::State;

/// How long a client may take to read the last line at shutdown.
const FAREWELL: Duration = Duration::from_secs(2);
/// Pause after a failed accept: it fails again at once while the machine is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the house server allows.
#[derive(Clone, Debug)]
pub struct HouseLimits {
    /// Clients at once.
    pub clients_max: usize,
    /// Channels at once, the configured one included.
    pub channels_max: usize,
    /// Channels of one client.
    pub channels_per_client: usize,
    /// Lines that may wait for a client that does not read; one more and it is disconnected.
    pub waiting_lines_max: usize,
    /// Longest line of a client in bytes, without its end.
    pub line_max_bytes: usize,
    /// Lines a client may send at once; then one each `line_every`. It is slowed, not thrown out.
    pub lines_burst: u32,
    /// See `lines_burst`.
    pub line_every: Duration,
    /// Time until NICK and USER must have come.
    pub registration: Duration,
    /// Silence after which a client is asked with PING.
    pub ping_idle: Duration,
    /// Time it has to answer, or to read what is written to it.
    pub ping_answer: Duration,
}

impl Default for HouseLimits {
    fn default() -> Self {
        Self {
            clients_max: 128,
            channels_max: 32,
            channels_per_client: 16,
            waiting_lines_max: 1_000,
            line_max_bytes: 1_024,
            lines_burst: 20,
            line_every: Duration::from_millis(100),
            registration: Duration::from_secs(30),
            ping_idle: Duration::from_secs(90),
            ping_answer: Duration::from_secs(30),
        }
    }
}

/// Why the house server did not start.
#[derive(Debug, thiserror::Error)]
pub enum HouseError {
    /// The address is taken, or not ours.
    #[error("the irc server could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The running server; dropping it ends it at once.
#[derive(Debug)]
pub struct House {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl House {
    /// Listens and serves until it is shut down.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(
        listen: SocketAddr,
        network: &NetworkName,
        channel: &Channel,
        limits: HouseLimits,
    ) -> Result<Self, HouseError> {
        let failed = |source| HouseError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Shared {
            state: Arc::new(Mutex::new(State::new(network, channel, limits.clone()))),
            limits: Arc::new(limits),
        };
        info!(%address, %network, %channel, "irc server listens");
        let task = tokio::spawn(accept(listener, shared, stopped));
        Ok(Self { address, stop, task })
    }

    /// Where it really listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells every client and waits until they are gone, but no longer than `limit`.
    pub async fn shutdown(mut self, limit: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(limit, &mut self.task).await.is_err() {
            warn!(limit_ms = limit.as_millis() as u64, "irc server did not end in time");
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What every client's task leans on.
#[derive(Clone, Debug)]
struct Shared {
    state: Arc<Mutex<State>>,
    limits: Arc<HouseLimits>,
}

impl Shared {
    /// The state; a panic in another task leaves it usable, since each command is whole or not.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Shared, mut stopped: watch::Receiver<bool>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => welcome(stream, peer, &shared, &mut clients),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "irc client not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    shared.state().close_all("the hub stops");
    let gone = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, gone).await.is_err() {
        debug!("irc clients did not take their farewell");
    }
}

fn welcome(stream: TcpStream, peer: SocketAddr, shared: &Shared, clients: &mut JoinSet<()>) {
    if clients.len() >= shared.limits.clients_max {
        warn!(%peer, clients = clients.len(), "irc client refused: too many");
        return;
    }
    let (sender, lines) = mpsc::channel(shared.limits.waiting_lines_max);
    let id = shared.state().connect(&host(peer), sender);
    clients.spawn(client::serve(stream, id, lines, shared.clone()));
}

/// The address as the host part of a mask; a leading colon would end the parameters of a line.
fn host(peer: SocketAddr) -> String {
    let ip = peer.ip().to_canonical();
    if ip.is_loopback() {
        return "localhost".to_owned();
    }
    let text = ip.to_string();
    if text.starts_with(':') { format!("0{text}") } else { text }
}

//! Room 6, IRC: the bridge to networks of people, and the house server for a machine that has none.
//!
//! In: [`Say`]s of the mesh, and the [`View`] from which questions are answered. Out: through the
//! [`Publisher`], what people say and announce, like any other client's messages. Each network has
//! a task of its own (`connection`) around two pure parts: the protocol (`session`) and the pace
//! (`outbox`). The house server (`house`) is an ordinary server to them.

mod authority;
mod backoff;
mod command;
mod connection;
mod digest;
mod house;
mod isupport;
mod limit;
mod line;
mod link;
mod membership;
mod outbox;
mod report;
mod session;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::bus::Publisher;
use crate::mesh::{Say, SayTo, View};
use connection::{Connection, Told};
use digest::Event;
use outbox::Outbox;
use report::Reporter;
use status::Status;

pub use house::{House, HouseError, HouseLimits};
pub use link::{ConnectionError, Link, Timing};
pub use outbox::Pace;
pub use status::NetworkStatus;

/// Events that may wait for a network's task; it takes them in at once unless the machine is
/// overloaded, and holds them itself.
const TOLD_MAX: usize = 1_024;

/// The connections to all networks; dropping it ends them at once.
#[derive(Debug)]
pub struct Bridge {
    networks: Vec<Network>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Network {
    link: Arc<Link>,
    told: mpsc::Sender<Told>,
    status: Arc<Status>,
}

impl Bridge {
    /// Starts connecting to each network; must be called on a runtime.
    #[must_use]
    pub fn start(
        links: Vec<Link>,
        timing: Timing,
        publisher: &Arc<dyn Publisher>,
        view: &watch::Receiver<View>,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut networks = Vec::with_capacity(links.len());
        for link in links.into_iter().map(Arc::new) {
            let (told, queue) = mpsc::channel(TOLD_MAX);
            let status = Arc::new(Status::new(link.name.clone()));
            let (reporter, publishing, feedback) =
                Reporter::new(Arc::clone(&link), Arc::clone(publisher));
            let connection = Connection {
                timing,
                told: queue,
                view: view.clone(),
                reporter,
                feedback,
                status: Arc::clone(&status),
                stop: stopped.clone(),
                outbox: Outbox::new(link.pace, &link.channels, Instant::now()),
                link: Arc::clone(&link),
            };
            tasks.spawn(publishing);
            tasks.spawn(connection.run());
            networks.push(Network { link, told, status });
        }
        Self { networks, stop, tasks }
    }

    /// Says something where it belongs. Never waits: what finds a queue full is dropped and counted.
    pub fn say(&self, say: &Say) {
        let event = Event { kind: say.kind, text: say.text.clone(), at: Instant::now() };
        if let SayTo::Channel(network, channel) = &say.to
            && !self.networks.iter().any(|known| &known.link.name == network)
        {
            debug!(%network, %channel, "nothing said: no such irc network");
        }
        for Network { link, told, status } in &self.networks {
            let channel = match &say.to {
                SayTo::Everywhere => None,
                SayTo::Channel(network, channel) if network == &link.name => Some(channel.clone()),
                SayTo::Channel(..) => continue,
            };
            if told.try_send((channel, event.clone())).is_err() {
                status.dropped();
            }
        }
    }

    /// How each network is.
    #[must_use]
    pub fn status(&self) -> Vec<NetworkStatus> {
        self.networks.iter().map(|network| network.status.read()).collect()
    }

    /// Leaves every network with a QUIT, but takes no longer than `limit`.
    pub async fn shutdown(mut self, limit: Duration) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            warn!(limit_ms = limit.as_millis() as u64, "irc bridge did not end in time");
        }
    }
}

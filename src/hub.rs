//! How the rooms are joined: build, open ports, spawn, decide, shut down.
//!
//! This is the only file that knows all rooms. Everything comes in by
//! [`door`] into the inbox; one loop feeds the core and hands on what it
//! decides; no room waits for another.

pub mod check;
mod decider;
mod door;
mod external;
mod inbox;
mod keeping;
mod open;
mod presence;
mod quiet;
mod reload;
mod start;
mod tls;

pub use reload::Reload;

use crate::access::Access;
use crate::bridge::{Bridge, House, Timing};
use crate::bus::{Bus, Publisher};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::disk::{Disk, DiskTasks, Parts};
use crate::http;
use crate::journal::Journal;
use crate::live::Store;
use crate::mesh::{Effect, Mesh, View};
use crate::snapshot::{self, Engine};
use anyhow::Context as _;
use decider::{Decider, spawn_outbox};
use door::HubDoor;
use inbox::Inbox;
use keeping::Keeping;
use open::{address, links, open_access, open_http, start_bus, start_house};
use presence::HubPresence;
use reload::Part;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// How long an orderly shutdown may take: a snapshot under way is waited for.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);
/// How long clients get to receive what is queued for them.
const GOODBYE_LIMIT: Duration = Duration::from_secs(3);
/// How often the core is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// Where the hub really listens, also where the configuration says port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Addresses {
    /// The broker, if it is the hub's own.
    pub mqtt: Option<SocketAddr>,
    /// The broker with TLS, if it listens so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtts: Option<SocketAddr>,
    /// The HTTP interface.
    pub http: SocketAddr,
    /// The HTTP interface with TLS, if it listens so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// The house IRC server, if it runs.
    pub irc: Option<SocketAddr>,
}

impl Addresses {
    fn but_the_bus(ports: &[http::Port], house: Option<&House>) -> anyhow::Result<Self> {
        Ok(Self {
            mqtt: None,
            mqtts: None,
            http: address(ports.first()).context("the HTTP interface has no address")?,
            https: address(ports.get(1)),
            irc: house.map(House::address),
        })
    }
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    addresses: Addresses,
    bus: Bus,
    house: Option<House>,
    http: http::Server,
    disk: DiskTasks,
    decider: JoinHandle<(Disk, Bridge)>,
    reload: Reload,
    stop: watch::Sender<bool>,
    _lock: std::fs::File,
}

impl Hub {
    /// Starts a hub: the tree is read, then the ports are opened, then the rooms run.
    ///
    /// # Errors
    /// Whatever keeps it from doing its job: the tree is another hub's or cannot
    /// be read or written, a port is taken, the engine asked for does not fit.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let kind = start::engine_kind(config.snapshot.engine);
        let dataset = config.snapshot.dataset.clone();
        // Before any file is touched: on a suspended pool that would hang.
        let chosen =
            snapshot::choose(kind, &config.root, dataset).await.context("no snapshot engine")?;
        info!(engine = chosen.engine.name(), why = chosen.why, "snapshot engine chosen");
        Self::start_with(config, chosen.engine, chosen.why).await
    }

    /// The same with an engine already chosen.
    ///
    /// # Errors
    /// As for [`Hub::start`], less the choice of an engine.
    pub async fn start_with(
        config: Config,
        engine: Arc<dyn Engine>,
        why: String,
    ) -> anyhow::Result<Self> {
        let tls = tls::load(&config)?;
        tls.iter().for_each(tls::warn_of_time);
        let clock = Arc::new(SystemClock::start());
        let now = clock.now();
        let inbox = Arc::new(Inbox::default());
        let access = open_access(&config, &inbox)?;
        let root = config.root.clone();
        let base = start::make_tree(&root)?;
        let lock = start::lock(&root, &base)?;
        let store = Store::open(&root, now.wall)?;
        start::try_writing(&store, &root)?;
        let journal = Journal::open(&root).context("could not open the journal")?;
        let past = start::recall(&store, &journal, now)?;

        let ports = open_http(&config, tls.as_ref()).await?;
        let house = start_house(&config).await?;
        let keeping = Keeping::new(&config);
        let (durable, health) = (keeping.durable.clone(), keeping.health.clone());
        let addresses = Addresses::but_the_bus(&ports, house.as_ref())?;
        let presence = HubPresence::new(now.wall, &addresses, engine.name(), why, access.clone());
        let presence = presence.on(config.bus.broker());
        let foreign = config.bus.broker().is_some();
        let door = HubDoor::new(&inbox, &access, keeping, foreign);
        let will = presence.will();
        let bus = start_bus(&config, door, &access, past.retained, tls.as_ref(), will).await?;
        let addresses = Addresses { mqtt: bus.address(), mqtts: bus.tls_address(), ..addresses };
        let presence = presence.at(&addresses);
        let publisher: Arc<dyn Publisher> = Arc::new(bus.clone());

        let (mesh, mut effects) = Mesh::recalled(&config, past.events, now);
        let (show, view) = watch::channel(mesh.view().clone());
        let parts = Parts {
            store,
            journal,
            engine,
            publisher: publisher.clone(),
            clock: clock.clone(),
            durable,
            sync_within: config.bus.sync_within,
            health,
        };
        let (disk, disk_tasks, aside) =
            Disk::start(parts).context("could not start the disk worker")?;
        let bridge =
            Bridge::start(links(&config, addresses.irc), Timing::default(), &publisher, &view);
        let api = api(&config, &bus, view, &inbox, &access);
        let (stop, stopped) = watch::channel(false);
        let certificates = tls.map(|tls| tls::part(&config, tls));
        let files = std::iter::once(Part::users(&access, &bus)).chain(certificates);
        let reload = Reload::new(files, inbox.clone());
        let decider = Decider {
            mesh,
            inbox,
            disk,
            outbox: spawn_outbox(publisher),
            bridge,
            show,
            clock,
            presence,
            bus: bus.clone(),
        };
        effects.extend(past.expired.into_iter().map(Effect::Remove));
        let decider = tokio::spawn(decider.run(effects, past.aside, aside, stopped));
        let http = http::serve(ports, api);
        let disk = disk_tasks;
        Ok(Self { addresses, bus, house, http, disk, decider, reload, stop, _lock: lock })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Where clients find the broker.
    #[must_use]
    pub fn broker(&self) -> String {
        match (self.addresses.mqtt, self.bus.broker()) {
            (Some(own), _) => format!("mqtt://{own}"),
            (None, Some(other)) => other.to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    /// The way to have it read its files again, also while it runs.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Runs until `stop` resolves, then shuts down in order under one deadline.
    ///
    /// # Errors
    /// A task of the hub died: it cannot keep its promises any more.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::pin!(stop);
        let mut look = tokio::time::interval(TICK);
        let died = loop {
            tokio::select! {
                () = &mut stop => break false,
                _ = look.tick() => {
                    if self.disk.dead() || self.decider.is_finished() {
                        break true;
                    }
                }
            }
        };
        let lost = tokio::time::timeout(SHUTDOWN_LIMIT, self.shut_down()).await;
        if lost.is_err() {
            warn!(limit = ?SHUTDOWN_LIMIT, "shutdown not finished in time; what was accepted is in the journal");
        }
        anyhow::ensure!(!died, "a task of the hub died; the log says which");
        let lost = lost.unwrap_or(0);
        anyhow::ensure!(
            lost == 0,
            "{lost} retained messages could not be written before the end; the log names them"
        );
        Ok(())
    }

    /// The order: no new work, the state of the hub said, what is queued done, the rest closed.
    /// Gives how many retained messages the disk refused to the end.
    async fn shut_down(&mut self) -> usize {
        info!("shutting down");
        self.http.stop(GOODBYE_LIMIT).await;
        // The decider says on the bus that the hub leaves, so the bus ends after it.
        let _ = self.stop.send(true);
        let lost = match (&mut self.decider).await {
            Ok((disk, bridge)) => {
                bridge.shutdown(GOODBYE_LIMIT).await;
                self.disk.end(disk).await
            }
            Err(error) => {
                error!(%error, "the deciding task died");
                0
            }
        };
        self.bus.shutdown(GOODBYE_LIMIT).await;
        if let Some(house) = self.house.take() {
            house.shutdown(GOODBYE_LIMIT).await;
        }
        info!("stopped");
        lost
    }
}

/// What HTTP works with.
fn api(
    config: &Config,
    bus: &Bus,
    view: watch::Receiver<View>,
    inbox: &Arc<Inbox>,
    access: &Arc<Access>,
) -> http::Api {
    http::Api {
        publisher: Arc::new(bus.clone()),
        view,
        retained: Arc::new(bus.clone()),
        intake: inbox.clone(),
        purging: Arc::new(Semaphore::new(1)),
        access: access.clone(),
        deadline: config.announce.deadline,
        bus: bus.embedded().cloned(),
    }
}

//! How the rooms are joined: build, open ports, spawn, decide, shut down.
//!
//! This is the only file that knows all rooms. Everything comes in by
//! [`door`] into the inbox; one loop feeds the core and hands on what it
//! decides; no room waits for another.

pub mod check;
mod door;
mod external;
mod inbox;
mod open;
mod presence;
mod reload;
mod start;
mod tls;

pub use reload::Reload;

use crate::bridge::{Bridge, House, Timing};
use crate::bus::{Bus, Publication, Publisher};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::disk::{Disk, DiskTasks, Parts, publication};
use crate::http;
use crate::journal::Journal;
use crate::live::{Aside, Store};
use crate::mesh::{Effect, Event, Mesh, Telling, View};
use crate::message::Entry;
use crate::snapshot::{self, Engine};
use anyhow::Context as _;
use door::HubDoor;
use inbox::Inbox;
use open::{address, links, open_access, open_http, start_bus, start_house};
use presence::HubPresence;
use reload::Part;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Publications of the core that may wait for the bus.
const OUTBOX: usize = 1024;
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
        store.probe().with_context(|| start::unwritable(&root))?;
        let journal = Journal::open(&root).context("could not open the journal")?;
        let past = start::recall(&store, &journal, now)?;

        let ports = open_http(&config, tls.as_ref()).await?;
        let house = start_house(&config).await?;
        let addresses = Addresses::but_the_bus(&ports, house.as_ref())?;
        let presence = HubPresence::new(now.wall, &addresses, engine.name(), why);
        let presence = presence.on(config.bus.broker());
        let door = HubDoor::new(&config, &inbox, &access);
        let bus =
            start_bus(&config, door, &access, past.retained, tls.as_ref(), presence.will()).await?;
        let addresses = Addresses { mqtt: bus.address(), mqtts: bus.tls_address(), ..addresses };
        let presence = presence.at(&addresses);
        let publisher: Arc<dyn Publisher> = Arc::new(bus.clone());

        let mut mesh = Mesh::new(&config);
        let mut effects = Vec::new();
        for event in past.events {
            effects.extend(mesh.apply(event, now));
        }
        let (show, view) = watch::channel(mesh.view().clone());
        let parts =
            Parts { store, journal, engine, publisher: publisher.clone(), clock: clock.clone() };
        let (disk, disk_tasks, aside) =
            Disk::start(parts).context("could not start the disk worker")?;
        let bridge =
            Bridge::start(links(&config, addresses.irc), Timing::default(), &publisher, &view);
        let api = http::Api {
            publisher: publisher.clone(),
            view,
            retained: Arc::new(bus.clone()),
            intake: inbox.clone(),
            purging: Arc::new(Semaphore::new(1)),
            access: access.clone(),
            deadline: config.announce.deadline,
            bus: bus.embedded().cloned(),
        };
        let (stop, stopped) = watch::channel(false);
        let parts = std::iter::once(Part::users(&access, &bus))
            .chain(tls.map(|tls| tls::part(&config, tls)));
        let reload = Reload::new(parts, inbox.clone());
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

/// The loop that feeds the core and hands on what it decides.
struct Decider {
    mesh: Mesh,
    inbox: Arc<Inbox>,
    disk: Disk,
    outbox: mpsc::Sender<Publication>,
    bridge: Bridge,
    show: watch::Sender<View>,
    clock: Arc<SystemClock>,
    presence: HubPresence,
    bus: Bus,
}

impl Decider {
    async fn run(
        mut self,
        first: Vec<Effect>,
        found: Vec<Aside>,
        mut aside: mpsc::Receiver<Aside>,
        mut stopped: watch::Receiver<bool>,
    ) -> (Disk, Bridge) {
        self.perform(first).await;
        for found in found {
            self.set_aside(found).await;
        }
        self.decide(Event::Noted(self.presence.entry("started"))).await;
        self.say_presence("online").await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let woken = self.mesh.wakes_in(self.clock.now());
            tokio::select! {
                events = self.inbox.take() => self.decide_all(events).await,
                () = tokio::time::sleep(woken.unwrap_or_default()), if woken.is_some() => {
                    self.decide(Event::Woken).await;
                }
                _ = tick.tick() => self.tick().await,
                Some(aside) = aside.recv() => self.set_aside(aside).await,
                _ = stopped.changed() => break,
            }
        }
        self.decide(Event::Noted(self.presence.entry("stopped"))).await;
        self.say_presence("offline").await;
        let events = self.inbox.take_now();
        self.decide_all(events).await;
        (self.disk, self.bridge)
    }

    async fn decide_all(&mut self, events: Vec<Event>) {
        for event in events {
            let effects = self.mesh.apply(event, self.clock.now());
            self.perform(effects).await;
        }
        self.update_view();
    }

    async fn decide(&mut self, event: Event) {
        self.decide_all(vec![event]).await;
    }

    async fn tick(&mut self) {
        self.decide(Event::Tick).await;
        let trouble = self.trouble();
        if self.presence.is_due(self.clock.now(), trouble) {
            self.say_presence("online").await;
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match self.disk.perform(effect).await {
                Some(Effect::Publish(telling)) => self.publish(telling).await,
                Some(Effect::Say(say)) => self.bridge.say(&say),
                _ => {}
            }
        }
    }

    async fn publish(&self, telling: Telling) {
        if self.outbox.send(publication(telling)).await.is_err() {
            error!("publication lost: the outbox has ended");
        }
    }

    /// Straight to the bus and not by the outbox: at the end it has to be back
    /// in the inbox, and so in its file, before the loop is left.
    async fn say_presence(&mut self, state: &str) {
        let telling = self.presence.telling(state, &self.bus.stats());
        if let Err(error) = self.bus.publish(publication(telling)).await {
            error!(%error, "the hub's own presence not published");
        }
    }

    async fn set_aside(&mut self, aside: Aside) {
        let (path, to) = (aside.path.display().to_string(), aside.to.display().to_string());
        warn!(path, to, why = aside.why, "not a file of the live store; set aside");
        self.decide(Event::Noted(Entry::SetAside { path, to, why: aside.why })).await;
    }

    fn update_view(&self) {
        let mut view = self.mesh.view().clone();
        view.hub = self.presence.view(self.trouble());
        self.show.send_replace(view);
    }

    /// What keeps the hub from its work: the disk comes first.
    fn trouble(&self) -> Option<Arc<str>> {
        self.disk.trouble().or_else(|| self.bus.trouble())
    }
}

/// Publishes what the core says, in order, so that the core never waits for a subscriber.
fn spawn_outbox(publisher: Arc<dyn Publisher>) -> mpsc::Sender<Publication> {
    let (outbox, mut publications) = mpsc::channel::<Publication>(OUTBOX);
    tokio::spawn(async move {
        while let Some(publication) = publications.recv().await {
            let topic = publication.topic.clone();
            if let Err(error) = publisher.publish(publication).await {
                warn!(%topic, %error, "not published");
            }
        }
    });
    outbox
}

//! How the rooms are joined: build, open ports, spawn, decide, shut down.
//!
//! This is the only file that knows all rooms. Everything comes in by
//! [`door`] into the inbox; one loop feeds the core and hands on what it
//! decides; no room waits for another.

pub mod check;
mod door;
mod inbox;
mod open;
mod presence;
mod start;

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
use inbox::Inbox;
use open::{in_use, links, start_bus, start_house};
use presence::HubPresence;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
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
    /// The HTTP interface.
    pub http: SocketAddr,
    /// The house IRC server, if it runs.
    pub irc: Option<SocketAddr>,
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
        let clock = Arc::new(SystemClock::start());
        let now = clock.now();
        let root = config.root.clone();
        let base = start::make_tree(&root)?;
        let lock = start::lock(&root, &base)?;
        let store = Store::open(&root, now.wall)?;
        store.probe().with_context(|| start::unwritable(&root))?;
        let journal = Journal::open(&root).context("could not open the journal")?;
        let past = start::recall(&store, &journal, now)?;

        let http = http::bind(config.http.listen)
            .await
            .with_context(|| in_use("http.listen", config.http.listen))?;
        let house = start_house(&config).await?;
        let inbox = Arc::new(Inbox::default());
        let mut addresses = Addresses {
            mqtt: None,
            http: http.local_addr().context("the HTTP interface has no address")?,
            irc: house.as_ref().map(House::address),
        };
        let presence = |addresses: &Addresses| {
            let presence = HubPresence::new(now.wall, addresses, engine.name(), why.clone());
            presence.on(config.bus.broker())
        };
        let bus = start_bus(&config, &inbox, past.retained, presence(&addresses).will()).await?;
        addresses.mqtt = bus.address();
        let presence = presence(&addresses);
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
        let (stop, stopped) = watch::channel(false);
        let decider = Decider {
            mesh,
            inbox,
            disk,
            outbox: spawn_outbox(publisher.clone()),
            bridge,
            show,
            clock,
            presence,
            bus: bus.clone(),
        };
        effects.extend(past.expired.into_iter().map(Effect::Remove));
        let decider = tokio::spawn(decider.run(effects, past.aside, aside, stopped));
        let http =
            http::serve(http, http::Api { publisher, view, deadline: config.announce.deadline });
        Ok(Self { addresses, bus, house, http, disk: disk_tasks, decider, stop, _lock: lock })
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

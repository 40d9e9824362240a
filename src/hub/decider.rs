//! The loop that feeds the core and hands on what it decides.

use super::TICK;
use super::inbox::{Due, Inbox};
use super::presence::HubPresence;
use crate::bridge::Bridge;
use crate::bus::{Bus, Publication, Publisher};
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, Receipt, publication};
use crate::live::Aside;
use crate::mesh::{Effect, Event, Mesh, Telling, View};
use crate::message::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

/// Publications of the core that may wait for the bus.
const OUTBOX: usize = 1024;
/// How long a snapshot under way is waited for at the end.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);

/// The core and all that it is fed from and acts through.
pub(super) struct Decider {
    pub(super) mesh: Mesh,
    pub(super) inbox: Arc<Inbox>,
    pub(super) disk: Disk,
    pub(super) outbox: mpsc::Sender<Publication>,
    pub(super) bridge: Bridge,
    pub(super) show: watch::Sender<View>,
    pub(super) clock: Arc<SystemClock>,
    pub(super) presence: HubPresence,
    pub(super) bus: Bus,
}

impl Decider {
    pub(super) async fn run(
        mut self,
        first: Vec<Effect>,
        found: Vec<Aside>,
        mut aside: mpsc::Receiver<Aside>,
        mut stopped: watch::Receiver<bool>,
    ) -> (Disk, Bridge) {
        self.perform(first, None).await;
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
        self.end_snapshots().await;
        self.decide(Event::Noted(self.presence.entry("stopped"))).await;
        self.say_presence("offline").await;
        let events = self.inbox.close();
        self.decide_all(events).await;
        (self.disk, self.bridge)
    }

    /// A snapshot under way ends, and what is said of it still goes its way.
    async fn end_snapshots(&mut self) {
        let ended = tokio::time::timeout(SNAPSHOT_LIMIT, self.disk.end_snapshots());
        tokio::pin!(ended);
        loop {
            tokio::select! {
                events = self.inbox.take() => self.decide_all(events).await,
                ended = &mut ended => {
                    if ended.is_err() {
                        warn!(limit = ?SNAPSHOT_LIMIT, "the last snapshot does not end");
                    }
                    return;
                }
            }
        }
    }

    async fn decide_all(&mut self, events: Vec<Due>) {
        for (event, receipt) in events {
            let effects = self.mesh.apply(event, self.clock.now());
            self.perform(effects, receipt).await;
        }
        self.update_view();
    }

    async fn decide(&mut self, event: Event) {
        self.decide_all(vec![(event, None)]).await;
    }

    async fn tick(&mut self) {
        let (inbox, presence) = (&self.inbox, &mut self.presence);
        self.bus.sweep(|topic| {
            presence.expired += 1;
            inbox.push(Event::Expired(topic));
        });
        self.decide(Event::Tick).await;
        let trouble = self.trouble();
        if self.presence.is_due(self.clock.now(), trouble) {
            self.say_presence("online").await;
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>, mut receipt: Option<Receipt>) {
        for effect in effects {
            match self.disk.perform(effect, &mut receipt).await {
                Some(Effect::Publish(telling)) => self.publish(telling).await,
                Some(Effect::Say(say)) => self.bridge.say(&say),
                _ => {}
            }
        }
        if let Some(receipt) = receipt {
            self.disk.settle(receipt).await;
        }
    }

    async fn publish(&self, telling: Telling) {
        if self.outbox.send(publication(telling)).await.is_err() {
            error!("publication lost: the outbox has ended");
        }
    }

    /// Straight to the bus and not by the outbox: at the end it has to be back
    /// in the inbox, and so in its file, before the loop is left. It never waits
    /// for the disk, which waits for this loop.
    async fn say_presence(&mut self, state: &str) {
        let telling = self.presence.telling(state, &self.bus.stats(), self.disk.health());
        if let Err(error) = self.bus.say(publication(telling)).await {
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
/// Nor does what comes next wait for the disk.
pub(super) fn spawn_outbox(publisher: Arc<dyn Publisher>) -> mpsc::Sender<Publication> {
    let (outbox, mut publications) = mpsc::channel::<Publication>(OUTBOX);
    tokio::spawn(async move {
        while let Some(publication) = publications.recv().await {
            let topic = publication.topic.clone();
            if let Err(error) = publisher.say(publication).await {
                warn!(%topic, %error, "not published");
            }
        }
    });
    outbox
}

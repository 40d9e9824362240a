//! The connection to the broker: made, used, lost and made again.

use super::outbox::Item;
use super::query::{ECHO, Kind, Query};
use super::wire::{self, Client, Events, Heard, Lost, Packet, Version};
use super::{Shared, desk::Setting};
use crate::name::BrokerUrl;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// Publications that wait for their acknowledgement at one time.
const UNDER_WAY_MAX: usize = 64;
/// The pauses between two tries.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A connection that lives so long was a good one.
const HEALTHY: Duration = Duration::from_secs(30);
/// How long what happens is gathered before the broker is asked about it, and
/// the least time between two answers to somebody who writes on the hub's topics.
const GATHER: Duration = Duration::from_millis(250);
/// Unsubscriptions under way at one time.
const LEAVING_MAX: usize = 32;
/// Never seen, because less is ever under way than the client takes.
const BUSY: &str = "the client takes no more requests";
/// How long the broker has to take a goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is said before the first connection.
pub(super) fn not_yet(broker: &BrokerUrl) -> String {
    format!("the bus: not yet connected to {broker}")
}

/// Keeps a connection until it is told to stop.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let settings = &shared.settings;
    let mut version = settings.version.unwrap_or(Version::V5);
    let mut pause = PAUSE_MIN;
    let mut said = String::new();
    loop {
        let will = shared.desk().next_will(&settings.will.payload);
        let (client, events) = wire::connect(settings, version, will);
        let mut connection = Connection::new(&shared, client, version);
        let lost = match connection.serve(events, &mut stop).await {
            Ok(()) => return,
            Err(lost) => lost,
        };
        let connected = connection.since;
        let under_way = connection.under_way.drain(..).map(|(_, item)| item).collect();
        if let Some(topic) = shared.desk().disconnected(under_way) {
            warn!(%topic, broker = %settings.broker,
                "the broker hangs up at this topic; it, and those like it, are not sent to it");
        }
        let try_other = lost.misunderstood && settings.version.is_none();
        if try_other {
            version = version.other();
            if version == Version::V4 {
                continue;
            }
        }
        if connected.is_some_and(|since| since.elapsed() > HEALTHY) {
            pause = PAUSE_MIN;
        }
        if said != lost.why || connected.is_some() {
            warn!(broker = %settings.broker, why = lost.why, "not connected to the broker, trying again");
            said.clone_from(&lost.why);
        }
        shared.set_trouble(Some(format!("the bus: {} {}", settings.broker, lost.why)));
        let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        pause = (pause * 2).min(PAUSE_MAX);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    client: Client,
    version: Version,
    /// Since when the broker has let the hub in.
    since: Option<Instant>,
    /// The broker has sent what it retains: the hub may speak.
    open: bool,
    query: Option<Query>,
    fence: Option<Fence>,
    /// Sent and not acknowledged, with the packet id as soon as there is one.
    under_way: VecDeque<(Option<u16>, Item)>,
    /// Not before this the broker is asked again.
    next_question: Instant,
    /// Names that were asked for, to be unsubscribed, and how many of them are
    /// on their way.
    leaving: Vec<Box<str>>,
    leaving_now: usize,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, client: Client, version: Version) -> Self {
        Self {
            shared,
            client,
            version,
            since: None,
            open: false,
            query: None,
            fence: None,
            under_way: VecDeque::new(),
            next_question: Instant::now(),
            leaving: Vec::new(),
            leaving_now: 0,
        }
    }

    /// Until it is told to stop, which is `Ok`, or the connection is lost.
    async fn serve(
        &mut self,
        mut events: Events,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Lost> {
        let mut stopping = false;
        loop {
            if let Some(room) = self.shared.door.ready() {
                room.await;
            }
            if stopping && self.is_done() {
                self.client.disconnect();
                let _ = tokio::time::timeout(GOODBYE, async {
                    while let Some(Ok(_)) = events.recv().await {}
                })
                .await;
                return Ok(());
            }
            tokio::select! {
                event = events.recv() => match event {
                    Some(heard) => self.heard(heard?)?,
                    None => return Err(lost("the client has ended")),
                },
                () = self.shared.work.notified(), if self.open => {}
                () = tokio::time::sleep_until(self.wakes_at()) => self.look()?,
                _ = stop.wait_for(|stop| *stop), if !stopping => stopping = true,
            }
            self.send()?;
        }
    }

    /// Nothing is left to be said, or there is nobody to say it to.
    fn is_done(&self) -> bool {
        self.since.is_none()
            || self.open && self.under_way.is_empty() && self.shared.desk().outbox.len() == 0
    }

    fn heard(&mut self, heard: Heard) -> Result<(), Lost> {
        match heard {
            Heard::Connected => {
                self.since = Some(Instant::now());
                let first = self.shared.desk().first_question();
                self.ask(first)?;
            }
            Heard::Message(packet) => self.message(packet)?,
            Heard::Subscribed { refused } => {
                if refused && !self.open {
                    return Err(lost("does not let the hub subscribe to mesh/#"));
                }
            }
            Heard::Unsubscribed => self.leaving_now = self.leaving_now.saturating_sub(1),
            Heard::Sent(id) => {
                if let Some(next) = self.under_way.iter_mut().find(|(pkid, _)| pkid.is_none()) {
                    next.0 = Some(id);
                }
            }
            Heard::Acked(id, refused) => {
                let at = self.under_way.iter().position(|(pkid, _)| *pkid == Some(id));
                if let Some((_, item)) = at.and_then(|at| self.under_way.remove(at)) {
                    self.acknowledged(&item, refused);
                }
            }
        }
        Ok(())
    }

    fn acknowledged(&self, item: &Item, refused: Option<String>) {
        let counters = &self.shared.counters;
        let Some(why) = refused else {
            counters.messages_out.fetch_add(1, Relaxed);
            counters.bytes_out.fetch_add(item.payload.len() as u64, Relaxed);
            return self.shared.desk().sent(item);
        };
        counters.refused.fetch_add(1, Relaxed);
        self.shared.desk().suspects.cleared(&item.topic);
        warn!(topic = %item.topic, why, "the broker refuses what the hub publishes");
    }

    fn message(&mut self, packet: Packet) -> Result<(), Lost> {
        let shared = self.shared;
        shared.counters.messages_in.fetch_add(1, Relaxed);
        shared.counters.bytes_in.fetch_add(packet.payload.len() as u64, Relaxed);
        if *packet.topic == *ECHO {
            self.fence.take_if(|fence| fence.token == packet.payload);
            let echoed = self.query.as_mut().is_some_and(|query| query.is_echo(&packet.payload));
            // By now the broker has said what it has, so that nothing of that is overtaken.
            self.open |= echoed && self.query.as_ref().is_some_and(|q| q.kind == Kind::Everything);
            return self.look();
        }
        let setting = Setting {
            query: self.query.as_mut(),
            payload_max_bytes: shared.settings.payload_max_bytes,
            now: jiff::Timestamp::now(),
        };
        if shared.desk().heard(packet, setting) {
            shared.counters.refused.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Asks what the broker retains, and then publishes to itself.
    fn ask(&mut self, query: Query) -> Result<(), Lost> {
        let asked =
            self.client.subscribe(&query.filters()) && self.client.publish(&echo(&query.token));
        self.query = Some(query);
        if asked { Ok(()) } else { Err(lost(BUSY)) }
    }

    /// When there is something to do though nothing happens.
    fn wakes_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        match &self.query {
            Some(query) => query.ends_at(),
            None if self.open && self.leaving_now == 0 && self.shared.desk().has_questions() => {
                self.next_question
            }
            None => far,
        }
    }

    /// Ends the question that is over, and asks the next one.
    fn look(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        if let Some(query) = self.query.take_if(|query| query.ends_at() <= now) {
            self.answered(query)?;
        }
        let free = self.query.is_none() && self.leaving.is_empty() && self.leaving_now == 0;
        if !free || !self.open || now < self.next_question {
            return Ok(());
        }
        self.next_question = now + GATHER;
        let mut desk = self.shared.desk();
        desk.reassert();
        let question = desk.next_question();
        drop(desk);
        match question {
            Some(question) => self.ask(question),
            None => Ok(()),
        }
    }

    fn answered(&mut self, query: Query) -> Result<(), Lost> {
        let now = jiff::Timestamp::now();
        if !query.echoed() {
            warn!(broker = %self.shared.settings.broker, topic = ECHO,
                "the broker does not bring back what the hub publishes; it should let it read and write mesh/#");
        }
        if query.kind != Kind::Everything {
            self.leaving.extend(query.filters());
            self.leave()?;
        }
        match query.kind {
            Kind::Presence => {
                let memory = self.shared.desk().witnessed(&query);
                let (broker, mqtt) = (&self.shared.settings.broker, self.version.as_str());
                info!(%broker, mqtt, ?memory, "connected to the broker");
                self.ask(Query::new(Kind::Everything, Vec::new()))?;
            }
            Kind::Everything => {
                self.shared.desk().compared(&query, now);
                self.shared.set_trouble(None);
                self.open = true;
                self.next_question = Instant::now();
            }
            Kind::Missing | Kind::Unsure => self.shared.desk().answered(&query, now),
        }
        Ok(())
    }

    /// Unsubscribes, a few names at a time.
    fn leave(&mut self) -> Result<(), Lost> {
        while self.leaving_now < LEAVING_MAX
            && let Some(filter) = self.leaving.pop()
        {
            if !self.client.unsubscribe(&filter) {
                return Err(lost(BUSY));
            }
            self.leaving_now += 1;
        }
        Ok(())
    }

    /// Hands the client what waits, as much as may be under way.
    fn send(&mut self) -> Result<(), Lost> {
        self.leave()?;
        if !self.open {
            return Ok(());
        }
        let mut desk = self.shared.desk();
        if self.fence.is_none() && !desk.fences.is_empty() {
            let fence = Fence::new(std::mem::take(&mut desk.fences));
            let sent = self.client.publish(&echo(&fence.token));
            self.fence = Some(fence);
            if !sent {
                return Err(lost(BUSY));
            }
        }
        let alone = self.under_way.front().filter(|_| self.under_way.len() == 1);
        if alone.is_some_and(|(_, item)| desk.suspects.is_one(&item.topic)) {
            return Ok(());
        }
        let mut dropped = 0;
        while self.under_way.len() < UNDER_WAY_MAX {
            let next = desk.next_to_send(self.under_way.len(), &mut dropped);
            self.shared.counters.dropped.fetch_add(std::mem::take(&mut dropped), Relaxed);
            let Some(item) = next else { break };
            let alone = desk.suspects.is_one(&item.topic);
            let taken = self.client.publish(&item);
            self.under_way.push_back((None, item));
            if !taken {
                return Err(lost(BUSY));
            }
            if alone {
                break;
            }
        }
        Ok(())
    }
}

/// Something the hub publishes to itself, for those who wait until all that
/// was before it has come in.
struct Fence {
    token: Bytes,
    _waiting: Vec<oneshot::Sender<()>>,
}

impl Fence {
    fn new(waiting: Vec<oneshot::Sender<()>>) -> Self {
        Self { token: uuid::Uuid::now_v7().to_string().into(), _waiting: waiting }
    }
}

fn echo(token: &Bytes) -> Item {
    Item { qos: 0, ..Item::new(ECHO, token.clone(), false) }
}

fn lost(why: &str) -> Lost {
    Lost { why: why.to_owned(), misunderstood: false }
}

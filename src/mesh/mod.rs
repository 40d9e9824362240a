//! Room 3: every decision meshfs makes, with no I/O.
//!
//! [`Mesh::apply`] takes what happened and the time, and gives what is to be
//! done; the rooms around it do it. Nothing here waits, reads a clock or opens
//! a file, so a thousand random days of a mesh are a test of a second.

mod announcements;
mod event;
mod peers;
mod say;
mod view;

pub use crate::message::Verdict;
pub use announcements::to_hex;
pub(crate) use announcements::{conclude, state, telling};
pub use event::{Asked, Batch, Effect, Event, Received, Telling};
pub use say::{Say, SayKind, SayTo};
pub use view::{HubView, NodeView, ServiceView, View};

use crate::clock::Now;
use crate::config::Config;
use crate::message::contract::topics;
use crate::message::{
    Entry, JournalLine, Message, Outcome, ReplyAddress, SnapshotRecord, State, Subject, Timings,
    VerdictRecord,
};
use crate::name::{AnnouncementId, Door, Topic};
use announcements::{Announcements, Sender};
use jiff::Timestamp;
use peers::{Change, Peers};
use std::sync::Arc;

/// Refusals journalled a line each between two ticks; the rest is counted, so
/// that a hostile client cannot fill the disk with its failures.
const REFUSALS_PER_TICK: u64 = 10;

/// The mesh as the hub knows it.
#[derive(Debug)]
pub struct Mesh {
    view: View,
    peers: Peers,
    announcements: Announcements,
    refusals: u64,
}

impl Mesh {
    /// A mesh of which nothing is known yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            view: View::default(),
            peers: Peers::new(config.nodes.clone()),
            announcements: Announcements::new(&config.announce),
            refusals: 0,
        }
    }

    /// A mesh as the tree and the journal tell of it, and what is to be done about that.
    #[must_use]
    pub fn recalled(
        config: &Config,
        past: impl IntoIterator<Item = Event>,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let mut mesh = Self::new(config);
        let effects = past.into_iter().flat_map(|event| mesh.apply(event, now)).collect();
        (mesh, effects)
    }

    /// What a reader may see; copying it is cheap.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// In how long it wants to be told that time has passed, if sooner than the next tick.
    #[must_use]
    pub fn wakes_in(&self, now: Now) -> Option<std::time::Duration> {
        self.announcements.gathers(now)
    }

    /// Takes in what happened and gives what is to be done, in this order.
    pub fn apply(&mut self, event: Event, now: Now) -> Vec<Effect> {
        match event {
            Event::Arrived { received, message, retained, reply, fresh } => {
                self.arrived(received, message, retained, (reply, fresh), now)
            }
            Event::Refused { by, topic, why, reply } => {
                let mut effects = self.refused(Entry::Refusal { by, topic, why: why.clone() }, now);
                effects.extend(reply.map(|reply| refusal(&why, &reply)));
                effects
            }
            Event::Restored { message, received_at } => {
                if let Message::Snapshot(record) = &message {
                    self.recollect(record);
                }
                self.restored(message, received_at, now);
                Vec::new()
            }
            Event::Remembered(outcome) => {
                self.show(*outcome);
                Vec::new()
            }
            Event::Interrupted { asked, reply } => {
                vec![self.announcements.interrupted(asked, reply, now)]
            }
            Event::Expired(topic) => self.expired(topic),
            Event::Noted(entry) => vec![journal(entry, now)],
            Event::Tick => self.tick(now),
            Event::Woken => self.announcements.start(now).into_iter().collect(),
        }
    }

    fn arrived(
        &mut self,
        received: Box<Received>,
        message: Message,
        retained: bool,
        (reply, fresh): (Option<ReplyAddress>, Option<AnnouncementId>),
        now: Now,
    ) -> Vec<Effect> {
        let (by, received_at) = (received.by.clone(), received.received_at);
        let mut effects = Vec::new();
        if retained && received.payload.is_empty() {
            effects.push(Effect::Remove(received.topic));
        } else if retained {
            effects.push(Effect::Store(received));
        }
        match message {
            Message::Heartbeat(node, heartbeat) => {
                let view = &mut self.view;
                let change = self.peers.heartbeat(view, &node, &heartbeat, received_at, now);
                effects.extend(change.into_iter().flat_map(|change| verdict(&change, now)));
            }
            Message::Presence(node, presence) => {
                let view = &mut self.view;
                let change = self.peers.presence(view, &node, &presence, received_at, now);
                effects.extend(change.into_iter().flat_map(|change| verdict(&change, now)));
            }
            Message::Announcement(announcement) => {
                let Some(fresh) = fresh else { return effects };
                let known = &self.view.announcements;
                let sender = Sender { fresh, by, reply, requested_at: received_at };
                effects.extend(self.announcements.request(known, *announcement, sender, now));
            }
            Message::Outcome(outcome) => effects.extend(self.outcome(*outcome, now)),
            Message::Say(network, channel, text) => {
                let to = SayTo::Channel(network, channel);
                effects.push(Effect::Say(Say { to, kind: SayKind::Relay, text: text.into() }));
            }
            Message::Cleared(subject) => effects.extend(self.cleared(subject)),
            Message::Service(..) | Message::Snapshot(_) => {
                self.restored(message, received_at, now);
            }
            Message::Capture(_) | Message::Verdict(..) | Message::Opaque => {}
        }
        effects
    }

    /// The announcements that a snapshot of the past answers keep their outcome,
    /// though the journal that told of them may be long closed.
    fn recollect(&mut self, record: &SnapshotRecord) {
        for explained in &record.announcements {
            let asked = Asked {
                id: explained.id.clone(),
                reason: explained.reason.clone(),
                source: explained.source.clone(),
                flush: false,
                by: explained.by.clone(),
                requested_at: explained.requested_at,
            };
            let total = record.taken_at.duration_since(explained.requested_at).as_millis();
            let total = u64::try_from(total).unwrap_or(0);
            self.show(Outcome {
                snapshot: Some(record.snapshot.clone()),
                confirmed_at: Some(record.taken_at),
                timings_ms: Timings { total, ..Timings::default() },
                ..state(&asked, State::Confirmed)
            });
        }
    }

    /// What is shown of a message, whether it has just come or was read back.
    fn restored(&mut self, message: Message, received_at: Timestamp, now: Now) {
        let view = &mut self.view;
        match message {
            // The hub was away: silence counts from now, and no verdict is changed for it.
            Message::Heartbeat(node, heartbeat) => {
                self.peers.heartbeat(view, &node, &heartbeat, received_at, now);
            }
            Message::Presence(node, presence) => {
                self.peers.presence(view, &node, &presence, received_at, now);
            }
            Message::Service(node, service, heartbeat) => {
                let status = heartbeat.status.as_deref().map(Into::into);
                let state = ServiceView { last_heard: received_at, status };
                match node {
                    Some(node) => Peers::service(view, &node, service, state, now.wall),
                    None => {
                        view.services.insert(service, Arc::new(state));
                    }
                }
            }
            Message::Verdict(node, verdict) => self.peers.restored(view, &node, *verdict),
            Message::Snapshot(record) => {
                view.snapshots.insert(record.snapshot.name.clone(), Arc::new(*record));
            }
            _ => {}
        }
    }

    fn outcome(&mut self, outcome: Outcome, now: Now) -> Vec<Effect> {
        if !outcome.state.is_final() {
            let ended =
                self.view.announcements.get(&outcome.id).is_some_and(|o| o.state.is_final());
            if !ended {
                self.view.announcements.insert(outcome.id.clone(), Arc::new(outcome));
            }
            return Vec::new();
        }
        let Some(mut effects) = self.announcements.ended(&outcome, now) else { return Vec::new() };
        effects.push(Effect::Say(say(&outcome)));
        self.show(outcome);
        effects
    }

    /// Shows the outcome of an announcement, and forgets the oldest one if there are too many.
    fn show(&mut self, outcome: Outcome) {
        let id = outcome.id.clone();
        let known = self.view.announcements.insert(id.clone(), Arc::new(outcome));
        if known.is_some_and(|known| known.state.is_final()) {
            return;
        }
        if let Some(forgotten) = self.announcements.remember(id) {
            self.view.announcements.remove(&forgotten);
        }
    }

    fn cleared(&mut self, subject: Subject) -> Option<Effect> {
        match subject {
            // One that never sent a heartbeat is known by its presence alone.
            Subject::Presence(node) if self.peers.beats(&node) => None,
            Subject::Heartbeat(node) | Subject::Presence(node) => {
                // With its heartbeat the node itself is forgotten, and what the hub believed of it.
                self.peers.forget(&mut self.view, &node).then(|| {
                    let (topic, payload) = (topics::verdict(&node), Default::default());
                    Effect::Publish(Telling { topic, payload, retain: true, correlation: None })
                })
            }
            Subject::NodeService(node, service) => {
                if let Some(shown) = self.view.nodes.get_mut(&node) {
                    let shown = Arc::make_mut(shown);
                    shown.services.remove(&service);
                    if shown.services.is_empty() && shown.verdict == Verdict::Unknown {
                        self.view.nodes.remove(&node); // it was known by its services alone
                    }
                }
                None
            }
            Subject::Service(service) => {
                self.view.services.remove(&service);
                None
            }
            Subject::Snapshot(name) => {
                self.view.snapshots.remove(&name);
                None
            }
            _ => None,
        }
    }

    /// A service that is not heard of any more is not shown; a node is, with what the hub
    /// believes of it. Nothing is said, because nobody did anything.
    fn expired(&mut self, topic: Topic) -> Vec<Effect> {
        let subject = Subject::of(&topic).ok();
        let service = |s: &Subject| matches!(s, Subject::NodeService(..) | Subject::Service(_));
        let mut effects: Vec<_> =
            subject.filter(service).and_then(|subject| self.cleared(subject)).into_iter().collect();
        effects.push(Effect::Remove(topic));
        effects
    }

    fn refused(&mut self, entry: Entry, now: Now) -> Vec<Effect> {
        self.refusals += 1;
        if self.refusals > REFUSALS_PER_TICK {
            return Vec::new();
        }
        vec![journal(entry, now)]
    }

    fn tick(&mut self, now: Now) -> Vec<Effect> {
        let changes = self.peers.tick(&mut self.view, now);
        let mut effects: Vec<_> = changes.iter().flat_map(|change| verdict(change, now)).collect();
        effects.extend(self.announcements.tick(now));
        let uncounted = std::mem::take(&mut self.refusals).saturating_sub(REFUSALS_PER_TICK);
        if uncounted > 0 {
            effects.push(journal(Entry::Refusals { count: uncounted }, now));
        }
        effects
    }
}

fn journal(entry: Entry, now: Now) -> Effect {
    Effect::Journal { line: Box::new(JournalLine { time: now.wall, entry }), then: None }
}

/// Tells everybody that the hub changed its mind.
fn verdict(change: &Change, now: Now) -> Vec<Effect> {
    let Change { node, was, verdict, because } = change;
    let because: Vec<String> = because.iter().map(ToString::to_string).collect();
    let body = VerdictRecord {
        node: node.clone(),
        verdict: *verdict,
        since: now.wall,
        because: because.clone(),
    };
    let payload = serde_json::to_vec(&body).unwrap_or_default().into();
    let entry = Entry::Verdict {
        node: node.clone(),
        was: was.map(|was| was.to_string()),
        verdict: verdict.to_string(),
        because: because.clone(),
    };
    let topic = topics::verdict(node);
    let then = Some(Telling { topic, payload, retain: true, correlation: None });
    let mut effects =
        vec![Effect::Journal { line: Box::new(JournalLine { time: now.wall, entry }), then }];
    // A node that is merely late, or that is met for the first time, is no news for people.
    let news = matches!(verdict, Verdict::Lost | Verdict::Left)
        || *verdict == Verdict::Alive && matches!(was, Some(Verdict::Lost | Verdict::Left));
    if news {
        let text = format!("node {node} is {verdict}: {}", because.join(", "));
        effects.push(Effect::Say(Say::everywhere(SayKind::Verdict, text)));
    }
    effects
}

/// Answers somebody whose announcement was refused at the door: whoever waits
/// for an outcome without an acknowledgement (QoS 0) would wait for ever.
fn refusal(why: &str, reply: &ReplyAddress) -> Effect {
    let body = serde_json::json!({ "state": "failed", "error": why }).to_string();
    Effect::Publish(announcements::answer(body.into(), reply))
}

/// What people are told of an outcome: the reason, which comes first because a
/// digest shows only the beginning, the snapshot, and who asked.
fn say(outcome: &Outcome) -> Say {
    let reason = &outcome.reason;
    let who = who(outcome);
    match (&outcome.snapshot, outcome.state) {
        (Some(snapshot), State::Confirmed) => {
            let (name, engine) = (&snapshot.name, &snapshot.engine);
            let text = format!("{reason}: snapshot {name} [{engine}], asked by {who}");
            Say::everywhere(SayKind::Confirmed, text)
        }
        _ => {
            let why = outcome.error.as_deref().unwrap_or("no reason given");
            let text = format!("{reason}: NO SNAPSHOT, asked by {who}; failed: {why}");
            Say::everywhere(SayKind::Failed, text)
        }
    }
}

/// Who asked, as people say it: `alice on #mesh`, `crm-api (mqtt:crm)`, `http:127.0.0.1`.
fn who(outcome: &Outcome) -> String {
    let by = &outcome.by;
    let on_irc = || {
        let mut parts = by.client.splitn(3, '/').skip(1);
        let (channel, person) = (parts.next()?, parts.next()?);
        let nick = person.split_once('!').map_or(person, |(nick, _)| nick);
        Some(format!("{nick} on {channel}"))
    };
    match (&outcome.source, by.door) {
        (_, Door::Irc) => on_irc().unwrap_or_else(|| by.to_string()),
        (Some(source), _) => format!("{source} ({by})"),
        (None, _) => by.to_string(),
    }
}

#[cfg(test)]
mod tests;

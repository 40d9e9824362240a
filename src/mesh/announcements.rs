//! From a request to its outcome: who shares which snapshot, what is answered
//! twice, and what fails because it waited too long.
//!
//! Invariants:
//! - At most one snapshot is under way; all that waits shares the next one.
//! - Every announcement that was accepted gets exactly one outcome. What was
//!   handed to the disk ends there; what still waits ends here.
//! - An outcome takes effect when it comes back through the front door.

use super::event::{Asked, Batch, Effect, Telling};
use crate::clock::Now;
use crate::message::contract::topics;
use crate::message::{Announcement, Entry, JournalLine, Outcome, ReplyAddress, State, Timings};
use crate::name::{AnnouncementId, By, SnapshotName};
use imbl::OrdMap;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How many ended announcements are remembered by id, so that a repeated
/// request gets the same outcome.
const REMEMBERED_MAX: usize = 10_000;
/// How many senders of the same id are answered.
const REPLIES_MAX: usize = 8;

/// In a burst the next snapshot waits until nobody has come for so long, so
/// that those who are still coming share it. Whoever comes alone never waits.
const QUIET: Duration = Duration::from_millis(50);
/// But no longer than this.
const GATHER_MAX: Duration = Duration::from_secs(1);

/// An announcement that has no outcome yet.
#[derive(Debug)]
struct Open {
    asked: Asked,
    replies: Vec<ReplyAddress>,
    expires: Duration,
}

/// What the door knows of a request.
#[derive(Debug)]
pub(super) struct Sender {
    /// An id for a request that brought none.
    pub(super) fresh: AnnouncementId,
    pub(super) by: By,
    pub(super) reply: Option<ReplyAddress>,
    pub(super) requested_at: jiff::Timestamp,
}

/// All announcements, open and ended.
#[derive(Debug)]
pub(super) struct Announcements {
    deadline: Duration,
    waiting_max: usize,
    open: HashMap<AnnouncementId, Open>,
    waiting: Vec<AnnouncementId>,
    /// Those whose snapshot is under way.
    running: Vec<AnnouncementId>,
    ended: VecDeque<AnnouncementId>,
    /// When the last request came.
    asked_last: Duration,
    /// Since when no snapshot is under way.
    idle_since: Duration,
}

/// What somebody is told who comes with the id of another user's announcement.
const ID_TAKEN: &str = "this id is of another user's announcement: take another one, or none";

impl Announcements {
    pub(super) fn new(limits: &crate::config::Announce) -> Self {
        Self {
            deadline: limits.deadline,
            waiting_max: limits.waiting_max,
            open: HashMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            ended: VecDeque::new(),
            asked_last: Duration::ZERO,
            idle_since: Duration::ZERO,
        }
    }

    /// A request came in.
    pub(super) fn request(
        &mut self,
        known: &OrdMap<AnnouncementId, Arc<Outcome>>,
        announcement: Announcement,
        sender: Sender,
        now: Now,
    ) -> Vec<Effect> {
        let Sender { fresh, by, reply, requested_at } = sender;
        let id = announcement.id.clone().unwrap_or(fresh);
        let reply = reply.or_else(|| {
            let topic = announcement.reply_to.clone()?;
            Some(ReplyAddress { topic, correlation: None })
        });
        let asked = Asked {
            id: id.clone(),
            reason: announcement.reason.clone(),
            source: announcement.source.clone(),
            flush: announcement.flush,
            by: by.clone(),
            requested_at,
        };
        let owner = self.open.get(&id).map(|open| &open.asked.by);
        let owner = owner.or_else(|| known.get(&id).map(|outcome| &outcome.by));
        if owner.is_some_and(|owner| owner.user != by.user) {
            return taken(asked, reply.as_ref(), now);
        }
        if let Some(open) = self.open.get_mut(&id) {
            if open.replies.len() < REPLIES_MAX {
                open.replies.extend(reply);
            }
            return Vec::new();
        }
        if let Some(outcome) = known.get(&id).filter(|outcome| outcome.state.is_final()) {
            return tell(outcome, reply.as_slice());
        }
        let expires = now.steady + self.deadline;
        let open = Open { asked, replies: reply.iter().cloned().collect(), expires };
        let busy = self.waiting.len() >= self.waiting_max;
        let asked = open.asked.clone();
        self.open.insert(id.clone(), open);
        if busy {
            let why = format!("the hub is busy: {} announcements wait already", self.waiting.len());
            return vec![fail(&asked, why, now)];
        }
        let entry = Entry::accepted(&id, &by, requested_at, &announcement, reply);
        let accepted = state(&asked, State::Accepted);
        let line = Box::new(JournalLine { time: now.wall, entry });
        let mut effects = vec![Effect::Journal { line, then: Some(telling(&accepted)) }];
        self.waiting.push(id);
        self.asked_last = now.steady;
        effects.extend(self.start(now));
        effects
    }

    /// The hub stopped while this one was under way.
    pub(super) fn interrupted(
        &mut self,
        asked: Asked,
        reply: Option<ReplyAddress>,
        now: Now,
    ) -> Effect {
        let effect = fail(&asked, "the hub restarted before the snapshot was there".into(), now);
        let replies = reply.into_iter().collect();
        self.open.insert(asked.id.clone(), Open { asked, replies, expires: now.steady });
        effect
    }

    /// An outcome came in. `None` if it is news about nothing that is open.
    pub(super) fn ended(&mut self, outcome: &Outcome, now: Now) -> Option<Vec<Effect>> {
        let open = self.open.remove(&outcome.id)?;
        if !self.running.is_empty() {
            self.running.retain(|id| *id != outcome.id);
            self.idle_since = now.steady;
        }
        self.waiting.retain(|id| *id != outcome.id);
        let mut effects: Vec<_> = open
            .replies
            .iter()
            .map(|reply| Effect::Publish(answer(body(outcome), reply)))
            .collect();
        effects.extend(self.start(now));
        Some(effects)
    }

    /// Remembers an ended announcement; gives the one that is forgotten for it.
    pub(super) fn remember(&mut self, id: AnnouncementId) -> Option<AnnouncementId> {
        self.ended.push_back(id);
        (self.ended.len() > REMEMBERED_MAX).then(|| self.ended.pop_front()).flatten()
    }

    /// Time passed: what has waited too long fails.
    pub(super) fn tick(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.waiting.retain(|id| {
            let Some(open) = self.open.get(id) else { return false };
            let late = now.steady >= open.expires;
            if late {
                let why = "deadline passed while an earlier snapshot was still under way".into();
                effects.push(fail(&open.asked, why, now));
            }
            !late
        });
        effects.extend(self.start(now));
        effects
    }

    /// How long a burst still gathers; `None` if nothing waits for that.
    pub(super) fn gathers(&self, now: Now) -> Option<Duration> {
        if !self.running.is_empty() || self.waiting.len() < 2 {
            return None;
        }
        let until = (self.asked_last + QUIET).min(self.idle_since + GATHER_MAX);
        Some(until.saturating_sub(now.steady)).filter(|rest| !rest.is_zero())
    }

    /// Starts the next snapshot if none is under way and somebody waits.
    pub(super) fn start(&mut self, now: Now) -> Option<Effect> {
        if !self.running.is_empty() || self.waiting.is_empty() || self.gathers(now).is_some() {
            return None;
        }
        self.running = std::mem::take(&mut self.waiting);
        let open: Vec<&Open> = self.running.iter().filter_map(|id| self.open.get(id)).collect();
        let first = open.first()?;
        let due = |o: &&Open| (o.asked.clone(), o.expires.saturating_sub(now.steady));
        Some(Effect::Snapshot(Batch {
            name: SnapshotName::new(now.wall, &tag(&first.asked.id)),
            asked: open.iter().map(due).collect(),
        }))
    }
}

/// Eight hexadecimal digits that tell two snapshots of the same millisecond apart.
fn tag(id: &AnnouncementId) -> String {
    format!("{:08x}", crc32fast::hash(id.as_str().as_bytes()))
}

/// An announcement in some state, nothing known beyond the request.
pub(crate) fn state(asked: &Asked, state: State) -> Outcome {
    Outcome {
        id: asked.id.clone(),
        state,
        reason: asked.reason.clone(),
        source: asked.source.clone(),
        by: asked.by.clone(),
        snapshot: None,
        requested_at: asked.requested_at,
        confirmed_at: None,
        timings_ms: Timings::default(),
        capture: None,
        error: None,
    }
}

fn fail(asked: &Asked, why: String, now: Now) -> Effect {
    let waited = now.wall.duration_since(asked.requested_at).as_millis();
    let total = u64::try_from(waited).unwrap_or(0);
    let timings_ms = Timings { total, persist: total, ..Timings::default() };
    conclude(Outcome { timings_ms, error: Some(why), ..state(asked, State::Failed) }, now.wall)
}

/// The id is another user's: his outcome, and a snapshot from before, would be no answer. Only
/// who asks is told, since everybody else knows the id as the other's.
fn taken(asked: Asked, reply: Option<&ReplyAddress>, now: Now) -> Vec<Effect> {
    let told = reply.map(|reply| {
        let failed = Outcome { error: Some(ID_TAKEN.into()), ..state(&asked, State::Failed) };
        Effect::Publish(answer(body(&failed), reply))
    });
    let topic = topics::announce().as_str().to_owned();
    let entry = Entry::Refusal { by: asked.by, topic, why: ID_TAKEN.into() };
    let line = Box::new(JournalLine { time: now.wall, entry });
    std::iter::once(Effect::Journal { line, then: None }).chain(told).collect()
}

/// Journals an outcome and then lets everybody know.
pub(crate) fn conclude(outcome: Outcome, time: jiff::Timestamp) -> Effect {
    let then = Some(telling(&outcome));
    let line = Box::new(JournalLine { time, entry: Entry::Outcome(Box::new(outcome)) });
    Effect::Journal { line, then }
}

/// The message on `mesh/announce/<id>`.
pub(crate) fn telling(outcome: &Outcome) -> Telling {
    Telling {
        topic: topics::outcome(&outcome.id),
        payload: body(outcome),
        retain: false,
        correlation: None,
    }
}

/// The same body to somebody who waits for it.
pub(super) fn answer(body: bytes::Bytes, reply: &ReplyAddress) -> Telling {
    let correlation = reply.correlation.as_deref().and_then(from_hex).map(Into::into);
    Telling { topic: reply.topic.clone(), payload: body, retain: false, correlation }
}

fn tell(outcome: &Outcome, replies: &[ReplyAddress]) -> Vec<Effect> {
    let everybody = std::iter::once(Effect::Publish(telling(outcome)));
    everybody.chain(replies.iter().map(|r| Effect::Publish(answer(body(outcome), r)))).collect()
}

fn body(outcome: &Outcome) -> bytes::Bytes {
    // Strings, numbers and maps with string keys: it always serialises.
    serde_json::to_vec(outcome).unwrap_or_default().into()
}

/// Correlation data as the journal keeps it.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

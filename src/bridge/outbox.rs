//! What leaves for one network, at a pace no server minds. Pure: `now` is passed in.
//!
//! A token bucket counts every line we send. Answers to people go before events; events that find
//! no token gather per channel and leave as one digest. A line that was written is not yet a line
//! that arrived: it stays here until the server has answered a PING sent after it.
//!
//! Invariants:
//! - `said + held + unconfirmed` is the number of events pushed, whatever happens to the connection.
//! - An event is given up only with the outbox itself; a lost connection puts it back.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::digest::{Batch, Event};
use super::line::{clean, split_at_most};
use crate::name::Channel;

/// Answers that may wait; more than this is somebody playing.
const REPLIES_MAX: usize = 30;
/// Batches written and not yet confirmed before the next has to wait for the server's answer.
const UNCONFIRMED_MAX: usize = 8;

/// How fast lines may leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Lines that may leave at once after a quiet time.
    pub burst: u32,
    /// Time after which one more line may leave.
    pub every: Duration,
    /// More waiting events than this become one digest.
    pub digest_over: usize,
    /// Most lines of one answer or event.
    pub lines_max: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { burst: 4, every: Duration::from_secs(2), digest_over: 3, lines_max: 3 }
    }
}

/// A line for somebody: target and text, clean and within its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) target: Box<str>,
    pub(super) text: String,
}

/// What the connection is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write this.
    Say(Line),
    /// Write a PING with this number; its PONG confirms what was written before.
    Probe(u64),
    /// Come back then.
    Wait(Instant),
    /// Nothing to say.
    Idle,
}

/// The queues of one network.
#[derive(Debug)]
pub(super) struct Outbox {
    pace: Pace,
    bucket: Bucket,
    replies: VecDeque<Line>,
    replies_dropped: u64,
    waiting: BTreeMap<Channel, Batch>,
    /// The batch being written, and its lines still to go.
    writing: Option<(Channel, Batch)>,
    lines: VecDeque<Line>,
    unconfirmed: VecDeque<(u64, Channel, Batch)>,
    written: u64,
    probed: Option<u64>,
    connected_at: Option<Instant>,
    said: u64,
}

impl Outbox {
    pub(super) fn new(pace: Pace, channels: &[Channel], now: Instant) -> Self {
        let waiting = channels.iter().map(|channel| (channel.clone(), Batch::default()));
        Self {
            pace,
            bucket: Bucket { tokens: 0.0, at: now },
            replies: VecDeque::new(),
            replies_dropped: 0,
            waiting: waiting.collect(),
            writing: None,
            lines: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            written: 0,
            probed: None,
            connected_at: None,
            said: 0,
        }
    }

    /// An event for a channel of this network, or for all of them. False: no such channel.
    pub(super) fn push(&mut self, channel: Option<&Channel>, event: &Event) -> bool {
        let mut found = false;
        for (name, batch) in &mut self.waiting {
            if channel.is_none_or(|wanted| is_same(wanted, name)) {
                batch.push(event.clone());
                found = true;
            }
        }
        found
    }

    /// An answer to somebody; never more lines than the pace allows an answer.
    pub(super) fn reply(&mut self, target: &str, text: &str, room: usize) {
        for text in split_at_most(&clean(text), room, self.pace.lines_max) {
            if self.replies.len() < REPLIES_MAX {
                self.replies.push_back(Line { target: target.into(), text });
            } else {
                self.replies_dropped += 1;
            }
        }
    }

    /// A line left that is not in these queues: PONG, JOIN, NICK.
    pub(super) fn charge(&mut self, now: Instant) {
        self.bucket.refill(self.pace, now);
        self.bucket.tokens = (self.bucket.tokens - 1.0).max(-f64::from(self.pace.burst));
    }

    /// What to do now; `room` says how many bytes of text fit where we may speak.
    pub(super) fn next(&mut self, now: Instant, room: impl Fn(&Channel) -> Option<usize>) -> Step {
        if self.writing.as_ref().is_some_and(|(channel, _)| room(channel).is_none()) {
            self.rewind();
        }
        let event = !self.lines.is_empty()
            || (self.unconfirmed.len() < UNCONFIRMED_MAX && self.speakable(now, &room).is_some());
        let probe = self.probed.is_none() && !self.unconfirmed.is_empty();
        if self.replies.is_empty() && !event && !probe {
            return Step::Idle;
        }
        if let Some(at) = self.bucket.ready_at(self.pace, now) {
            return Step::Wait(at);
        }
        self.charge(now);
        if let Some(line) = self.replies.pop_front() {
            return Step::Say(line);
        }
        match if event { self.event_line(now, &room) } else { None } {
            Some(line) => Step::Say(line),
            None => {
                self.probed = Some(self.written);
                Step::Probe(self.written)
            }
        }
    }

    /// The server answered a PING: what was written before the probe of this number arrived.
    /// Without a number it is the one under way.
    pub(super) fn confirm(&mut self, number: Option<u64>) {
        let Some(number) = number.or(self.probed).filter(|&number| Some(number) <= self.probed)
        else {
            return;
        };
        if self.probed == Some(number) {
            self.probed = None;
        }
        while self.unconfirmed.front().is_some_and(|(written, ..)| *written <= number) {
            if let Some((_, _, batch)) = self.unconfirmed.pop_front() {
                self.said += batch.len();
            }
        }
    }

    /// The server would not pass on what we wrote to this channel: it waits again.
    pub(super) fn rejected(&mut self, channel: &Channel) {
        let all = std::mem::take(&mut self.unconfirmed);
        let (again, others) = all.into_iter().partition(|(_, name, _)| name == channel);
        self.unconfirmed = others;
        self.put_back(again);
    }

    /// The connection is gone: what may not have arrived waits again, answers are stale.
    pub(super) fn disconnected(&mut self) {
        self.replies_dropped += self.replies.len() as u64;
        self.replies.clear();
        self.rewind();
        let again = std::mem::take(&mut self.unconfirmed);
        self.put_back(again);
        self.probed = None;
    }

    /// A new connection is registered: no token is there yet.
    pub(super) fn connected(&mut self, now: Instant) {
        self.bucket = Bucket { tokens: 0.0, at: now };
        self.connected_at = Some(now);
    }

    /// Events that wait or may not have arrived.
    pub(super) fn held(&self) -> u64 {
        let waiting: u64 = self.waiting.values().map(Batch::len).sum();
        let unconfirmed: u64 = self.unconfirmed.iter().map(|(_, _, batch)| batch.len()).sum();
        waiting + unconfirmed + self.writing.as_ref().map_or(0, |(_, batch)| batch.len())
    }

    /// Events the server has answered for, and answers that were given up.
    pub(super) const fn totals(&self) -> (u64, u64) {
        (self.said, self.replies_dropped)
    }

    /// The channel we may speak in whose first event has waited longest.
    fn speakable(
        &mut self,
        now: Instant,
        room: impl Fn(&Channel) -> Option<usize>,
    ) -> Option<(Channel, usize)> {
        self.waiting.values_mut().for_each(|batch| batch.expire(now));
        let ready = self
            .waiting
            .iter()
            .filter_map(|(channel, batch)| Some((batch.since()?, channel, room(channel)?)));
        ready.min().map(|(_, channel, room)| (channel.clone(), room))
    }

    fn event_line(
        &mut self,
        now: Instant,
        room: impl Fn(&Channel) -> Option<usize>,
    ) -> Option<Line> {
        while self.lines.is_empty() {
            self.written();
            let (channel, room) = self.speakable(now, &room)?;
            let batch = self.waiting.get_mut(&channel)?.take(self.pace.digest_over)?;
            let away = batch.since() < self.connected_at;
            let text = clean(&batch.text(now, away));
            let lines = split_at_most(&text, room, self.pace.lines_max).into_iter();
            let target: Box<str> = channel.as_str().into();
            self.lines.extend(lines.map(|text| Line { target: target.clone(), text }));
            self.writing = Some((channel, batch));
        }
        let line = self.lines.pop_front();
        if self.lines.is_empty() {
            self.written();
        }
        line
    }

    /// Gives up the batch that is half written.
    fn rewind(&mut self) {
        self.lines.clear();
        if let Some((channel, batch)) = self.writing.take() {
            self.waiting.entry(channel).or_default().put_back(batch);
        }
    }

    fn put_back(&mut self, batches: VecDeque<(u64, Channel, Batch)>) {
        for (_, channel, batch) in batches.into_iter().rev() {
            self.waiting.entry(channel).or_default().put_back(batch);
        }
    }

    /// The last line of a batch is on its way.
    fn written(&mut self) {
        if let Some((channel, batch)) = self.writing.take() {
            self.written += 1;
            self.unconfirmed.push_back((self.written, channel, batch));
        }
    }
}

/// Servers compare channels without case; for letters beyond ASCII they differ.
fn is_same(a: &Channel, b: &Channel) -> bool {
    a.as_str().eq_ignore_ascii_case(b.as_str())
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, pace: Pace, now: Instant) {
        let gained = now.duration_since(self.at).as_secs_f64() / pace.every.as_secs_f64();
        self.tokens = (self.tokens + gained).min(f64::from(pace.burst));
        self.at = now;
    }

    /// `None` if a line may leave now, else when it may.
    fn ready_at(&mut self, pace: Pace, now: Instant) -> Option<Instant> {
        self.refill(pace, now);
        // A hair under one token counts: waiting for the last nanosecond of it would spin.
        let missing = 1.0 - self.tokens;
        (missing > 1e-6).then(|| now + pace.every.mul_f64(missing))
    }
}

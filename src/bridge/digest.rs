//! Events that wait to be said in one channel, and the line that says many of them at once. Pure.
//!
//! Invariant: what is held, what is counted and what was handed out add up to what was pushed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::line::shorten;
use crate::mesh::SayKind;

/// Events of one channel whose text is kept.
pub(super) const HELD_MAX: usize = 1_000;
/// How long their text is kept.
pub(super) const HELD_FOR: Duration = Duration::from_secs(3_600);
/// How many events a digest names.
const NAMED_MAX: usize = 3;
/// Characters of each event that a digest names.
const NAMED_MAX_CHARS: usize = 90;

/// Something to say, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: SayKind,
    pub(super) text: Box<str>,
    pub(super) at: Instant,
}

/// Events of one channel: the newest with their text, older ones as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    events: VecDeque<Event>,
    counted: BTreeMap<SayKind, u64>,
    /// When the first of them happened.
    since: Option<Instant>,
}

impl Batch {
    /// Adds an event; the oldest text makes room if it must.
    pub(super) fn push(&mut self, event: Event) {
        self.since.get_or_insert(event.at);
        self.events.push_back(event);
        if self.events.len() > HELD_MAX {
            self.count_first();
        }
    }

    /// Puts back what could not be said, in front of what came later.
    pub(super) fn put_back(&mut self, mut earlier: Self) {
        std::mem::swap(self, &mut earlier);
        self.since = self.since.or(earlier.since);
        for (kind, count) in earlier.counted {
            *self.counted.entry(kind).or_default() += count;
        }
        earlier.events.into_iter().for_each(|event| self.push(event));
    }

    /// Forgets the texts that are too old to be news.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.events.front().is_some_and(|event| now.duration_since(event.at) > HELD_FOR) {
            self.count_first();
        }
    }

    /// How many events this is.
    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64 + self.counted.values().sum::<u64>()
    }

    /// When the first event happened.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// What to say next: the first event if few wait, else all of them.
    pub(super) fn take(&mut self, digest_over: usize) -> Option<Self> {
        if !self.counted.is_empty() || self.events.len() > digest_over {
            return Some(std::mem::take(self));
        }
        let event = self.events.pop_front()?;
        self.since = self.events.front().map(|next| next.at);
        let mut single = Self::default();
        single.push(event);
        Some(single)
    }

    /// The line: the event itself, or how many there were, of what kinds, and the first few.
    pub(super) fn text(&self, now: Instant, away: bool) -> String {
        if let (1, Some(only)) = (self.len(), self.events.front()) {
            return only.text.to_string();
        }
        let span = span(self.since.map_or(Duration::ZERO, |since| now.duration_since(since)));
        let lead = if away { "while I was away: " } else { "" };
        let mut text = format!("{lead}[{} events in {span}] {}", self.len(), self.kinds());
        let mut named = 0;
        for event in self.most_telling().take(NAMED_MAX) {
            text.push_str(if named == 0 { " · " } else { " | " });
            text.push_str(&shorten(&event.text, NAMED_MAX_CHARS));
            named += 1;
        }
        let more = self.len() - named;
        if more > 0 && named > 0 {
            text.push_str(&format!(" | and {more} more"));
        }
        text
    }

    /// `2 failed, 198 confirmed`: how many of each kind, the worst first.
    fn kinds(&self) -> String {
        let mut counts = self.counted.clone();
        for event in &self.events {
            *counts.entry(event.kind).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(kind, _)| urgency(kind));
        let told: Vec<_> = counts.iter().map(|(kind, n)| format!("{n} {}", word(*kind))).collect();
        told.join(", ")
    }

    /// Failures first, else in the order they happened.
    fn most_telling(&self) -> impl Iterator<Item = &Event> {
        let of = |failed: bool| {
            self.events.iter().filter(move |event| (event.kind == SayKind::Failed) == failed)
        };
        of(true).chain(of(false))
    }

    fn count_first(&mut self) {
        if let Some(event) = self.events.pop_front() {
            *self.counted.entry(event.kind).or_default() += 1;
        }
    }
}

/// The word of a kind, as a digest counts it.
const fn word(kind: SayKind) -> &'static str {
    match kind {
        SayKind::Confirmed => "confirmed",
        SayKind::Failed => "failed",
        SayKind::Verdict => "about nodes",
        SayKind::Hub => "about the hub",
        SayKind::Relay => "relayed",
    }
}

/// What a person must see first.
const fn urgency(kind: SayKind) -> u8 {
    match kind {
        SayKind::Failed => 0,
        SayKind::Hub => 1,
        SayKind::Verdict => 2,
        SayKind::Confirmed => 3,
        SayKind::Relay => 4,
    }
}

/// A time span as people say it: `4s`, `12min`, `3h 5min`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs().max(1);
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}min"),
        (0, hours, minutes) => format!("{hours}h {minutes}min"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: SayKind, text: &str, at: Instant) -> Event {
        Event { kind, text: text.into(), at }
    }

    fn batch(count: usize, at: Instant) -> Batch {
        let mut batch = Batch::default();
        for n in 0..count {
            batch.push(event(SayKind::Confirmed, &format!("snapshot {n}"), at));
        }
        batch
    }

    #[test]
    fn a_digest_counts_all_names_kinds_and_puts_failures_first() {
        let start = Instant::now();
        let mut batch = batch(4, start);
        batch.push(event(SayKind::Failed, "no space", start));
        assert_eq!(
            batch.text(start + Duration::from_secs(4), false),
            "[5 events in 4s] 1 failed, 4 confirmed · no space | snapshot 0 | snapshot 1 | and 2 more"
        );
        assert!(batch.text(start, true).starts_with("while I was away: [5 events in 1s] "));
    }

    #[test]
    fn few_events_are_said_one_by_one_and_many_as_one() {
        let mut few = batch(3, Instant::now());
        assert_eq!(few.take(3).unwrap().text(Instant::now(), false), "snapshot 0");
        assert_eq!(few.len(), 2);
        let mut many = batch(4, Instant::now());
        assert_eq!(many.take(3).unwrap().len(), 4);
        assert!(many.len() == 0 && many.take(3).is_none());
    }

    #[test]
    fn texts_go_by_age_and_number_but_the_count_stays() {
        let start = Instant::now();
        let mut batch = batch(HELD_MAX + 500, start);
        assert_eq!((batch.len(), batch.events.len()), (1_500, HELD_MAX));
        batch.push(event(SayKind::Failed, "late", start + HELD_FOR));
        batch.expire(start + HELD_FOR + Duration::from_secs(60));
        assert_eq!((batch.len(), batch.events.len()), (1_501, 1));
        let text = batch.text(start + HELD_FOR, false);
        assert_eq!(
            text,
            "[1501 events in 1h 0min] 1 failed, 1500 confirmed · late | and 1500 more"
        );
    }

    #[test]
    fn what_is_put_back_comes_first_and_stays_counted() {
        let start = Instant::now();
        let mut later = batch(2, start + Duration::from_secs(9));
        let mut earlier = batch(HELD_MAX + 1, start);
        earlier.push(event(SayKind::Relay, "x", start));
        later.put_back(earlier);
        assert_eq!(later.len(), HELD_MAX as u64 + 4);
        assert_eq!(later.since(), Some(start));
        assert_eq!(later.events.len(), HELD_MAX);
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 59, 60, 3_599, 3_600, 90_000].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["1s", "59s", "1min", "59min", "1h 0min", "1d 1h"]);
    }
}

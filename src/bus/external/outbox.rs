//! What waits to be sent: in order, bounded, the newest of each retained topic.
//!
//! Retained publications are bounded by the number of topics, since a newer one
//! takes the place of an older; of the others the oldest go when there are too
//! many, and are counted.

use bytes::Bytes;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};

/// Publications that are not retained and may wait.
const PASSING_MAX: usize = 10_000;

/// A publication on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) topic: Box<str>,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) correlation: Option<Bytes>,
    pub(super) content_type: Option<String>,
    pub(super) user_properties: Vec<(String, String)>,
    pub(super) expires_at: Option<Timestamp>,
    /// The message of somebody else, given back to a broker that has lost it.
    pub(super) given: bool,
}

impl Item {
    pub(super) fn new(topic: &str, payload: Bytes, retain: bool) -> Self {
        Self {
            topic: topic.into(),
            payload,
            qos: 1,
            retain,
            correlation: None,
            content_type: None,
            user_properties: Vec::new(),
            expires_at: None,
            given: false,
        }
    }
}

/// The queue, by a number that only grows at the back and falls at the front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    items: BTreeMap<i64, Item>,
    retained: HashMap<Box<str>, i64>,
    passing: usize,
}

impl Outbox {
    /// Puts a publication at the end; gives how many were dropped for it.
    pub(super) fn push(&mut self, item: Item) -> usize {
        if item.retain {
            self.withdraw(&item.topic);
        }
        let at = self.items.last_key_value().map_or(0, |(at, _)| at + 1);
        self.insert(at, item);
        if self.passing <= PASSING_MAX {
            return 0;
        }
        let oldest = self.items.iter().find(|(_, item)| !item.retain).map(|(at, _)| *at);
        let dropped = oldest.and_then(|at| self.items.remove(&at));
        self.passing -= usize::from(dropped.is_some());
        usize::from(dropped.is_some())
    }

    /// Puts back what was under way when the connection was lost, oldest first.
    /// What was given back to the broker is judged anew, and a newer one of the
    /// same topic has its place.
    pub(super) fn put_back(&mut self, items: Vec<Item>) {
        self.items.retain(|at, item| {
            if item.given && self.retained.get(&item.topic) == Some(at) {
                self.retained.remove(&item.topic);
            }
            !item.given
        });
        for item in items.into_iter().rev() {
            if item.given || item.retain && self.retained.contains_key(&item.topic) {
                continue;
            }
            let at = self.items.first_key_value().map_or(0, |(at, _)| at - 1);
            self.insert(at, item);
        }
    }

    /// The topic of what is sent next.
    pub(super) fn next(&self) -> Option<&str> {
        self.items.first_key_value().map(|(_, item)| &*item.topic)
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let (_, item) = self.items.pop_first()?;
        if item.retain {
            self.retained.remove(&item.topic);
        } else {
            self.passing -= 1;
        }
        Some(item)
    }

    /// Takes back the waiting retained publication of a topic.
    pub(super) fn withdraw(&mut self, topic: &str) {
        if let Some(at) = self.retained.remove(topic) {
            self.items.remove(&at);
        }
    }

    /// True if the hub's own word on a retained topic waits.
    pub(super) fn holds(&self, topic: &str) -> bool {
        let waiting = self.retained.get(topic).and_then(|at| self.items.get(at));
        waiting.is_some_and(|item| !item.given)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    fn insert(&mut self, at: i64, item: Item) {
        if item.retain {
            self.retained.insert(item.topic.clone(), at);
        } else {
            self.passing += 1;
        }
        self.items.insert(at, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(topic: &str, payload: &'static str, retain: bool) -> Item {
        Item::new(topic, Bytes::from_static(payload.as_bytes()), retain)
    }

    fn drain(outbox: &mut Outbox) -> Vec<(Box<str>, Bytes)> {
        std::iter::from_fn(|| outbox.pop()).map(|item| (item.topic, item.payload)).collect()
    }

    fn pairs(expected: &[(&str, &'static str)]) -> Vec<(Box<str>, Bytes)> {
        let pair = |(t, p): &(&str, &'static str)| ((*t).into(), Bytes::from_static(p.as_bytes()));
        expected.iter().map(pair).collect()
    }

    #[test]
    fn of_a_retained_topic_only_the_newest_waits_and_the_rest_keeps_its_order() {
        let mut outbox = Outbox::default();
        for (topic, payload, retain) in [
            ("a", "1", true),
            ("e", "1", false),
            ("b", "1", true),
            ("e", "2", false),
            ("a", "2", true),
        ] {
            assert_eq!(outbox.push(item(topic, payload, retain)), 0);
        }
        assert_eq!(drain(&mut outbox), pairs(&[("e", "1"), ("b", "1"), ("e", "2"), ("a", "2")]));
        assert_eq!((outbox.len(), outbox.passing), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_the_oldest_that_nothing_replaces() {
        let mut outbox = Outbox::default();
        outbox.push(item("kept", "1", true));
        let dropped: usize = (0..PASSING_MAX + 3).map(|_| outbox.push(item("e", "x", false))).sum();
        assert_eq!(dropped, 3);
        assert_eq!(outbox.len(), PASSING_MAX + 1);
        assert_eq!(outbox.pop().unwrap().topic, "kept".into());
    }

    #[test]
    fn what_was_under_way_comes_first_unless_there_is_a_newer_one() {
        let mut outbox = Outbox::default();
        outbox.push(item("a", "new", true));
        outbox.push(Item { given: true, ..item("theirs", "x", true) });
        let given = Item { given: true, ..item("other", "x", true) };
        let back = vec![item("e", "1", false), item("a", "old", true), given, item("b", "1", true)];
        outbox.put_back(back);
        assert_eq!(outbox.next(), Some("e"));
        assert_eq!(drain(&mut outbox), pairs(&[("e", "1"), ("b", "1"), ("a", "new")]));
    }
}

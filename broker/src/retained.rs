//! Retained messages: what the broker keeps through its host, and a store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, RwLock},
    time::SystemTime,
};

use bytes::Bytes;

use crate::{
    api::{Identity, QoS},
    lock::{read, write},
    topic::filter_matches,
};

/// The last message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Its topic.
    pub topic: Box<str>,
    /// Its payload, never empty.
    pub payload: Bytes,
    /// The QoS it was published with.
    pub qos: QoS,
    /// Raw version 5 properties without alias and expiry.
    pub properties: Bytes,
    /// When it loses its value.
    pub expires_at: Option<SystemTime>,
    /// When it came in.
    pub received_at: SystemTime,
    /// Who published it.
    pub by: Arc<Identity>,
}

impl Retained {
    /// Has it lost its value?
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// Where retained messages live. The broker calls `put` and `remove` in the order subscribers see
/// the messages; like everything the broker asks its host, none of it may block or call back.
pub trait RetainedStore: Send + Sync + 'static {
    /// Keeps a message in place of the former one of its topic.
    fn put(&self, message: Arc<Retained>);

    /// Forgets the message of a topic.
    fn remove(&self, topic: &str);

    /// Adds the unexpired messages a filter selects, in topic order, by the rules of
    /// [`filter_matches`].
    fn matching(&self, filter: &str, found: &mut Vec<Arc<Retained>>);
}

/// Messages that one page looks at.
const PAGE_LOOKS_MAX: usize = 10_000;

/// Some of the messages that a filter selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The messages, in topic order.
    pub messages: Vec<Arc<Retained>>,
    /// Where to go on, if there may be more.
    pub next: Option<Arc<str>>,
}

/// Retained messages in memory, in topic order.
#[derive(Debug, Default)]
pub struct MemoryStore(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    messages: BTreeMap<Arc<str>, Arc<Retained>>,
    /// Which of them expire, soonest first.
    expiring: BTreeSet<(SystemTime, Arc<str>)>,
}

impl Kept {
    fn put(&mut self, message: Arc<Retained>) {
        let (topic, expires_at) = match self.messages.get_mut(&*message.topic) {
            Some(slot) => {
                let expires_at = message.expires_at;
                let old = std::mem::replace(slot, message);
                if old.expires_at.is_none() && expires_at.is_none() {
                    return;
                }
                let topic: Arc<str> = old.topic.as_ref().into();
                if let Some(at) = old.expires_at {
                    self.expiring.remove(&(at, topic.clone()));
                }
                (topic, expires_at)
            }
            None => {
                let (topic, expires_at) = (Arc::<str>::from(&*message.topic), message.expires_at);
                self.messages.insert(topic.clone(), message);
                (topic, expires_at)
            }
        };
        self.expiring.extend(expires_at.map(|at| (at, topic)));
    }

    fn remove(&mut self, topic: &str) -> Option<Arc<Retained>> {
        let (topic, message) = self.messages.remove_entry(topic)?;
        if let Some(at) = message.expires_at {
            self.expiring.remove(&(at, topic));
        }
        Some(message)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The message of a topic, expired or not.
    pub fn get(&self, topic: &str) -> Option<Arc<Retained>> {
        read(&self.0).messages.get(topic).cloned()
    }

    /// How many messages it holds, expired ones included.
    pub fn len(&self) -> usize {
        read(&self.0).messages.len()
    }

    /// Does it hold none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The unexpired messages that a filter selects behind a topic, `limit` at most, in topic
    /// order. It looks at no more than so many messages at once that nobody who publishes waits
    /// for it, so a page can be empty and not the last.
    pub fn page(&self, filter: &str, after: Option<&str>, limit: usize) -> Page {
        let (kept, now) = (read(&self.0), SystemTime::now());
        let prefix = literal_prefix(filter);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = kept.messages.range::<str, _>((from, Bound::Unbounded));
        let mut range = range.take_while(|(topic, _)| topic.starts_with(prefix));
        let mut page = Page::default();
        let mut looked_at = 0;
        while page.messages.len() < limit && looked_at < PAGE_LOOKS_MAX {
            let Some((topic, message)) = range.next() else { return Page { next: None, ..page } };
            looked_at += 1;
            if !message.is_expired(now) && filter_matches(filter, topic) {
                page.messages.push(message.clone());
            }
            page.next = Some(topic.clone());
        }
        page
    }

    /// Forgets expired messages, the oldest first and at most so many, and gives them.
    /// [`Broker::in_order`](crate::Broker::in_order) keeps new ones out meanwhile.
    pub fn sweep(&self, now: SystemTime, max: usize) -> Vec<Arc<Retained>> {
        let mut kept = write(&self.0);
        let due = kept.expiring.iter().take_while(|(at, _)| *at <= now).take(max);
        let due: Vec<_> = due.map(|(_, topic)| topic.clone()).collect();
        due.iter().filter_map(|topic| kept.remove(topic)).collect()
    }
}

impl RetainedStore for MemoryStore {
    fn put(&self, message: Arc<Retained>) {
        write(&self.0).put(message);
    }

    fn remove(&self, topic: &str) {
        drop(write(&self.0).remove(topic));
    }

    fn matching(&self, filter: &str, found: &mut Vec<Arc<Retained>>) {
        let (kept, now) = (read(&self.0), SystemTime::now());
        let messages = &kept.messages;
        if !filter.contains(['+', '#']) {
            found.extend(messages.get(filter).filter(|m| !m.is_expired(now)).cloned());
            return;
        }
        let prefix = literal_prefix(filter);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let selected = messages
            .range::<str, _>(from)
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, message)| !message.is_expired(now) && filter_matches(filter, topic));
        found.extend(selected.map(|(_, message)| message.clone()));
    }
}

/// What every selected topic begins with. `a/#` selects `a` too, so its slash does not count.
fn literal_prefix(filter: &str) -> &str {
    let literal = filter.split(['+', '#']).next().unwrap_or_default();
    if filter[literal.len()..].starts_with('#') {
        literal.strip_suffix('/').unwrap_or(literal)
    } else {
        literal
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn message(topic: &str, expires_at: Option<SystemTime>) -> Arc<Retained> {
        let by = Identity { client_id: "c".into(), user: None, address: None, note: 0 };
        Arc::new(Retained {
            topic: topic.into(),
            payload: Bytes::from_static(b"p"),
            qos: QoS::AtMostOnce,
            properties: Bytes::new(),
            expires_at,
            received_at: SystemTime::UNIX_EPOCH,
            by: Arc::new(by),
        })
    }

    fn selected(store: &MemoryStore, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        store.matching(filter, &mut found);
        found.iter().map(|m| m.topic.to_string()).collect()
    }

    #[test]
    fn a_filter_finds_exactly_what_the_rules_say_in_topic_order() {
        let store = MemoryStore::new();
        let topics = ["a", "a-b", "a/b", "a/b/c", "a/c", "ab", "b/b", "/x", "$SYS/x"];
        topics.iter().for_each(|topic| store.put(message(topic, None)));
        for filter in ["#", "a", "a/#", "a/+", "+/b", "+/+", "/+", "$SYS/#", "a/b/#", "none/#"] {
            let mut expected: Vec<_> =
                topics.into_iter().filter(|t| filter_matches(filter, t)).collect();
            expected.sort_unstable();
            assert_eq!(selected(&store, filter), expected, "{filter}");
        }
    }

    #[test]
    fn pages_put_together_are_all_that_the_filter_selects() {
        let store = MemoryStore::new();
        // More than one page may look at, and the few that are selected far apart.
        let topics: Vec<_> = (0..PAGE_LOOKS_MAX + 500).map(|n| format!("a/{n:05}/x")).collect();
        topics.iter().for_each(|topic| store.put(message(topic, None)));
        store.put(message("b", None));
        store.put(message("a/10400/y", Some(SystemTime::UNIX_EPOCH)));
        for (filter, limit) in
            [("#", 1000), ("a/#", 7000), ("a/10400/+", 1), ("+/00003/#", 5), ("b", 1), ("c/#", 9)]
        {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = store.page(filter, after.as_deref(), limit);
                assert!(page.messages.len() <= limit);
                found.extend(page.messages.iter().map(|m| m.topic.to_string()));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, selected(&store, filter), "{filter}");
        }
    }

    #[test]
    fn the_newest_counts_and_expired_ones_are_not_found() {
        let store = MemoryStore::new();
        let now = SystemTime::now();
        store.put(message("a", Some(now - Duration::from_secs(1))));
        assert!(selected(&store, "#").is_empty());
        assert_eq!(store.sweep(now, 9).len(), 1);
        store.put(message("a", Some(now + Duration::from_secs(60))));
        store.put(message("a", None));
        assert_eq!((store.len(), selected(&store, "a")), (1, vec!["a".to_owned()]));
        store.remove("a");
        assert!(store.is_empty());
    }

    #[test]
    fn a_sweep_takes_what_has_expired_and_nothing_that_replaced_it() {
        let (store, now) = (MemoryStore::new(), SystemTime::now());
        let at = |seconds: u64| Some(now + Duration::from_secs(seconds));
        for (topic, expires_at) in [("a", at(1)), ("b", at(1)), ("c", at(1)), ("d", at(3))] {
            store.put(message(topic, expires_at));
        }
        store.put(message("a", at(5)));
        store.put(message("b", None));
        let swept = |seconds: u64| -> Vec<String> {
            let swept = store.sweep(now + Duration::from_secs(seconds), 1);
            swept.iter().map(|message| message.topic.to_string()).collect()
        };
        assert_eq!(swept(2), ["c"]);
        assert_eq!(swept(4), ["d"]);
        store.remove("a");
        assert!(swept(9).is_empty());
        assert_eq!((store.len(), read(&store.0).expiring.len()), (1, 0));
    }
}

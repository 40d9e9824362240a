//! The tree from topic to the sessions that want it: one node for each topic level.
//!
//! Invariant: a node without subscribers and without children does not exist, so the tree is as
//! large as the subscriptions are, whatever clients subscribed to before.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
};

use crate::session::Session;

/// How a session wants the messages of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0: none.
    pub(crate) id: u32,
}

/// A session and how it wants the messages.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) session: Arc<Session>,
    pub(crate) options: Options,
}

/// Sessions that share a subscription: each message goes to one of them.
#[derive(Debug)]
pub(crate) struct Group {
    name: Box<str>,
    pub(crate) members: Vec<Subscriber>,
    /// Whose turn it is.
    pub(crate) turn: Arc<AtomicUsize>,
}

/// A level of the tree.
#[derive(Debug, Default)]
pub(crate) struct Node {
    children: HashMap<Box<str>, Node>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) groups: Vec<Group>,
}

impl Node {
    /// Enters a subscription, or changes its options. True when it is new.
    pub(crate) fn insert(
        &mut self,
        group: Option<&str>,
        filter: &str,
        session: &Arc<Session>,
        options: Options,
    ) -> bool {
        let mut node = self;
        for level in filter.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            let Some(child) = node.children.get_mut(level) else { return false };
            node = child;
        }
        let list = match group {
            None => &mut node.subscribers,
            Some(group) => node.group(group),
        };
        match list.iter_mut().find(|known| known.session.uid == session.uid) {
            Some(known) => {
                known.options = options;
                false
            }
            None => {
                list.push(Subscriber { session: session.clone(), options });
                true
            }
        }
    }

    fn group(&mut self, name: &str) -> &mut Vec<Subscriber> {
        let at = self.groups.iter().position(|group| &*group.name == name).unwrap_or_else(|| {
            self.groups.push(Group { name: name.into(), members: vec![], turn: Arc::default() });
            self.groups.len() - 1
        });
        &mut self.groups[at].members
    }

    /// Takes a subscription out, and every node that is empty then.
    pub(crate) fn remove(&mut self, group: Option<&str>, filter: &str, uid: u64) {
        self.remove_below(group, Some(filter), uid);
    }

    fn remove_below(&mut self, group: Option<&str>, filter: Option<&str>, uid: u64) -> bool {
        match (filter, group) {
            (Some(filter), _) => {
                let (level, rest) = filter
                    .split_once('/')
                    .map_or((filter, None), |(level, rest)| (level, Some(rest)));
                let child = self.children.get_mut(level);
                if child.is_some_and(|child| child.remove_below(group, rest, uid)) {
                    self.children.remove(level);
                    if self.children.len() * 4 < self.children.capacity() {
                        self.children.shrink_to_fit();
                    }
                }
            }
            (None, None) => {
                self.subscribers.retain(|known| known.session.uid != uid);
                self.subscribers.shrink_to(4);
            }
            (None, Some(name)) => {
                for group in self.groups.iter_mut().filter(|group| &*group.name == name) {
                    group.members.retain(|known| known.session.uid != uid);
                }
                self.groups.retain(|group| !group.members.is_empty());
            }
        }
        self.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty() && self.subscribers.is_empty() && self.groups.is_empty()
    }

    /// Adds the nodes whose filters select a topic.
    pub(crate) fn matching<'a>(&'a self, topic: &str, found: &mut Vec<&'a Node>) {
        self.matching_levels(topic.split('/'), true, found);
    }

    fn matching_levels<'a>(
        &'a self,
        mut levels: std::str::Split<'_, char>,
        first: bool,
        found: &mut Vec<&'a Node>,
    ) {
        let level = levels.next();
        let wildcards = !(first && level.is_some_and(|level| level.starts_with('$')));
        if wildcards && let Some(child) = self.children.get("#") {
            found.push(child);
        }
        let Some(level) = level else {
            found.push(self);
            return;
        };
        if let Some(child) = self.children.get(level) {
            child.matching_levels(levels.clone(), false, found);
        }
        if wildcards && let Some(child) = self.children.get("+") {
            child.matching_levels(levels, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::filter_matches;

    const OPTIONS: Options = Options { qos: 0, no_local: false, retain_as_published: false, id: 0 };

    fn session(uid: u64) -> Arc<Session> {
        Arc::new(Session::new(crate::session::sessions::Key::new(None, "c"), uid))
    }

    fn uids(tree: &Node, topic: &str) -> Vec<u64> {
        let mut nodes = Vec::new();
        tree.matching(topic, &mut nodes);
        let subscribers = nodes.iter().flat_map(|node| &node.subscribers);
        let mut uids: Vec<_> = subscribers.map(|s| s.session.uid).collect();
        uids.sort_unstable();
        uids
    }

    #[test]
    fn the_tree_finds_what_the_filter_rules_say() {
        let filters =
            ["#", "+", "a", "a/#", "a/+", "+/b", "a/b/#", "/", "+/+", "$SYS/#", "$SYS/+", "a/+/c"];
        let topics = ["a", "a/b", "a/b/c", "/", "$SYS/x", "b/b", "b", "a/", "$SYS"];
        let mut tree = Node::default();
        for (uid, filter) in filters.iter().enumerate() {
            assert!(tree.insert(None, filter, &session(uid as u64), OPTIONS));
        }
        for topic in topics {
            let expected: Vec<_> = (0..filters.len() as u64)
                .filter(|uid| filter_matches(filters[*uid as usize], topic))
                .collect();
            assert_eq!(uids(&tree, topic), expected, "{topic}");
        }
        for (uid, filter) in filters.iter().enumerate() {
            tree.remove(None, filter, uid as u64);
        }
        assert!(tree.is_empty(), "nothing may be left behind");
    }

    #[test]
    fn a_second_subscription_to_a_filter_replaces_the_first() {
        let (mut tree, session) = (Node::default(), session(1));
        assert!(tree.insert(None, "a", &session, OPTIONS));
        assert!(!tree.insert(None, "a", &session, Options { qos: 2, ..OPTIONS }));
        assert_eq!(uids(&tree, "a"), [1]);
        assert!(tree.insert(Some("g"), "a", &session, OPTIONS));
        tree.remove(None, "a", 1);
        assert!(!tree.is_empty());
        tree.remove(Some("other"), "a", 1);
        assert!(!tree.is_empty());
        tree.remove(Some("g"), "a", 1);
        assert!(tree.is_empty());
    }
}

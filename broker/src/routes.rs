//! What is settled about a topic for one publisher: is it valid, may it, is it retained, who takes
//! it. Kept until subscriptions or rules change.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{
    api::{Identity, Retention},
    chunk::Form,
    codec::Reason,
    lock::{lock, read},
    session::Session,
    shared::Shared,
    subscriptions::Subscriber,
    topic::valid_topic,
};

/// Topics one publisher keeps routes of, and the bytes of their names.
const ROUTES_MAX: usize = 1024;
const ROUTES_MAX_BYTES: usize = 256 * 1024;
/// Different sets of takers one publisher keeps.
const SETS_MAX: usize = 16;
/// One taker of a topic.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) session: Arc<Session>,
    pub(crate) version5: bool,
    pub(crate) qos: u8,
    pub(crate) retain_as_published: bool,
    pub(crate) subscription_ids: Arc<[u32]>,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.session, &other.session)
            && (self.version5, self.qos) == (other.version5, other.qos)
            && self.retain_as_published == other.retain_as_published
            && self.subscription_ids == other.subscription_ids
    }
}

#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) members: Vec<Subscriber>,
    pub(crate) turn: Arc<AtomicUsize>,
}

/// Who takes a topic.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) list: Vec<Target>,
    pub(crate) shares: Vec<Shares>,
    /// By QoS of the message: the wire forms somebody needs.
    pub(crate) forms: [[bool; Form::COUNT]; 3],
}

/// Everything settled about a topic for one publisher.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) topic: Box<str>,
    pub(crate) allowed: bool,
    /// Longer or deeper than clients may publish.
    pub(crate) too_long: bool,
    pub(crate) retention: Retention,
    pub(crate) targets: Arc<Targets>,
}

/// A route in a set that is searched by the topic as it comes off the wire.
#[derive(Debug)]
struct ByTopic(Arc<Route>);

impl Borrow<[u8]> for ByTopic {
    fn borrow(&self) -> &[u8] {
        self.0.topic.as_bytes()
    }
}

impl Hash for ByTopic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.topic.as_bytes().hash(state);
    }
}

impl PartialEq for ByTopic {
    fn eq(&self, other: &Self) -> bool {
        self.0.topic == other.0.topic
    }
}

impl Eq for ByTopic {}

/// The routes of one publisher.
#[derive(Debug)]
pub(crate) struct Routes {
    uid: u64,
    /// Is the authority asked? Not for the host's own messages.
    trusted: bool,
    epoch: u64,
    routes: HashSet<ByTopic>,
    bytes: usize,
    sets: Vec<Arc<Targets>>,
    last: Option<Arc<Route>>,
}

impl Routes {
    pub(crate) fn new(uid: u64, trusted: bool) -> Self {
        Self {
            uid,
            trusted,
            epoch: 0,
            routes: HashSet::new(),
            bytes: 0,
            sets: Vec::new(),
            last: None,
        }
    }

    /// Lets go of sessions that may be gone; what is still right is found again.
    pub(crate) fn forget_if_stale(&mut self, shared: &Shared) {
        let epoch = shared.epoch.load(SeqCst);
        if epoch != self.epoch {
            self.forget();
            self.epoch = epoch;
        }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn forget(&mut self) {
        self.routes = HashSet::new();
        self.bytes = 0;
        self.sets.clear();
        self.last = None;
    }

    pub(crate) fn find(
        &mut self,
        shared: &Shared,
        by: &Identity,
        topic: &[u8],
    ) -> Result<Arc<Route>, Reason> {
        self.forget_if_stale(shared);
        if let Some(last) = &self.last
            && last.topic.as_bytes() == topic
        {
            return Ok(last.clone());
        }
        let route = match self.routes.get(topic) {
            Some(known) => known.0.clone(),
            None => self.new_route(shared, by, topic)?,
        };
        self.last = Some(route.clone());
        Ok(route)
    }

    fn new_route(
        &mut self,
        shared: &Shared,
        by: &Identity,
        topic: &[u8],
    ) -> Result<Arc<Route>, Reason> {
        let topic = std::str::from_utf8(topic).map_err(|_| Reason::Malformed)?;
        if !valid_topic(topic) {
            return Err(Reason::TopicInvalid);
        }
        let allowed = self.trusted || shared.authority.may_publish(by, topic);
        let targets = if allowed { self.targets(shared, topic) } else { Targets::default() };
        let targets = self.same_set(targets);
        let retention = shared.admission.retention(topic);
        let too_long = !shared.limits.admit_topic(topic);
        let route = Arc::new(Route { topic: topic.into(), allowed, too_long, retention, targets });
        if self.routes.len() >= ROUTES_MAX || self.bytes >= ROUTES_MAX_BYTES {
            self.routes.clear();
            self.bytes = 0;
        }
        self.bytes += topic.len();
        self.routes.insert(ByTopic(route.clone()));
        Ok(route)
    }

    /// The set itself, or an equal one that is known.
    fn same_set(&mut self, targets: Targets) -> Arc<Targets> {
        if targets.shares.is_empty() {
            let same =
                |known: &&Arc<Targets>| known.shares.is_empty() && known.list == targets.list;
            if let Some(known) = self.sets.iter().find(same) {
                return known.clone();
            }
        }
        if self.sets.len() >= SETS_MAX {
            self.sets.clear();
        }
        let targets = Arc::new(targets);
        self.sets.push(targets.clone());
        targets
    }

    fn targets(&self, shared: &Shared, topic: &str) -> Targets {
        let (mut targets, mut known) = (Targets::default(), HashMap::new());
        let mut ids: Vec<Vec<u32>> = Vec::new();
        let tree = read(&shared.tree);
        let mut nodes = Vec::new();
        tree.matching(topic, &mut nodes);
        for node in nodes {
            for Subscriber { session, options } in &node.subscribers {
                if options.no_local && session.uid == self.uid {
                    continue;
                }
                let at = *known.entry(session.uid).or_insert_with(|| {
                    ids.push(Vec::new());
                    targets.list.push(Target {
                        session: session.clone(),
                        version5: lock(&session.queue).owed.version5,
                        qos: 0,
                        retain_as_published: false,
                        subscription_ids: [].into(),
                    });
                    targets.list.len() - 1
                });
                let target = &mut targets.list[at];
                target.qos = target.qos.max(options.qos);
                target.retain_as_published |= options.retain_as_published;
                ids[at].extend(Some(options.id).filter(|id| *id > 0));
            }
            targets.shares.extend(
                node.groups
                    .iter()
                    .map(|g| Shares { members: g.members.clone(), turn: g.turn.clone() }),
            );
        }
        for (target, ids) in targets.list.iter_mut().zip(ids) {
            target.subscription_ids = ids.into();
            for qos in 0..3u8 {
                let form = Form::new(target.version5, target.qos.min(qos));
                targets.forms[qos as usize][form.index()] = true;
            }
        }
        targets
    }
}

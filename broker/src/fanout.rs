//! From a publisher to the queues: the hot path.
//!
//! Everything that depends only on the topic (is it valid, may the publisher, is it retained, who
//! takes it) is settled once and kept until subscriptions or rules change. Equal sets of takers are
//! shared, so consecutive messages of many topics with one taker still make one run: encoded once
//! for each wire form, one lock and one push for each taker.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{
        Arc, MutexGuard,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    api::{Admitted, BoxFuture, Identity, Incoming, QoS, Refusal, RefusalReason, Retention},
    chunk::{Chunk, Form, Take},
    codec::{Reason, publish::Publish},
    lock::{lock, read},
    properties::Properties,
    retained::Retained,
    session::Session,
    shared::Shared,
    stats::add,
    stream::READ_BYTES,
    subscriptions::{Options, Subscriber},
    topic::valid_topic,
};

/// Topics one publisher keeps routes of, and the bytes of their names.
const ROUTES_MAX: usize = 1024;
const ROUTES_MAX_BYTES: usize = 256 * 1024;
/// Different sets of takers one publisher keeps.
const SETS_MAX: usize = 16;
/// A run is handed over when it has grown to this.
const RUN_MAX_BYTES: usize = 4 * READ_BYTES;
/// With more takers than these the writing is left to other tasks.
const INLINE_MAX: usize = 8;

/// One taker of a topic.
#[derive(Debug)]
struct Target {
    session: Arc<Session>,
    version5: bool,
    qos: u8,
    retain_as_published: bool,
    subscription_ids: Arc<[u32]>,
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
struct Shares {
    members: Vec<Subscriber>,
    turn: Arc<std::sync::atomic::AtomicUsize>,
}

/// Who takes a topic.
#[derive(Debug, Default)]
struct Targets {
    list: Vec<Target>,
    shares: Vec<Shares>,
    /// By QoS of the message: the wire forms somebody needs.
    forms: [[bool; Form::COUNT]; 3],
}

/// Everything settled about a topic for one publisher.
#[derive(Debug)]
struct Route {
    topic: Box<str>,
    allowed: bool,
    retention: Retention,
    targets: Arc<Targets>,
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

/// One stretch of work without an await: a batch of packets from a socket, a will, a message of
/// the host.
pub(crate) struct Turn<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    /// Taken at the first retained message and held until its run is in the queues.
    order: Option<MutexGuard<'a, ()>>,
    received_at: SystemTime,
    messages: usize,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self { shared, order: None, received_at: SystemTime::now(), messages: 0 }
    }

    pub(crate) fn keep_order(&mut self) {
        self.order.get_or_insert_with(|| lock(&self.shared.order));
    }
}

/// What became of a message.
pub(crate) enum Verdict {
    Accepted,
    AcceptedWhen(BoxFuture<'static, Result<(), Refusal>>),
    Refused(Refusal),
}

/// A publisher's way to its subscribers.
#[derive(Debug)]
pub(crate) struct Fanout {
    uid: u64,
    /// Is the authority asked? Not for the host's own messages.
    trusted: bool,
    epoch: u64,
    routes: HashSet<ByTopic>,
    routes_bytes: usize,
    sets: Vec<Arc<Targets>>,
    last: Option<Arc<Route>>,
    run: Option<(Arc<Targets>, u8)>,
    forms: [Chunk; Form::COUNT],
    /// Sessions that got something and have no writer yet.
    touched: Vec<Arc<Session>>,
    /// Sessions whose queue is over its bound: the publisher waits for them.
    pub(crate) full: Vec<Arc<Session>>,
}

impl Fanout {
    pub(crate) fn new(uid: u64, trusted: bool) -> Self {
        Self {
            uid,
            trusted,
            epoch: 0,
            routes: HashSet::new(),
            routes_bytes: 0,
            sets: Vec::new(),
            last: None,
            run: None,
            forms: std::array::from_fn(|index| Chunk::new(Form::of_index(index))),
            touched: Vec::new(),
            full: Vec::new(),
        }
    }

    fn forget_routes(&mut self) {
        self.routes = HashSet::new();
        self.routes_bytes = 0;
        self.sets.clear();
        self.last = None;
    }

    fn route(
        &mut self,
        shared: &Shared,
        by: &Identity,
        topic: &[u8],
    ) -> Result<Arc<Route>, Reason> {
        let epoch = shared.epoch.load(SeqCst);
        if epoch != self.epoch {
            self.forget_routes();
            self.epoch = epoch;
        }
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
        let route = Arc::new(Route { topic: topic.into(), allowed, retention, targets });
        if self.routes.len() >= ROUTES_MAX || self.routes_bytes >= ROUTES_MAX_BYTES {
            self.routes.clear();
            self.routes_bytes = 0;
        }
        self.routes_bytes += topic.len();
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

    /// Takes a message through admission, store and run. `Err` ends the publisher's connection.
    pub(crate) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        by: &Arc<Identity>,
        publish: &Publish<'_>,
    ) -> Result<Verdict, Reason> {
        let shared = turn.shared;
        turn.messages += 1;
        let mut route = self.route(shared, by, publish.topic)?;
        let retained = match route.retention {
            Retention::AsPublished => publish.retain,
            Retention::Always => true,
            Retention::Never => false,
        };
        if retained && turn.order.is_none() {
            turn.keep_order();
            // A subscription that came in between is entered by now.
            route = self.route(shared, by, publish.topic)?;
        }
        if !route.allowed {
            add(&shared.counters.refused, 1);
            let text = "not authorized to publish to this topic".into();
            return Ok(Verdict::Refused(Refusal { reason: RefusalReason::NotAuthorized, text }));
        }
        let expires_at = publish
            .expiry_s
            .and_then(|s| turn.received_at.checked_add(Duration::from_secs(s.into())));
        let incoming = Incoming {
            by,
            topic: &route.topic,
            payload: publish.payload,
            qos: QoS::from_bits(publish.qos),
            retain: publish.retain,
            retained,
            properties: Properties::new(&publish.properties),
            expires_at,
            received_at: turn.received_at,
        };
        let verdict = match shared.admission.admit(&incoming) {
            Admitted::Refused(refusal) => {
                add(&shared.counters.refused, 1);
                return Ok(Verdict::Refused(refusal));
            }
            Admitted::Accepted => Verdict::Accepted,
            Admitted::AcceptedWhen(future) => Verdict::AcceptedWhen(future),
        };
        if retained {
            store(shared, &incoming);
        }
        self.add_to_run(shared, publish, route.targets.clone());
        Ok(verdict)
    }

    fn add_to_run(&mut self, shared: &Arc<Shared>, publish: &Publish<'_>, targets: Arc<Targets>) {
        if targets.list.is_empty() && targets.shares.is_empty() {
            return;
        }
        let same =
            |(run, qos): &(Arc<Targets>, u8)| Arc::ptr_eq(run, &targets) && *qos == publish.qos;
        let grown = self.forms.iter().any(|chunk| chunk.bytes().len() > RUN_MAX_BYTES);
        if grown || !self.run.as_ref().is_some_and(same) {
            self.flush(shared);
        }
        let expires_ms = shared.expires_ms(publish.expiry_s);
        let needed = targets.forms[publish.qos as usize];
        for (chunk, _) in self.forms.iter_mut().zip(needed).filter(|(_, needed)| *needed) {
            chunk.add(publish, expires_ms);
        }
        for shares in &targets.shares {
            self.give_to_one(shared, publish, expires_ms, shares);
        }
        self.run = Some((targets, publish.qos));
    }

    /// A shared subscription: the next member in turn that is connected, else the next one.
    fn give_to_one(
        &mut self,
        shared: &Arc<Shared>,
        publish: &Publish<'_>,
        expires_ms: u64,
        shares: &Shares,
    ) {
        let (turn, count) = (shares.turn.fetch_add(1, Relaxed), shares.members.len());
        let in_turn = (0..count).map(|i| &shares.members[(turn + i) % count]);
        let online = |member: &&Subscriber| lock(&member.session.queue).online;
        let Some(member) = in_turn.clone().find(online).or_else(|| in_turn.clone().next()) else {
            return;
        };
        let Options { qos, retain_as_published, id, .. } = member.options;
        let qos = qos.min(publish.qos);
        let version5 = lock(&member.session.queue).owed.version5;
        let mut chunk = Chunk::new(Form::new(version5, qos));
        chunk.add(publish, expires_ms);
        let subscription_ids = if id > 0 { [id].into() } else { [].into() };
        let take = Take { chunk: Arc::new(chunk), qos, retain_as_published, subscription_ids };
        self.give(shared, &member.session, take);
    }

    fn give(&mut self, shared: &Shared, session: &Arc<Session>, take: Take) {
        if session.push(shared, take) && !self.full.iter().any(|full| Arc::ptr_eq(full, session)) {
            self.full.push(session.clone());
        }
        if !session.pending.swap(true, SeqCst) {
            self.touched.push(session.clone());
        }
    }

    /// Hands the run to its takers' queues.
    pub(crate) fn flush(&mut self, shared: &Shared) {
        let Some((targets, qos)) = self.run.take() else { return };
        let chunks: [Option<Arc<Chunk>>; Form::COUNT] = std::array::from_fn(|index| {
            (self.forms[index].len() > 0).then(|| {
                let empty = Chunk::new(Form::of_index(index));
                Arc::new(std::mem::replace(&mut self.forms[index], empty))
            })
        });
        for target in &targets.list {
            let qos = target.qos.min(qos);
            let form = Form::new(target.version5, qos);
            let Some(chunk) = &chunks[form.index()] else { continue };
            let take = Take {
                chunk: chunk.clone(),
                qos,
                retain_as_published: target.retain_as_published,
                subscription_ids: target.subscription_ids.clone(),
            };
            self.give(shared, &target.session, take);
        }
    }

    /// Ends a turn: hands over the run, lets the order go, then writes.
    pub(crate) fn finish(&mut self, turn: Turn<'_>) {
        let shared = turn.shared;
        self.flush(shared);
        add(&shared.counters.messages_in, turn.messages);
        drop(turn);
        let inline = self.touched.len() <= INLINE_MAX;
        for session in self.touched.drain(..) {
            if inline {
                session.pump(shared);
            } else {
                let shared = shared.clone();
                tokio::spawn(async move { session.pump(&shared) });
            }
        }
        if self.touched.capacity() > 1024 {
            self.touched = Vec::new();
        }
    }
}

fn store(shared: &Shared, message: &Incoming<'_>) {
    if message.payload.is_empty() {
        shared.retained.remove(message.topic);
        return;
    }
    shared.retained.put(Arc::new(Retained {
        topic: message.topic.into(),
        payload: Bytes::copy_from_slice(message.payload),
        qos: message.qos,
        properties: Bytes::copy_from_slice(message.properties.raw()),
        expires_at: message.expires_at,
        received_at: message.received_at,
        by: message.by.clone(),
    }));
}

//! From a publisher to the queues: the hot path.
//!
//! What depends only on the topic is settled once (see `routes`). Equal sets of takers are shared
//! there, so consecutive messages of many topics with one taker still make one run: encoded once
//! for each wire form, one lock and one push for each taker.

use std::{
    sync::{
        Arc, MutexGuard,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    api::{Admitted, BoxFuture, Identity, Incoming, QoS, Refusal, RefusalReason, Retention},
    bounds::Bound,
    chunk::{Chunk, Form, Take},
    codec::{Reason, publish::Publish},
    lock::lock,
    properties::Properties,
    retained::Retained,
    routes::{Route, Routes, Shares, Targets},
    session::Session,
    shared::Shared,
    stats::add,
    stream::READ_BYTES,
    subscriptions::{Options, Subscriber},
};

/// A run is handed over when it has grown to this.
const RUN_MAX_BYTES: usize = 4 * READ_BYTES;
/// With more takers than these the writing is left to other tasks.
const INLINE_MAX: usize = 8;

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

    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    pub(crate) fn keep_order(&mut self) {
        self.order.get_or_insert_with(|| lock(&self.shared.order));
    }

    /// Only when no retained message waits in a run.
    pub(crate) fn release_order(&mut self) {
        self.order = None;
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
    pub(crate) routes: Routes,
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
            routes: Routes::new(uid, trusted),
            run: None,
            forms: std::array::from_fn(|index| Chunk::new(Form::of_index(index))),
            touched: Vec::new(),
            full: Vec::new(),
        }
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
        let mut route = self.routes.find(shared, by, publish.topic)?;
        let retained = match route.retention {
            Retention::AsPublished => publish.retain,
            Retention::Always => true,
            Retention::Never => false,
        };
        if retained && turn.order.is_none() {
            turn.keep_order();
            // A subscription that came in between is entered by now.
            route = self.routes.find(shared, by, publish.topic)?;
        }
        if !route.allowed {
            add(&shared.counters.refused, 1);
            let text = "not authorized to publish to this topic".into();
            let reason = RefusalReason::NotAuthorized;
            return Ok(Verdict::Refused(Refusal { reason, text, temporary: false }));
        }
        if let Some(refusal) = self.over_a_bound(shared, by, publish, &route, retained) {
            add(&shared.counters.refused, 1);
            return Ok(Verdict::Refused(refusal));
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
            awaited: publish.qos > 0 && (publish.packet_id > 0 || by.address.is_none()),
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

    /// The host's own messages know no bounds.
    fn over_a_bound(
        &self,
        shared: &Shared,
        by: &Identity,
        publish: &Publish<'_>,
        route: &Route,
        retained: bool,
    ) -> Option<Refusal> {
        let limits = &shared.limits;
        let topics_max = limits.retained_topics_per_identity_max;
        let may_hold = || {
            let (store, now_ms) = (&shared.retained, shared.now_ms());
            lock(&shared.ledger).may_hold(by, &route.topic, topics_max, store, now_ms)
        };
        let (bound, text) = if self.routes.is_trusted() {
            return None;
        } else if publish.payload.len() > limits.payload_max_bytes {
            (Bound::Payload, format!("the payload is over {} bytes", limits.payload_max_bytes))
        } else if route.too_long {
            let (bytes, levels) = (limits.topic_max_bytes, limits.topic_levels_max);
            (Bound::Topic, format!("the topic is over {bytes} bytes or {levels} levels"))
        } else if publish.user_properties > limits.user_properties_max {
            (Bound::Properties, format!("over {} user properties", limits.user_properties_max))
        } else if retained && topics_max > 0 && !publish.payload.is_empty() && !may_hold() {
            let text = format!("over {topics_max} retained topics; clear some that are not needed");
            (Bound::RetainedTopics, text)
        } else {
            return None;
        };
        shared.reached(bound, &by.client_id);
        let reason = match bound {
            Bound::Topic => RefusalReason::TopicNameInvalid,
            _ => RefusalReason::QuotaExceeded,
        };
        Some(Refusal { reason, text: text.into(), temporary: false })
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
        chunk.hold(&shared.budget);
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
                let mut chunk = std::mem::replace(&mut self.forms[index], empty);
                chunk.hold(&shared.budget);
                Arc::new(chunk)
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
    if shared.limits.retained_topics_per_identity_max > 0 {
        let mut ledger = lock(&shared.ledger);
        match message.payload.is_empty() {
            true => ledger.remove(message.topic),
            false => ledger.enter(message.by, message.topic),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        settings::Limits,
        testing::{Bench, OPTIONS, message},
    };

    #[test]
    fn messages_of_many_topics_with_one_taker_make_one_run() {
        let bench = Bench::new(Limits::default());
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        let mut fanout = Fanout::new(99, false);
        let batch = ["a", "b", "c"].map(|topic| message(topic, "x", 1, false));
        bench.publish(&mut fanout, &batch);
        assert_eq!(lock(&reader.queue).items.len(), 1);
        assert_eq!(bench.sent(&reader), ["a x 1 false", "b x 1 false", "c x 1 false"]);
    }

    #[test]
    fn overlapping_filters_deliver_once_at_the_higher_qos() {
        let bench = Bench::new(Limits::default());
        let reader = bench.session("reader");
        bench.subscribe(&reader, "a/#", Options { qos: 1, id: 5, ..OPTIONS });
        bench.subscribe(&reader, "+/b", Options { qos: 0, id: 6, ..OPTIONS });
        bench.publish(&mut Fanout::new(99, false), &[message("a/b", "x", 2, false)]);
        assert_eq!(bench.sent(&reader), ["a/b x 1 false"]);
    }

    #[test]
    fn what_is_not_taken_is_neither_stored_nor_delivered() {
        let bench = Bench::new(Limits::default());
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        let batch = ["refused", "forbidden", "fine"].map(|topic| message(topic, "x", 0, true));
        let taken = bench.publish(&mut Fanout::new(99, false), &batch);
        assert_eq!(taken, [false, false, true]);
        assert_eq!(bench.sent(&reader), ["fine x 0 false"]);
        assert_eq!(bench.store.len(), 1);
        assert_eq!(bench.shared.counters.stats().refused, 2);
    }

    #[test]
    fn the_host_decides_what_is_retained_and_only_that_is_cleared() {
        let bench = Bench::new(Limits::default());
        let mut fanout = Fanout::new(99, false);
        let batch = [
            message("always/a", "x", 0, false),
            message("never/a", "x", 0, true),
            message("flag", "x", 0, true),
            message("flag", "", 0, false),
        ];
        bench.publish(&mut fanout, &batch);
        let kept = |topic: &str| bench.store.get(topic).is_some();
        assert_eq!([kept("always/a"), kept("never/a"), kept("flag")], [true, false, true]);
        bench.publish(
            &mut fanout,
            &[message("flag", "", 0, true), message("always/a", "", 0, false)],
        );
        assert!(bench.store.is_empty());
    }

    #[test]
    fn a_publisher_does_not_hear_itself_where_it_asked_so() {
        let bench = Bench::new(Limits::default());
        let session = bench.session("both");
        bench.subscribe(&session, "a", Options { no_local: true, ..OPTIONS });
        bench.publish(&mut Fanout::new(session.uid, false), &[message("a", "own", 0, false)]);
        bench.publish(&mut Fanout::new(99, false), &[message("a", "other", 0, false)]);
        assert_eq!(bench.sent(&session), ["a other 0 false"]);
    }

    #[test]
    fn a_shared_subscription_takes_turns_among_those_who_are_there() {
        let bench = Bench::new(Limits::default());
        let members = ["one", "two", "three"].map(|id| bench.session(id));
        for member in &members {
            bench.subscribe(member, "$share/g/a", OPTIONS);
        }
        lock(&members[2].queue).online = false;
        let batch: Vec<_> = (0..6).map(|_| message("a", "x", 1, false)).collect();
        bench.publish(&mut Fanout::new(99, false), &batch);
        let got = members.each_ref().map(|member| bench.sent(member).len());
        assert_eq!(got.iter().sum::<usize>(), 6, "each message goes to one of them");
        assert!(got[0] >= 2 && got[1] >= 2 && got[2] == 0, "{got:?}");
    }

    #[test]
    fn a_new_subscription_is_seen_by_the_next_message() {
        let bench = Bench::new(Limits::default());
        let (reader, mut fanout) = (bench.session("reader"), Fanout::new(99, false));
        bench.publish(&mut fanout, &[message("a", "before", 0, false)]);
        bench.subscribe(&reader, "a", OPTIONS);
        bench.publish(&mut fanout, &[message("a", "after", 0, false)]);
        assert_eq!(bench.sent(&reader), ["a after 0 false"]);
    }
}

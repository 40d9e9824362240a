//! What a session is owed: replays of retained messages, messages, answers.
//!
//! Bounded in messages and bytes; replays are shared pointers and bounded in number.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    acks::Unsure,
    aliases::Aliases,
    inflight::{Ack, Inflight},
};
use crate::{
    api::Identity,
    chunk::{Chunk, Take},
    codec::connect::Will,
    housekeeping::DeadlineKey,
    retained::Retained,
    settings::Limits,
    subscriptions::Options,
};

/// Bytes prepared for a socket in one turn.
pub(crate) const OUT_BYTES: usize = 128 * 1024;

/// How the present client wants its packets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) version5: bool,
    pub(crate) receive_maximum: usize,
    pub(crate) packet_max_bytes: usize,
}

/// Retained messages of one subscription on their way.
#[derive(Debug)]
pub(crate) struct Replaying {
    filter: Box<str>,
    pub(crate) messages: Vec<Arc<Retained>>,
    pub(super) next: usize,
    pub(super) qos: u8,
    pub(super) subscription_ids: Arc<[u32]>,
    /// The client was told how many these are, so all of them come.
    pub(super) counted: bool,
}

#[derive(Debug)]
pub(crate) enum Item {
    Messages { take: Take, next: usize, end: usize },
    Replay(Box<Replaying>),
}

/// What a session is owed, and what it asked for.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) items: VecDeque<Item>,
    /// Answers; they go before everything else.
    pub(crate) answers: Vec<u8>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) replays: usize,
    pub(super) replay_messages: usize,
    /// Messages lost since the client was last told of in the log.
    pub(crate) dropped: u64,
    pub(crate) inflight: Inflight,
    /// QoS 2 messages received from the client and not released by it.
    pub(crate) received: HashSet<u16>,
    /// Those of them that are not acknowledged, while the client is away.
    pub(crate) unsure: Unsure,
    pub(crate) online: bool,
    /// Ticket of the connection that is online.
    pub(crate) ticket: u64,
    /// Some connection was here before, so there is a state to come back to.
    pub(crate) known: bool,
    /// Who was here last: the rights of an absent client are asked for by this.
    pub(crate) who: Option<Arc<Identity>>,
    pub(crate) owed: Owed,
    pub(crate) aliases: Aliases,
    pub(crate) subscriptions: HashMap<Box<str>, Options>,
    /// Only answers go out: a SUBACK is not written yet, or a DISCONNECT is the last packet.
    pub(crate) paused: bool,
    /// A will that waits for its delay.
    pub(crate) delayed_will: Option<(Will, Arc<Identity>)>,
    /// What is to happen to the session while its client is away.
    pub(crate) deadlines: Vec<DeadlineKey>,
}

/// What one turn prepared.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// A chunk to be written as it is, after the bytes.
    pub(crate) whole: Option<Arc<Chunk>>,
    pub(crate) messages: usize,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            items: VecDeque::new(),
            answers: Vec::new(),
            messages: 0,
            bytes: 0,
            replays: 0,
            replay_messages: 0,
            dropped: 0,
            inflight: Inflight::new(),
            received: HashSet::new(),
            unsure: Unsure::default(),
            online: false,
            ticket: 0,
            known: false,
            who: None,
            owed: Owed { version5: false, receive_maximum: 1, packet_max_bytes: usize::MAX },
            aliases: Aliases::default(),
            subscriptions: HashMap::new(),
            paused: false,
            delayed_will: None,
            deadlines: Vec::new(),
        }
    }

    /// Forgets what is owed; subscriptions must be out of the tree already.
    pub(crate) fn clear(&mut self) {
        let (online, ticket, owed) = (self.online, self.ticket, self.owed);
        *self = Self { online, ticket, owed, ..Self::new() };
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.answers.is_empty()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.messages == 0 && self.replays == 0
    }

    /// Would these go over the bound?
    pub(crate) fn is_over(
        &self,
        messages: usize,
        bytes: usize,
        limits: &Limits,
        times: usize,
    ) -> bool {
        self.messages + messages > times * limits.queue_max_messages
            || self.bytes + bytes > times * limits.queue_max_bytes
    }

    /// Is there room again, with some to spare?
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        self.messages <= limits.queue_max_messages / 2
            && self.bytes <= limits.queue_max_bytes / 2
            && !self.is_owed_too_much(limits)
    }

    /// Must the client take answers or replays before it may ask for more?
    pub(crate) fn is_owed_too_much(&self, limits: &Limits) -> bool {
        self.answers.len() > 2 * OUT_BYTES
            || self.replays >= limits.replays_per_session_max
            || self.replay_messages > limits.replay_max_messages
    }

    /// May a further replay begin?
    pub(crate) fn may_replay(&self, limits: &Limits) -> bool {
        self.replay_messages <= limits.replay_max_messages
    }

    pub(crate) fn push(&mut self, take: Take) {
        let end = take.chunk.len();
        self.push_part(take, end);
    }

    /// The first messages of a run, as many as the bound lets in; gives how many that are.
    pub(crate) fn push_what_fits(&mut self, take: Take, limits: &Limits) -> usize {
        let count_room = limits.queue_max_messages.saturating_sub(self.messages);
        let byte_room = limits.queue_max_bytes.saturating_sub(self.bytes);
        let mut end = take.chunk.len().min(count_room);
        while end > 0 && take.chunk.start(end) > byte_room {
            end -= 1;
        }
        if end > 0 {
            self.push_part(take, end);
        }
        end
    }

    fn push_part(&mut self, take: Take, end: usize) {
        self.messages += end;
        self.bytes += take.chunk.start(end);
        self.items.push_back(Item::Messages { take, next: 0, end });
    }

    /// Retained messages of a new subscription; messages published later come after them.
    pub(crate) fn push_replay(
        &mut self,
        filter: &str,
        messages: Vec<Arc<Retained>>,
        options: Options,
        counted: bool,
    ) {
        if messages.is_empty() {
            return;
        }
        self.replays += 1;
        self.replay_messages += messages.len();
        let subscription_ids = if options.id > 0 { [options.id].into() } else { [].into() };
        let replay = Replaying {
            filter: filter.into(),
            messages,
            next: 0,
            qos: options.qos,
            subscription_ids,
            counted,
        };
        self.items.push_back(Item::Replay(Box::new(replay)));
    }

    /// Retained messages of this filter are no longer owed.
    pub(crate) fn drop_replays(&mut self, filter: &str) {
        self.items.retain(|item| match item {
            Item::Replay(replay) if *replay.filter == *filter => {
                self.replays -= 1;
                self.replay_messages -= replay.messages.len() - replay.next;
                false
            }
            _ => true,
        });
    }

    /// The connection is gone: QoS 0 and answers go with it.
    pub(crate) fn go_offline(&mut self) {
        (self.online, self.paused) = (false, false);
        (self.answers, self.aliases) = (Vec::new(), Aliases::default());
        self.items.retain(|item| match item {
            Item::Messages { take, .. } => take.qos > 0,
            Item::Replay(replay) => replay.qos > 0,
        });
        self.items.shrink_to_fit();
        (self.messages, self.bytes, self.replays, self.replay_messages) = (0, 0, 0, 0);
        for item in &self.items {
            match item {
                Item::Messages { take, next, end } => {
                    self.messages += end - next;
                    self.bytes += take.chunk.start(*end) - take.chunk.start(*next);
                }
                Item::Replay(replay) => {
                    self.replays += 1;
                    self.replay_messages += replay.messages.len() - replay.next;
                }
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, ack: Ack) {
        self.inflight.acknowledge(ack, &self.owed, &mut self.answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fanout::Fanout,
        lock::lock,
        testing::{Bench, OPTIONS, message},
    };

    fn limits(messages: usize) -> Limits {
        Limits { queue_max_messages: messages, ..Limits::default() }
    }

    fn publish(bench: &Bench, topic: &str, numbers: std::ops::Range<u32>, qos: u8) {
        let payloads: Vec<_> = numbers.map(|number| number.to_string()).collect();
        let batch: Vec<_> = payloads.iter().map(|p| message(topic, p, qos, false)).collect();
        bench.publish(&mut Fanout::new(99, false), &batch);
    }

    #[test]
    fn who_is_away_is_kept_exactly_the_first_messages_up_to_the_bound() {
        let bench = Bench::new(limits(5));
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        lock(&reader.queue).go_offline();
        publish(&bench, "a", 0..3, 1);
        publish(&bench, "a", 3..9, 1);
        publish(&bench, "a", 9..12, 0);
        assert_eq!(bench.shared.counters.stats().dropped, 4, "QoS 0 is not kept and not counted");
        let expected: Vec<_> = (0..5).map(|number| format!("a {number} 1 false")).collect();
        assert_eq!(bench.sent(&reader), expected);
    }

    #[test]
    fn the_window_is_kept_and_moves_with_acknowledgements() {
        let bench = Bench::new(limits(100));
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        publish(&bench, "a", 0..25, 1);
        assert_eq!(bench.sent(&reader).len(), 10);
        assert_eq!(bench.sent(&reader).len(), 0);
        for packet_id in 1..=10 {
            lock(&reader.queue).acknowledge(Ack::Acknowledged { packet_id });
        }
        assert_eq!(bench.sent(&reader).len(), 10);
        lock(&reader.queue).inflight.restart();
        assert_eq!(bench.sent(&reader).first().unwrap(), "a 10 1 false", "sent again in order");
        assert!(!lock(&reader.queue).is_quiet());
    }

    #[test]
    fn a_replay_comes_after_its_answer_and_before_what_is_published_later() {
        let bench = Bench::new(limits(100));
        let reader = bench.session("reader");
        let mut fanout = Fanout::new(99, false);
        bench.publish(&mut fanout, &[message("a", "old", 2, true), message("b", "old", 0, true)]);
        bench.subscribe(&reader, "#", OPTIONS);
        let mut found = Vec::new();
        bench.shared.retained.matching("#", &mut found);
        lock(&reader.queue).paused = true;
        lock(&reader.queue).push_replay("#", found, Options { qos: 1, ..OPTIONS }, false);
        bench.publish(&mut fanout, &[message("a", "new", 0, true)]);
        assert!(bench.sent(&reader).is_empty(), "the answer is not there yet");
        let mut queue = lock(&reader.queue);
        (queue.paused, queue.answers) = (false, vec![0x90, 0]);
        drop(queue);
        let expected = ["packet 0x90", "a old 1 true", "b old 0 true", "a new 0 false"];
        assert_eq!(bench.sent(&reader), expected);
        assert!(lock(&reader.queue).is_quiet());
    }

    #[test]
    fn a_replay_is_not_bound_by_the_queue_and_waits_for_the_window() {
        let bench = Bench::new(limits(1));
        let reader = bench.session("reader");
        let topics: Vec<_> = (0..25).map(|number| format!("t/{number:02}")).collect();
        let batch: Vec<_> = topics.iter().map(|topic| message(topic, "x", 1, true)).collect();
        bench.publish(&mut Fanout::new(99, false), &batch);
        let mut found = Vec::new();
        bench.shared.retained.matching("#", &mut found);
        lock(&reader.queue).push_replay("#", found, OPTIONS, false);
        assert_eq!(bench.sent(&reader).len(), 10);
        for packet_id in 1..=10 {
            lock(&reader.queue).acknowledge(Ack::Acknowledged { packet_id });
        }
        assert_eq!(bench.sent(&reader).len(), 10);
        lock(&reader.queue).go_offline();
        let queue = lock(&reader.queue);
        assert_eq!((queue.replays, queue.replay_messages), (1, 5));
    }

    #[test]
    fn what_is_too_large_for_the_client_is_left_out() {
        let bench = Bench::new(limits(100));
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        lock(&reader.queue).owed.packet_max_bytes = 13;
        let batch = [
            message("a", "short", 1, false),
            message("a", "much longer", 1, false),
            message("a", "x", 0, false),
        ];
        bench.publish(&mut Fanout::new(99, false), &batch);
        assert_eq!(bench.sent(&reader), ["a short 1 false", "a x 0 false"]);
    }

    #[test]
    fn a_reader_that_takes_nothing_loses_qos_0_and_then_its_connection() {
        let bench = Bench::new(Limits { stall_grace: std::time::Duration::ZERO, ..limits(10) });
        let reader = bench.session("reader");
        bench.subscribe(&reader, "#", OPTIONS);
        publish(&bench, "a", 0..10, 1);
        while bench.shared.now_ms() <= reader.progress_ms.load(std::sync::atomic::Ordering::SeqCst)
        {
            std::thread::yield_now();
        }
        publish(&bench, "a", 10..15, 0);
        assert_eq!(bench.shared.counters.stats().dropped, 5);
        assert_eq!(reader.ending(1), None);
        publish(&bench, "a", 15..20, 1);
        assert_eq!(reader.ending(1), None, "QoS 1 may go up to twice the bound");
        publish(&bench, "a", 20..26, 1);
        assert_eq!(reader.ending(1), Some(crate::codec::Reason::Quota));
    }
}

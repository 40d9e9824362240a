//! What a session is owed: replays of retained messages, messages, answers.
//!
//! Bounded in messages and bytes; replays are shared pointers and bounded in number.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use super::inflight::{Ack, Inflight, Sent, Slot};
use crate::{
    api::Identity,
    chunk::{Chunk, Delivery, Take},
    codec::connect::Will,
    housekeeping::DeadlineKey,
    retained::Retained,
    settings::Limits,
    subscriptions::Options,
};

/// Bytes prepared for a socket in one turn.
pub(crate) const OUT_BYTES: usize = 128 * 1024;
/// A chunk from this size on is written from where it is instead of being copied.
const WHOLE_MIN_BYTES: usize = 8 * 1024;

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
    pub(crate) messages: Vec<Arc<Retained>>,
    next: usize,
    qos: u8,
    subscription_ids: Arc<[u32]>,
}

#[derive(Debug)]
enum Item {
    Messages { take: Take, next: usize, end: usize },
    Replay(Box<Replaying>),
}

/// What a session is owed, and what it asked for.
#[derive(Debug)]
pub(crate) struct Queue {
    items: VecDeque<Item>,
    /// Answers; they go before everything else.
    pub(crate) answers: Vec<u8>,
    messages: usize,
    bytes: usize,
    replays: usize,
    replay_messages: usize,
    /// Messages lost since the client was last told of in the log.
    pub(crate) dropped: u64,
    pub(crate) inflight: Inflight,
    /// QoS 2 messages received from the client and not released by it.
    pub(crate) received: HashSet<u16>,
    pub(crate) online: bool,
    /// Ticket of the connection that is online.
    pub(crate) ticket: u64,
    /// Some connection was here before, so there is a state to come back to.
    pub(crate) known: bool,
    pub(crate) owed: Owed,
    pub(crate) subscriptions: HashMap<Box<str>, Options>,
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
            online: false,
            ticket: 0,
            known: false,
            owed: Owed { version5: false, receive_maximum: 1, packet_max_bytes: usize::MAX },
            subscriptions: HashMap::new(),
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

    /// May a further replay begin, beside those that are `about_to_begin`?
    pub(crate) fn may_replay(&self, about_to_begin: usize, limits: &Limits) -> bool {
        self.replay_messages + about_to_begin <= limits.replay_max_messages
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
    pub(crate) fn push_replay(&mut self, messages: Vec<Arc<Retained>>, options: Options) {
        if messages.is_empty() {
            return;
        }
        self.replays += 1;
        self.replay_messages += messages.len();
        let subscription_ids = if options.id > 0 { [options.id].into() } else { [].into() };
        let replay = Replaying { messages, next: 0, qos: options.qos, subscription_ids };
        self.items.push_back(Item::Replay(Box::new(replay)));
    }

    /// The connection is gone: QoS 0 and answers go with it.
    pub(crate) fn go_offline(&mut self) {
        self.online = false;
        self.answers = Vec::new();
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

    /// Prepares what may be sent now.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, limits: &Limits, now_ms: u64) -> Filled {
        let mut filled = Filled::default();
        out.append(&mut self.answers);
        if self.answers.capacity() > 8192 {
            self.answers = Vec::new();
        }
        if !self.resend(out, &mut filled, now_ms) {
            return filled;
        }
        while out.len() < OUT_BYTES {
            let Some(item) = self.items.pop_front() else { break };
            let rest = match item {
                Item::Messages { take, next, end } if take.qos == 0 => {
                    self.messages -= end - next;
                    self.bytes -= take.chunk.start(end) - take.chunk.start(next);
                    if self.fill_qos0(out, &take, next..end, &mut filled, now_ms) {
                        return filled;
                    }
                    None
                }
                Item::Messages { take, next, end } => {
                    let reached =
                        self.fill_acked(out, &take, next..end, limits, &mut filled, now_ms);
                    self.messages -= reached - next;
                    self.bytes -= take.chunk.start(reached) - take.chunk.start(next);
                    (reached < end).then_some(Item::Messages { take, next: reached, end })
                }
                Item::Replay(mut replay) => {
                    self.fill_replay(out, &mut replay, limits, &mut filled);
                    (replay.next < replay.messages.len()).then_some(Item::Replay(replay))
                }
            };
            if let Some(rest) = rest {
                self.items.push_front(rest);
                break;
            }
        }
        if self.items.is_empty() && self.items.capacity() > 1024 {
            self.items = VecDeque::new();
        }
        filled
    }

    /// Sends again what a former connection left unacknowledged. True when all of it is out.
    fn resend(&mut self, out: &mut Vec<u8>, filled: &mut Filled, now_ms: u64) -> bool {
        while self.inflight.live() < self.owed.receive_maximum && out.len() < OUT_BYTES {
            let Some((packet_id, slot)) = self.inflight.take_unsent() else { return true };
            let size = slot.as_ref().map_or(0, |slot| slot.size);
            let sent = slot.and_then(|slot| self.resend_one(out, packet_id, slot, now_ms));
            filled.messages += usize::from(sent.is_some());
            self.inflight.put_sent(sent, size);
        }
        self.inflight.all_sent()
    }

    fn resend_one(
        &self,
        out: &mut Vec<u8>,
        packet_id: u16,
        slot: Slot,
        now_ms: u64,
    ) -> Option<Slot> {
        let sent = match &slot.sent {
            Sent::Message { take, index } => self.put(out, take, *index, packet_id, true, now_ms),
            Sent::Retained { message, qos, subscription_ids } => {
                self.put_retained(out, message, *qos, subscription_ids, packet_id, true)
            }
            Sent::Released => {
                let [high, low] = packet_id.to_be_bytes();
                out.extend_from_slice(&[crate::codec::reply::PUBREL, 2, high, low]);
                true
            }
        };
        sent.then_some(slot)
    }

    /// True when the turn ends with a chunk that is written as it is.
    fn fill_qos0(
        &self,
        out: &mut Vec<u8>,
        take: &Take,
        range: std::ops::Range<usize>,
        filled: &mut Filled,
        now_ms: u64,
    ) -> bool {
        let (chunk, owed) = (&take.chunk, &self.owed);
        let flags = take.retain_as_published;
        let untouched = range == (0..chunk.len()) && take.subscription_ids.is_empty();
        if untouched && chunk.fits_whole(owed.version5, flags, owed.packet_max_bytes) {
            filled.messages += chunk.len();
            if chunk.bytes().len() > WHOLE_MIN_BYTES {
                filled.whole = Some(chunk.clone());
                return true;
            }
            out.extend_from_slice(chunk.bytes());
            return false;
        }
        for index in range {
            filled.messages += usize::from(self.put(out, take, index, 0, false, now_ms));
        }
        false
    }

    /// QoS 1 and 2, while the window has room; gives the first message that is not sent.
    fn fill_acked(
        &mut self,
        out: &mut Vec<u8>,
        take: &Take,
        range: std::ops::Range<usize>,
        limits: &Limits,
        filled: &mut Filled,
        now_ms: u64,
    ) -> usize {
        for index in range.clone() {
            let room = self.inflight.has_room(self.owed.receive_maximum, limits.queue_max_bytes);
            if !room || out.len() >= OUT_BYTES {
                return index;
            }
            if self.put(out, take, index, self.inflight.next_id(), false, now_ms) {
                let size = take.chunk.size(index);
                self.inflight.push(Sent::Message { take: take.clone(), index }, size);
                filled.messages += 1;
            }
        }
        range.end
    }

    fn fill_replay(
        &mut self,
        out: &mut Vec<u8>,
        replay: &mut Replaying,
        limits: &Limits,
        filled: &mut Filled,
    ) {
        while let Some(message) = replay.messages.get(replay.next) {
            let qos = replay.qos.min(message.qos as u8);
            let room = qos == 0
                || self.inflight.has_room(self.owed.receive_maximum, limits.queue_max_bytes);
            if !room || out.len() >= OUT_BYTES {
                return;
            }
            let (ids, packet_id) = (&replay.subscription_ids, self.inflight.next_id());
            if self.put_retained(out, message, qos, ids, packet_id, false) {
                filled.messages += 1;
                if qos > 0 {
                    let (message, subscription_ids) = (message.clone(), ids.clone());
                    let size = message.topic.len() + message.payload.len();
                    self.inflight.push(Sent::Retained { message, qos, subscription_ids }, size);
                }
            }
            replay.next += 1;
            self.replay_messages -= 1;
        }
        self.replays -= 1;
    }

    /// One message in this client's form. False when it must not be sent: expired, or too large.
    fn put(
        &self,
        out: &mut Vec<u8>,
        take: &Take,
        index: usize,
        packet_id: u16,
        dup: bool,
        now_ms: u64,
    ) -> bool {
        let delivery = Delivery {
            version5: self.owed.version5,
            qos: take.qos,
            retain: take.retain_as_published && take.chunk.retain_flag(index),
            dup,
            packet_id,
            subscription_ids: &take.subscription_ids,
        };
        let at = out.len();
        take.chunk.put(out, index, &delivery, now_ms) && self.fits(out, at)
    }

    fn put_retained(
        &self,
        out: &mut Vec<u8>,
        message: &Retained,
        qos: u8,
        subscription_ids: &[u32],
        packet_id: u16,
        dup: bool,
    ) -> bool {
        let left = message.expires_at.map(|at| at.duration_since(SystemTime::now()));
        let left_s = match left {
            None => None,
            Some(Ok(left)) if !left.is_zero() => Some(left.as_millis().div_ceil(1000) as u32),
            Some(_) if dup => Some(1),
            Some(_) => return false,
        };
        let delivery = Delivery {
            version5: self.owed.version5,
            qos,
            retain: true,
            dup,
            packet_id,
            subscription_ids,
        };
        let at = out.len();
        delivery.put_retained(out, message, left_s);
        self.fits(out, at)
    }

    /// Takes a packet back that is larger than the client allows.
    fn fits(&self, out: &mut Vec<u8>, at: usize) -> bool {
        let fits = out.len() - at <= self.owed.packet_max_bytes;
        if !fits {
            out.truncate(at);
        }
        fits
    }
}

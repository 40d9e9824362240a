//! What of a queue may be sent now, in the form the present client wants.

use std::{collections::VecDeque, ops::Range, time::SystemTime};

use super::{
    aliases::Alias,
    inflight::{Sent, Slot},
    queue::{Filled, Item, OUT_BYTES, Queue, Replaying},
};
use crate::{
    chunk::{Delivery, Take},
    codec::reply::PUBREL,
    retained::Retained,
    settings::Limits,
    subscriptions::Options,
};

/// A chunk from this size on is written from where it is instead of being copied.
const WHOLE_MIN_BYTES: usize = 8 * 1024;

/// What becomes of a retained message whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spent {
    /// It is left out.
    Omitted,
    /// It was counted for the client, so it comes and says so.
    Told,
    /// It was sent before and is redelivered whatever its age.
    Again,
}

impl Queue {
    /// Would the present client get this retained message? Only its size can speak against it.
    pub(super) fn can_take(&self, message: &Retained, options: Options) -> bool {
        if self.owed.packet_max_bytes >= u32::MAX as usize {
            return true;
        }
        let (id, none) = ([options.id], []);
        let delivery = Delivery {
            version5: self.owed.version5,
            qos: options.qos.min(message.qos as u8),
            retain: true,
            dup: false,
            packet_id: 1,
            subscription_ids: if options.id > 0 { &id } else { &none },
            alias: Alias::None,
        };
        let mut packet = Vec::new();
        delivery.put_retained(&mut packet, message, message.expires_at.map(|_| 0));
        packet.len() <= self.owed.packet_max_bytes
    }

    /// Prepares what may be sent now.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, limits: &Limits, now_ms: u64) -> Filled {
        let mut filled = Filled::default();
        out.append(&mut self.answers);
        if self.answers.capacity() > 8192 {
            self.answers = Vec::new();
        }
        if self.paused || !self.resend(out, &mut filled, now_ms) {
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
        &mut self,
        out: &mut Vec<u8>,
        packet_id: u16,
        slot: Slot,
        now_ms: u64,
    ) -> Option<Slot> {
        let sent = match &slot.sent {
            Sent::Message { take, index } => self.put(out, take, *index, packet_id, true, now_ms),
            Sent::Retained { message, qos, subscription_ids } => {
                self.put_retained(out, message, *qos, subscription_ids, packet_id, Spent::Again)
            }
            Sent::Released => {
                let [high, low] = packet_id.to_be_bytes();
                out.extend_from_slice(&[PUBREL, 2, high, low]);
                true
            }
        };
        sent.then_some(slot)
    }

    /// True when the turn ends with a chunk that is written as it is.
    fn fill_qos0(
        &mut self,
        out: &mut Vec<u8>,
        take: &Take,
        range: Range<usize>,
        filled: &mut Filled,
        now_ms: u64,
    ) -> bool {
        let (chunk, owed) = (&take.chunk, &self.owed);
        let flags = take.retain_as_published;
        let untouched =
            range == (0..chunk.len()) && take.subscription_ids.is_empty() && self.aliases.is_off();
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
        range: Range<usize>,
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
            let spent = if replay.counted { Spent::Told } else { Spent::Omitted };
            if self.put_retained(out, message, qos, ids, packet_id, spent) {
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
        &mut self,
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
            alias: Alias::None,
        };
        if self.aliases.is_off() {
            let at = out.len();
            return take.chunk.put(out, index, &delivery, now_ms) && self.fits(out, at);
        }
        let (chunk, topic) = (&take.chunk, take.chunk.topic(index));
        self.put_by_alias(out, topic, delivery, |out, d| chunk.put(out, index, d, now_ms))
    }

    fn put_retained(
        &mut self,
        out: &mut Vec<u8>,
        message: &Retained,
        qos: u8,
        subscription_ids: &[u32],
        packet_id: u16,
        spent: Spent,
    ) -> bool {
        let left = message.expires_at.map(|at| at.duration_since(SystemTime::now()));
        let left_s = match left {
            None => None,
            Some(Ok(left)) if !left.is_zero() => Some(left.as_millis().div_ceil(1000) as u32),
            Some(_) => match spent {
                Spent::Again => Some(1),
                Spent::Told => Some(0),
                Spent::Omitted => return false,
            },
        };
        let delivery = Delivery {
            version5: self.owed.version5,
            qos,
            retain: true,
            dup: spent == Spent::Again,
            packet_id,
            subscription_ids,
            alias: Alias::None,
        };
        self.put_by_alias(out, message.topic.as_bytes(), delivery, |out, delivery| {
            delivery.put_retained(out, message, left_s);
            true
        })
    }

    /// Says the topic by its alias where the client allows it. An alias counts as known only when
    /// its message really went out, and must not make a message too large for the client.
    fn put_by_alias<'a>(
        &mut self,
        out: &mut Vec<u8>,
        topic: &[u8],
        delivery: Delivery<'a>,
        put: impl Fn(&mut Vec<u8>, &Delivery<'a>) -> bool,
    ) -> bool {
        let at = out.len();
        let alias = self.aliases.find(topic);
        if alias != Alias::None {
            if !put(out, &Delivery { alias, ..delivery }) {
                return false;
            }
            if self.fits(out, at) {
                self.aliases.sent(topic, alias);
                return true;
            }
        }
        let sent = put(out, &delivery) && self.fits(out, at);
        if sent {
            self.aliases.sent(topic, Alias::None);
        }
        sent
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

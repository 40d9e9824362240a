//! What a client sends: batches of packets, each to the one who acts on it.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Buf;

use super::{
    connection::{Connection, End},
    inflight::Ack,
};
use crate::{
    bounds::Bound,
    codec::{
        Reason, control,
        frame::{Frame, Reader, first_frame},
        reply::{PACKET_ID_UNKNOWN, PING_RESPONSE, PUBCOMP, put_ack},
    },
    fanout::Turn,
    lock::lock,
    stats::add,
    stream::READ_BYTES,
};

/// Packet types.
pub(super) const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;

impl Connection {
    /// Acts on everything that came in one read.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<(), End> {
        let shared = self.shared.clone();
        self.session.seen_ms.store(shared.now_ms(), SeqCst);
        add(&shared.counters.bytes_in, bytes.len());
        let mut partial = std::mem::take(&mut self.partial);
        let mut turn = Turn::new(&shared);
        let result = if partial.is_empty() {
            let (at, result) = self.packets(&mut turn, bytes);
            self.partial = bytes[at..].into();
            result
        } else {
            partial.extend_from_slice(bytes);
            let (at, result) = self.packets(&mut turn, &partial);
            partial.advance(at);
            self.scanned = self.scanned.saturating_sub(at);
            // What is left of a long packet or of much read ahead need not keep the room of it.
            let roomy = partial.len() < READ_BYTES && partial.capacity() > 4 * partial.len();
            self.partial = if roomy { partial[..].into() } else { partial };
            result
        };
        self.pace.spend(&shared.limits, turn.messages(), bytes.len());
        self.fanout.finish(turn);
        self.hand_in();
        result.and_then(|()| self.count_input())
    }

    /// Room for unfinished packets is taken from what all clients may make the broker hold.
    fn count_input(&mut self) -> Result<(), End> {
        let room = self.partial.capacity();
        self.input.set(if room > READ_BYTES { room } else { 0 });
        if room > READ_BYTES && self.shared.is_crowded() {
            self.shared.reached(Bound::Queues, &self.who.client_id);
            return Err(Reason::Quota.into());
        }
        Ok(())
    }

    /// Acts on the packets at the beginning of `bytes`, about as many as one read brings; gives
    /// where it stopped.
    fn packets(&mut self, turn: &mut Turn<'_>, bytes: &[u8]) -> (usize, Result<(), End>) {
        let (mut at, mut asked) = (0, false);
        self.held = false;
        loop {
            let frame = match first_frame(&bytes[at..], self.shared.limits.packet_max_bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return (at, Ok(())),
                Err(reason) => {
                    if reason == Reason::TooLarge {
                        self.shared.reached(Bound::Packet, &self.who.client_id);
                    }
                    return (at, Err(End::Because(reason)));
                }
            };
            let publish = bytes[at] >> 4 == PUBLISH;
            if at > READ_BYTES || (publish && !asked && self.must_wait_for_host()) {
                self.held = true;
                return (at, Ok(()));
            }
            asked |= publish;
            let result = self.packet(turn, &bytes[at..at + frame.end], frame);
            at += frame.end;
            if result.is_err() {
                return (at, result);
            }
        }
    }

    /// Takes acknowledgements out of what comes in and keeps the rest for later.
    pub(super) fn read_ahead(&mut self, bytes: &[u8]) -> Result<(), End> {
        add(&self.shared.counters.bytes_in, bytes.len());
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let (mut from, mut to, mut result) = (self.scanned, self.scanned, Ok(()));
        while result.is_ok() {
            match first_frame(&partial[from..], self.shared.limits.packet_max_bytes) {
                Ok(Some(frame)) => {
                    let packet = from..from + frame.end;
                    from = packet.end;
                    if matches!(partial[packet.start] >> 4, 4 | 5 | 7) {
                        result = self.acknowledged(&partial[packet], frame);
                    } else {
                        self.held = true;
                        let size = packet.len();
                        partial.copy_within(packet, to);
                        to += size;
                    }
                }
                Ok(None) => break,
                Err(reason) => result = Err(End::Because(reason)),
            }
        }
        let rest = partial.len() - from;
        partial.copy_within(from.., to);
        partial.truncate(to + rest);
        (self.partial, self.scanned) = (partial, to);
        self.hand_in();
        result.and_then(|()| self.count_input())
    }

    /// The host is asked once in a batch, before the first message.
    fn must_wait_for_host(&self) -> bool {
        !self.draining && self.shared.admission.ready().is_some()
    }

    /// Puts the answers of a batch into the queue, after the messages of the batch, so that an
    /// acknowledgement means "in every queue".
    pub(super) fn hand_in(&mut self) {
        if !self.client_acks.is_empty() {
            self.session.credit_acks(&self.shared, self.client_acks.len());
        }
        let mut queue = lock(&self.session.queue);
        for ack in self.client_acks.drain(..) {
            queue.acknowledge(ack);
        }
        queue.answers.append(&mut self.answers);
        let idle = queue.is_idle();
        drop(queue);
        if !idle {
            self.session.wake(&self.shared);
        }
    }

    fn packet(&mut self, turn: &mut Turn<'_>, bytes: &[u8], frame: Frame) -> Result<(), End> {
        let kind = bytes[0] >> 4;
        if self.draining && !(4..=7).contains(&kind) {
            return Ok(());
        }
        let version5 = self.version5;
        match kind {
            PUBLISH => self.publish(turn, bytes, frame),
            4 | 5 | 7 => self.acknowledged(bytes, frame),
            6 => self.release(bytes, frame),
            SUBSCRIBE => self.subscribe(turn, &control::subscribe(bytes, frame, version5)?),
            10 => self.unsubscribe(turn, &control::unsubscribe(bytes, frame, version5)?),
            12 if bytes.len() == 2 && bytes[0] == 0xC0 => {
                self.answers.extend_from_slice(&PING_RESPONSE);
                Ok(())
            }
            14 => Err(self.asked_to_end(&control::disconnect(bytes, frame, version5)?)),
            12 => Err(Reason::Malformed.into()),
            // A second CONNECT, AUTH, or what only a broker sends.
            _ => Err(Reason::Protocol.into()),
        }
    }

    fn asked_to_end(&mut self, packet: &control::Disconnect) -> End {
        if let Some(expiry_s) = packet.session_expiry_s {
            if self.session_expiry_s == 0 && expiry_s > 0 {
                return Reason::Protocol.into();
            }
            self.session_expiry_s = expiry_s.min(self.shared.session_expiry_max_s());
        }
        End::Asked { publish_will: packet.publish_will }
    }

    fn acknowledged(&mut self, bytes: &[u8], frame: Frame) -> Result<(), End> {
        let (packet_id, code) = self.ack_body(bytes, frame, 0)?;
        self.client_acks.push(match bytes[0] >> 4 {
            4 => Ack::Acknowledged { packet_id },
            5 => Ack::Received { packet_id, failed: code >= 0x80 },
            _ => Ack::Complete { packet_id },
        });
        Ok(())
    }

    fn release(&mut self, bytes: &[u8], frame: Frame) -> Result<(), End> {
        let (packet_id, _) = self.ack_body(bytes, frame, 2)?;
        let known = lock(&self.session.queue).received.remove(&packet_id);
        let code = if known { 0 } else { PACKET_ID_UNKNOWN };
        put_ack(&mut self.answers, PUBCOMP, packet_id, code, "", self.version5, usize::MAX);
        Ok(())
    }

    fn ack_body(&self, bytes: &[u8], frame: Frame, flags: u8) -> Result<(u16, u8), Reason> {
        let mut body = Reader(&bytes[frame.body..]);
        let packet_id = body.u16()?;
        if bytes[0] & 15 != flags || (!self.version5 && !body.is_empty()) {
            return Err(Reason::Malformed);
        }
        if packet_id == 0 {
            return Err(Reason::Protocol);
        }
        let code = if body.is_empty() { 0 } else { body.u8()? };
        Ok((packet_id, code))
    }
}

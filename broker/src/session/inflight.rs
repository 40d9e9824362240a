//! Messages sent to a client that it has not acknowledged.
//!
//! Packet ids are given in sequence, so the window is a row of slots beginning at `base` and an
//! acknowledgement in any order finds its slot by subtraction.

use std::{collections::VecDeque, sync::Arc};

use super::queue::Owed;
use crate::{
    chunk::Take,
    codec::reply::{PACKET_ID_UNKNOWN, PUBREL, put_ack},
    retained::Retained,
};

const IDS: usize = 65_535;

/// What was sent.
#[derive(Debug)]
pub(crate) enum Sent {
    Message {
        take: Take,
        index: usize,
    },
    Retained {
        message: Arc<Retained>,
        qos: u8,
        subscription_ids: Arc<[u32]>,
    },
    /// QoS 2, received; only its release is not complete.
    Released,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) sent: Sent,
    pub(crate) size: usize,
}

impl Slot {
    fn qos(&self) -> u8 {
        match &self.sent {
            Sent::Message { take, .. } => take.qos,
            Sent::Retained { qos, .. } => *qos,
            Sent::Released => 2,
        }
    }
}

/// An acknowledgement from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    Received { packet_id: u16, failed: bool },
    Complete { packet_id: u16 },
    Acknowledged { packet_id: u16 },
}

/// The window.
#[derive(Debug)]
pub(crate) struct Inflight {
    slots: VecDeque<Option<Slot>>,
    base: u16,
    /// Slots before this one were sent on the present connection.
    sent: usize,
    /// Slots sent on the present connection and not acknowledged.
    live: usize,
    bytes: usize,
}

impl Inflight {
    pub(crate) fn new() -> Self {
        Self { slots: VecDeque::new(), base: 1, sent: 0, live: 0, bytes: 0 }
    }

    fn id(&self, index: usize) -> u16 {
        ((self.base as usize - 1 + index) % IDS + 1) as u16
    }

    /// A new connection: everything is to be sent again.
    pub(crate) fn restart(&mut self) {
        (self.sent, self.live) = (0, 0);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Is nothing left over from a former connection?
    pub(crate) fn all_sent(&self) -> bool {
        self.sent >= self.slots.len()
    }

    pub(crate) fn live(&self) -> usize {
        self.live
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// May a new message be sent? A client that acknowledges all but the oldest is not allowed to
    /// stretch the row without end.
    pub(crate) fn has_room(&self, window: usize, bytes_max: usize) -> bool {
        self.live < window
            && self.slots.len() < (window * 16).min(IDS - 1)
            && (self.bytes < bytes_max || self.live == 0)
    }

    /// The packet id the next new message gets.
    pub(crate) fn next_id(&self) -> u16 {
        self.id(self.slots.len())
    }

    /// Remembers a message that was just sent with `next_id`.
    pub(crate) fn push(&mut self, sent: Sent, size: usize) {
        self.slots.push_back(Some(Slot { sent, size }));
        self.bytes += size;
        self.live += 1;
        self.sent += 1;
    }

    /// The next message that was sent on a former connection, to be sent again.
    pub(crate) fn take_unsent(&mut self) -> Option<(u16, Option<Slot>)> {
        if self.sent >= self.slots.len() {
            return None;
        }
        let id = self.id(self.sent);
        Some((id, self.slots[self.sent].take()))
    }

    /// Gives back what [`Self::take_unsent`] took: sent again, or `None` if it cannot be.
    pub(crate) fn put_sent(&mut self, slot: Option<Slot>, was: usize) {
        if slot.is_some() {
            self.live += 1;
        } else {
            self.bytes -= was;
        }
        self.slots[self.sent] = slot;
        self.sent += 1;
        self.shrink();
    }

    /// Takes an acknowledgement; writes the answer it calls for.
    pub(crate) fn acknowledge(&mut self, ack: Ack, to: &Owed, out: &mut Vec<u8>) {
        let (Ack::Received { packet_id, .. }
        | Ack::Complete { packet_id }
        | Ack::Acknowledged { packet_id }) = ack;
        let index = (packet_id as usize + IDS - self.base as usize) % IDS;
        let known = packet_id > 0 && index < self.sent;
        let slot = if known { self.slots[index].as_mut() } else { None };
        let done = match (ack, slot) {
            (Ack::Received { failed: true, .. }, Some(slot)) => slot.qos() == 2,
            (Ack::Received { failed: false, .. }, Some(slot)) if slot.qos() == 2 => {
                self.bytes -= std::mem::take(&mut slot.size);
                slot.sent = Sent::Released;
                put_ack(out, PUBREL, packet_id, 0, "", to.version5, to.packet_max_bytes);
                false
            }
            (Ack::Received { failed: false, .. }, _) => {
                let code = PACKET_ID_UNKNOWN;
                put_ack(out, PUBREL, packet_id, code, "", to.version5, to.packet_max_bytes);
                false
            }
            (Ack::Complete { .. }, Some(slot)) => matches!(slot.sent, Sent::Released),
            (Ack::Acknowledged { .. }, Some(slot)) => slot.qos() == 1,
            (_, None) => false,
        };
        if done && let Some(slot) = self.slots[index].take() {
            self.bytes -= slot.size;
            self.live -= 1;
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        while self.sent > 0 && matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.base = self.id(1);
            self.sent -= 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > 4096 {
            self.slots = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(qos: u8) -> Sent {
        let by = crate::Identity { client_id: "c".into(), user: None, address: None, note: 0 };
        let message = Retained {
            topic: "t".into(),
            payload: "p".into(),
            qos: crate::QoS::from_bits(qos),
            properties: Default::default(),
            expires_at: None,
            received_at: std::time::UNIX_EPOCH,
            by: Arc::new(by),
        };
        Sent::Retained { message: Arc::new(message), qos, subscription_ids: [].into() }
    }

    fn owed() -> Owed {
        Owed { version5: true, receive_maximum: 10, packet_max_bytes: usize::MAX }
    }

    fn acknowledge(window: &mut Inflight, ack: Ack) -> Vec<u8> {
        let mut out = Vec::new();
        window.acknowledge(ack, &owed(), &mut out);
        out
    }

    #[test]
    fn acknowledgements_in_any_order_free_the_window() {
        let mut window = Inflight::new();
        for expected in 1..=5 {
            assert_eq!(window.next_id(), expected);
            window.push(sent(1), 10);
        }
        assert!(!window.has_room(5, 1000));
        for packet_id in [3, 1, 5, 2, 4, 4] {
            acknowledge(&mut window, Ack::Acknowledged { packet_id });
        }
        assert!(window.is_empty());
        assert_eq!((window.live(), window.bytes(), window.next_id()), (0, 0, 6));
    }

    #[test]
    fn qos_2_ends_in_two_steps_and_only_so() {
        let mut window = Inflight::new();
        window.push(sent(2), 10);
        acknowledge(&mut window, Ack::Complete { packet_id: 1 });
        acknowledge(&mut window, Ack::Acknowledged { packet_id: 1 });
        assert_eq!(window.live(), 1);
        let received = Ack::Received { packet_id: 1, failed: false };
        assert_eq!(acknowledge(&mut window, received), [PUBREL, 2, 0, 1]);
        assert_eq!(acknowledge(&mut window, received), [PUBREL, 2, 0, 1]);
        acknowledge(&mut window, Ack::Complete { packet_id: 1 });
        assert!(window.is_empty());
        let unknown = acknowledge(&mut window, received);
        assert_eq!(unknown, [PUBREL, 3, 0, 1, PACKET_ID_UNKNOWN]);
    }

    #[test]
    fn packet_ids_wrap_without_ever_being_zero() {
        let mut window = Inflight::new();
        for _ in 0..70_000 {
            let packet_id = window.next_id();
            assert_ne!(packet_id, 0);
            window.push(sent(1), 1);
            acknowledge(&mut window, Ack::Acknowledged { packet_id });
            assert!(window.is_empty());
        }
    }

    #[test]
    fn after_a_reconnect_all_are_sent_again_and_old_acknowledgements_do_not_count() {
        let mut window = Inflight::new();
        window.push(sent(1), 10);
        window.push(sent(1), 10);
        window.restart();
        acknowledge(&mut window, Ack::Acknowledged { packet_id: 1 });
        let (first, slot) = window.take_unsent().unwrap();
        assert_eq!(first, 1);
        window.put_sent(slot, 10);
        let (second, _) = window.take_unsent().unwrap();
        assert_eq!(second, 2);
        window.put_sent(None, 10); // cannot be sent any more
        assert!(window.take_unsent().is_none());
        assert_eq!(window.bytes(), 10);
        acknowledge(&mut window, Ack::Acknowledged { packet_id: 1 });
        assert!(window.is_empty());
        assert_eq!((window.bytes(), window.next_id()), (0, 3));
    }
}

//! What a client publishes.

use super::connection::{Connection, End};
use crate::{
    api::Refusal,
    bounds::Bound,
    codec::{
        Reason,
        frame::Frame,
        publish::{Publish, parse},
        reply::{PUBACK, PUBREC},
    },
    fanout::{Turn, Verdict},
    lock::lock,
};

impl Connection {
    pub(crate) fn publish(
        &mut self,
        turn: &mut Turn<'_>,
        bytes: &[u8],
        frame: Frame,
    ) -> Result<(), End> {
        let mut publish = parse(bytes, frame.body, self.version5)?;
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        if qos == 2 && !self.is_first(packet_id)? {
            let unsure = lock(&self.session.queue).unsure.take(packet_id);
            match unsure {
                Some(due) => self.acks.put_when(PUBREC, packet_id, due),
                None => self.acks.put(&mut self.answers, PUBREC, packet_id, Ok(())),
            }
            return Ok(());
        }
        let known;
        if let Some(alias) = publish.alias {
            known = self.resolve(alias, publish.topic)?;
            publish.topic = &known;
        } else if self.version5 && publish.topic.is_empty() {
            return Err(Reason::Protocol.into());
        }
        let verdict = self.fanout.publish(turn, &self.who, &publish)?;
        self.answer(&publish, verdict)
    }

    /// Was this QoS 2 message not received before? Its id is remembered until it is released.
    fn is_first(&self, packet_id: u16) -> Result<bool, Reason> {
        let mut queue = lock(&self.session.queue);
        let first = queue.received.insert(packet_id);
        let too_many = queue.received.len() > self.shared.limits.receive_max.into();
        if self.version5 && too_many {
            self.shared.reached(Bound::Receive, &self.who.client_id);
            return Err(Reason::ReceiveMaximum);
        }
        Ok(first)
    }

    /// Defines an alias, or gives the topic it stands for.
    fn resolve(&mut self, alias: u16, topic: &[u8]) -> Result<Box<[u8]>, Reason> {
        if alias == 0 || alias > self.shared.limits.topic_alias_max {
            return Err(Reason::AliasInvalid);
        }
        if topic.is_empty() {
            return self.aliases.get(&alias).cloned().ok_or(Reason::Protocol);
        }
        self.aliases.insert(alias, topic.into());
        Ok(topic.into())
    }

    fn answer(&mut self, publish: &Publish<'_>, verdict: Verdict) -> Result<(), End> {
        let packet_id = publish.packet_id;
        let kind = match publish.qos {
            0 => return Ok(()),
            1 => PUBACK,
            _ => PUBREC,
        };
        match verdict {
            Verdict::Accepted => self.acks.put(&mut self.answers, kind, packet_id, Ok(())),
            Verdict::AcceptedWhen(due) => self.acks.put_when(kind, packet_id, due),
            Verdict::Refused(refusal) => self.refuse(kind, packet_id, refusal),
        }
        if self.acks.broken() {
            return Err(Reason::Unavailable.into());
        }
        let owed = self.acks.waiting();
        if self.version5 && owed > self.shared.limits.receive_max.into() {
            self.shared.reached(Bound::Receive, &self.who.client_id);
            return Err(Reason::ReceiveMaximum.into());
        }
        Ok(())
    }

    /// Version 3.1.1 has no way to say no: the message is acknowledged and dropped, or its sender
    /// has to come again.
    fn refuse(&mut self, kind: u8, packet_id: u16, refusal: Refusal) {
        // The host said why, where it matters to it; here it would be a client's means to fill logs.
        tracing::debug!(client_id = %self.who.client_id, reason = ?refusal.reason, "message refused");
        if kind == PUBREC && (self.version5 || refusal.temporary) {
            lock(&self.session.queue).received.remove(&packet_id);
        }
        self.acks.put(&mut self.answers, kind, packet_id, Err(refusal));
    }
}

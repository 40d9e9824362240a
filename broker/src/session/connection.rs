//! The life of a connection: read a batch, act on it, answer; wait when somebody is owed too much.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::SeqCst},
    task::Poll,
    time::Duration,
};

use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Session, acks::Acks, inflight::Ack};
use crate::{
    api::Identity,
    codec::{
        Reason,
        connect::Will,
        control,
        frame::{Frame, Reader, first_frame},
        reply::{PACKET_ID_UNKNOWN, PING_RESPONSE, PUBCOMP, put_ack},
    },
    fanout::{Fanout, Turn},
    lock::lock,
    shared::{LOOK_AGAIN, Phase, Shared},
    stats::add,
    stream::Stream,
};

/// Packet type.
const PUBLISH: u8 = 3;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client said goodbye.
    Asked { publish_will: bool },
    /// The stream is over.
    Closed,
    /// The broker ends it.
    Because(Reason),
}

impl From<Reason> for End {
    fn from(reason: Reason) -> Self {
        Self::Because(reason)
    }
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) who: Arc<Identity>,
    pub(crate) ticket: u64,
    /// The session is ours while we hold this.
    pub(crate) attached: OwnedMutexGuard<bool>,
    pub(crate) version5: bool,
    pub(crate) will: Option<Will>,
    pub(crate) session_expiry_s: u32,
    pub(crate) fanout: Fanout,
    pub(crate) acks: Acks,
    pub(crate) aliases: HashMap<u16, Box<[u8]>>,
    /// The beginning of a frame that is not all here.
    pub(crate) partial: Vec<u8>,
    /// Answers of the present batch.
    pub(crate) answers: Vec<u8>,
    /// Acknowledgements from the client in the present batch.
    pub(crate) client_acks: Vec<Ack>,
    /// The broker is going down: only acknowledgements still count.
    pub(crate) draining: bool,
    /// A PUBLISH waits in `partial` until the host is ready for it.
    pub(crate) held: bool,
}

impl Connection {
    /// Lives until something ends it. `early` is what came after the CONNECT.
    pub(crate) async fn live(&mut self, early: &[u8]) -> End {
        let mut result = self.received(early);
        loop {
            match result {
                Ok(()) => result = self.step().await,
                Err(end) => return end,
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        if let Some(reason) = self.session.ending(self.ticket) {
            return Err(End::Because(reason));
        }
        match self.shared.phase() {
            Phase::Running => {}
            Phase::Draining(until) => return self.drain(until).await,
            Phase::Ended => return Err(End::Because(Reason::ShuttingDown)),
        }
        if let Some(session) = self.fanout.full.pop() {
            return self.wait_for_subscriber(session).await;
        }
        if self.is_owed_too_much() {
            self.session.full.store(true, SeqCst);
            let session = self.session.clone();
            return self.wait(room(&session)).await;
        }
        if !self.held {
            return self.read().await;
        }
        let shared = self.shared.clone();
        match shared.admission.ready() {
            Some(ready) => self.wait(ready).await,
            None => self.received(&[]),
        }
    }

    fn is_owed_too_much(&self) -> bool {
        self.acks.waiting() > self.shared.limits.receive_max.into()
            || lock(&self.session.queue).is_owed_too_much(&self.shared.limits)
    }

    /// Reading stops while a subscriber that makes progress has a full queue.
    async fn wait_for_subscriber(&mut self, session: Arc<Session>) -> Result<(), End> {
        if session.uid == self.session.uid {
            // Waiting for itself would mean never reading the acknowledgements that make room.
            let queue = lock(&session.queue);
            let hopeless = queue.is_over(0, 0, &self.shared.limits, 4);
            return if hopeless { Err(End::Because(Reason::Quota)) } else { Ok(()) };
        }
        let shared = self.shared.clone();
        let mut result = Ok(());
        let still_full = {
            let mut roomy = pin!(session.room.notified());
            // From here on no notification is missed, so the question below is not asked in vain.
            roomy.as_mut().enable();
            let holds_up = session.holds_up(&shared);
            if holds_up {
                let gate = async { drop(tokio::time::timeout(LOOK_AGAIN, roomy).await) };
                result = self.wait(gate).await;
            }
            holds_up
        };
        if still_full {
            self.fanout.full.push(session);
        }
        result
    }

    /// Waits without reading; acknowledgements that fall due still go out. Silence is not the
    /// client's fault meanwhile.
    async fn wait(&mut self, gate: impl Future<Output = ()>) -> Result<(), End> {
        let session = self.session.clone();
        session.unread.store(true, SeqCst);
        let result = self.wait_unread(&session, gate).await;
        session.seen_ms.store(self.shared.now_ms(), SeqCst);
        session.unread.store(false, SeqCst);
        result
    }

    async fn wait_unread(
        &mut self,
        session: &Session,
        gate: impl Future<Output = ()>,
    ) -> Result<(), End> {
        let (mut kicked, mut gate) = (pin!(session.kick.notified()), pin!(gate));
        std::future::poll_fn(|context| {
            if kicked.as_mut().poll(context).is_ready() || self.poll_acks(context) {
                return Poll::Ready(Ok(()));
            }
            gate.as_mut().poll(context).map(Ok)
        })
        .await
    }

    async fn read(&mut self) -> Result<(), End> {
        let (session, stream) = (self.session.clone(), self.stream.clone());
        let mut kicked = pin!(session.kick.notified());
        std::future::poll_fn(|context| {
            if kicked.as_mut().poll(context).is_ready() || self.poll_acks(context) {
                return Poll::Ready(Ok(()));
            }
            stream.poll_read(context, |bytes| self.received(bytes)).map(|read| match read {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => Err(End::Closed),
            })
        })
        .await
    }

    fn poll_acks(&mut self, context: &mut std::task::Context<'_>) -> bool {
        if self.acks.waiting() == 0 {
            return false;
        }
        let Poll::Ready(freed) = self.acks.poll(context, &mut self.answers) else { return false };
        if !freed.is_empty() {
            let mut queue = lock(&self.session.queue);
            queue.received.retain(|packet_id| !freed.contains(packet_id));
        }
        self.hand_in();
        true
    }

    /// The broker is going down: what is owed may still go out, new messages are not taken.
    async fn drain(&mut self, until: Instant) -> Result<(), End> {
        self.draining = true;
        let idle = lock(&self.session.queue).is_idle();
        if (idle && lock(&self.session.io).is_written()) || Instant::now() >= until {
            return Err(End::Because(Reason::ShuttingDown));
        }
        let look_again = Duration::from_millis(10).min(until - Instant::now());
        tokio::time::timeout(look_again, self.read()).await.unwrap_or(Ok(()))
    }

    /// Acts on everything that came in one read.
    fn received(&mut self, bytes: &[u8]) -> Result<(), End> {
        let shared = self.shared.clone();
        self.session.seen_ms.store(shared.now_ms(), SeqCst);
        add(&shared.counters.bytes_in, bytes.len());
        let mut partial = std::mem::take(&mut self.partial);
        let whole = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            &partial
        };
        let (mut turn, mut at, mut result) = (Turn::new(&shared), 0, Ok(()));
        let mut asked = false;
        self.held = false;
        while result.is_ok() {
            match first_frame(&whole[at..], shared.limits.packet_max_bytes) {
                Ok(Some(_)) if whole[at] >> 4 == PUBLISH && !asked && self.must_wait_for_host() => {
                    self.held = true;
                    break;
                }
                Ok(Some(frame)) => {
                    asked |= whole[at] >> 4 == PUBLISH;
                    result = self.packet(&mut turn, &whole[at..at + frame.end], frame);
                    at += frame.end;
                }
                Ok(None) => break,
                Err(reason) => result = Err(End::Because(reason)),
            }
        }
        if at > 0 || partial.is_empty() {
            self.partial = whole[at..].to_vec();
        } else {
            self.partial = partial; // a long frame grows in place
        }
        self.fanout.finish(turn);
        self.hand_in();
        result
    }

    /// The host is asked once in a batch, before the first message.
    fn must_wait_for_host(&self) -> bool {
        !self.draining && self.shared.admission.ready().is_some()
    }

    /// Puts the answers of a batch into the queue, after the messages of the batch, so that an
    /// acknowledgement means "in every queue".
    fn hand_in(&mut self) {
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
            4 | 5 | 7 => self.acknowledged(kind, bytes, frame),
            6 => self.release(bytes, frame),
            8 => self.subscribe(turn, &control::subscribe(bytes, frame, version5)?),
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

    fn acknowledged(&mut self, kind: u8, bytes: &[u8], frame: Frame) -> Result<(), End> {
        let (packet_id, code) = self.ack_body(bytes, frame, 0)?;
        self.client_acks.push(match kind {
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

/// Resolves when a session's queue may have room.
async fn room(session: &Session) {
    drop(tokio::time::timeout(LOOK_AGAIN, session.room.notified()).await);
}

/// A future whose panics are caught, so that its connection can still be put in order.
pub(crate) async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(move |context| {
        let future: Pin<&mut _> = future.as_mut();
        let poll = std::panic::AssertUnwindSafe(|| future.poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

//! The life of a connection: read a batch, act on it, answer; wait when somebody is owed too much.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{Session, acks::Acks, batch::PUBLISH, inflight::Ack, pace::Pace};
use crate::{
    api::Identity,
    arrivals::Turnstile,
    bounds::{Bound, Held},
    codec::{Reason, connect::Will},
    fanout::Fanout,
    lock::lock,
    shared::{LOOK_AGAIN, Phase, Shared},
    stream::Stream,
};

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
    pub(crate) turnstile: Turnstile,
    pub(crate) who: Arc<Identity>,
    pub(crate) ticket: u64,
    /// The rules its rights were settled by, see [`Shared::rules`].
    pub(crate) rules: u64,
    /// The session is ours while we hold this.
    pub(crate) attached: OwnedMutexGuard<bool>,
    pub(crate) version5: bool,
    pub(crate) will: Option<Will>,
    pub(crate) session_expiry_s: u32,
    pub(crate) fanout: Fanout,
    pub(crate) acks: Acks,
    pub(crate) aliases: HashMap<u16, Box<[u8]>>,
    /// The beginning of a frame that is not all here, and before it what was read ahead.
    pub(crate) partial: BytesMut,
    /// The room that takes.
    pub(crate) input: Held,
    pub(crate) pace: Pace,
    /// How much of it was looked through for acknowledgements already.
    pub(crate) scanned: usize,
    /// Answers of the present batch.
    pub(crate) answers: Vec<u8>,
    /// Acknowledgements from the client in the present batch.
    pub(crate) client_acks: Vec<Ack>,
    /// The broker is going down: only acknowledgements still count.
    pub(crate) draining: bool,
    /// Whole packets wait in `partial`, the first of them perhaps for the host.
    pub(crate) held: bool,
    /// Reading ahead came to the end of the stream.
    pub(crate) ended: bool,
}

impl Connection {
    /// Lives until something ends it. `early` is what came after the CONNECT.
    pub(crate) async fn live(&mut self, early: Vec<u8>) -> End {
        let mut result = self.received(&early);
        drop(early);
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
        if self.acks.broken() {
            return Err(Reason::Unavailable.into());
        }
        match self.shared.phase() {
            Phase::Running => {}
            Phase::Draining(until) => return self.drain(until).await,
            Phase::Ended => return Err(End::Because(Reason::ShuttingDown)),
        }
        self.fanout.routes.forget_if_stale(&self.shared);
        self.follow_rules()?;
        if let Some(session) = self.fanout.full.pop() {
            return self.wait_for_subscriber(session).await;
        }
        if self.is_owed_too_much() {
            self.session.full.store(true, SeqCst);
            let session = self.session.clone();
            return self.wait(room(&session), false).await;
        }
        if let Some(until) = self.pace.held_until() {
            self.shared.reached(Bound::Rate, &self.who.client_id);
            let pause = Box::pin(tokio::time::sleep_until(until));
            return self.wait(pause, self.may_read_ahead()).await;
        }
        if !self.held {
            return self.read().await;
        }
        let shared = self.shared.clone();
        let message_first = self.partial.first().is_some_and(|byte| byte >> 4 == PUBLISH);
        match shared.admission.ready().filter(|_| message_first) {
            Some(ready) => self.wait(ready, false).await,
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
                result = self.wait(gate, self.may_read_ahead()).await;
            }
            holds_up
        };
        if still_full {
            self.fanout.full.push(session);
        }
        result
    }

    /// Two clients that flood each other would wait for each other for ever, each one's
    /// acknowledgements behind messages that are not read: so they are looked for there.
    fn may_read_ahead(&self) -> bool {
        let owed = lock(&self.session.queue).inflight.live() > 0;
        owed && !self.ended && self.partial.len() < self.shared.limits.queue_max_bytes
    }

    /// Waits without acting on messages; acknowledgements that fall due still go out. Silence is
    /// not the client's fault meanwhile.
    async fn wait(&mut self, gate: impl Future<Output = ()>, ahead: bool) -> Result<(), End> {
        let session = self.session.clone();
        session.unread.store(true, SeqCst);
        let result = self.wait_unread(&session, gate, ahead).await;
        session.seen_ms.store(self.shared.now_ms(), SeqCst);
        session.unread.store(false, SeqCst);
        result
    }

    async fn wait_unread(
        &mut self,
        session: &Session,
        gate: impl Future<Output = ()>,
        ahead: bool,
    ) -> Result<(), End> {
        let stream = self.stream.clone();
        let (mut kicked, mut gate) = (pin!(session.kick.notified()), pin!(gate));
        std::future::poll_fn(|context| {
            if kicked.as_mut().poll(context).is_ready() || self.poll_acks(context) {
                return Poll::Ready(Ok(()));
            }
            self.turnstile.step_aside();
            if gate.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !ahead {
                return Poll::Pending;
            }
            stream.poll_read(context, |bytes| self.read_ahead(bytes)).map(|read| match read {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => {
                    // What was read ahead still counts; the end is met again after it.
                    self.ended = true;
                    Ok(())
                }
            })
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
            if self.turnstile.must_wait(context) {
                return Poll::Pending;
            }
            let waker = self.turnstile.waker();
            let read = stream.poll_read(&mut Context::from_waker(&waker), |bytes| {
                self.turnstile.note(bytes[0], !self.partial.is_empty());
                self.received(bytes)
            });
            self.turnstile.release();
            read.map(|read| match read {
                Ok(Some(result)) => result,
                Ok(None) | Err(_) => Err(End::Closed),
            })
        })
        .await
    }

    fn poll_acks(&mut self, context: &mut Context<'_>) -> bool {
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

//! The broker as its host sees it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::Instant,
};

use crate::{
    api::{Admission, Authority, BoxFuture, Identity, QoS, Refusal, RefusalReason},
    codec::{Reason, publish::Publish},
    fanout::{Turn, Verdict},
    housekeeping::keep_house,
    listener::{accept, admit_websocket, listen},
    lock::lock,
    properties::Properties,
    retained::RetainedStore,
    session::{Session, rules},
    settings::{Settings, StartError},
    shared::{LOOK_AGAIN, Phase, Shared},
    stats::Stats,
};

/// How long tasks may take to end once they were told to.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A running broker. Cheap to clone; when the last clone is dropped, everything it runs ends.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.enter(Phase::Ended);
    }
}

/// A message of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    /// Where to.
    pub topic: Box<str>,
    /// What.
    pub payload: Bytes,
    /// How hard delivery is tried.
    pub qos: QoS,
    /// The RETAIN flag; [`Admission::retention`] may overrule it.
    pub retain: bool,
    /// Version 5 properties, from [`PropertiesBuilder`](crate::PropertiesBuilder).
    pub properties: Bytes,
    /// How long it keeps its value, in whole seconds.
    pub expiry: Option<Duration>,
}

impl Broker {
    /// Opens all addresses, then begins to serve, on the caller's runtime.
    ///
    /// # Errors
    /// When there is no address, or one cannot be listened on; nothing is left open then.
    #[allow(clippy::unused_async, reason = "it needs a runtime, and starting may wait one day")]
    pub async fn start(
        settings: Settings,
        authority: Arc<dyn Authority>,
        admission: Arc<dyn Admission>,
        retained: Arc<dyn RetainedStore>,
    ) -> Result<Self, StartError> {
        let listeners: Vec<TcpListener> =
            settings.listen.iter().map(|how| listen(how.address)).collect::<Result<_, _>>()?;
        if listeners.is_empty() {
            return Err(StartError::NoAddress);
        }
        let known = listeners.iter().zip(&settings.listen);
        let addresses =
            known.map(|(open, asked)| open.local_addr().unwrap_or(asked.address)).collect();
        let shared = Arc::new(Shared::new(settings.limits, authority, admission, retained));
        if shared.limits.retained_topics_per_identity_max > 0 {
            lock(&shared.ledger).count(shared.retained.as_ref());
        }
        shared.tasks.spawn(keep_house(shared.clone()));
        for (listener, how) in listeners.into_iter().zip(settings.listen) {
            shared.tasks.spawn(accept(shared.clone(), listener, how));
        }
        tracing::info!(?addresses, "broker listening");
        Ok(Self(Arc::new(Inner { shared, addresses })))
    }

    /// Where it listens, in the order of the settings; the real port where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0.addresses
    }

    /// Serves MQTT over WebSocket on a connection that came in elsewhere, once the answer of
    /// [`websocket_answer`](crate::websocket_answer) has been sent on it. It counts as a connection
    /// and is under all limits; it is closed when there is no place for it. `certificate` is the
    /// name in the client's verified certificate, see [`Secured`](crate::Secured).
    ///
    /// Must be called on a runtime; returns at once.
    pub fn serve_websocket<T>(&self, stream: T, address: SocketAddr, certificate: Option<Box<str>>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        admit_websocket(&self.0.shared, stream, address, certificate);
    }

    /// Publishes a message of the host: through admission like everybody's, then stored if it is
    /// retained, and delivered. Waits while a live subscriber's queue is full, but no longer than
    /// [`Limits::host_patience`](crate::Limits::host_patience) for each, and until the message may
    /// be acknowledged.
    ///
    /// # Errors
    /// When the topic or the properties are malformed, or admission refuses the message.
    pub async fn publish(&self, by: &Arc<Identity>, message: Outgoing) -> Result<(), Refusal> {
        match self.hand_in(by, message).await? {
            Some(due) => due.await,
            None => Ok(()),
        }
    }

    /// The same, but does not wait for the acknowledgement; gives what does, if there is something
    /// to wait for.
    ///
    /// # Errors
    /// As for [`Broker::publish`], as far as they are known at once.
    pub async fn hand_in(
        &self,
        by: &Arc<Identity>,
        message: Outgoing,
    ) -> Result<Option<BoxFuture<'static, Result<(), Refusal>>>, Refusal> {
        let shared = &self.0.shared;
        if !Properties::new(&message.properties).is_valid() {
            let text = "malformed properties";
            return Err(refused(RefusalReason::ImplementationSpecific, text));
        }
        let packet = Publish {
            qos: message.qos as u8,
            retain: message.retain,
            packet_id: 0,
            topic: message.topic.as_bytes(),
            properties: (&*message.properties).into(),
            payload: &message.payload,
            alias: None,
            expiry_s: message.expiry.map(|e| u32::try_from(e.as_secs()).unwrap_or(u32::MAX)),
            user_properties: 0,
            raw: None,
            version5: true,
        };
        let (verdict, full) = {
            let mut host = lock(&shared.host);
            let mut turn = Turn::new(shared);
            let verdict = host.publish(&mut turn, by, &packet);
            host.finish(turn);
            (verdict, std::mem::take(&mut host.full))
        };
        for session in full {
            let patience = shared.limits.host_patience;
            if tokio::time::timeout(patience, wait_for_room(shared, &session)).await.is_err() {
                tracing::warn!(client_id = %session.key.client_id, "reads too slowly for the host, disconnected");
                session.end_present(Reason::Quota);
            }
        }
        match verdict {
            Ok(Verdict::Accepted) => Ok(None),
            Ok(Verdict::AcceptedWhen(due)) => Ok(Some(due)),
            Ok(Verdict::Refused(refusal)) => Err(refusal),
            Err(_) => Err(refused(RefusalReason::TopicNameInvalid, "malformed topic")),
        }
    }

    /// Runs something while nothing retained is admitted, stored or queued: whatever it tells the
    /// host comes after all messages before it and before all messages after it. It must be short
    /// and may not call the broker.
    pub fn in_order<T>(&self, act: impl FnOnce() -> T) -> T {
        let _order = lock(&self.0.shared.order);
        act()
    }

    /// What it has counted so far.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let mut stats = shared.counters.stats();
        stats.connections = lock(&shared.online).len() as u64;
        stats.sessions = lock(&shared.sessions).len() as u64;
        stats.queued_bytes = shared.budget.used() as u64;
        stats.limits = shared.reached.stats();
        stats
    }

    /// Asks the authority and [`Admission::retention`] anew from the next message on. Who may no
    /// longer stay is disconnected (0x98) and its session ended; subscriptions that are no longer
    /// allowed end, with what of their retained messages is not sent yet. Messages accepted before
    /// are still delivered.
    pub fn rules_changed(&self) {
        rules::changed(&self.0.shared);
    }

    /// Ends everything: no new connections at once, queues written out while the limit lasts,
    /// DISCONNECT 0x8B to version 5 clients, no wills. When it returns no task of the broker runs
    /// and its ports are free.
    pub async fn shutdown(&self, limit: Duration) {
        let shared = &self.0.shared;
        shared.enter(Phase::Draining(Instant::now() + limit));
        if tokio::time::timeout(limit, shared.tasks.all_ended()).await.is_err() {
            shared.enter(Phase::Ended);
            if tokio::time::timeout(END_LIMIT, shared.tasks.all_ended()).await.is_err() {
                tracing::error!(tasks = shared.tasks.alive(), "tasks did not end");
            }
        }
        tracing::info!("broker ended");
    }
}

async fn wait_for_room(shared: &Shared, session: &Session) {
    loop {
        let mut room = std::pin::pin!(session.room.notified());
        room.as_mut().enable();
        if !session.holds_up(shared) || shared.phase() != Phase::Running {
            return;
        }
        drop(tokio::time::timeout(LOOK_AGAIN, room).await);
    }
}

fn refused(reason: RefusalReason, text: &str) -> Refusal {
    Refusal { reason, text: text.into(), temporary: false }
}

//! The bus on another broker, of which the hub is a client.
//!
//! What the hub says passes its door at once and then waits in an outbox for
//! the broker; what others say passes the door when the broker brings it. So
//! the hub works on without the broker, and each message is decided on once:
//! the broker's echo of the hub's own words is known and dropped.
//!
//! `link` holds the connection, `desk` knows what is retained and decides what
//! a packet means, `query` asks the broker what it retains, `outbox`, `echoes`
//! and `suspects` remember what is under way and what went wrong with it,
//! `wire` speaks both versions of MQTT.

mod desk;
mod echoes;
mod link;
mod outbox;
mod query;
mod suspects;
mod tls;
mod wire;
mod witness;

pub use tls::{ClientTlsError, client_config};
pub use wire::Version;

use super::{
    Admitted, Arrival, BoxFuture, Door, Page, Publication, PublishError, Publisher, Restored,
    RetainedSet, Retention,
};
use crate::name::{BrokerUrl, Door as DoorName, Filter, Topic};
use desk::Desk;
use meshfs_broker::Stats;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

/// How long somebody's request waits for what the broker still has to bring.
const FENCE_LIMIT: Duration = Duration::from_secs(2);

/// How to reach the broker.
#[derive(Clone)]
pub struct ExternalSettings {
    /// Where it is.
    pub broker: BrokerUrl,
    /// Which version of MQTT to speak; `None`: 5, or 3.1.1 if it has no 5.
    pub version: Option<Version>,
    /// The hub's client id.
    pub client_id: String,
    /// User and password.
    pub login: Option<(String, String)>,
    /// What TLS needs, for an address with TLS.
    pub tls: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
    /// Largest payload that is let in.
    pub payload_max_bytes: usize,
    /// What the broker says for the hub when the hub is lost: retained, and on
    /// the topic on which the hub says that it is there.
    pub will: Publication,
}

// By hand: no password in a log.
impl std::fmt::Debug for ExternalSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalSettings").field("broker", &self.broker).finish_non_exhaustive()
    }
}

/// A client of another broker.
#[derive(Debug, Clone)]
pub struct ExternalBus {
    shared: Arc<Shared>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
    stop: watch::Sender<bool>,
}

/// What the handle and the connection's task share.
struct Shared {
    settings: ExternalSettings,
    door: Arc<dyn Door>,
    desk: Mutex<Desk>,
    /// Something was put into the outbox.
    work: Notify,
    trouble: Mutex<Option<Arc<str>>>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.map(Into::into);
    }
}

impl ExternalBus {
    /// Starts to connect, and goes on trying until it is shut down. `retained`
    /// is what the tree holds.
    #[must_use]
    pub fn start(
        settings: ExternalSettings,
        door: Arc<dyn Door>,
        retained: impl IntoIterator<Item = Restored>,
    ) -> Self {
        let desk = Desk::new(door.clone(), settings.will.topic.as_str(), retained);
        let trouble = Mutex::new(Some(link::not_yet(&settings.broker).into()));
        let (work, counters) = (Notify::new(), Counters::default());
        let desk = Mutex::new(desk);
        let shared = Arc::new(Shared { settings, door, desk, work, trouble, counters });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(link::run(shared.clone(), stopped));
        Self { shared, task: Arc::new(Mutex::new(Some(task))), stop }
    }

    /// Where the broker is.
    #[must_use]
    pub fn broker(&self) -> &BrokerUrl {
        &self.shared.settings.broker
    }

    /// What was sent and received; of the broker's other clients nothing is known.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        Stats {
            messages_in: counters.messages_in.load(Relaxed),
            messages_out: counters.messages_out.load(Relaxed),
            bytes_in: counters.bytes_in.load(Relaxed),
            bytes_out: counters.bytes_out.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            ..Stats::default()
        }
    }

    /// Why the hub is not connected, while it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends what waits, if the broker takes it in time, and says goodbye.
    pub async fn shutdown(&self, limit: Duration) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(limit, &mut task).await.is_err() {
            task.abort();
        }
        let unsent = self.shared.desk().outbox.len();
        if unsent > 0 {
            warn!(unsent, broker = %self.broker(), "publications not sent before the end");
        }
    }

    /// Waits until all that the broker has accepted before has come in: whoever
    /// announces by HTTP expects a snapshot of that too.
    async fn caught_up(&self) {
        if self.trouble().is_some() {
            return;
        }
        let (pass, passed) = oneshot::channel();
        self.shared.desk().fences.push(pass);
        self.shared.work.notify_one();
        // Dropped when the broker has brought back what was sent then, or is lost.
        if tokio::time::timeout(FENCE_LIMIT, passed).await.is_err() {
            warn!(broker = %self.broker(), limit = ?FENCE_LIMIT, "the broker is behind; not waiting for it");
        }
    }

    /// What the door makes of something the hub itself says; there it is
    /// decided on as if it had come back from the broker.
    fn put(&self, publication: Publication, awaited: bool) -> Result<Admitted, PublishError> {
        let door = &self.shared.door;
        let retained = match door.retention(publication.topic.as_str()) {
            Retention::Always => true,
            Retention::Never => false,
            Retention::AsPublished => publication.retain,
        };
        let received_at = crate::clock::to_millis(jiff::Timestamp::now());
        let arrival = Arrival {
            by: publication.by.clone(),
            inside: true,
            topic: publication.topic.as_str().into(),
            payload: publication.payload.clone(),
            qos: 1,
            retain: publication.retain,
            retained,
            content_type: None,
            user_properties: Vec::new(),
            response_topic: None,
            correlation: publication.correlation.clone(),
            expires_at: None,
            received_at,
            awaited,
        };
        // Under the lock, so that the door sees all in the order in which it is sent.
        let mut desk = self.shared.desk();
        let admitted = door.admit(arrival).map_err(|refusal| {
            self.shared.counters.refused.fetch_add(1, Relaxed);
            PublishError::of(publication.topic.clone(), refusal)
        })?;
        let dropped = desk.say(publication, retained, received_at);
        drop(desk);
        self.shared.counters.dropped.fetch_add(dropped as u64, Relaxed);
        self.shared.work.notify_one();
        Ok(admitted)
    }

    /// Forgets retained messages that have expired and tells which. The broker
    /// does so by itself.
    pub fn sweep(&self, forgotten: impl FnMut(Topic)) {
        self.shared.desk().sweep(jiff::Timestamp::now()).into_iter().for_each(forgotten);
    }
}

impl RetainedSet for ExternalBus {
    fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        self.shared.desk().page(filter.as_str(), after, limit)
    }

    fn get(&self, topic: &Topic) -> Option<Restored> {
        self.shared.desk().get(topic.as_str(), jiff::Timestamp::now())
    }
}

impl Publisher for ExternalBus {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            if *self.stop.borrow() {
                return Err(PublishError::Closed);
            }
            let topic = publication.topic.as_str();
            if publication.by.door != DoorName::Hub && !self.shared.door.hubs_own(topic) {
                self.caught_up().await;
            }
            let topic = publication.topic.clone();
            match self.put(publication, true)? {
                Admitted::Now => Ok(()),
                Admitted::When(kept) => {
                    kept.await.map_err(|refusal| PublishError::of(topic, refusal))
                }
            }
        })
    }

    fn say(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            if *self.stop.borrow() {
                return Err(PublishError::Closed);
            }
            self.put(publication, false).map(drop)
        })
    }
}

//! Room 1, the bus: bytes in and out.
//!
//! What arrives has passed the hub's door, carries its sender and comes in the
//! order in which subscribers saw it; what the hub says goes out through
//! [`Publisher`] and arrives like any other message.

mod embedded;
mod external;

pub use embedded::{EmbeddedBus, Restored};
pub use external::{ClientTlsError, ExternalBus, ExternalSettings, Version, client_config};
pub use meshfs_broker::{Tls, websocket_answer};

use crate::name::{BrokerUrl, By, Filter, Topic};
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A boxed future, for traits that are used behind a pointer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something the hub publishes, in its own name or in that of a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Who is the author.
    pub by: By,
    /// Where to.
    pub topic: Topic,
    /// What; empty on a retained topic clears it.
    pub payload: Bytes,
    /// The retain flag; the contract may overrule it.
    pub retain: bool,
    /// MQTT 5 correlation data, for answers.
    pub correlation: Option<Bytes>,
}

impl Publication {
    /// A publication of the hub's own.
    pub fn hub(topic: Topic, payload: impl Into<Bytes>, retain: bool) -> Self {
        Self { by: By::hub(), topic, payload: payload.into(), retain, correlation: None }
    }
}

/// Why a publication did not go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The contract of the topic refuses it.
    #[error("{topic} refused: {why}")]
    Refused {
        /// The topic.
        topic: Topic,
        /// The reason, for people.
        why: Box<str>,
    },
    /// It cannot be kept at present.
    #[error("{topic} refused for now: {why}")]
    NotNow {
        /// The topic.
        topic: Topic,
        /// The reason and the way out, for people.
        why: Box<str>,
    },
    /// The bus is shutting down.
    #[error("the bus is closed")]
    Closed,
}

impl PublishError {
    fn of(topic: Topic, refusal: Refusal) -> Self {
        let Refusal { kind, why } = refusal;
        if kind.is_temporary() { Self::NotNow { topic, why } } else { Self::Refused { topic, why } }
    }
}

/// A message at the door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Who published it.
    pub by: By,
    /// True for what the program itself publishes: only then may `by` speak for the hub.
    pub inside: bool,
    /// The topic as it came; not yet one of the mesh.
    pub topic: Box<str>,
    /// The payload.
    pub payload: Bytes,
    /// The quality of service: 0, 1 or 2.
    pub qos: u8,
    /// The packet's retain flag.
    pub retain: bool,
    /// What the contract made of it.
    pub retained: bool,
    /// MQTT 5 content type.
    pub content_type: Option<String>,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(String, String)>,
    /// MQTT 5 response topic.
    pub response_topic: Option<String>,
    /// MQTT 5 correlation data.
    pub correlation: Option<Bytes>,
    /// When it is to be forgotten.
    pub expires_at: Option<jiff::Timestamp>,
    /// When it came.
    pub received_at: jiff::Timestamp,
    /// Somebody hears whether it was taken: not at QoS 0, and a will has nobody left.
    pub awaited: bool,
}

/// Whether the last message of a topic is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Always, whatever the packet says.
    Always,
    /// Never, whatever the packet says.
    Never,
    /// As the packet says.
    AsPublished,
}

/// Why a message was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The sort, which becomes an MQTT 5 reason code.
    pub kind: RefusalKind,
    /// The reason, for people.
    pub why: Box<str>,
}

/// The sort of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such topic (0x90).
    Topic,
    /// The sender may not publish it (0x87).
    NotAuthorized,
    /// The payload breaks the contract (0x99).
    Payload,
    /// In the contract, and not in this release (0x83).
    NotYet,
    /// Too much of something (0x97).
    Quota,
    /// The disk is full (0x97); later it may be taken.
    DiskFull,
    /// The disk refuses, or the hub ends (0x83); later it may be taken.
    NotNow,
}

impl RefusalKind {
    /// Would the same message be taken later?
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::DiskFull | Self::NotNow)
    }
}

/// How a message was let in.
pub enum Admitted {
    /// It may be acknowledged as soon as it is delivered.
    Now,
    /// It may be acknowledged when the future says so.
    When(BoxFuture<'static, Result<(), Refusal>>),
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Now => "Now",
            Self::When(_) => "When(..)",
        })
    }
}

/// What the bus asks of whoever guards it. Called from the middle of the
/// broker's work: nothing here may block or publish.
pub trait Door: Send + Sync + 'static {
    /// Whether messages of a topic are kept.
    fn retention(&self, topic: &str) -> Retention;
    /// Whether somebody may publish a topic; asked once a connection and topic, and for wills.
    fn may_publish(&self, by: &By, topic: &str) -> bool;
    /// Whether somebody may subscribe to a filter.
    fn may_subscribe(&self, by: &By, filter: &str) -> bool;
    /// Lets a message in, or says why not; in the order in which subscribers see them.
    ///
    /// # Errors
    /// The message is refused: neither kept nor delivered.
    fn admit(&self, arrival: Arrival) -> Result<Admitted, Refusal>;
    /// Takes note of a message that the bus itself does not let in.
    fn refuse(&self, arrival: Arrival, refusal: &Refusal);
    /// Whether only the hub publishes a topic.
    fn hubs_own(&self, topic: &str) -> bool;
    /// `None`: go on. Otherwise publishers wait until the future resolves.
    fn ready(&self) -> Option<BoxFuture<'_, ()>>;
}

/// What other rooms need of the bus: to say something on it.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes and resolves when the message is accepted and queued for every receiver, and on
    /// disk if its topic is one of those.
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Publishes and does not wait for the disk: for those whom others wait for.
    fn say(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        self.publish(publication)
    }
}

/// What readers need of the bus: its retained messages as they are now.
pub trait RetainedSet: Send + Sync + 'static {
    /// Some of the messages that a filter selects, `limit` at most, behind a topic if one is given.
    fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page;
    /// The message of a topic.
    fn get(&self, topic: &Topic) -> Option<Restored>;
}

/// A part of the retained messages that a filter selects, in topic order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The messages; there may be none though more follow.
    pub messages: Vec<Restored>,
    /// Behind which topic to go on, if there may be more.
    pub next: Option<Box<str>>,
}

/// The bus of a hub: its own broker, or a connection to another one.
#[derive(Debug, Clone)]
pub enum Bus {
    /// Its own.
    Embedded(EmbeddedBus),
    /// Another one.
    External(ExternalBus),
}

impl Bus {
    /// The address that clients connect to, if it is the hub's.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.embedded().and_then(EmbeddedBus::address)
    }

    /// The address that clients connect to with TLS, if there is one.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.embedded().and_then(EmbeddedBus::tls_address)
    }

    /// The hub's own broker, if it has one.
    #[must_use]
    pub const fn embedded(&self) -> Option<&EmbeddedBus> {
        match self {
            Self::Embedded(bus) => Some(bus),
            Self::External(_) => None,
        }
    }

    /// Where the broker is, if it is another.
    #[must_use]
    pub fn broker(&self) -> Option<&BrokerUrl> {
        match self {
            Self::Embedded(_) => None,
            Self::External(bus) => Some(bus.broker()),
        }
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> meshfs_broker::Stats {
        match self {
            Self::Embedded(bus) => bus.stats(),
            Self::External(bus) => bus.stats(),
        }
    }

    /// What keeps messages from the hub at the moment.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        match self {
            Self::Embedded(_) => None,
            Self::External(bus) => bus.trouble(),
        }
    }

    /// Forgets retained messages that have expired and tells which, in order with all that is
    /// admitted.
    pub fn sweep(&self, forgotten: impl FnMut(Topic)) {
        match self {
            Self::Embedded(bus) => bus.sweep(forgotten),
            Self::External(bus) => bus.sweep(forgotten),
        }
    }

    /// Says goodbye.
    pub async fn shutdown(&self, limit: Duration) {
        match self {
            Self::Embedded(bus) => bus.shutdown(limit).await,
            Self::External(bus) => bus.shutdown(limit).await,
        }
    }
}

impl Publisher for Bus {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        match self {
            Self::Embedded(bus) => bus.publish(publication),
            Self::External(bus) => bus.publish(publication),
        }
    }

    fn say(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        match self {
            Self::Embedded(bus) => bus.say(publication),
            Self::External(bus) => bus.say(publication),
        }
    }
}

impl RetainedSet for Bus {
    fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Page {
        match self {
            Self::Embedded(bus) => bus.page(filter, after, limit),
            Self::External(bus) => bus.page(filter, after, limit),
        }
    }

    fn get(&self, topic: &Topic) -> Option<Restored> {
        match self {
            Self::Embedded(bus) => bus.get(topic),
            Self::External(bus) => bus.get(topic),
        }
    }
}

/// Remembers what was published.
#[cfg(any(test, feature = "fakes"))]
#[derive(Debug, Default)]
pub struct FakePublisher(std::sync::Mutex<Vec<Publication>>, tokio::sync::Notify);

#[cfg(any(test, feature = "fakes"))]
impl FakePublisher {
    /// What was published so far, taken out.
    pub fn take(&self) -> Vec<Publication> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Waits until at least one publication is there and takes all.
    pub async fn next(&self) -> Vec<Publication> {
        loop {
            let more = self.1.notified();
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            more.await;
        }
    }
}

#[cfg(any(test, feature = "fakes"))]
impl Publisher for FakePublisher {
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(publication);
        self.1.notify_one();
        Box::pin(async { Ok(()) })
    }
}

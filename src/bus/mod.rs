//! Room 1, the bus: bytes in and out.
//!
//! What arrives has passed the hub's door, carries its sender and comes in the
//! order in which subscribers saw it; what the hub says goes out through
//! [`Publisher`] and arrives like any other message.

use crate::name::{By, Topic};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;

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
    /// The bus is shutting down.
    #[error("the bus is closed")]
    Closed,
}

/// What other rooms need of the bus: to say something on it.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes and resolves when the message is accepted and queued for every receiver.
    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<(), PublishError>>;
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

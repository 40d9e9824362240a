//! The promise that something is on disk, from the door to whoever keeps it.

use super::trouble::Trouble;
use crate::name::{Filter, Topic};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The topics whose messages are acknowledged only when they are on disk.
#[derive(Debug, Clone, Default)]
pub struct Durable(Arc<[Filter]>);

impl Durable {
    /// The topics that one of the filters selects.
    #[must_use]
    pub fn new(filters: &[Filter]) -> Self {
        Self(filters.into())
    }

    /// Is this one of them?
    #[must_use]
    pub fn contains(&self, topic: &Topic) -> bool {
        self.0.iter().any(|filter| filter.matches(topic))
    }
}

/// Goes with a message to the disk. Dropped unsettled it says that the hub ends.
#[derive(Debug)]
pub struct Receipt(oneshot::Sender<Result<(), Trouble>>);

/// Resolves when the message is on disk, or will not be for now.
pub type Promise = oneshot::Receiver<Result<(), Trouble>>;

impl Receipt {
    /// A receipt and what waits for it.
    #[must_use]
    pub fn new() -> (Self, Promise) {
        let (settle, promise) = oneshot::channel();
        (Self(settle), promise)
    }

    /// Nobody waits any more if the sender has gone.
    pub(super) fn settle(self, result: Result<(), Trouble>) {
        let _ = self.0.send(result);
    }
}

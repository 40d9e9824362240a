//! What the door promises of the disk: which messages are acknowledged only when
//! they are on it, and what is not let in while nothing could be kept.

use crate::bus::{Arrival, BoxFuture, Refusal, RefusalKind};
use crate::config::Config;
use crate::disk::{Durable, Health, Promise, Receipt, Trouble};
use crate::name::{Door, Topic};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(super) struct Keeping {
    pub(super) durable: Durable,
    pub(super) health: Health,
    /// How long an acknowledgement waits for the disk.
    pub(super) wait: Duration,
}

impl Keeping {
    pub(super) fn new(config: &Config) -> Self {
        let durable = Durable::new(&config.bus.durable);
        Self { durable, health: Health::default(), wait: config.bus.durable_wait }
    }

    /// A receipt for a message that is acknowledged when it is on disk; `None` for others.
    /// What the hub itself says is let in whatever the disk says, and written when it can be.
    ///
    /// # Errors
    /// It could not be kept at present, and its sender can be told so.
    pub(super) fn promise(
        &self,
        arrival: &Arrival,
        topic: &Topic,
        announces: bool,
    ) -> Result<Option<(Receipt, Promise)>, Refusal> {
        let kept = arrival.retained || announces;
        if !arrival.awaited || !kept || !self.durable.contains(topic) {
            return Ok(None);
        }
        let trouble = if announces { self.health.journal() } else { self.health.files() };
        let hubs_own = arrival.inside && arrival.by.door == Door::Hub;
        match trouble.filter(|trouble| trouble.everywhere && !hubs_own) {
            Some(trouble) => Err(refusal(&trouble)),
            None => Ok(Some(Receipt::new())),
        }
    }

    /// When a message may be acknowledged, or why it may not.
    pub(super) fn kept(&self, promise: Promise) -> BoxFuture<'static, Result<(), Refusal>> {
        let wait = self.wait;
        Box::pin(async move {
            match tokio::time::timeout(wait, promise).await {
                Ok(Ok(kept)) => kept.map_err(|trouble| refusal(&trouble)),
                Ok(Err(_)) => Err(stopping()),
                Err(_) => {
                    let why = format!(
                        "not on disk within {wait:?}, it may come later; look at the hub's log"
                    );
                    Err(Refusal { kind: RefusalKind::NotNow, why: why.into() })
                }
            }
        })
    }
}

/// The hub ends and takes nothing more.
pub(super) fn stopping() -> Refusal {
    Refusal { kind: RefusalKind::NotNow, why: "the hub is stopping; try again later".into() }
}

fn refusal(trouble: &Trouble) -> Refusal {
    let Trouble { why, way_out, full, .. } = trouble;
    let kind = if *full { RefusalKind::DiskFull } else { RefusalKind::NotNow };
    Refusal { kind, why: format!("it cannot be kept on disk now: {why}; {way_out}").into() }
}

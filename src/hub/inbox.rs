//! What has come in and is not yet decided on.
//!
//! The door must not lose a message that it let in, and must not block, so a
//! push always succeeds; what bounds the queue is that the bus stops reading
//! from publishers once it is full. It can then be overrun by what every
//! connection has in its read buffer (64 KiB each) and by the hub's own words.

use crate::bus::BoxFuture;
use crate::http::Intake;
use crate::mesh::Event;
use crate::message::Entry;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Events after which publishers wait.
const FULL: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    events: Mutex<Vec<Event>>,
    filled: Notify,
    emptied: Notify,
}

impl Inbox {
    pub(super) fn push(&self, event: Event) {
        self.lock().push(event);
        self.filled.notify_one();
    }

    /// Waits for events and takes all that are there.
    pub(super) async fn take(&self) -> Vec<Event> {
        loop {
            let events = self.take_now();
            if !events.is_empty() {
                return events;
            }
            // A push between the look and here has left its permit.
            self.filled.notified().await;
        }
    }

    /// Takes what is there.
    pub(super) fn take_now(&self) -> Vec<Event> {
        let events = std::mem::take(&mut *self.lock());
        self.emptied.notify_waiters();
        events
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().len() >= FULL
    }

    /// Resolves when there is room.
    pub(super) async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if !self.is_full() {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intake for Inbox {
    fn note(&self, entry: Entry) {
        self.push(Event::Noted(entry));
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::room(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_full_inbox_makes_publishers_wait_until_it_is_taken() {
        let inbox = Arc::new(Inbox::default());
        for _ in 0..FULL {
            inbox.push(Event::Tick);
        }
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(inbox.take().await.len(), FULL);
        waiting.await.unwrap();
    }
}

//! What has come in and is not yet decided on.
//!
//! The door must not lose a message that it let in, and must not block, so a
//! push always succeeds; what bounds the queue is that the bus stops reading
//! from publishers once it is full. It can then be overrun by what every
//! connection has in its read buffer (64 KiB each) and by the hub's own words.

use crate::bus::BoxFuture;
use crate::disk::Receipt;
use crate::http::Intake;
use crate::mesh::Event;
use crate::message::Entry;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Events after which publishers wait.
const FULL: usize = 16_384;

/// An event, and who waits for it to be on disk.
pub(super) type Due = (Event, Option<Receipt>);

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Due>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
    emptied: Notify,
}

impl Inbox {
    pub(super) fn push(&self, event: Event) {
        self.lock().events.push((event, None));
        self.filled.notify_one();
    }

    /// The same for a message that is only let in if somebody will look at it. False: nobody
    /// will, the hub ends.
    pub(super) fn let_in(&self, event: Event, receipt: Option<Receipt>) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        waiting.events.push((event, receipt));
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// Waits for events and takes all that are there.
    pub(super) async fn take(&self) -> Vec<Due> {
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
    pub(super) fn take_now(&self) -> Vec<Due> {
        let events = std::mem::take(&mut self.lock().events);
        self.emptied.notify_waiters();
        events
    }

    /// Takes what is there for the last time.
    pub(super) fn close(&self) -> Vec<Due> {
        self.lock().closed = true;
        self.take_now()
    }

    pub(super) fn is_full(&self) -> bool {
        self.lock().events.len() >= FULL
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn nothing_is_let_in_that_nobody_will_look_at() {
        let inbox = Inbox::default();
        assert!(inbox.let_in(Event::Tick, None));
        assert_eq!(inbox.close().len(), 1);
        assert!(!inbox.let_in(Event::Tick, None));
        assert!(inbox.take_now().is_empty());
    }
}

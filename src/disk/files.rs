//! What waits for the writer of the live store: one pending change a topic.
//!
//! A topic that changes faster than the disk can write is written with its
//! newest value only, so a slow disk makes files later and not the bus slower.
//! Changes that somebody waits for are in a lane of their own and go first.

use super::receipt::{Durable, Receipt};
use super::trouble::{Health, Trouble};
use super::writer::Writer;
use crate::live::{Aside, Store};
use crate::mesh::Received;
use crate::name::Topic;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What is to become of a topic's file.
#[derive(Debug)]
pub(super) enum Change {
    Put(Box<Received>),
    Remove,
}

/// A change, and who waits for it to be on disk.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) change: Change,
    pub(super) receipts: Vec<Receipt>,
}

pub(super) type Lane = HashMap<Topic, Entry>;

/// What the writer finds when it looks.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// On disk as soon as can be.
    pub(super) durable: Lane,
    /// In its file as soon as can be, and on disk a while later.
    pub(super) ordinary: Lane,
    /// Counts the changes ever asked for.
    pub(super) asked: u64,
    /// How the sync under way has ended.
    pub(super) synced: Option<Result<(), Trouble>>,
    pub(super) closed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pending: Mutex<Pending>,
    pub(super) work: Condvar,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on the writer.
#[derive(Debug, Clone)]
pub(super) struct Files {
    shared: Arc<Shared>,
    durable: Durable,
    /// All changes up to this number are in their files.
    done: watch::Receiver<u64>,
    health: Health,
}

/// How the writer works.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) durable: Durable,
    /// Everything is on disk so long after it came.
    pub(super) sync_within: Duration,
}

impl Files {
    /// Starts the writer; what it has to set aside is told through `aside`.
    pub(super) fn start(
        store: Store,
        rules: Rules,
        health: Health,
        aside: mpsc::Sender<Aside>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<usize>)> {
        let shared = Arc::<Shared>::default();
        let (tell, done) = watch::channel(0);
        let durable = rules.durable.clone();
        let files = Self { shared: shared.clone(), durable, done, health: health.clone() };
        let writer = Writer::new(store, shared, rules, health, (tell, aside))?;
        let thread = std::thread::Builder::new().name("meshfs-files".into());
        Ok((files, thread.spawn(move || writer.run())?))
    }

    /// Asks for a file. The receipt is settled when this value or a newer one is on disk.
    pub(super) fn put(&self, received: Box<Received>, receipt: Option<Receipt>) {
        self.change(received.topic.clone(), Change::Put(received), receipt);
    }

    /// Asks for a file to go.
    pub(super) fn remove(&self, topic: Topic, receipt: Option<Receipt>) {
        self.change(topic, Change::Remove, receipt);
    }

    fn change(&self, topic: Topic, change: Change, receipt: Option<Receipt>) {
        let durable = self.durable.contains(&topic);
        let mut pending = self.shared.lock();
        pending.asked += 1;
        let lane = if durable { &mut pending.durable } else { &mut pending.ordinary };
        match lane.get_mut(&topic) {
            Some(entry) => {
                entry.change = change;
                entry.receipts.extend(receipt);
            }
            None => {
                let receipts = receipt.into_iter().collect();
                lane.insert(topic, Entry { change, receipts });
            }
        }
        drop(pending);
        self.shared.work.notify_one();
    }

    /// Resolves when all that was asked for before is in its file.
    pub(super) async fn flushed(&self) {
        let asked = self.shared.lock().asked;
        let mut done = self.done.clone();
        // An error means that the writer has ended, and it ends only when all is written.
        let _ = done.wait_for(|done| *done >= asked).await;
    }

    /// What the disk refuses at the moment.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.health.files()
    }

    /// Lets the writer end when it has written what is pending.
    pub(super) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_one();
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error).chain(causes).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;

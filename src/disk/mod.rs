//! The worker behind rooms 4 and 5: the live store, the journal and the
//! snapshots, in an order in which a snapshot never overtakes what it must hold.
//!
//! Nothing here makes the caller wait: files coalesce by topic, the journal has
//! a bounded queue ([`Disk::room`] is where to wait for it), and the core asks
//! for one snapshot at a time.

mod files;
mod receipt;
mod record;
mod snapshots;
mod syncer;
mod trouble;
mod writer;

use crate::bus::Publisher;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::live::{Aside, Store};
use crate::mesh::{Batch, Effect};
use crate::snapshot::Engine;
use files::{Files, Rules};
pub use receipt::{Durable, Promise, Receipt};
pub(crate) use record::publication;
use record::{Job, Pen, Recorder};
use snapshots::Snapshots;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, warn};
pub use trouble::{Health, Trouble};

/// Journal lines that may wait for the disk.
const RECORD_QUEUE: usize = 8192;
/// Snapshots that may wait; the core asks for one at a time.
const SNAPSHOT_QUEUE: usize = 4;
/// Reports of files set aside that may wait to be journalled.
const ASIDE_QUEUE: usize = 64;

/// A handle on the worker.
#[derive(Debug)]
pub struct Disk {
    files: Files,
    record: mpsc::Sender<Job>,
    /// None: no more snapshots are taken.
    batches: Option<mpsc::Sender<Batch>>,
    /// Resolves when the last snapshot has ended.
    snapshots_end: Option<oneshot::Receiver<()>>,
    health: Health,
}

/// What has to end when the hub does.
#[derive(Debug)]
pub struct DiskTasks {
    writer: Option<std::thread::JoinHandle<usize>>,
    recorder: JoinHandle<()>,
    snapshots: JoinHandle<()>,
}

/// What the worker works with.
pub struct Parts {
    /// The live store.
    pub store: Store,
    /// The journal.
    pub journal: Journal,
    /// What takes snapshots.
    pub engine: Arc<dyn Engine>,
    /// Where outcomes and events are told.
    pub publisher: Arc<dyn Publisher>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The topics whose changes are on disk before their receipts are settled.
    pub durable: Durable,
    /// Everything else is on disk so long after it came.
    pub sync_within: Duration,
    /// Where it tells how it is.
    pub health: Health,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Disk {
    /// Starts the worker on the current runtime. What it sets aside while it
    /// runs comes out of the receiver.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(parts: Parts) -> std::io::Result<(Self, DiskTasks, mpsc::Receiver<Aside>)> {
        let Parts { store, journal, engine, publisher, clock, durable, sync_within, health } =
            parts;
        let (tell_aside, aside) = mpsc::channel(ASIDE_QUEUE);
        let rules = Rules { durable, sync_within };
        let (files, writer) = Files::start(store, rules, health.clone(), tell_aside)?;
        let (record, jobs) = mpsc::channel(RECORD_QUEUE);
        let (batches, asked) = mpsc::channel(SNAPSHOT_QUEUE);
        let recorder = Recorder {
            publisher: publisher.clone(),
            jobs,
            pen: Pen::Ready(Box::new(journal)),
            unwritten: Vec::new(),
            unsynced_since: None,
            sync_within,
            health: health.clone(),
        };
        let (end, snapshots_end) = oneshot::channel();
        let snapshots = Snapshots {
            files: files.clone(),
            engine,
            publisher,
            record: record.clone(),
            clock,
            batches: asked,
            _end: end,
        };
        let tasks = DiskTasks {
            writer: Some(writer),
            recorder: tokio::spawn(recorder.run()),
            snapshots: tokio::spawn(snapshots.run()),
        };
        let (batches, snapshots_end) = (Some(batches), Some(snapshots_end));
        Ok((Self { files, record, batches, snapshots_end, health }, tasks, aside))
    }

    /// Does what is the disk's to do and gives back what is not. Waits only for
    /// room in the journal's queue, which a hanging disk does not fill for long.
    /// The first effect that leaves something on disk takes the receipt.
    pub async fn perform(&self, effect: Effect, receipt: &mut Option<Receipt>) -> Option<Effect> {
        match effect {
            Effect::Store(received) => self.files.put(received, receipt.take()),
            Effect::Remove(topic) => self.files.remove(topic, receipt.take()),
            Effect::Snapshot(batch) => {
                match self.batches.as_ref().map(|batches| batches.try_send(batch)) {
                    Some(Ok(())) => {}
                    Some(Err(refused)) => error!(%refused, "snapshot not queued"),
                    None => warn!("snapshot not taken: the hub ends"),
                }
            }
            Effect::Journal { line, then } => {
                if self.record.send(Job::Line(line, then, receipt.take())).await.is_err() {
                    error!("journal line lost: its task has ended");
                }
            }
            other => return Some(other),
        }
        None
    }

    /// A receipt that no effect took: what it is about was journalled before.
    pub async fn settle(&self, receipt: Receipt) {
        // An error drops it, which says that the hub ends.
        let _ = self.record.send(Job::Settle(receipt)).await;
    }

    /// Lets no more snapshots begin; resolves when the one under way has ended.
    pub fn end_snapshots(&mut self) -> impl Future<Output = ()> + use<> {
        self.batches = None;
        let end = self.snapshots_end.take();
        async move {
            if let Some(end) = end {
                // Its other end is dropped then.
                let _ = end.await;
            }
        }
    }

    /// What the disk refuses at the moment, and the way out, for `mesh/hub` and `/readyz`.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        let trouble = self.health.files().or_else(|| self.health.journal())?;
        Some(format!("{}; {}", trouble.why, trouble.way_out).into())
    }

    /// How the disk is and what it has done so far.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }
}

impl DiskTasks {
    /// Ends the worker: the snapshot under way is waited for, then what is
    /// pending is written. The caller limits the time. Gives how many retained
    /// messages could not be written.
    pub async fn end(&mut self, disk: Disk) -> usize {
        let Disk { files, record, batches, .. } = disk;
        drop(batches);
        ended("snapshots", (&mut self.snapshots).await);
        drop(record);
        ended("journal", (&mut self.recorder).await);
        files.close();
        let Some(writer) = self.writer.take() else { return 0 };
        match tokio::task::spawn_blocking(move || writer.join()).await {
            Ok(Ok(lost)) => lost,
            _ => {
                error!(task = "files", "a task of the disk died");
                0
            }
        }
    }

    /// True if one of the tasks has died: the hub cannot keep its promises.
    #[must_use]
    pub fn dead(&self) -> bool {
        self.writer.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
            || self.recorder.is_finished()
            || self.snapshots.is_finished()
    }
}

fn ended(task: &'static str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        error!(task, error = files::chain(&error), "a task of the disk died");
    }
}

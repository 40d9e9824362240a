//! The worker behind rooms 4 and 5: the live store, the journal and the
//! snapshots, in an order in which a snapshot never overtakes what it must hold.
//!
//! Nothing here makes the caller wait: files coalesce by topic, the journal has
//! a bounded queue ([`Disk::room`] is where to wait for it), and the core asks
//! for one snapshot at a time.

mod files;
mod record;
mod snapshots;

use crate::bus::Publisher;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::live::{Aside, Store};
use crate::mesh::{Batch, Effect};
use crate::snapshot::Engine;
use files::Files;
pub(crate) use record::publication;
use record::{Job, Pen, Recorder};
use snapshots::Snapshots;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::error;

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
    batches: mpsc::Sender<Batch>,
    journal: watch::Receiver<Option<Arc<str>>>,
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
        let Parts { store, journal, engine, publisher, clock } = parts;
        let (tell_aside, aside) = mpsc::channel(ASIDE_QUEUE);
        let (files, writer) = Files::start(store, tell_aside)?;
        let (record, jobs) = mpsc::channel(RECORD_QUEUE);
        let (batches, asked) = mpsc::channel(SNAPSHOT_QUEUE);
        let (trouble, journal_trouble) = watch::channel(None);
        let pen = Pen::Ready(Box::new(journal));
        let recorder =
            Recorder { publisher: publisher.clone(), jobs, pen, unwritten: Vec::new(), trouble };
        let snapshots = Snapshots {
            files: files.clone(),
            engine,
            publisher,
            record: record.clone(),
            clock,
            batches: asked,
        };
        let tasks = DiskTasks {
            writer: Some(writer),
            recorder: tokio::spawn(recorder.run()),
            snapshots: tokio::spawn(snapshots.run()),
        };
        Ok((Self { files, record, batches, journal: journal_trouble }, tasks, aside))
    }

    /// Does what is the disk's to do and gives back what is not. Waits only for
    /// room in the journal's queue, which a hanging disk does not fill for long.
    pub async fn perform(&self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Store(received) => self.files.put(received),
            Effect::Remove(topic) => self.files.remove(topic),
            Effect::Snapshot(batch) => {
                if let Err(refused) = self.batches.try_send(batch) {
                    error!(%refused, "snapshot not queued");
                }
            }
            Effect::Journal { line, then } => {
                if self.record.send(Job::Line(line, then)).await.is_err() {
                    error!("journal line lost: its task has ended");
                }
            }
            other => return Some(other),
        }
        None
    }

    /// What the disk refuses at the moment, for `mesh/hub` and `/readyz`.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.files.trouble().or_else(|| self.journal.borrow().clone())
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

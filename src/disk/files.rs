//! The writer of the live store: one thread, one pending write a topic.
//!
//! A topic that changes faster than the disk can write is written with its
//! newest value only, so a slow disk makes files later and not the bus slower.
//! What the disk refuses is tried again every second until it is taken or a
//! newer value has come; until then no barrier passes.

use crate::live::{Aside, Meta, Store};
use crate::mesh::Received;
use crate::name::Topic;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

/// Pause after a refused write.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Change {
    Put(Box<Received>),
    Remove,
}

#[derive(Debug, Default)]
struct Pending {
    changes: HashMap<Topic, Change>,
    /// Counts the changes ever asked for.
    asked: u64,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<Pending>,
    work: Condvar,
}

/// How far the writer is.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// All changes up to this number are on disk.
    done: u64,
    /// What the disk last refused, while it does.
    trouble: Option<Arc<str>>,
}

/// A handle on the writer.
#[derive(Debug, Clone)]
pub(super) struct Files {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl Files {
    /// Starts the writer; what it has to set aside is told through `aside`.
    pub(super) fn start(
        store: Store,
        aside: mpsc::Sender<Aside>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<usize>)> {
        let shared = Arc::new(Shared { pending: Mutex::default(), work: Condvar::new() });
        let (tell, progress) = watch::channel(Progress::default());
        let files = Self { shared: shared.clone(), progress };
        let writer = Writer { store, shared, tell, aside };
        let thread = std::thread::Builder::new().name("meshfs-files".into());
        Ok((files, thread.spawn(move || writer.run())?))
    }

    pub(super) fn put(&self, received: Box<Received>) {
        self.change(received.topic.clone(), Change::Put(received));
    }

    pub(super) fn remove(&self, topic: Topic) {
        self.change(topic, Change::Remove);
    }

    fn change(&self, topic: Topic, change: Change) {
        let mut pending = lock(&self.shared.pending);
        pending.changes.insert(topic, change);
        pending.asked += 1;
        drop(pending);
        self.shared.work.notify_one();
    }

    /// Resolves when all that was asked for before is on disk.
    pub(super) async fn flushed(&self) {
        let asked = lock(&self.shared.pending).asked;
        let mut progress = self.progress.clone();
        // An error means that the writer has ended, and it ends only when all is written.
        let _ = progress.wait_for(|progress| progress.done >= asked).await;
    }

    /// What the disk refuses at the moment.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.progress.borrow().trouble.clone()
    }

    /// Lets the writer end when it has written what is pending.
    pub(super) fn close(&self) {
        lock(&self.shared.pending).closed = true;
        self.shared.work.notify_one();
    }
}

struct Writer {
    store: Store,
    shared: Arc<Shared>,
    tell: watch::Sender<Progress>,
    aside: mpsc::Sender<Aside>,
}

impl Writer {
    /// Writes until there is no more; gives how many changes the disk refused to the end.
    fn run(self) -> usize {
        while let Some((changes, upto)) = self.next() {
            let refused = self.write(changes);
            let trouble = refused.as_ref().map(|(_, why)| Arc::from(why.as_str()));
            let was = self.tell.borrow().trouble.clone();
            match (&was, &trouble) {
                (None, Some(why)) => error!(%why, "live store not written, trying again"),
                (Some(_), None) => info!("live store written again"),
                _ => {}
            }
            self.tell.send_modify(|progress| {
                progress.trouble = trouble;
                if refused.is_none() {
                    progress.done = upto;
                }
            });
            if let Some((refused, _)) = refused {
                if let Some(lost) = self.put_back(refused) {
                    return lost;
                }
                std::thread::sleep(RETRY);
            }
        }
        0
    }

    /// Waits for work; `None` when there is none and there will be none.
    fn next(&self) -> Option<(HashMap<Topic, Change>, u64)> {
        let mut pending = lock(&self.shared.pending);
        loop {
            if !pending.changes.is_empty() {
                return Some((std::mem::take(&mut pending.changes), pending.asked));
            }
            if pending.closed {
                return None;
            }
            pending = self.shared.work.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes what it can and gives back the rest with the first reason.
    fn write(&self, changes: HashMap<Topic, Change>) -> Option<(HashMap<Topic, Change>, String)> {
        let mut refused = HashMap::new();
        let mut why = None;
        for (topic, change) in changes {
            let done = match &change {
                Change::Put(received) => {
                    self.store.put(&topic, &received.payload, &meta(received)).map(|aside| {
                        for aside in aside {
                            // The journal's line about it may be lost; the log has it.
                            let _ = self.aside.try_send(aside);
                        }
                    })
                }
                Change::Remove => self.store.remove(&topic),
            };
            if let Err(error) = done {
                why.get_or_insert_with(|| chain(&error));
                refused.insert(topic, change);
            }
        }
        why.map(|why| (refused, why))
    }

    /// Puts changes back unless newer ones have come. If the writer is to end they are lost,
    /// which is said.
    fn put_back(&self, refused: HashMap<Topic, Change>) -> Option<usize> {
        let mut pending = lock(&self.shared.pending);
        for (topic, change) in refused {
            pending.changes.entry(topic).or_insert(change);
        }
        if !pending.closed {
            return None;
        }
        for topic in pending.changes.keys() {
            error!(%topic, "retained message lost: it could not be written before the end");
        }
        Some(pending.changes.len())
    }
}

fn meta(received: &Received) -> Meta {
    Meta {
        by: received.by.clone(),
        received_at: received.received_at,
        qos: received.qos,
        content_type: received.content_type.clone(),
        user_properties: received.user_properties.clone(),
        expires_at: received.expires_at,
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error).chain(causes).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

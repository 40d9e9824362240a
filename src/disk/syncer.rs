//! The thread that brings onto the disk what nobody waits for, so that whoever
//! does wait for the writer need not wait for that too.

use super::files::{Change, Shared};
use super::trouble::{Health, Trouble};
use crate::live::Store;
use crate::name::Topic;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use tracing::error;

/// The thread, and what it is at.
pub(super) struct Syncer {
    begin: SyncSender<()>,
    thread: JoinHandle<()>,
    syncing: Option<HashMap<Topic, Change>>,
}

impl Syncer {
    pub(super) fn start(
        store: Arc<Store>,
        shared: Arc<Shared>,
        health: Health,
    ) -> std::io::Result<Self> {
        let (begin, asked) = sync_channel(1);
        let thread = std::thread::Builder::new().name("meshfs-sync".into());
        let thread = thread.spawn(move || {
            for () in asked {
                health.syncing(true);
                let result = store.sync();
                health.syncing(false);
                let result = result.map_err(|error| Trouble::of(&error, true));
                shared.lock().synced = Some(result);
                shared.work.notify_one();
            }
        })?;
        Ok(Self { begin, thread, syncing: None })
    }

    /// Begins to sync these, and everything else that was changed before.
    pub(super) fn begin(&mut self, unsynced: HashMap<Topic, Change>) {
        self.syncing = Some(unsynced);
        // It fails only if the thread has died, which is found out at the end.
        let _ = self.begin.try_send(());
    }

    /// One sync at a time.
    pub(super) const fn is_busy(&self) -> bool {
        self.syncing.is_some()
    }

    /// What the sync that has ended was about.
    pub(super) fn take(&mut self) -> HashMap<Topic, Change> {
        self.syncing.take().unwrap_or_default()
    }

    /// Waits for the sync under way.
    pub(super) fn end(self) {
        drop(self.begin);
        if self.thread.join().is_err() {
            error!(task = "sync", "a task of the disk died");
        }
    }
}

//! The writer of the live store: one thread that makes files, and one that
//! syncs behind it what nobody waits for.
//!
//! What the disk refuses is tried again every second until it is taken or a
//! newer value has come; until then no barrier passes. Who waits for a refused
//! change is told at once.

use super::files::{Change, Entry, Lane, Rules, Shared};
use super::syncer::Syncer;
use super::trouble::{Health, Trouble};
use crate::live::{self, Aside, Meta, Store, StoreError};
use crate::mesh::Received;
use crate::name::Topic;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

/// Pause after a refused write.
const RETRY: Duration = Duration::from_secs(1);
/// Changes in one group commit.
const GROUP_MAX: usize = 512;
/// After so many ordinary files it looks whether somebody waits for another.
const SLICE: usize = 32;

pub(super) struct Writer {
    store: Arc<Store>,
    shared: Arc<Shared>,
    rules: Rules,
    health: Health,
    done: watch::Sender<u64>,
    aside: mpsc::Sender<Aside>,
    syncer: Syncer,
    /// The number of the last change taken.
    upto: u64,
    /// What the disk refused; true: for the durable lane.
    refused: HashMap<Topic, (bool, Change)>,
    retry_at: Option<Instant>,
    /// The last try was the last one.
    last: bool,
    /// What was met since nothing was refused; the first of it.
    trouble: Option<Trouble>,
    /// In this pass it was tried whether anything can be written.
    probed: bool,
    sync_trouble: Option<Trouble>,
    /// In its file, and not known to be on disk.
    unsynced: HashMap<Topic, Change>,
    sync_due: Option<Instant>,
}

/// What is to be done next.
enum Next {
    Work(Lane, Lane),
    Sync,
    Synced(Result<(), Trouble>),
    End,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        shared: Arc<Shared>,
        rules: Rules,
        health: Health,
        (done, aside): (watch::Sender<u64>, mpsc::Sender<Aside>),
    ) -> std::io::Result<Self> {
        let store = Arc::new(store);
        let syncer = Syncer::start(store.clone(), shared.clone(), health.clone())?;
        // What a hub before this one had not synced is synced now.
        let sync_due = (!store.is_synced()).then(|| Instant::now() + rules.sync_within / 2);
        Ok(Self {
            store,
            shared,
            rules,
            health,
            done,
            aside,
            syncer,
            upto: 0,
            refused: HashMap::new(),
            retry_at: None,
            last: false,
            trouble: None,
            probed: false,
            sync_trouble: None,
            unsynced: HashMap::new(),
            sync_due,
        })
    }

    /// Writes until there is no more; gives how many changes the disk refused to the end.
    pub(super) fn run(mut self) -> usize {
        loop {
            match self.next() {
                Next::Work(durable, ordinary) => self.work(durable, ordinary),
                Next::Sync => {
                    self.sync_due = None;
                    self.syncer.begin(std::mem::take(&mut self.unsynced));
                }
                Next::Synced(result) => self.synced(result),
                Next::End => return self.end(),
            }
            self.tell();
        }
    }

    /// Waits for something to do.
    fn next(&mut self) -> Next {
        let shared = self.shared.clone();
        let mut pending = shared.lock();
        loop {
            if let Some(result) = pending.synced.take() {
                return Next::Synced(result);
            }
            let now = Instant::now();
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let last = pending.closed && !self.last;
            let retry = self.retry_at.is_some() && (due(self.retry_at) || last);
            // Where nothing can be written, nothing is tried before its time.
            let barred = self.retry_at.is_some() && self.is_everywhere() && !pending.closed;
            let work = !pending.durable.is_empty() || !pending.ordinary.is_empty();
            if retry || (work && !barred) {
                self.upto = pending.asked;
                self.last = pending.closed;
                let mut durable = std::mem::take(&mut pending.durable);
                let mut ordinary = std::mem::take(&mut pending.ordinary);
                self.take_back(retry, &mut durable, &mut ordinary);
                return Next::Work(durable, ordinary);
            }
            if pending.closed {
                return Next::End;
            }
            let sync_due = self.sync_due.filter(|_| !self.syncer.is_busy());
            if due(sync_due) {
                return Next::Sync;
            }
            let wake = [self.retry_at, sync_due].into_iter().flatten().min();
            pending = match wake {
                Some(at) => {
                    let waited = shared.work.wait_timeout(pending, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.work.wait(pending).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Lets go of what newer values replace, and adds the rest if it is time to try it again.
    fn take_back(&mut self, retry: bool, durable: &mut Lane, ordinary: &mut Lane) {
        self.refused.retain(|topic, (is_durable, _)| {
            let lane = if *is_durable { &*durable } else { &*ordinary };
            !lane.contains_key(topic)
        });
        if retry {
            self.retry_at = None;
            for (topic, (is_durable, change)) in self.refused.drain() {
                let lane = if is_durable { &mut *durable } else { &mut *ordinary };
                lane.insert(topic, Entry { change, receipts: Vec::new() });
            }
        }
    }

    fn is_everywhere(&self) -> bool {
        let troubles = [&self.trouble, &self.sync_trouble];
        troubles.into_iter().flatten().any(|trouble| trouble.everywhere)
    }

    fn work(&mut self, durable: Lane, ordinary: Lane) {
        self.probed = false;
        if self.refused.is_empty() {
            self.trouble = None;
        }
        self.commit(durable);
        for (n, (topic, entry)) in ordinary.into_iter().enumerate() {
            self.write(topic, entry.change);
            if n % SLICE == SLICE - 1 {
                let more = self.more_durable();
                self.commit(more);
            }
        }
        self.health.writing(false);
        if !self.refused.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    fn more_durable(&mut self) -> Lane {
        let mut pending = self.shared.lock();
        let more = std::mem::take(&mut pending.durable);
        if pending.ordinary.is_empty() {
            self.upto = pending.asked;
        }
        drop(pending);
        self.refused.retain(|topic, _| !more.contains_key(topic));
        more
    }

    /// Brings changes onto the disk and tells those who wait for them.
    fn commit(&mut self, lane: Lane) {
        let mut lane = lane.into_iter();
        loop {
            let group: Vec<(Topic, Entry)> = lane.by_ref().take(GROUP_MAX).collect();
            if group.is_empty() {
                return;
            }
            self.commit_group(group);
        }
    }

    fn commit_group(&mut self, group: Vec<(Topic, Entry)>) {
        if let Some(trouble) = self.trouble.clone().filter(|trouble| trouble.everywhere) {
            for (topic, entry) in group {
                self.refuse(topic, entry, true, &trouble);
            }
            return;
        }
        let metas: Vec<Option<Meta>> = group.iter().map(|(_, entry)| meta(&entry.change)).collect();
        let changes: Vec<_> = group
            .iter()
            .zip(&metas)
            .map(|((topic, entry), meta)| {
                let content = match (&entry.change, meta) {
                    (Change::Put(received), Some(meta)) => Some((&*received.payload, meta)),
                    _ => None,
                };
                live::Change { topic, content }
            })
            .collect();
        self.health.writing(true);
        let results = self.store.commit(&changes);
        self.health.writing(false);
        for ((topic, entry), result) in group.into_iter().zip(results) {
            match result {
                Ok(aside) => {
                    self.health.wrote(1);
                    self.tell_aside(aside);
                    entry.receipts.into_iter().for_each(|receipt| receipt.settle(Ok(())));
                }
                Err(error) => {
                    let trouble = self.met(&error);
                    self.refuse(topic, entry, true, &trouble);
                }
            }
        }
    }

    /// Makes or removes a file, which is synced later.
    fn write(&mut self, topic: Topic, change: Change) {
        let entry = Entry { change, receipts: Vec::new() };
        if let Some(trouble) = self.trouble.clone().filter(|trouble| trouble.everywhere) {
            return self.refuse(topic, entry, false, &trouble);
        }
        self.health.writing(true);
        let done = match (&entry.change, meta(&entry.change)) {
            (Change::Put(received), Some(meta)) => self.store.put(&topic, &received.payload, &meta),
            _ => self.store.remove(&topic).map(|()| Vec::new()),
        };
        match done {
            Ok(aside) => {
                self.health.wrote(1);
                self.tell_aside(aside);
                self.unsynced.insert(topic, entry.change);
                let due = || Instant::now() + self.rules.sync_within / 2;
                self.sync_due.get_or_insert_with(due);
            }
            Err(error) => {
                let trouble = self.met(&error);
                self.refuse(topic, entry, false, &trouble);
            }
        }
    }

    /// What an error means, said at once. Whether anything else could be written is tried.
    fn met(&mut self, error: &StoreError) -> Trouble {
        let probe = !std::mem::replace(&mut self.probed, true);
        let trouble = Trouble::of(error, probe && self.store.probe().is_err());
        if trouble.everywhere || self.trouble.is_none() {
            self.trouble = Some(trouble.clone());
        }
        self.tell_trouble();
        trouble
    }

    fn refuse(&mut self, topic: Topic, entry: Entry, durable: bool, trouble: &Trouble) {
        for receipt in entry.receipts {
            receipt.settle(Err(trouble.clone()));
        }
        self.refused.insert(topic, (durable, entry.change));
    }

    fn tell_aside(&self, aside: Vec<Aside>) {
        for aside in aside {
            // The journal's line about it may be lost; the log has it.
            let _ = self.aside.try_send(aside);
        }
    }

    /// A sync has ended. What it could not bring onto the disk is written anew.
    fn synced(&mut self, result: Result<(), Trouble>) {
        let was = self.syncer.take();
        self.sync_trouble = result.err();
        if self.sync_trouble.is_none() {
            return;
        }
        for (topic, change) in was {
            if !self.unsynced.contains_key(&topic) {
                self.refused.entry(topic).or_insert((false, change));
            }
        }
        let retry_at = Instant::now() + RETRY;
        self.sync_due = Some(retry_at);
        self.retry_at = Some(retry_at);
    }

    fn tell(&mut self) {
        self.tell_trouble();
        self.health.synced_files(self.store.syncs());
        if self.refused.is_empty() {
            self.done.send_replace(self.upto);
        }
    }

    fn tell_trouble(&self) {
        let trouble = self.trouble.clone().or_else(|| self.sync_trouble.clone());
        match (self.health.set_files(trouble.clone()), trouble) {
            (None, Some(Trouble { why, way_out, .. })) => {
                error!(%why, way_out, "live store not written, trying again");
            }
            (Some(_), None) => info!("live store written again"),
            _ => {}
        }
    }

    /// Everything is tried once more and synced; the rest is lost, which is said.
    fn end(self) -> usize {
        let Self { store, syncer, refused, .. } = self;
        for topic in refused.keys() {
            error!(%topic, "retained message lost: it could not be written before the end");
        }
        syncer.end();
        if let Err(failure) = store.sync() {
            error!(error = super::files::chain(&failure), "live store not synced before the end");
        }
        refused.len()
    }
}

fn meta(change: &Change) -> Option<Meta> {
    let Change::Put(received) = change else { return None };
    let Received { by, received_at, qos, content_type, user_properties, expires_at, .. } =
        received.as_ref();
    Some(Meta {
        by: by.clone(),
        received_at: *received_at,
        qos: *qos,
        content_type: content_type.clone(),
        user_properties: user_properties.clone(),
        expires_at: *expires_at,
    })
}

//! Snapshots, one after the other: a barrier for all that came before, the
//! engine under its deadline, and an outcome for every announcement.

use super::files::{Files, chain};
use super::record::{Job, publication};
use super::trouble::Trouble;
use crate::bus::{Publication, Publisher};
use crate::clock::Clock;
use crate::mesh::{Asked, Batch, Effect, conclude, state, telling};
use crate::message::contract::topics;
use crate::message::{Explained, Outcome, SnapshotRecord, SnapshotRef, State, Timings};
use crate::snapshot::{Engine, Labels, Request, Taken};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// How long the files may take before the engine is asked whether it is well.
const PATIENCE: Duration = Duration::from_millis(250);

pub(super) struct Snapshots {
    pub(super) files: Files,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) record: mpsc::Sender<Job>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) batches: mpsc::Receiver<Batch>,
    /// Dropped at the end, which tells that it has come.
    pub(super) _end: oneshot::Sender<()>,
}

/// An announcement that still has no outcome, and when it must have one.
struct Due {
    asked: Asked,
    by: Instant,
}

/// What became of a batch.
struct Ended {
    result: Result<SnapshotRecord, String>,
    persist: Duration,
    snapshot: Duration,
}

impl Snapshots {
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.batches.recv().await {
            self.end(batch).await;
        }
    }

    /// Takes one snapshot and gives every announcement of the batch its outcome in time.
    async fn end(&self, batch: Batch) {
        let began = Instant::now();
        let mut due: Vec<Due> = batch
            .asked
            .iter()
            .map(|(asked, give_up_in)| Due { asked: asked.clone(), by: began + *give_up_in })
            .collect();
        due.sort_by_key(|due| due.by);
        let last = due.last().map_or(began, |due| due.by);
        let taking = self.take(&batch, last);
        tokio::pin!(taking);
        let ended = loop {
            let Some(first) = due.first() else { break taking.await };
            tokio::select! {
                biased;
                ended = &mut taking => break ended,
                () = tokio::time::sleep_until(first.by) => {
                    let Due { asked, .. } = due.remove(0);
                    let waited = Timings { persist: millis(began.elapsed()), ..Timings::default() };
                    self.conclude(&asked, Err(self.deadline_passed()), waited).await;
                }
            }
        };
        if let Ok(record) = &ended.result {
            self.publish_record(record, last).await;
        }
        let timings = Timings {
            persist: millis(ended.persist),
            snapshot: millis(ended.snapshot),
            ..Timings::default()
        };
        for Due { asked, .. } in due {
            let result = ended.result.as_ref().map_err(Clone::clone);
            self.conclude(&asked, result, timings).await;
        }
    }

    async fn take(&self, batch: &Batch, last: Instant) -> Ended {
        let began = Instant::now();
        // A pool that is suspended hangs the files; the engine can tell why.
        let diagnosis = async {
            tokio::time::sleep(PATIENCE).await;
            self.engine.check().await
        };
        let hopeless = tokio::select! {
            biased;
            persisted = tokio::time::timeout_at(last, self.persisted()) => {
                persisted.err().map(|_| self.deadline_passed())
            }
            Err(failure) = diagnosis => Some(chain(&failure)),
        };
        if let Some(why) = hopeless {
            error!(snapshot = %batch.name, why, "snapshot not begun");
            return Ended { result: Err(why), persist: began.elapsed(), snapshot: Duration::ZERO };
        }
        let persist = began.elapsed();
        for (asked, _) in &batch.asked {
            self.say(publication(telling(&state(asked, State::Snapshotting)))).await;
        }
        let began_at = self.clock.now().wall;
        let began = Instant::now();
        let deadline = last.saturating_duration_since(began);
        let request = Request { name: batch.name.clone(), labels: labels(batch), deadline };
        // The engine keeps its own deadline; this one is for an engine that does not.
        let taken = tokio::time::timeout_at(last, self.engine.take(request)).await;
        let snapshot = began.elapsed();
        let result = match taken {
            Ok(Ok(taken)) => {
                info!(snapshot = %batch.name, ?snapshot, announcements = batch.asked.len(), "snapshot taken");
                Ok(record(batch, taken, began_at, self.clock.now().wall))
            }
            Ok(Err(failure)) => {
                error!(snapshot = %batch.name, error = chain(&failure), "snapshot not taken");
                Err(chain(&failure))
            }
            Err(_) => {
                error!(snapshot = %batch.name, "snapshot not taken in time");
                Err(self.deadline_passed())
            }
        };
        Ended { result, persist, snapshot }
    }

    /// Resolves when all that was received before is on disk, the journal included.
    async fn persisted(&self) {
        let (done, barrier) = oneshot::channel();
        if self.record.send(Job::Barrier(done)).await.is_ok() {
            // An error means that the hub is shutting down; the files still count.
            let _ = barrier.await;
        }
        self.files.flushed().await;
    }

    fn deadline_passed(&self) -> String {
        match self.files.trouble() {
            Some(Trouble { why, .. }) => {
                format!("deadline passed: the live store cannot be written: {why}")
            }
            None => {
                format!("deadline passed: the {} engine did not answer in time", self.engine.name())
            }
        }
    }

    /// The record is on disk before anybody is told of the snapshot. A disk that does not take it
    /// costs nobody their answer, because the snapshot is there; it is written when it can be.
    async fn publish_record(&self, record: &SnapshotRecord, last: Instant) {
        // Strings, numbers and maps with string keys: it always serialises.
        let payload = serde_json::to_vec(record).unwrap_or_default();
        let topic = topics::snapshot(&record.snapshot.name);
        let publication = Publication::hub(topic.clone(), payload, true);
        match tokio::time::timeout_at(last, self.publisher.publish(publication)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%topic, error = chain(&error), "record not on disk"),
            Err(_) => warn!(%topic, "record not on disk in time"),
        }
    }

    async fn say(&self, publication: Publication) {
        let topic = publication.topic.clone();
        if let Err(error) = self.publisher.say(publication).await {
            warn!(%topic, error = chain(&error), "not published");
        }
    }

    async fn conclude(
        &self,
        asked: &Asked,
        result: Result<&SnapshotRecord, String>,
        spent: Timings,
    ) {
        let now = self.clock.now().wall;
        let total = u64::try_from(now.duration_since(asked.requested_at).as_millis()).unwrap_or(0);
        let timings_ms = Timings { total, ..spent };
        let outcome = match result {
            Ok(record) => Outcome {
                snapshot: Some(record.snapshot.clone()),
                confirmed_at: Some(record.taken_at),
                timings_ms,
                ..state(asked, State::Confirmed)
            },
            Err(why) => Outcome { error: Some(why), timings_ms, ..state(asked, State::Failed) },
        };
        let Effect::Journal { line, then } = conclude(outcome, now) else { return };
        if self.record.send(Job::Line(line, then, None)).await.is_err() {
            error!(id = %asked.id, "outcome lost: the journal has ended");
        }
    }
}

fn labels(batch: &Batch) -> Labels {
    let first = batch.asked.first().map(|(asked, _)| asked);
    Labels {
        reason: first.map(|a| a.reason.clone()).unwrap_or_default(),
        source: first.and_then(|a| a.source.clone()),
        id: first.map(|a| a.id.to_string()).unwrap_or_default(),
        ids: batch.asked.iter().map(|(asked, _)| asked.id.to_string()).collect(),
        flush: batch.asked.iter().any(|(asked, _)| asked.flush),
    }
}

fn record(
    batch: &Batch,
    taken: Taken,
    began_at: jiff::Timestamp,
    taken_at: jiff::Timestamp,
) -> SnapshotRecord {
    let explained = |(asked, _): &(Asked, Duration)| Explained {
        id: asked.id.clone(),
        reason: asked.reason.clone(),
        source: asked.source.clone(),
        by: asked.by.clone(),
        requested_at: asked.requested_at,
    };
    SnapshotRecord {
        snapshot: SnapshotRef {
            name: batch.name.clone(),
            engine: taken.engine.to_owned(),
            full: taken.full,
            guid: taken.guid,
            txg: taken.txg,
        },
        began_at,
        taken_at,
        announcements: batch.asked.iter().map(explained).collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

//! The journal's own task: writes lines in batches, then lets out what waited
//! for them, so that nobody is told what is not on record. A batch with a line
//! that somebody waits for is synced; the others are a while later.
//!
//! A disk that refuses a batch, or does not take it within [`WRITE_LIMIT`], costs
//! nobody their answer: an announcement ends in its outcome even when the pool
//! under the journal is full or hangs. The lines are kept and tried again.

use super::files::chain;
use super::receipt::Receipt;
use super::trouble::{Health, Trouble};
use crate::bus::{Publication, Publisher};
use crate::journal::Journal;
use crate::mesh::Telling;
use crate::message::contract::topics;
use crate::message::{Entry, JournalLine};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, warn};

/// How long one batch of lines may take.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Lines in one write.
const BATCH_MAX: usize = 256;
/// Lines that are kept for a disk that refuses them; older ones are lost, and counted.
const UNWRITTEN_MAX: usize = 10_000;
/// How soon lines that were refused are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Work for the journal.
#[derive(Debug)]
pub(super) enum Job {
    /// A line, what is told when it is written, and who waits for it to be on disk.
    Line(Box<JournalLine>, Option<Telling>, Option<Receipt>),
    /// Somebody waits for the lines before it to be on disk.
    Settle(Receipt),
    /// Resolves when all lines before it are written.
    Barrier(oneshot::Sender<()>),
}

impl Job {
    const fn line(&self) -> Option<&JournalLine> {
        match self {
            Self::Line(line, ..) => Some(line),
            Self::Settle(_) | Self::Barrier(_) => None,
        }
    }

    /// A promise hangs on it: what was said of an announcement must not be taken back by a
    /// power cut.
    fn is_durable(&self) -> bool {
        let told = |line: &JournalLine| {
            matches!(line.entry, Entry::Announcement { .. } | Entry::Outcome(_))
        };
        matches!(self, Self::Settle(_) | Self::Line(_, _, Some(_))) || self.line().is_some_and(told)
    }

    fn take_receipt(&mut self) -> Option<Receipt> {
        match self {
            Self::Line(_, _, receipt) => receipt.take(),
            Self::Settle(_) | Self::Barrier(_) => None,
        }
    }
}

pub(super) struct Recorder {
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) pen: Pen,
    /// Lines that the disk has not taken yet, oldest first.
    pub(super) unwritten: Vec<JournalLine>,
    /// Since when there are lines that a power cut could take back.
    pub(super) unsynced_since: Option<Instant>,
    /// Every line is on disk so long after it came.
    pub(super) sync_within: Duration,
    pub(super) health: Health,
}

/// The journal, or the write that still has it.
pub(super) enum Pen {
    Ready(Box<Journal>),
    Writing(JoinHandle<Attempt>),
    Lost,
}

/// The journal given back, and what it could not write.
pub(super) struct Attempt {
    journal: Box<Journal>,
    refused: Option<(io::Error, Vec<JournalLine>)>,
    synced: bool,
}

impl Recorder {
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        let look_again = RETRY.min(self.sync_within / 2);
        loop {
            let more = self.jobs.recv_many(&mut jobs, BATCH_MAX);
            let idle = match tokio::time::timeout(look_again, more).await {
                Ok(0) => break,
                Ok(_) => false,
                Err(_) => true,
            };
            if idle && self.unwritten.is_empty() && self.unsynced_since.is_none() {
                continue;
            }
            self.unwritten.extend(jobs.iter().filter_map(Job::line).cloned());
            let due = self.unsynced_since.is_some_and(|at| at.elapsed() >= self.sync_within / 2);
            let sync = due || jobs.iter().any(Job::is_durable);
            let safe = self.write(sync).await;
            self.settle(&mut jobs, safe);
            for job in jobs.drain(..) {
                match job {
                    Job::Line(line, then, _) => self.tell(&line, then, safe).await,
                    Job::Settle(_) => {}
                    // Nobody waits any more: their deadline has passed.
                    Job::Barrier(done) => drop(done.send(())),
                }
            }
        }
        self.end().await;
    }

    async fn end(mut self) {
        let safe = self.write(true).await;
        if !self.unwritten.is_empty() {
            error!(
                lines = self.unwritten.len(),
                "journal lines lost: the disk refused them to the end"
            );
        } else if !safe {
            error!("journal not synced before the end");
        }
    }

    /// Tells those who wait, before anything that may take time.
    fn settle(&self, jobs: &mut Vec<Job>, safe: bool) {
        let result = || match self.health.journal() {
            _ if safe => Ok(()),
            Some(trouble) => Err(trouble),
            None => Err(Trouble::new("the journal: its writer has died", None, true)),
        };
        let receipts: Vec<_> = jobs.iter_mut().filter_map(Job::take_receipt).collect();
        receipts.into_iter().for_each(|receipt| receipt.settle(result()));
        for job in jobs.extract_if(.., |job| matches!(job, Job::Settle(_))) {
            if let Job::Settle(receipt) = job {
                receipt.settle(result());
            }
        }
    }

    /// Writes what is unwritten, or keeps it for the next time. True: all lines are written,
    /// and on disk if `sync` says that they shall be.
    async fn write(&mut self, sync: bool) -> bool {
        if matches!(self.pen, Pen::Writing(_)) {
            // It has been waited for once: nobody's answer is held up for it again.
            self.finish(Duration::ZERO).await;
        }
        let sync = sync && (self.unsynced_since.is_some() || !self.unwritten.is_empty());
        match std::mem::replace(&mut self.pen, Pen::Lost) {
            Pen::Ready(journal) if self.unwritten.is_empty() && !sync => {
                self.pen = Pen::Ready(journal);
                true
            }
            Pen::Ready(mut journal) => {
                let lines = std::mem::take(&mut self.unwritten);
                self.pen = Pen::Writing(tokio::task::spawn_blocking(move || {
                    let written = journal.append(&lines);
                    let written = written.and_then(|()| if sync { journal.sync() } else { Ok(()) });
                    let refused = written.err().map(|error| (error, lines));
                    Attempt { journal, synced: sync && refused.is_none(), refused }
                }));
                self.finish(WRITE_LIMIT).await
            }
            Pen::Writing(writing) => {
                self.pen = Pen::Writing(writing);
                self.forget("journal lines lost: too many wait for the disk", UNWRITTEN_MAX);
                false
            }
            Pen::Lost => {
                self.forget("journal lines lost: its writer has died", 0);
                false
            }
        }
    }

    /// Waits for the write under way. True: it has done what it should.
    async fn finish(&mut self, limit: Duration) -> bool {
        let Pen::Writing(mut writing) = std::mem::replace(&mut self.pen, Pen::Lost) else {
            return false;
        };
        match tokio::time::timeout(limit, &mut writing).await {
            Ok(Ok(attempt)) => self.written(attempt),
            Ok(Err(died)) => {
                error!(error = chain(&died), "journal writer died");
                false
            }
            Err(_) => {
                let why = "the journal: a write does not end";
                self.health.set_journal(Some(Trouble::new(why, None, true)));
                if !limit.is_zero() {
                    error!(?limit, "journal not written in time");
                }
                self.pen = Pen::Writing(writing);
                false
            }
        }
    }

    fn written(&mut self, attempt: Attempt) -> bool {
        let Attempt { journal, refused, synced } = attempt;
        self.pen = Pen::Ready(journal);
        let Some((error, lines)) = refused else {
            self.health.set_journal(None);
            if synced {
                self.health.synced_journal();
                self.unsynced_since = None;
            } else {
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            return true;
        };
        let why = format!("the journal: {}", chain(&error));
        self.health.set_journal(Some(Trouble::new(why, Some(&error), true)));
        error!(error = chain(&error), lines = lines.len(), "journal not written, trying again");
        self.unwritten.splice(..0, lines);
        self.forget("journal lines lost: too many wait for the disk", UNWRITTEN_MAX);
        false
    }

    /// Keeps the newest lines only.
    fn forget(&mut self, why: &str, keep: usize) {
        let lost = self.unwritten.len().saturating_sub(keep);
        if lost > 0 {
            self.unwritten.drain(..lost);
            error!(lines = lost, why, "journal lines lost");
        }
    }

    async fn tell(&self, line: &JournalLine, then: Option<Telling>, safe: bool) {
        // A line is strings and numbers: it always serialises.
        let payload = serde_json::to_vec(line).unwrap_or_default();
        self.publish(Publication::hub(topics::events(), payload, false)).await;
        // That an announcement is accepted means that it is journalled; an outcome is owed anyway.
        let unsaid = !safe && matches!(line.entry, Entry::Announcement { .. });
        if let Some(then) = then.filter(|_| !unsaid) {
            self.publish(publication(then)).await;
        }
    }

    async fn publish(&self, publication: Publication) {
        let topic = publication.topic.clone();
        if let Err(error) = self.publisher.say(publication).await {
            warn!(%topic, error = chain(&error), "not published");
        }
    }
}

/// What the core wants told, as the bus takes it.
pub(crate) fn publication(telling: Telling) -> Publication {
    let Telling { topic, payload, retain, correlation } = telling;
    Publication { correlation, ..Publication::hub(topic, payload, retain) }
}

#[cfg(test)]
mod tests;

//! The journal's own task: writes lines in batches, then lets out what waited
//! for them, so that nobody is told what is not on record.
//!
//! A disk that does not take a batch within [`WRITE_LIMIT`] costs the record its
//! lines and nobody their answer: an announcement ends in its outcome even when
//! the pool under the journal hangs.

use super::files::chain;
use crate::bus::{Publication, Publisher};
use crate::journal::Journal;
use crate::mesh::Telling;
use crate::message::JournalLine;
use crate::message::contract::topics;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, warn};

/// How long one batch of lines may take.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Lines in one write.
const BATCH_MAX: usize = 256;

/// Work for the journal.
#[derive(Debug)]
pub(super) enum Job {
    Line(Box<JournalLine>, Option<Telling>),
    /// Resolves when all lines before it are written.
    Barrier(oneshot::Sender<()>),
}

pub(super) struct Recorder {
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) pen: Pen,
}

/// The journal, or the write that still has it.
pub(super) enum Pen {
    Ready(Box<Journal>),
    Writing(JoinHandle<(Box<Journal>, io::Result<()>)>),
    Lost,
}

impl Recorder {
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        while self.jobs.recv_many(&mut jobs, BATCH_MAX).await > 0 {
            let lines = jobs.iter().filter_map(|job| match job {
                Job::Line(line, _) => Some(line.as_ref().clone()),
                Job::Barrier(_) => None,
            });
            self.write(lines.collect()).await;
            for job in jobs.drain(..) {
                match job {
                    Job::Line(line, then) => self.tell(&line, then).await,
                    // Nobody waits any more: their deadline has passed.
                    Job::Barrier(done) => drop(done.send(())),
                }
            }
        }
    }

    async fn write(&mut self, lines: Vec<JournalLine>) {
        if lines.is_empty() {
            return;
        }
        let count = lines.len();
        let mut writing = match std::mem::replace(&mut self.pen, Pen::Lost) {
            Pen::Ready(mut journal) => tokio::task::spawn_blocking(move || {
                let written = journal.append(&lines);
                (journal, written)
            }),
            Pen::Writing(writing) if !writing.is_finished() => {
                error!(lines = count, "journal lines lost: an earlier write still hangs");
                self.pen = Pen::Writing(writing);
                return;
            }
            Pen::Writing(writing) => {
                // It came back; these lines are written with the next batch's pen.
                if let Ok((journal, _)) = writing.await {
                    self.pen = Pen::Ready(journal);
                    return Box::pin(self.write(lines)).await;
                }
                return;
            }
            Pen::Lost => {
                error!(lines = count, "journal lines lost: its writer has died");
                return;
            }
        };
        match tokio::time::timeout(WRITE_LIMIT, &mut writing).await {
            Ok(Ok((journal, written))) => {
                self.pen = Pen::Ready(journal);
                if let Err(error) = written {
                    error!(error = chain(&error), lines = count, "journal lines not written");
                }
            }
            Ok(Err(died)) => error!(error = chain(&died), "journal writer died"),
            Err(_) => {
                error!(lines = count, limit = ?WRITE_LIMIT, "journal not written in time");
                self.pen = Pen::Writing(writing);
            }
        }
    }

    async fn tell(&self, line: &JournalLine, then: Option<Telling>) {
        // A line is strings and numbers: it always serialises.
        let payload = serde_json::to_vec(line).unwrap_or_default();
        self.publish(Publication::hub(topics::events(), payload, false)).await;
        if let Some(then) = then {
            self.publish(publication(then)).await;
        }
    }

    async fn publish(&self, publication: Publication) {
        let topic = publication.topic.clone();
        if let Err(error) = self.publisher.publish(publication).await {
            warn!(%topic, error = chain(&error), "not published");
        }
    }
}

/// What the core wants told, as the bus takes it.
pub(super) fn publication(telling: Telling) -> Publication {
    let Telling { topic, payload, retain, correlation } = telling;
    Publication { correlation, ..Publication::hub(topic, payload, retain) }
}

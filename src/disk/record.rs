//! The journal's own task: writes lines in batches, then lets out what waited
//! for them, so that nobody is told what is not on record.
//!
//! A disk that refuses a batch, or does not take it within [`WRITE_LIMIT`], costs
//! nobody their answer: an announcement ends in its outcome even when the pool
//! under the journal is full or hangs. The lines are kept and tried again.

use super::files::chain;
use crate::bus::{Publication, Publisher};
use crate::journal::Journal;
use crate::mesh::Telling;
use crate::message::JournalLine;
use crate::message::contract::topics;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
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
    Line(Box<JournalLine>, Option<Telling>),
    /// Resolves when all lines before it are written.
    Barrier(oneshot::Sender<()>),
}

pub(super) struct Recorder {
    pub(super) publisher: Arc<dyn Publisher>,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) pen: Pen,
    /// Lines that the disk has not taken yet, oldest first.
    pub(super) unwritten: Vec<JournalLine>,
    /// What the disk refuses, while it does.
    pub(super) trouble: watch::Sender<Option<Arc<str>>>,
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
}

impl Recorder {
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        loop {
            let more = self.jobs.recv_many(&mut jobs, BATCH_MAX);
            match tokio::time::timeout(RETRY, more).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if self.unwritten.is_empty() => continue,
                Err(_) => {}
            }
            self.unwritten.extend(jobs.iter().filter_map(|job| match job {
                Job::Line(line, _) => Some(line.as_ref().clone()),
                Job::Barrier(_) => None,
            }));
            self.write().await;
            for job in jobs.drain(..) {
                match job {
                    Job::Line(line, then) => self.tell(&line, then).await,
                    // Nobody waits any more: their deadline has passed.
                    Job::Barrier(done) => drop(done.send(())),
                }
            }
        }
        if !self.unwritten.is_empty() {
            error!(
                lines = self.unwritten.len(),
                "journal lines lost: the disk refused them to the end"
            );
        }
    }

    /// Writes what is unwritten, or keeps it for the next time.
    async fn write(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let (mut writing, limit) = match std::mem::replace(&mut self.pen, Pen::Lost) {
            Pen::Ready(mut journal) => {
                let lines = std::mem::take(&mut self.unwritten);
                let writing = tokio::task::spawn_blocking(move || {
                    let refused = journal.append(&lines).err().map(|error| (error, lines));
                    Attempt { journal, refused }
                });
                (writing, WRITE_LIMIT)
            }
            // It has been waited for once: nobody's answer is held up for it again.
            Pen::Writing(writing) => (writing, Duration::ZERO),
            Pen::Lost => return self.forget("journal lines lost: its writer has died", 0),
        };
        match tokio::time::timeout(limit, &mut writing).await {
            Ok(Ok(Attempt { journal, refused })) => {
                self.pen = Pen::Ready(journal);
                let why = refused.as_ref().map(|(error, _)| chain(error));
                self.trouble.send_replace(why.map(|why| format!("the journal: {why}").into()));
                if let Some((error, lines)) = refused {
                    error!(
                        error = chain(&error),
                        lines = lines.len(),
                        "journal not written, trying again"
                    );
                    self.unwritten.splice(..0, lines);
                    self.forget("journal lines lost: too many wait for the disk", UNWRITTEN_MAX);
                }
            }
            Ok(Err(died)) => error!(error = chain(&died), "journal writer died"),
            Err(_) => {
                self.trouble.send_replace(Some("the journal: a write does not end".into()));
                if !limit.is_zero() {
                    error!(?limit, "journal not written in time");
                }
                self.pen = Pen::Writing(writing);
                self.forget("journal lines lost: too many wait for the disk", UNWRITTEN_MAX);
            }
        }
    }

    /// Keeps the newest lines only.
    fn forget(&mut self, why: &str, keep: usize) {
        let lost = self.unwritten.len().saturating_sub(keep);
        if lost > 0 {
            self.unwritten.drain(..lost);
            error!(lines = lost, why, "journal lines lost");
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
pub(crate) fn publication(telling: Telling) -> Publication {
    let Telling { topic, payload, retain, correlation } = telling;
    Publication { correlation, ..Publication::hub(topic, payload, retain) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::FakePublisher;
    use crate::message::Entry;
    use crate::message::contract::topics;

    fn line(count: u64) -> Job {
        let time = "2026-06-16T14:19:07Z".parse().unwrap();
        let line = Box::new(JournalLine { time, entry: Entry::Refusals { count } });
        let topic = topics::hub();
        let then =
            Telling { topic, payload: count.to_string().into(), retain: true, correlation: None };
        Job::Line(line, Some(then))
    }

    #[tokio::test]
    async fn what_a_disk_refuses_is_told_all_the_same_and_written_when_it_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        // A folder stands where the day's file belongs: every write is refused.
        let day = dir.path().join("journal/2026-06-16.jsonl");
        std::fs::create_dir(&day).unwrap();
        let publisher = Arc::new(FakePublisher::default());
        let (send, jobs) = mpsc::channel(16);
        let pen = Pen::Ready(Box::new(journal));
        let (trouble, troubled) = watch::channel(None);
        let recorder =
            Recorder { publisher: publisher.clone(), jobs, pen, unwritten: Vec::new(), trouble };
        let running = tokio::spawn(recorder.run());
        send.send(line(1)).await.unwrap();
        let mut told = publisher.next().await;
        while told.len() < 2 {
            told.extend(publisher.next().await);
        }
        assert_eq!((told[0].topic.as_str(), &told[1].payload[..]), ("mesh/events", &b"1"[..]));

        assert!(troubled.borrow().as_ref().is_some_and(|why| why.contains("journal")));

        std::fs::remove_dir(&day).unwrap();
        send.send(line(2)).await.unwrap();
        drop(send);
        running.await.unwrap();
        let text = std::fs::read_to_string(&day).unwrap();
        let counts: Vec<_> = text.lines().map(|l| l.split("count\":").nth(1).unwrap()).collect();
        assert_eq!(counts, ["1}", "2}"]);
        assert_eq!(*troubled.borrow(), None);
    }
}

//! Reading again, while the hub runs, what is kept in files of its own.

use super::inbox::Inbox;
use crate::access::Access;
use crate::bus::Bus;
use crate::mesh::Event;
use crate::message::Entry;
use std::sync::Arc;
use tokio::sync::Mutex;
use tracing::{error, info};

/// Something that is read from files at the start and can be read again.
pub(super) struct Part {
    what: &'static str,
    read: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
}

impl Part {
    /// `read` takes what the files say into force and gives it in a few words, or changes nothing
    /// and says why. It may wait for a disk.
    pub(super) fn new(
        what: &'static str,
        read: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        Self { what, read: Box::new(read) }
    }
}

impl Part {
    /// Who may come in. Connections and subscriptions that are there follow the new rules.
    pub(super) fn users(access: &Arc<Access>, bus: &Bus) -> Self {
        let (access, bus) = (access.clone(), bus.clone());
        Self::new("users", move || {
            let said = access.reload()?;
            if let Some(bus) = bus.embedded() {
                bus.rules_changed();
            }
            Ok(said)
        })
    }
}

/// The way to have a running hub read its files again.
#[derive(Clone)]
pub struct Reload {
    parts: Arc<[Part]>,
    inbox: Arc<Inbox>,
    /// One at a time, so that the last one asked for is the last one done.
    turn: Arc<Mutex<()>>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|part| part.what).collect();
        f.debug_struct("Reload").field("parts", &parts).finish_non_exhaustive()
    }
}

impl Reload {
    pub(super) fn new(parts: impl IntoIterator<Item = Part>, inbox: Arc<Inbox>) -> Self {
        Self { parts: parts.into_iter().collect(), inbox, turn: Arc::default() }
    }

    /// Reads everything again. What cannot be read stays as it was; the log and the journal say
    /// which and why.
    pub async fn run(&self) {
        let _turn = self.turn.lock().await;
        if self.parts.is_empty() {
            info!("nothing to read again");
        }
        for at in 0..self.parts.len() {
            let parts = self.parts.clone();
            let what = parts[at].what;
            let read = tokio::task::spawn_blocking(move || (parts[at].read)());
            let done = match read.await {
                Ok(done) => done,
                Err(died) => Err(anyhow::Error::new(died)),
            };
            let (state, detail) = match done {
                Ok(detail) => {
                    info!(what, detail, "read again");
                    ("read", detail)
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    error!(what, why, "not read again; what was in force stays");
                    ("refused", why)
                }
            };
            let (what, state) = (what.to_owned(), state.to_owned());
            self.inbox.push(Event::Noted(Entry::Reload { what, state, detail }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_part_that_cannot_be_read_keeps_no_other_from_being_read() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let parts = [
            Part::new("bad", || anyhow::bail!("torn")),
            Part::new("worse", || panic!("a fault of ours")),
            Part::new("good", move || {
                Ok(format!("{} reads", counted.fetch_add(1, Ordering::SeqCst)))
            }),
        ];
        let inbox = Arc::new(Inbox::default());
        let reload = Reload::new(parts, inbox.clone());
        reload.run().await;
        reload.clone().run().await;
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        let told: Vec<_> = inbox
            .take_now()
            .into_iter()
            .map(|(event, _)| match event {
                Event::Noted(Entry::Reload { what, state, detail }) => (what, state, detail),
                other => panic!("{other:?}"),
            })
            .collect();
        let told: Vec<_> =
            told.iter().map(|(w, s, d)| (w.as_str(), s.as_str(), d.as_str())).collect();
        assert_eq!(told.len(), 6);
        assert_eq!(told[0], ("bad", "refused", "torn"));
        assert_eq!((told[1].0, told[1].1), ("worse", "refused"));
        assert_eq!(told[2], ("good", "read", "0 reads"));
        assert_eq!(told[5], ("good", "read", "1 reads"));
    }
}

//! From a channel to the bus: what was said, and what was announced.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Link;
use super::session::Speaker;
use crate::bus::{Publication, Publisher};
use crate::name::{By, Door, Topic, TopicError};

/// Publications that may wait for the bus.
const WAITING_MAX: usize = 256;

/// Something for somebody in a channel to know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Feedback {
    pub(super) target: String,
    pub(super) text: String,
}

/// A publication, and who to tell if the bus refuses it.
#[derive(Debug)]
struct Job {
    publication: Publication,
    tell: Option<Speaker>,
}

/// Hands publications to the bus, which may be slow, without stopping the connection.
#[derive(Debug)]
pub(super) struct Reporter {
    link: Arc<Link>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Serialize)]
struct Said<'a> {
    nick: &'a str,
    text: &'a str,
    time: jiff::Timestamp,
}

#[derive(Serialize)]
struct Announced<'a> {
    reason: &'a str,
    source: String,
}

impl Reporter {
    /// The reporter, the task that publishes for it, and what that task tells people.
    pub(super) fn new(
        link: Arc<Link>,
        publisher: Arc<dyn Publisher>,
    ) -> (Self, impl Future<Output = ()> + Send, mpsc::Receiver<Feedback>) {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let (tell, feedback) = mpsc::channel(WAITING_MAX);
        (Self { link, jobs }, publish(waiting, publisher, tell), feedback)
    }

    /// Publishes what somebody said; if the bus does not keep up it is lost, and that is logged.
    pub(super) fn said(&self, by: &Speaker, text: &str) {
        let said = Said { nick: &by.nick, text, time: jiff::Timestamp::now() };
        let topic = format!("mesh/irc/{}/{}/said", self.link.name, by.channel.level());
        match self.publication(by, &topic, &said) {
            Ok(publication) => {
                if self.jobs.try_send(Job { publication, tell: None }).is_err() {
                    warn!(network = %self.link.name, "said on irc and not published: the bus is busy");
                }
            }
            Err(error) => debug!(topic, error = &error as &dyn std::error::Error, "no such topic"),
        }
    }

    /// Announces; what to tell its author at once, if it could not even be tried.
    pub(super) fn announce(&self, by: &Speaker, reason: &str) -> Option<Feedback> {
        let announced = Announced { reason, source: format!("irc:{}", by.nick) };
        let refused = |why: &str| {
            let text = format!("{}: not announced, {why}", by.nick);
            Some(Feedback { target: by.channel.to_string(), text })
        };
        match self.publication(by, "mesh/announce", &announced) {
            Ok(publication) => {
                let job = Job { publication, tell: Some(by.clone()) };
                self.jobs.try_send(job).err().and_then(|_| refused("the hub is busy"))
            }
            Err(error) => refused(&error.to_string()),
        }
    }

    fn publication(
        &self,
        by: &Speaker,
        topic: &str,
        body: &impl Serialize,
    ) -> Result<Publication, TopicError> {
        let client = format!("{}/{}/{}", self.link.name, by.channel, by.mask);
        // These bodies are strings and a time: they always serialize.
        let payload = serde_json::to_vec(body).unwrap_or_default();
        Ok(Publication {
            by: By { door: Door::Irc, client: client.into(), user: None },
            topic: Topic::parse(topic)?,
            payload: Bytes::from(payload),
            retain: false,
            correlation: None,
        })
    }
}

async fn publish(
    mut waiting: mpsc::Receiver<Job>,
    publisher: Arc<dyn Publisher>,
    tell: mpsc::Sender<Feedback>,
) {
    while let Some(Job { publication, tell: author }) = waiting.recv().await {
        let topic = publication.topic.clone();
        let Some(by) = author else {
            if let Err(error) = publisher.say(publication).await {
                warn!(%topic, error = &error as &dyn std::error::Error, "not published from irc");
            }
            continue;
        };
        // What people say does not wait until an announcement is on disk.
        let (publisher, tell) = (publisher.clone(), tell.clone());
        tokio::spawn(async move {
            let Err(error) = publisher.publish(publication).await else { return };
            warn!(%topic, error = &error as &dyn std::error::Error, "not announced from irc");
            let text = format!("{}: not announced, {error}", by.nick);
            // Full only if the connection is stuck; then nobody would read it either.
            let _ = tell.try_send(Feedback { target: by.channel.to_string(), text });
        });
    }
}

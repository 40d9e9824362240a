//! A question to the broker: what do you retain?
//!
//! A subscription is answered by the retained messages it matches, and MQTT has
//! no word for their end. So the hub then publishes something to itself: a
//! broker that keeps the order has by then sent them all. For one that does
//! not, an end is believed only after some quiet, since much hangs on it: what
//! is missing in the answer may be removed from the tree.

use bytes::Bytes;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// Where the hub publishes to itself. Outside the contract, and never retained.
pub(super) const ECHO: &str = "mesh/hub/echo";
/// Everything there is.
pub(super) const EVERYTHING: &str = "mesh/#";
/// Names asked for in one go.
pub(super) const NAMES_MAX: usize = 500;

/// Quiet after which nothing more is expected.
const QUIET: Duration = Duration::from_secs(1);
/// By then the end is believed also without quiet or echo.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The hub's own last presence, which tells what the broker's memory is worth.
    Presence,
    /// Everything.
    Everything,
    /// Topics that were not in the answer to that.
    Missing,
    /// Topics whose last message may be retained or not.
    Unsure,
}

#[derive(Debug)]
pub(super) struct Query {
    pub(super) kind: Kind,
    /// Topics that were asked for by name.
    pub(super) asked: Vec<Box<str>>,
    /// Topics of which something was heard.
    pub(super) seen: HashSet<Box<str>>,
    /// The hub's own topics of which the hub knows nothing.
    pub(super) orphans: Vec<Box<str>>,
    /// The hub's presence, as the broker has it.
    pub(super) presence: Option<Bytes>,
    /// What comes back as the echo.
    pub(super) token: Bytes,
    echoed: Option<Instant>,
    began: Instant,
    heard: Instant,
}

impl Query {
    pub(super) fn new(kind: Kind, asked: Vec<Box<str>>) -> Self {
        let now = Instant::now();
        Self {
            kind,
            asked,
            seen: HashSet::new(),
            orphans: Vec::new(),
            presence: None,
            token: uuid::Uuid::now_v7().to_string().into(),
            echoed: None,
            began: now,
            heard: now,
        }
    }

    /// What to subscribe to.
    pub(super) fn filters(&self) -> Vec<Box<str>> {
        match self.kind {
            Kind::Presence => self.asked.iter().cloned().chain([ECHO.into()]).collect(),
            Kind::Everything => vec![EVERYTHING.into()],
            Kind::Missing | Kind::Unsure => self.asked.clone(),
        }
    }

    /// Something was heard of a topic.
    pub(super) fn saw(&mut self, topic: &str, replayed: bool) {
        if !self.seen.contains(topic) {
            self.seen.insert(topic.into());
        }
        if replayed {
            self.heard = Instant::now();
        }
    }

    /// True if this is the echo: whatever was retained has been sent, if the
    /// broker keeps the order.
    pub(super) fn is_echo(&mut self, payload: &[u8]) -> bool {
        let echo = payload == &self.token[..];
        if echo {
            self.echoed = Some(Instant::now());
        }
        echo
    }

    pub(super) const fn echoed(&self) -> bool {
        self.echoed.is_some()
    }

    /// When it ends, if nothing more is heard.
    pub(super) fn ends_at(&self) -> Instant {
        let latest = self.began + PATIENCE;
        let Some(echoed) = self.echoed else { return latest };
        let by_name = self.kind != Kind::Everything;
        if by_name && self.asked.iter().all(|topic| self.seen.contains(topic)) {
            return echoed;
        }
        (self.heard.max(echoed) + QUIET).min(latest.max(echoed + QUIET))
    }

    /// Topics asked for by name and not heard of.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().filter(|topic| !self.seen.contains(*topic)).map(|topic| &**topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_by_name_ends_with_the_last_answer_and_others_with_quiet() {
        let began = Instant::now();
        let mut query = Query::new(Kind::Missing, vec!["mesh/app/a".into(), "mesh/app/b".into()]);
        assert_eq!(query.ends_at(), began + PATIENCE);
        query.saw("mesh/app/a", true);
        let token = query.token.clone();
        assert!(!query.is_echo(b"another's") && query.is_echo(&token));
        assert_eq!(query.ends_at(), began + QUIET);
        assert_eq!(query.unanswered().collect::<Vec<_>>(), ["mesh/app/b"]);
        // A broker that does not keep the order is heard out.
        tokio::time::advance(QUIET / 2).await;
        query.saw("mesh/app/b", true);
        assert!(query.ends_at() <= Instant::now());

        let mut everything = Query::new(Kind::Everything, Vec::new());
        let token = everything.token.clone();
        everything.is_echo(&token);
        tokio::time::advance(QUIET / 2).await;
        everything.saw("mesh/app/late", true);
        assert_eq!(everything.ends_at(), Instant::now() + QUIET);
        everything.saw("mesh/app/live", false);
        assert_eq!(everything.ends_at(), Instant::now() + QUIET, "live messages are no answer");
    }
}

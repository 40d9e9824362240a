//! An engine for tests: takes nothing, remembers everything, and can be told to
//! fail, to hang or to wait.

use super::{BoxFuture, Engine, Found, Labels, Request, SnapshotError, Taken};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What a [`FakeEngine`] does next.
type Answer = Box<dyn FnOnce(&Request) -> SnapshotError + Send>;

/// Stands in for an engine. Refuses a name that is taken, as the real ones do, and
/// keeps the request's time limit (by tokio's clock, which tests can pause).
#[derive(Default)]
pub struct FakeEngine {
    state: Mutex<State>,
    open: watch::Sender<Gate>,
}

#[derive(Default)]
struct State {
    started: Vec<Request>,
    taken: Vec<Found>,
    failures: VecDeque<Answer>,
    unwell: Option<Box<dyn Fn() -> SnapshotError + Send>>,
}

/// `Open` lets takes through.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Gate {
    #[default]
    Open,
    Closed,
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeEngine").field("taken", &self.state().taken).finish_non_exhaustive()
    }
}

impl FakeEngine {
    /// An engine that succeeds at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every take waits, until [`Self::release`] or its time limit.
    pub fn hang(&self) {
        self.open.send_replace(Gate::Closed);
    }

    /// Lets waiting and later takes go on.
    pub fn release(&self) {
        self.open.send_replace(Gate::Open);
    }

    /// The next take that nothing was said about fails like this.
    pub fn fail_next(&self, failure: impl FnOnce(&Request) -> SnapshotError + Send + 'static) {
        self.state().failures.push_back(Box::new(failure));
    }

    /// From now on [`Engine::check`] answers like this.
    pub fn unwell(&self, failure: impl Fn() -> SnapshotError + Send + 'static) {
        self.state().unwell = Some(Box::new(failure));
    }

    /// Every request that came in, in order, whatever became of it.
    #[must_use]
    pub fn started(&self) -> Vec<Request> {
        self.state().started.clone()
    }

    /// Every snapshot there is, oldest first.
    #[must_use]
    pub fn taken(&self) -> Vec<Found> {
        self.state().taken.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(&self, request: Request) -> Result<Taken, SnapshotError> {
        let failure = {
            let mut state = self.state();
            state.started.push(request.clone());
            state.failures.pop_front()
        };
        let mut open = self.open.subscribe();
        let opened = open.wait_for(|gate| *gate == Gate::Open);
        if tokio::time::timeout(request.deadline, opened).await.is_err() {
            let what = "fake snapshot".to_owned();
            return Err(SnapshotError::TimedOut { what, limit: request.deadline });
        }
        match failure {
            Some(failure) => Err(failure(&request)),
            None => self.record(request),
        }
    }

    fn record(&self, request: Request) -> Result<Taken, SnapshotError> {
        let mut state = self.state();
        if let Some(there) = state.taken.iter().find(|found| found.name == request.name) {
            let same = there.labels.as_ref().map(|labels| &labels.id) == Some(&request.labels.id);
            let full = there.taken.full.clone();
            return if same {
                Ok(there.taken.clone())
            } else {
                Err(SnapshotError::AlreadyExists { full })
            };
        }
        let txg = state.taken.len() as u64 + 1;
        let full = format!("tank/meshfs@{}", request.name);
        let taken =
            Taken { engine: "fake", full, guid: Some(format!("{}", 1000 + txg)), txg: Some(txg) };
        let labels: Labels = request.labels;
        state.taken.push(Found { name: request.name, taken: taken.clone(), labels: Some(labels) });
        Ok(taken)
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn take(&self, request: Request) -> BoxFuture<'_, Result<Taken, SnapshotError>> {
        Box::pin(self.perform(request))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, SnapshotError>> {
        Box::pin(async { Ok(self.taken()) })
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>> {
        Box::pin(async { self.state().unwell.as_ref().map_or(Ok(()), |failure| Err(failure())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::SnapshotName;
    use std::time::Duration;

    fn request(name: &str, id: &str) -> Request {
        let labels = Labels { id: id.into(), ..Labels::default() };
        Request {
            name: SnapshotName::parse(name).unwrap(),
            labels,
            deadline: Duration::from_secs(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_engine_answers_at_its_deadline_and_works_again_when_released() {
        let engine = FakeEngine::new();
        engine.hang();
        let error = engine.take(request("a", "1")).await.unwrap_err();
        assert!(matches!(error, SnapshotError::TimedOut { .. }));
        engine.release();
        engine.take(request("a", "1")).await.unwrap();
        assert_eq!((engine.started().len(), engine.taken().len()), (2, 1));
    }

    #[tokio::test]
    async fn a_taken_name_is_refused_to_another_and_met_for_the_same() {
        let engine = FakeEngine::new();
        let first = engine.take(request("a", "1")).await.unwrap();
        assert_eq!(engine.take(request("a", "1")).await.unwrap(), first);
        let error = engine.take(request("a", "2")).await.unwrap_err();
        assert!(matches!(error, SnapshotError::AlreadyExists { .. }));
        engine.fail_next(|_| SnapshotError::NoModule);
        assert!(engine.take(request("b", "3")).await.is_err());
        engine.unwell(|| SnapshotError::NoModule);
        assert!(engine.check().await.is_err());
    }
}

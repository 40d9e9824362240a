//! Which tasks are alive, so that shutdown can wait for all of them.

use tokio::sync::watch;

/// Counts tasks.
#[derive(Debug)]
pub(crate) struct Tasks(watch::Sender<usize>);

impl Tasks {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Starts a task that counts as long as it lives, whatever way it ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = Alive::new(&self.0);
        // Boxed: an argument that is awaited would otherwise have room in the task twice.
        let task = Box::pin(task);
        tokio::spawn(async move {
            let _alive = alive;
            task.await;
        });
    }

    /// Resolves when no task is alive.
    pub(crate) async fn all_ended(&self) {
        let _ = self.0.subscribe().wait_for(|alive| *alive == 0).await;
    }

    pub(crate) fn alive(&self) -> usize {
        *self.0.borrow()
    }
}

struct Alive(watch::Sender<usize>);

impl Alive {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|alive| *alive += 1);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_counts_until_it_ends_also_by_panic() {
        let tasks = Tasks::new();
        tasks.all_ended().await;
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move { drop(wait.await) });
        tasks.spawn(async { panic!("on purpose") });
        go.send(()).unwrap();
        tasks.all_ended().await;
        assert_eq!(tasks.alive(), 0);
    }
}

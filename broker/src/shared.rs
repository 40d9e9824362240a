//! What all tasks of a broker share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    api::{Admission, Authority},
    arrivals::Arrivals,
    bounds::{Bound, Budget, Places, Reached},
    fanout::Fanout,
    housekeeping::Deadlines,
    ledger::Ledger,
    lock::lock,
    retained::RetainedStore,
    session::{Session, sessions::Sessions},
    settings::Limits,
    stats::Counters,
    subscriptions::Node,
    tasks::Tasks,
};

/// How far the broker's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Connections are asked to end; they may send what they owe until the moment given.
    Draining(Instant),
    /// Everything ends at once.
    Ended,
}

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) retained: Arc<dyn RetainedStore>,
    pub(crate) sessions: Mutex<Sessions>,
    /// Sessions with a connection, by uid.
    pub(crate) online: Mutex<HashMap<u64, Arc<Session>>>,
    /// Open connections, those without a session included.
    pub(crate) open: Mutex<usize>,
    pub(crate) tree: RwLock<Node>,
    /// What publishers cached about topics is valid while this stands.
    pub(crate) epoch: AtomicU64,
    /// Counts how often the authority changed its mind. Rights settled by older ones are asked for
    /// again.
    pub(crate) rules: AtomicU64,
    pub(crate) rules_changed: Notify,
    /// Held while a retained message is admitted, stored and queued, and while a subscription is
    /// entered with its retained snapshot: so no subscriber ends with an older value than the store.
    pub(crate) order: Mutex<()>,
    /// The host's own door.
    pub(crate) host: Mutex<Fanout>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) counters: Counters,
    pub(crate) reached: Reached,
    pub(crate) budget: Arc<Budget>,
    pub(crate) places: Arc<Places>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) deadlines: Mutex<Deadlines>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) tasks: Tasks,
    started: Instant,
    next_uid: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        authority: Arc<dyn Authority>,
        admission: Arc<dyn Admission>,
        retained: Arc<dyn RetainedStore>,
    ) -> Self {
        Self {
            limits,
            authority,
            admission,
            retained,
            sessions: Mutex::default(),
            online: Mutex::default(),
            open: Mutex::default(),
            tree: RwLock::default(),
            epoch: AtomicU64::new(0),
            rules: AtomicU64::new(0),
            rules_changed: Notify::new(),
            order: Mutex::default(),
            host: Mutex::new(Fanout::new(0, true)),
            arrivals: Arc::new(Arrivals::new()),
            counters: Counters::default(),
            reached: Reached::default(),
            budget: Arc::default(),
            places: Arc::default(),
            ledger: Mutex::default(),
            deadlines: Mutex::default(),
            phase: watch::Sender::new(Phase::Running),
            tasks: Tasks::new(),
            started: Instant::now(),
            next_uid: AtomicU64::new(1),
        }
    }

    /// Milliseconds since the start; never 0, which means "never" in several places.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    pub(crate) fn expires_ms(&self, expiry_s: Option<u32>) -> u64 {
        expiry_s.map_or(0, |seconds| self.now_ms() + u64::from(seconds) * 1000)
    }

    /// Counts and says that a client reached a bound.
    pub(crate) fn reached(&self, bound: Bound, who: &dyn std::fmt::Display) {
        self.reached.note(bound, who, self.now_ms());
    }

    /// Do clients make the broker hold all that it may?
    pub(crate) fn is_crowded(&self) -> bool {
        self.budget.used() > self.limits.queues_max_bytes
    }

    pub(crate) fn next_uid(&self) -> u64 {
        self.next_uid.fetch_add(1, Relaxed)
    }

    /// Forgets everything that publishers cached.
    pub(crate) fn new_epoch(&self) {
        self.epoch.fetch_add(1, SeqCst);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters a phase and wakes everybody who may have to end for it.
    pub(crate) fn enter(&self, phase: Phase) {
        let entered = self.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
        if entered {
            for session in lock(&self.online).values() {
                session.kick.notify_one();
                session.room.notify_waiters();
            }
        }
    }

    /// Resolves when the broker is asked to end.
    pub(crate) async fn ending(&self) {
        // An error would mean that `self` is gone.
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Resolves when everything must end at once.
    pub(crate) async fn ended(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Ended).await;
    }

    pub(crate) fn leave_online(&self, uid: u64) {
        let mut online = lock(&self.online);
        online.remove(&uid);
        if online.capacity() > SMALL_MAP && online.len() * 4 < online.capacity() {
            online.shrink_to_fit();
        }
    }

    pub(crate) fn session_expiry_max_s(&self) -> u32 {
        u32::try_from(self.limits.session_expiry_max.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Maps up to this size are not worth shrinking.
pub(crate) const SMALL_MAP: usize = 256;

/// How long a wait may last before the reason for it is looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);

//! The zfs engine: OpenZFS through its command line, as any user whom
//! `zfs allow` lets.

mod coverage;
mod labels;
mod reason;

use super::command::Program;
use super::error::full_name;
use super::{BoxFuture, Engine, Found, Request, SnapshotError, Taken};
use crate::name::{Dataset, SnapshotName};
use reason::{Subject, reason, way_out_of_permissions};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Limit of a command that only asks. A healthy pool answers in milliseconds, a busy
/// machine in a second.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// The same at start, where somebody waits for the hub.
const START_LIMIT: Duration = Duration::from_secs(3);

/// Where the kernel tells the state of each pool: `POOL/state`.
const KERNEL_STATE: &str = "/proc/spl/kstat/zfs";

/// Snapshots of one dataset.
#[derive(Debug)]
pub struct ZfsEngine {
    dataset: Dataset,
    program: Program,
    /// Where the kernel tells the state of each pool, readable by anyone without asking zfs.
    kernel_state: PathBuf,
    /// The tree that each snapshot has to hold.
    root: PathBuf,
    /// That it does, once it is known.
    covered: AtomicBool,
}

impl ZfsEngine {
    /// An engine for a dataset that has to hold `root`, with `zfs` and `zpool`
    /// from where `program` looks.
    #[must_use]
    pub fn new(dataset: Dataset, root: impl Into<PathBuf>, program: Program) -> Self {
        let kernel_state = KERNEL_STATE.into();
        let covered = AtomicBool::new(false);
        Self { dataset, program, kernel_state, root: root.into(), covered }
    }

    /// The same, told of its pools by files below `directory`: `POOL/state`.
    #[must_use]
    pub fn with_kernel_state(self, directory: impl Into<PathBuf>) -> Self {
        Self { kernel_state: directory.into(), ..self }
    }

    /// The mountpoint below which the tree lies; remembers that there is one.
    pub(super) async fn covers(&self) -> Result<PathBuf, SnapshotError> {
        self.covers_within(START_LIMIT).await
    }

    async fn covers_within(&self, limit: Duration) -> Result<PathBuf, SnapshotError> {
        let place =
            coverage::mountpoint_of(&self.root, &self.dataset, &self.program, limit).await?;
        self.covered.store(true, Relaxed);
        Ok(place)
    }

    async fn snapshot(&self, request: Request) -> Result<Taken, SnapshotError> {
        let started = Instant::now();
        if !self.covered.load(Relaxed) {
            self.covers_within(request.deadline).await?;
        }
        let left = || request.deadline.saturating_sub(started.elapsed());
        let full = full_name(&self.dataset, &request.name);
        let mut arguments = vec!["snapshot".to_owned()];
        for (property, value) in labels::properties(&request.labels) {
            arguments.extend(["-o".to_owned(), format!("{property}={value}")]);
        }
        arguments.push(full.clone());
        let subject = Subject::Snapshot(&self.dataset, &request.name);
        let taken = run(&self.program, "zfs snapshot", &arguments, subject, left()).await;
        match taken {
            Ok(_) => self.identify(&request.name, left()).await,
            Err(SnapshotError::AlreadyExists { .. }) => self.recognise(&request, left()).await,
            Err(error) => Err(error),
        }
    }

    /// Asks for the identity of a snapshot just taken. It is there either way, so
    /// an answer that does not come costs only the identity.
    async fn identify(&self, name: &SnapshotName, left: Duration) -> Result<Taken, SnapshotError> {
        match self.find(name, left).await {
            Ok(found) => Ok(found.taken),
            Err(error) if error.retryable() => {
                warn!(snapshot = %name, error = &error as &dyn std::error::Error, "snapshot taken, its identity is not known");
                let full = full_name(&self.dataset, name);
                Ok(Taken { engine: "zfs", full, guid: None, txg: None })
            }
            Err(error) => Err(error), // destroyed meanwhile, or not zfs that answers
        }
    }

    /// A snapshot of this name is there: a met goal if the same request made it.
    async fn recognise(&self, request: &Request, left: Duration) -> Result<Taken, SnapshotError> {
        let found = self.find(&request.name, left).await?;
        if found.labels.is_some_and(|labels| labels.id == request.labels.id) {
            debug!(snapshot = %request.name, "snapshot already there");
            return Ok(found.taken);
        }
        Err(SnapshotError::AlreadyExists { full: full_name(&self.dataset, &request.name) })
    }

    async fn find(&self, name: &SnapshotName, limit: Duration) -> Result<Found, SnapshotError> {
        let full = full_name(&self.dataset, name);
        let subject = Subject::Snapshot(&self.dataset, name);
        let arguments =
            ["list", "-Hp", "-t", "snapshot", "-o", labels::COLUMNS, &full].map(str::to_owned);
        let text = run(&self.program, "zfs list", &arguments, subject, limit).await?;
        match labels::parse_list(&text, &self.dataset)?.pop() {
            Some((_, found)) if found.name == *name => Ok(found),
            _ => Err(SnapshotError::Answer { verb: "zfs list", line: first_line(&text) }),
        }
    }

    async fn find_all(&self) -> Result<Vec<Found>, SnapshotError> {
        let arguments = [
            "list",
            "-Hp",
            "-t",
            "snapshot",
            "-o",
            labels::COLUMNS,
            "-d",
            "1",
            self.dataset.as_str(),
        ]
        .map(str::to_owned);
        let subject = Subject::Dataset(&self.dataset);
        let text = run(&self.program, "zfs list", &arguments, subject, ASK_LIMIT).await?;
        let mut found = labels::parse_list(&text, &self.dataset)?;
        found.sort_by(|(left, a), (right, b)| left.cmp(right).then_with(|| a.name.cmp(&b.name)));
        Ok(found.into_iter().map(|(_, found)| found).collect())
    }

    async fn examine(&self) -> Result<(), SnapshotError> {
        self.pool_answers().await?;
        let arguments = ["list", "-Hp", "-t", "filesystem", "-o", "name", self.dataset.as_str()]
            .map(str::to_owned);
        let subject = Subject::Dataset(&self.dataset);
        let text = run(&self.program, "zfs list", &arguments, subject, ASK_LIMIT).await?;
        if text.trim_end_matches('\n') != self.dataset.as_str() {
            return Err(SnapshotError::Answer { verb: "zfs list", line: first_line(&text) });
        }
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        self.allows_somebody().await
    }

    /// Whether anybody was granted what a snapshot takes. Who belongs to which grant
    /// is left to zfs; that there is none at all is certain, and worth knowing early.
    async fn allows_somebody(&self) -> Result<(), SnapshotError> {
        let arguments = ["allow", self.dataset.as_str()].map(str::to_owned);
        let subject = Subject::Dataset(&self.dataset);
        let grants = run(&self.program, "zfs allow", &arguments, subject, ASK_LIMIT).await?;
        if labels::NEEDED.iter().all(|permission| grants_somebody(&grants, permission)) {
            return Ok(());
        }
        let what = self.dataset.to_string();
        Err(SnapshotError::PermissionDenied {
            what,
            way_out: way_out_of_permissions(&self.dataset),
        })
    }

    /// A suspended pool hangs whoever touches a file on it, so it is asked for first:
    /// the kernel's own file where there is one, `zpool` otherwise.
    async fn pool_answers(&self) -> Result<(), SnapshotError> {
        let pool = self.dataset.pool();
        let file = self.kernel_state.join(pool).join("state");
        let state = match std::fs::read_to_string(file) {
            Ok(state) => state,
            Err(_) => {
                let arguments = ["list", "-H", "-o", "health", pool].map(str::to_owned);
                let subject = Subject::Dataset(&self.dataset);
                let zpool = self.program.sibling("zpool");
                match run(&zpool, "zpool list", &arguments, subject, ASK_LIMIT).await {
                    Err(SnapshotError::NotInstalled { .. }) => return Ok(()), // zfs itself will tell
                    other => other?,
                }
            }
        };
        judge_state(pool, &state)
    }
}

/// Refuses a pool of which the kernel says that it is suspended; reads no file on it.
pub(super) fn refuse_if_suspended(pool: &str) -> Result<(), SnapshotError> {
    match std::fs::read_to_string(Path::new(KERNEL_STATE).join(pool).join("state")) {
        Ok(state) => judge_state(pool, &state),
        Err(_) => Ok(()), // an old module tells nothing
    }
}

fn judge_state(pool: &str, state: &str) -> Result<(), SnapshotError> {
    match state.trim() {
        // The last one is said while it changes from one state to another.
        "ONLINE" | "DEGRADED" | "TRANSITIONING" => Ok(()),
        "SUSPENDED" | "FAULTED" | "UNAVAIL" | "OFFLINE" | "REMOVED" => {
            Err(SnapshotError::PoolSuspended { pool: pool.to_owned() })
        }
        other => Err(SnapshotError::Answer { verb: "zpool list", line: first_line(other) }),
    }
}

impl Engine for ZfsEngine {
    fn name(&self) -> &'static str {
        "zfs"
    }

    fn take(&self, request: Request) -> BoxFuture<'_, Result<Taken, SnapshotError>> {
        Box::pin(self.snapshot(request))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Found>, SnapshotError>> {
        Box::pin(self.find_all())
    }

    fn check(&self) -> BoxFuture<'_, Result<(), SnapshotError>> {
        Box::pin(self.examine())
    }
}

/// Runs a command that must succeed and gives back what it printed.
async fn run(
    program: &Program,
    verb: &'static str,
    arguments: &[String],
    subject: Subject<'_>,
    limit: Duration,
) -> Result<String, SnapshotError> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    let output = program.run(&arguments, limit).await?;
    if !output.status.success() {
        return Err(reason(verb, output.status, &output.stderr, subject));
    }
    String::from_utf8(output.stdout).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        SnapshotError::Answer { verb, line: first_line(&text) }
    })
}

/// Reads the text of `zfs allow`, which has no machine form: the lines of grants begin
/// with a tab and end with the list of permissions. A named set may hold any of them.
fn grants_somebody(text: &str, permission: &str) -> bool {
    text.lines()
        .filter(|line| line.starts_with('\t'))
        .filter_map(|line| line.split_whitespace().next_back())
        .flat_map(|list| list.split(','))
        .any(|granted| granted == permission || granted.starts_with('@'))
}

/// The first line, short enough for an error.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_counts_for_what_it_lists() {
        let text = "---- Permissions on tank/x ----\nLocal+Descendent permissions:\n\tuser tester mount,snapshot\n";
        assert!(grants_somebody(text, "snapshot"));
        assert!(!grants_somebody(text, "userprop"), "not in any list");
        assert!(!grants_somebody(text, "permissions:"), "a heading is no grant");
        assert!(!grants_somebody("", "snapshot"));
        assert!(grants_somebody("\tgroup staff @all\n", "snapshot"), "a set may hold it");
    }
}

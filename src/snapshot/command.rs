//! The one place that starts programs.
//!
//! Always true: arguments are a list and no shell reads them, the environment is
//! fixed, standard input is empty, what is kept of the output is bounded, and a
//! program that passes its time limit is killed with all it started. One that
//! cannot be killed (it waits for a device) is left behind and named in the log;
//! with too many of them no more is started until one has ended.

use super::SnapshotError;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tracing::{debug, info, warn};

/// Room for a list of 100,000 snapshots.
const STDOUT_MAX_BYTES: u64 = 64 << 20;
const STDERR_MAX_BYTES: u64 = 64 << 10;

/// How long a killed program may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// So many programs left behind are enough.
const STUCK_MAX: usize = 4;

/// Where an ordinary user's PATH often does not look, but `zfs` lives.
const ADMIN_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// A program and where to look for it.
#[derive(Debug, Clone)]
pub struct Program {
    name: &'static str,
    path: OsString,
    /// How many were left behind and still hang.
    stuck: Arc<AtomicUsize>,
}

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Program {
    /// A program found in the PATH of this process, or where administrators' programs are.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        path.push(":");
        path.push(ADMIN_PATH);
        Self::within(name, path)
    }

    /// A program found in the directories of `path`, written as in PATH.
    #[must_use]
    pub fn within(name: &'static str, path: impl Into<OsString>) -> Self {
        Self { name, path: path.into(), stuck: Arc::default() }
    }

    /// Another program, looked for in the same places.
    pub(super) fn sibling(&self, name: &'static str) -> Self {
        Self { name, path: self.path.clone(), stuck: self.stuck.clone() }
    }

    /// The file to start; looked up anew each time, so that an upgrade needs no restart.
    pub(super) fn find(&self) -> Result<PathBuf, SnapshotError> {
        std::env::split_paths(&self.path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(self.name))
            .find(|file| {
                rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
            })
            .ok_or(SnapshotError::NotInstalled { program: self.name })
    }

    /// Runs it to its end, whatever its exit status.
    pub(super) async fn run(
        &self,
        arguments: &[&OsStr],
        limit: Duration,
    ) -> Result<Output, SnapshotError> {
        let file = self.find()?;
        let count = self.stuck.load(Relaxed);
        if count >= STUCK_MAX {
            return Err(SnapshotError::Stuck { what: self.name, count });
        }
        let started = Instant::now();
        debug!(program = self.name, ?arguments, limit_ms = limit.as_millis(), "command started");
        let child = self.spawn(&file, arguments)?;
        let mut running = Running { program: self.name, pid: child.id(), child };
        let outcome = tokio::time::timeout(limit, running.finish()).await;
        let elapsed_ms = started.elapsed().as_millis();
        match outcome {
            Ok(output) => {
                let output =
                    output.map_err(|source| SnapshotError::Spawn { program: self.name, source })?;
                running.pid = None; // reaped: the number may be another's by now
                debug!(program = self.name, elapsed_ms, status = %output.status, "command ended");
                Ok(output)
            }
            Err(_) => {
                warn!(
                    program = self.name,
                    ?arguments,
                    elapsed_ms,
                    "command killed at its time limit"
                );
                running.end(&self.stuck).await;
                let what = match arguments.first() {
                    Some(verb) => format!("{} {}", self.name, verb.display()),
                    None => self.name.to_owned(),
                };
                Err(SnapshotError::TimedOut { what, limit })
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts programs")]
    fn spawn(&self, file: &PathBuf, arguments: &[&OsStr]) -> Result<Child, SnapshotError> {
        tokio::process::Command::new(file)
            .args(arguments)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", &self.path)
            .current_dir("/") // never holds on to the directory it was started in
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SnapshotError::Spawn { program: self.name, source })
    }
}

/// A started program; dropped, it is killed with all it started.
struct Running {
    program: &'static str,
    pid: Option<u32>,
    child: Child,
}

impl Running {
    /// Reads both outputs to their end, then waits. In this order the process is
    /// not reaped while somebody it started still writes, so its number stays ours.
    async fn finish(&mut self) -> std::io::Result<Output> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) =
            tokio::join!(read(stdout, STDOUT_MAX_BYTES), read(stderr, STDERR_MAX_BYTES));
        let status = self.child.wait().await?;
        let stderr = String::from_utf8_lossy(&stderr?).into_owned();
        Ok(Output { status, stdout: stdout?, stderr })
    }

    fn kill(&mut self) {
        let pid = self.pid.and_then(|pid| i32::try_from(pid).ok());
        if let Some(group) = pid.and_then(rustix::process::Pid::from_raw) {
            // Fails only if all of them are gone.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    async fn end(mut self, stuck: &Arc<AtomicUsize>) {
        self.kill();
        if tokio::time::timeout(KILL_LIMIT, self.child.wait()).await.is_ok() {
            self.pid = None;
            return;
        }
        warn!(program = self.program, pid = self.pid, "command left behind: it cannot be killed");
        stuck.fetch_add(1, Relaxed);
        let stuck = stuck.clone();
        tokio::spawn(async move {
            let mut left = self;
            let _ = left.child.wait().await;
            info!(program = left.program, pid = left.pid, "command left behind has ended");
            left.pid = None; // reaped, as above
            stuck.fetch_sub(1, Relaxed);
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the first `max` bytes and reads on, so that the program is not stuck writing.
async fn read(pipe: Option<impl AsyncRead + Unpin>, max: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(pipe) = pipe {
        let mut bounded = pipe.take(max);
        bounded.read_to_end(&mut kept).await?;
        tokio::io::copy(&mut bounded.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> [OsString; 2] {
        ["-c".into(), script.into()]
    }

    async fn run(script: &str, limit: Duration) -> Result<Output, SnapshotError> {
        let arguments = sh(script);
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        Program::new("sh").run(&arguments, limit).await
    }

    #[tokio::test]
    async fn output_and_status_come_back_and_the_environment_is_fixed() {
        let script = "echo out; echo err >&2; env | cut -d= -f1 | sort; cat; exit 3";
        let output = run(script, Duration::from_secs(20)).await.unwrap();
        assert_eq!(output.status.code(), Some(3));
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(stdout, "out\nLC_ALL\nPATH\nPWD\n");
        assert_eq!(output.stderr, "err\n");
    }

    /// Runs a script under a long limit that passes as soon as it has written `file`.
    async fn run_until_written(script: String, file: &std::path::Path) -> String {
        let running = tokio::spawn(async move { run(&script, Duration::from_secs(600)).await });
        while !std::fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n')) {
            assert!(!running.is_finished(), "ended before its limit");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::pause(); // with nothing else to do, the limit is reached at once
        let error = running.await.unwrap().unwrap_err();
        assert!(matches!(error, SnapshotError::TimedOut { .. }), "{error}");
        std::fs::read_to_string(file).unwrap()
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_it_started() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > {}; wait", file.display());
        let pids = run_until_written(script, &file).await;
        assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
        for pid in pids.split_whitespace() {
            assert!(is_gone(pid), "{pid} still runs");
        }
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_output_open_does_not_outlive_the_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}", file.display());
        let pid = run_until_written(script, &file).await;
        assert!(is_gone(pid.trim()));
    }

    /// Killed is enough: whoever adopted it may not have reaped it yet.
    fn is_gone(pid: &str) -> bool {
        for _ in 0..200 {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Err(_) => return true,
                Ok(stat) if stat.contains(") Z ") => return true,
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        false
    }

    #[tokio::test]
    async fn what_is_written_beyond_the_bound_is_dropped() {
        let output = run("head -c 200000 /dev/zero >&2", Duration::from_secs(20)).await.unwrap();
        assert_eq!(output.stderr.len() as u64, STDERR_MAX_BYTES);
        assert!(output.status.success());
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Program::within("zfs", "/nowhere:relative").find().unwrap_err();
        assert!(matches!(error, SnapshotError::NotInstalled { program: "zfs" }), "{error}");
    }
}

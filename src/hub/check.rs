//! What would keep a hub from working, found without starting one and without
//! leaving anything behind.

use super::{external, start, tls};
use crate::config::Config;
use crate::journal::Journal;
use crate::mesh::Telling;
use crate::message::contract::topics;
use crate::name::BrokerUrl;
use crate::snapshot;
use bytes::Bytes;
use rustix::fs::{FlockOperation, XattrFlags, flock, fsetxattr};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the file system may take to answer: a suspended pool never does.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What: a configuration key, or a part of the tree.
    pub what: String,
    /// Whether a hub could work with it.
    pub good: bool,
    /// What was found, and the way out if it is not good.
    pub detail: String,
}

impl Finding {
    fn new(what: &str, found: Result<String, String>) -> Self {
        let good = found.is_ok();
        let detail = found.unwrap_or_else(|detail| detail);
        Self { what: what.to_owned(), good, detail }
    }
}

/// Looks at the root, the engine, the ports and the networks.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::new("snapshot.engine", engine(config).await)];
    findings.push(Finding::new("root", in_time(&config.root, root).await));
    findings.push(Finding::new("tree", in_time(&config.root, tree).await));
    findings.push(Finding::new("lock", in_time(&config.root, lock).await));
    // The configuration is only taken with a file of users that can be read.
    if let Ok(users) = config.bus.policy().look() {
        let detail = format!("{users} users in {}", config.bus.users.display());
        findings.push(Finding::new("bus.users", Ok(detail)));
    }
    let files = config.clone();
    let files = tokio::task::spawn_blocking(move || tls::look(&files)).await;
    match files.unwrap_or_else(|died| Err(died.to_string())) {
        Ok(None) => {}
        Ok(Some(found)) => findings.push(Finding::new("bus.tls", Ok(found))),
        Err(wrong) => findings.push(Finding::new("bus.tls", Err(wrong))),
    }
    let mut ports = vec![("http.listen", config.http.listen)];
    if let Some(broker) = config.bus.broker() {
        findings.push(Finding::new("bus.external", other(config, broker).await));
    } else {
        ports.insert(0, ("bus.listen", config.bus.listen));
        ports.extend(config.bus.tls.listen.map(|listen| ("bus.tls.listen", listen)));
    }
    ports.extend(config.http.tls.listen.map(|listen| ("http.tls.listen", listen)));
    if config.irc.networks.is_empty() {
        ports.push(("irc.embedded.listen", config.irc.embedded.listen));
    }
    // All are kept open until the end, so that two keys with one port are found out.
    let mut open = Vec::new();
    for (key, listen) in ports {
        let found = match tokio::net::TcpListener::bind(listen).await {
            Ok(listener) => {
                open.push(listener);
                Ok(format!("{listen} is free"))
            }
            Err(e) => Err(format!("{listen}: {e}; choose another port, or 0 for any free one")),
        };
        findings.push(Finding::new(key, found));
    }
    drop(open);
    for network in &config.irc.networks {
        let what = format!("irc.networks {}", network.name);
        findings.push(Finding::new(&what, server(&network.server).await));
    }
    findings
}

async fn in_time(root: &Path, look: fn(&Path) -> Result<String, String>) -> Result<String, String> {
    let path = root.to_owned();
    let look = tokio::task::spawn_blocking(move || look(&path));
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(found)) => found,
        Ok(Err(died)) => Err(died.to_string()),
        Err(_) => Err(format!("{} does not answer; is its pool suspended?", root.display())),
    }
}

/// The nearest folder that exists takes a file with an extended attribute.
fn root(root: &Path) -> Result<String, String> {
    let existing = nearest(root);
    if !existing.is_dir() {
        return Err(format!("{} is not a folder", existing.display()));
    }
    let probe = existing.join(format!(".meshfs-check-{}", std::process::id()));
    let refused = |e: &dyn std::fmt::Display| {
        format!(
            "{}: {e}; give the user that runs the hub write permission there",
            existing.display()
        )
    };
    let file =
        File::options().write(true).create_new(true).open(&probe).map_err(|e| refused(&e))?;
    let kept = fsetxattr(&file, "user.meshfs", b"{}", XattrFlags::empty());
    std::fs::remove_file(&probe).map_err(|e| refused(&e))?;
    if let Err(error) = kept {
        let place = existing.display();
        return Err(format!(
            "{place} keeps no extended attributes ({error}); on ZFS: zfs set xattr=sa DATASET"
        ));
    }
    if existing == root {
        Ok(format!("{} can be written", root.display()))
    } else {
        Ok(format!("{} will be made", root.display()))
    }
}

/// What is already there is what it should be: folders, and no links to any.
fn tree(root: &Path) -> Result<String, String> {
    let own = [".tmp", "aside", ".snapshots"];
    let parents = ["specs"];
    for name in own.into_iter().chain(parents).chain(start::FOLDERS) {
        let path = root.join(name);
        match path.symlink_metadata() {
            Ok(found) if !found.is_dir() => {
                return Err(format!("{} has to be a folder, and no link to one", path.display()));
            }
            _ => {}
        }
    }
    for name in [".tmp/live", ".tmp/probe"] {
        let path = root.join(name);
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(format!("{} is in the way; move it away", path.display()));
        }
    }
    if root.join("journal").is_dir() {
        let journal = Journal::open(root).map_err(|e| e.to_string())?;
        journal.recall().map_err(|e| e.to_string())?;
    }
    Ok("nothing in it is in the way".into())
}

fn nearest(path: &Path) -> PathBuf {
    let named = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.exists());
    named.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn lock(root: &Path) -> Result<String, String> {
    match start::look_at_lock(root) {
        Err(_) => Ok("no hub has ever run here".into()),
        Ok(file) => match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok("no other hub is running here".into()),
            Err(_) => {
                let mut holder = String::new();
                let _ = std::io::Read::read_to_string(
                    &mut std::io::Read::take(&file, 256),
                    &mut holder,
                );
                Err(format!("another hub has this root: {}", holder.trim()))
            }
        },
    }
}

async fn engine(config: &Config) -> Result<String, String> {
    let kind = start::engine_kind(config.snapshot.engine);
    // A root that is still to be made will be on the file system of its parent.
    let place = nearest(&config.root);
    let chosen = snapshot::choose(kind, &place, config.snapshot.dataset.clone());
    let chosen = chosen.await.map_err(with_causes)?;
    chosen.engine.check().await.map_err(with_causes)?;
    Ok(format!("{}: {}", chosen.engine.name(), chosen.why))
}

/// The other broker's port answers, and what is needed to log in can be read.
async fn other(config: &Config, broker: &BrokerUrl) -> Result<String, String> {
    let will =
        Telling { topic: topics::hub(), payload: Bytes::new(), retain: true, correlation: None };
    external::settings(config, broker, will).map_err(|error| format!("{error:#}"))?;
    let found = server(&format!("{}:{}", broker.host(), broker.port())).await?;
    Ok(format!("{broker}: {found}"))
}

async fn server(server: &str) -> Result<String, String> {
    let connect = tokio::net::TcpStream::connect(server);
    match tokio::time::timeout(LOOK_LIMIT, connect).await {
        Ok(Ok(_)) => Ok(format!("{server} answers")),
        Ok(Err(error)) => Err(format!("{server}: {error}")),
        Err(_) => Err(format!("{server} does not answer")),
    }
}

fn with_causes(error: snapshot::SnapshotError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

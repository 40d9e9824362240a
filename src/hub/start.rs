//! From a configuration to what the hub starts with: the tree, its lock, what
//! it says was true, and what was left half done.

use crate::bus::Restored;
use crate::clock::Now;
use crate::config::EngineKind;
use crate::journal::Journal;
use crate::live::{self, Aside, Retained, Store};
use crate::mesh::{Asked, Event};
use crate::message::{Entry, Message, ReplyAddress, Subject};
use crate::name::{AnnouncementId, Topic};
use crate::snapshot;
use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use tracing::error;

/// The folders of a tree, besides those that the live store makes for itself.
pub(super) const FOLDERS: [&str; 8] = [
    "live",
    "specs/nodes",
    "specs/services",
    "api_projects",
    "journal",
    "queue",
    "telemetry",
    "archive",
];

/// Makes what is missing of the tree and touches nothing else. The root itself
/// may be reached by a link; below it none is followed.
pub(super) fn make_tree(root: &Path) -> anyhow::Result<OwnedFd> {
    std::fs::create_dir_all(root).with_context(|| format!("could not make {}", root.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(root, flags, Mode::empty());
    let base = open.with_context(|| format!("could not open {}", root.display()))?;
    for folder in FOLDERS {
        live::make_folder(&base, Path::new(folder)).with_context(|| {
            let path = root.join(folder);
            format!("{} has to be a folder, and no link to one", path.display())
        })?;
    }
    Ok(base)
}

/// Keeps a second hub off the tree; the kernel lets go of it when the process ends.
pub(super) fn lock(root: &Path, base: &OwnedFd) -> anyhow::Result<File> {
    let path = root.join(".lock");
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let failed = || format!("could not take the lock {}", path.display());
    let file = rustix::fs::openat(base, ".lock", flags, Mode::from_raw_mode(0o644));
    let mut file = File::from(file.with_context(failed)?);
    let ordinary = file.metadata().with_context(failed)?;
    // A second name of the file would be somebody else's, and would be written to.
    ensure!(
        ordinary.is_file() && ordinary.nlink() == 1,
        "{} is not the hub's own file; move it away",
        path.display()
    );
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.take(256).read_to_string(&mut holder).with_context(failed)?;
        bail!("another hub has {}: {}", root.display(), holder.trim());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    file.set_len(0)
        .and_then(|()| writeln!(file, "pid {} on {host}", std::process::id()))
        .with_context(failed)?;
    Ok(file)
}

/// The lock as it is there, not made and by no link.
pub(super) fn look_at_lock(root: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(root.join(".lock"), flags, Mode::empty())?))
}

/// Tries what every write needs. A disk that is full may have room again: the hub lives on it as
/// it would if it had filled up later, so that a crash on a full disk does not end the bus.
pub(super) fn try_writing(store: &Store, root: &Path) -> anyhow::Result<()> {
    match store.probe() {
        Err(full) if matches!(full.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            error!(root = %root.display(), error = %full, "the disk is full; nothing new can be kept");
            Ok(())
        }
        tried => tried.with_context(|| unwritable(root)),
    }
}

/// What is said when a file cannot be written as the live store writes them.
pub(super) fn unwritable(root: &Path) -> String {
    let root = root.display();
    format!(
        "{root} does not take files with extended attributes (space, rights, or on ZFS xattr=sa)"
    )
}

/// What the tree and the journal tell of the time before.
#[derive(Debug)]
pub(super) struct Past {
    /// For the broker to begin with.
    pub(super) retained: Vec<Restored>,
    /// Retained messages that have expired meanwhile.
    pub(super) expired: Vec<Topic>,
    /// For the core.
    pub(super) events: Vec<Event>,
    /// What was set aside.
    pub(super) aside: Vec<Aside>,
}

/// Reads the past.
pub(super) fn recall(store: &Store, journal: &Journal, now: Now) -> anyhow::Result<Past> {
    let loaded = store.load(&meaning).context("could not read the live store")?;
    let mut past =
        Past { retained: Vec::new(), expired: Vec::new(), events: Vec::new(), aside: loaded.aside };
    for message in loaded.messages {
        if message.meta.expires_at.is_some_and(|at| at <= now.wall) {
            past.expired.push(message.topic);
            continue;
        }
        if let Some(meant) = parse(&message.topic, &message.payload) {
            let received_at = message.meta.received_at;
            past.events.push(Event::Restored { message: meant, received_at });
        }
        past.retained.push(restored(message));
    }
    let entries = journal.recall().context("could not read the journal")?;
    past.events.extend(left_over(entries));
    Ok(past)
}

/// Only what the door would let in today is served.
fn meaning(topic: &Topic, payload: &[u8]) -> Result<(), String> {
    let subject = Subject::of(topic).map_err(|e| e.to_string())?;
    if subject.kept() == crate::message::contract::Kept::Never {
        return Err("its topic is never retained".into());
    }
    Message::parse(&subject, payload, false).map(drop).map_err(|e| e.to_string())
}

fn parse(topic: &Topic, payload: &[u8]) -> Option<Message> {
    Message::parse(&Subject::of(topic).ok()?, payload, false).ok()
}

fn restored(message: Retained) -> Restored {
    Restored {
        by: message.meta.by,
        topic: message.topic,
        payload: message.payload.into(),
        qos: message.meta.qos,
        content_type: message.meta.content_type,
        user_properties: message.meta.user_properties,
        expires_at: message.meta.expires_at,
        received_at: message.meta.received_at,
    }
}

/// Outcomes are remembered; announcements without one were interrupted.
fn left_over(entries: Vec<Entry>) -> Vec<Event> {
    let mut events = Vec::new();
    let mut open: HashMap<AnnouncementId, (Asked, Option<ReplyAddress>)> = HashMap::new();
    for entry in entries {
        match entry {
            Entry::Announcement { id, by, request, reply, requested_at } => {
                let text = |field: &str| request.get(field)?.as_str().map(ToOwned::to_owned);
                let asked = Asked {
                    id: id.clone(),
                    reason: text("reason").unwrap_or_default(),
                    source: text("source"),
                    flush: request.get("flush").and_then(serde_json::Value::as_bool) == Some(true),
                    by,
                    requested_at,
                };
                open.insert(id, (asked, reply));
            }
            Entry::Outcome(outcome) => {
                open.remove(&outcome.id);
                events.push(Event::Remembered(outcome));
            }
            _ => {}
        }
    }
    let mut interrupted: Vec<_> = open.into_values().collect();
    interrupted.sort_by_key(|(asked, _)| asked.requested_at);
    let interrupted = interrupted.into_iter();
    events.extend(interrupted.map(|(asked, reply)| Event::Interrupted { asked, reply }));
    events
}

pub(super) const fn engine_kind(kind: EngineKind) -> snapshot::Kind {
    match kind {
        EngineKind::Auto => snapshot::Kind::Auto,
        EngineKind::Zfs => snapshot::Kind::Zfs,
        EngineKind::Btrfs => snapshot::Kind::Btrfs,
        EngineKind::Copy => snapshot::Kind::Copy,
    }
}

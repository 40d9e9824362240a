//! What people may ask in a channel, and the answer. Pure.

use jiff::Timestamp;

use super::digest::span;
use super::line::{shorten, strip};
use crate::mesh::{Verdict, View};
use crate::message::{Outcome, SnapshotRecord, State};
use crate::name::{By, Door, NodeId};

/// Names listed in one answer; the rest is a number.
const LISTED_MAX: usize = 20;
/// Snapshots listed in one answer.
const SNAPSHOTS_MAX: usize = 3;
/// Characters of a reason in an answer.
const REASON_MAX_CHARS: usize = 120;

/// A command somebody typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Announce: take a snapshot for this reason.
    Snapshot(String),
    /// How the mesh is, or one node.
    Status(Option<String>),
    /// Which nodes there are.
    Nodes,
    /// The latest snapshots.
    Snapshots,
    /// The latest announcement.
    Last,
    /// Announce with flush.
    Flush,
    /// What can be asked.
    Help,
}

impl Request {
    /// Reads a line of a channel; `None` if it is no command of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = strip(text);
        let (verb, rest) = match plain.trim().split_once(char::is_whitespace) {
            Some((verb, rest)) => (verb, rest.trim()),
            None => (plain.trim(), ""),
        };
        let verb = verb.strip_prefix('!')?;
        match verb.to_ascii_lowercase().as_str() {
            "snapshot" => Some(Self::Snapshot(rest.to_owned())),
            "status" => Some(Self::Status(rest.split_whitespace().next().map(str::to_owned))),
            "nodes" => Some(Self::Nodes),
            "snapshots" => Some(Self::Snapshots),
            "last" => Some(Self::Last),
            "flush" => Some(Self::Flush),
            "help" => Some(Self::Help),
            _ => None,
        }
    }
}

/// What `!help` says.
const HELP: &str = "!snapshot <reason>: announce and take a snapshot · \
    !status [node] · !nodes · !snapshots · !last: the latest announcement · !help";
/// What `!flush` says until it is there.
pub(super) const NO_FLUSH: &str =
    "!flush is not in this release and nothing was done; !snapshot <reason> takes a snapshot";
/// What `!snapshot` says without a reason.
pub(super) const NO_REASON: &str = "say why: !snapshot <reason>";

/// The answer to a question; what is no question has none.
pub(super) fn answer(view: &View, request: &Request, now: Timestamp) -> String {
    match request {
        Request::Status(node) => status(view, node.as_deref(), now),
        Request::Nodes => nodes(view),
        Request::Snapshots => snapshots(view, now),
        Request::Last => last(view, now),
        Request::Flush => NO_FLUSH.to_owned(),
        Request::Snapshot(_) | Request::Help => HELP.to_owned(),
    }
}

/// The answer to `!status`.
fn status(view: &View, node: Option<&str>, now: Timestamp) -> String {
    match node {
        Some(name) => node_status(view, name, now),
        None => mesh_status(view, now),
    }
}

fn mesh_status(view: &View, now: Timestamp) -> String {
    let mut text = match view.nodes.len() {
        0 => "no node has been heard yet".to_owned(),
        n => format!("{n} {}: {}", plural(n, "node", "nodes"), verdicts(view)),
    };
    match latest(view).next() {
        None => text.push_str(" · no snapshot yet"),
        Some(record) => {
            let n = view.snapshots.len();
            let (name, ago) = (&record.snapshot.name, ago(record.taken_at, now));
            let many = plural(n, "snapshot", "snapshots");
            text.push_str(&format!(" · {n} {many}, the last {name} {ago}"));
        }
    }
    text
}

/// `1 lost, 2 late, 9 alive`: the worst first.
fn verdicts(view: &View) -> String {
    let counted = WORST_FIRST.iter().filter_map(|&verdict| {
        let n = view.nodes.values().filter(|node| node.verdict == verdict).count();
        (n > 0).then(|| format!("{n} {verdict}"))
    });
    counted.collect::<Vec<_>>().join(", ")
}

const WORST_FIRST: [Verdict; 4] = [Verdict::Lost, Verdict::Late, Verdict::Left, Verdict::Alive];

fn node_status(view: &View, name: &str, now: Timestamp) -> String {
    let known = NodeId::parse(name).ok().and_then(|id| view.nodes.get(&id).map(|node| (id, node)));
    let Some((id, node)) = known else {
        return format!("no node {:?} has been heard; !nodes lists them", shorten(name, 64));
    };
    let mut text = format!("{id} is {} since {}", node.verdict, short_time(node.since));
    if let Some(heard) = node.last_heard {
        text.push_str(&format!(", heard {}", ago(heard, now)));
    }
    if let Some(status) = &node.status {
        text.push_str(&format!(", says {}", shorten(status, 64)));
    }
    if !node.because.is_empty() {
        text.push_str(&format!(" ({})", shorten(&node.because.join(", "), 160)));
    }
    if !node.services.is_empty() {
        text.push_str(&format!(" · services: {}", listed(node.services.keys(), LISTED_MAX)));
    }
    text
}

/// The answer to `!nodes`.
fn nodes(view: &View) -> String {
    if view.nodes.is_empty() {
        return "no node has been heard yet".to_owned();
    }
    let mut room = LISTED_MAX;
    let mut groups = Vec::new();
    for verdict in WORST_FIRST {
        let names: Vec<_> = view
            .nodes
            .iter()
            .filter(|(_, node)| node.verdict == verdict)
            .map(|(id, _)| id)
            .collect();
        if !names.is_empty() {
            groups.push(format!("{} {verdict}: {}", names.len(), listed(names.iter(), room)));
            room = room.saturating_sub(names.len()).max(1);
        }
    }
    groups.join(" · ")
}

/// The answer to `!snapshots`.
fn snapshots(view: &View, now: Timestamp) -> String {
    if view.snapshots.is_empty() {
        return "no snapshot yet".to_owned();
    }
    let latest = latest(view).take(SNAPSHOTS_MAX).map(|record| {
        let (name, ago) = (&record.snapshot.name, ago(record.taken_at, now));
        match record.announcements.split_first() {
            None => format!("{name} {ago}"),
            Some((first, more)) => {
                let reason = shorten(&first.reason, REASON_MAX_CHARS / 2);
                let more =
                    if more.is_empty() { String::new() } else { format!(" +{}", more.len()) };
                format!("{name} {ago}: {reason}{more}")
            }
        }
    });
    let latest = latest.collect::<Vec<_>>().join(" | ");
    let n = view.snapshots.len();
    format!("{n} {}: {latest}", plural(n, "snapshot", "snapshots, the latest"))
}

/// The records, newest first; names are no order, since the clock may have jumped.
fn latest(view: &View) -> impl Iterator<Item = &SnapshotRecord> {
    let mut records: Vec<_> = view.snapshots.values().map(AsRef::as_ref).collect();
    records.sort_by_key(|record: &&SnapshotRecord| std::cmp::Reverse(record.taken_at));
    records.into_iter()
}

/// The answer to `!last`.
fn last(view: &View, now: Timestamp) -> String {
    let latest = view.announcements.values().max_by_key(|outcome| outcome.requested_at);
    latest.map_or_else(|| "nothing has been announced yet".to_owned(), |outcome| told(outcome, now))
}

fn told(outcome: &Outcome, now: Timestamp) -> String {
    let state = match (outcome.state, &outcome.snapshot, &outcome.error) {
        (State::Confirmed, Some(snapshot), _) => format!("confirmed as {}", snapshot.name),
        (State::Failed, _, Some(error)) => format!("failed: {}", shorten(error, 120)),
        (State::Failed, ..) => "failed".to_owned(),
        (State::Confirmed, ..) => "confirmed".to_owned(),
        _ => "still under way".to_owned(),
    };
    format!(
        "{} by {}, {}: {state}",
        shorten(&outcome.reason, REASON_MAX_CHARS),
        who(&outcome.by, outcome.source.as_deref()),
        ago(outcome.requested_at, now),
    )
}

/// Who announced, as people call them.
fn who(by: &By, source: Option<&str>) -> String {
    if let Some(source) = source {
        return shorten(source, 64);
    }
    match by.door {
        Door::Irc => by.client.rsplit('/').next().and_then(|mask| mask.split('!').next()),
        _ => None,
    }
    .map_or_else(|| format!("{} {}", by.door.as_str(), shorten(&by.client, 64)), str::to_owned)
}

fn listed<T: std::fmt::Display>(names: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let mut text = names.take(most).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

const fn plural<'a>(n: usize, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// `5min ago`; a moment that lies ahead by some clock is now.
fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed = std::time::Duration::try_from(now.duration_since(then)).unwrap_or_default();
    format!("{} ago", span(passed))
}

fn short_time(at: Timestamp) -> jiff::fmt::strtime::Display<'static> {
    at.strftime("%Y-%m-%d %H:%M:%SZ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::NodeView;
    use crate::message::{Explained, SnapshotRef, Timings};
    use crate::name::{AnnouncementId, SnapshotName};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn alice() -> By {
        By { door: Door::Irc, client: "house/#mesh/alice!~a@host".into(), user: None }
    }

    fn view() -> View {
        let mut view = View::default();
        let since = at("2026-06-16T14:00:00Z");
        let verdicts = [("a1", Verdict::Alive), ("a2", Verdict::Alive), ("n4", Verdict::Lost)];
        for (name, verdict) in verdicts {
            let node = NodeView {
                verdict,
                since,
                because: vec!["silent for 5min".into()],
                last_heard: Some(at("2026-06-16T14:19:00Z")),
                status: Some("ALIVE".into()),
                services: imbl::OrdMap::new(),
            };
            view.nodes.insert(NodeId::parse(name).unwrap(), Arc::new(node));
        }
        let requested_at = at("2026-06-16T14:19:07Z");
        let id = AnnouncementId::parse("k-1").unwrap();
        // The second name sorts before the first, as after a clock that jumped back.
        for (name, taken_at) in
            [("mesh-2", "2026-06-16T14:10:00Z"), ("mesh-1", "2026-06-16T14:19:08Z")]
        {
            let name = SnapshotName::parse(name).unwrap();
            let snapshot = SnapshotRef {
                name: name.clone(),
                engine: "copy".into(),
                full: "/x".into(),
                guid: None,
                txg: None,
            };
            let announcements = vec![Explained {
                id: id.clone(),
                reason: "migrating".into(),
                source: None,
                by: alice(),
                requested_at,
            }];
            let record = SnapshotRecord {
                snapshot,
                began_at: requested_at,
                taken_at: at(taken_at),
                announcements,
            };
            view.snapshots.insert(name, Arc::new(record));
        }
        let failed = Outcome {
            id: id.clone(),
            state: State::Failed,
            reason: "upgrade".into(),
            source: None,
            by: alice(),
            snapshot: None,
            requested_at,
            confirmed_at: None,
            timings_ms: Timings::default(),
            capture: None,
            error: Some("no space".into()),
        };
        view.announcements.insert(id, Arc::new(failed));
        view
    }

    #[test]
    fn commands_are_read_through_case_space_and_colour() {
        let parse = |text: &str| Request::parse(text).unwrap();
        assert_eq!(
            parse("!snapshot  migrating schema "),
            Request::Snapshot("migrating schema".into())
        );
        assert_eq!(parse("\x02!Snapshot\x02 \x0304,1x\x0f"), Request::Snapshot("x".into()));
        assert_eq!(parse("!snapshot"), Request::Snapshot(String::new()));
        assert_eq!(parse("!status n1 more"), Request::Status(Some("n1".into())));
        assert_eq!(parse("  !HELP"), Request::Help);
        for text in ["snapshot x", "say !snapshot x", "!snapshotx y", "!", "", "! snapshot x"] {
            assert_eq!(Request::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_answers_say_what_a_person_needs() {
        let (view, now) = (view(), at("2026-06-16T14:19:10Z"));
        assert_eq!(
            status(&view, None, now),
            "3 nodes: 1 lost, 2 alive · 2 snapshots, the last mesh-1 2s ago"
        );
        assert_eq!(
            status(&view, Some("n4"), now),
            "n4 is lost since 2026-06-16 14:00:00Z, heard 10s ago, says ALIVE (silent for 5min)"
        );
        assert_eq!(nodes(&view), "1 lost: n4 · 2 alive: a1, a2");
        assert_eq!(
            snapshots(&view, now),
            "2 snapshots, the latest: mesh-1 2s ago: migrating | mesh-2 9min ago: migrating"
        );
        assert_eq!(last(&view, now), "upgrade by alice, 3s ago: failed: no space");
    }

    #[test]
    fn an_empty_mesh_and_an_unknown_node_are_said_plainly() {
        let (view, now) = (View::default(), at("2026-06-16T14:19:10Z"));
        assert_eq!(status(&view, None, now), "no node has been heard yet · no snapshot yet");
        assert_eq!(nodes(&view), "no node has been heard yet");
        assert_eq!(snapshots(&view, now), "no snapshot yet");
        assert_eq!(last(&view, now), "nothing has been announced yet");
        let strange = status(&view, Some("../\r\n"), now);
        assert!(strange.starts_with("no node \"../\\r\\n\" has been heard"), "{strange}");
    }

    #[test]
    fn a_thousand_nodes_are_listed_worst_first_and_in_a_few_lines() {
        let mut view = view();
        let alive = view.nodes[&NodeId::parse("a1").unwrap()].clone();
        for n in 0..1_000 {
            view.nodes.insert(NodeId::parse(&format!("node-{n}")).unwrap(), alive.clone());
        }
        let text = nodes(&view);
        assert!(text.starts_with("1 lost: n4 · 1002 alive: a1, a2, node-0,"), "{text}");
        assert!(text.ends_with(", and 983 more") && text.len() < 400, "{text}");
    }
}

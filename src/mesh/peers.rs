//! Who is alive: what the hub believes of each node, and because of what.

use super::view::{NodeView, ServiceView, View};
use crate::clock::Now;
use crate::config;
use crate::message::{Heartbeat, Presence, PresenceState, Verdict, VerdictRecord};
use crate::name::{NodeId, ServiceId};
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A node that says how often it sends is late after so many intervals.
const LATE_INTERVALS: u32 = 3;
/// And lost after so many.
const LOST_INTERVALS: u32 = 10;

/// A change of mind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) node: NodeId,
    pub(super) was: Option<Verdict>,
    pub(super) verdict: Verdict,
    pub(super) because: Vec<Box<str>>,
}

#[derive(Debug)]
struct Peer {
    /// Steady time of the last word, so that a jump of the wall clock blames nobody.
    heard: Duration,
    interval: Option<Duration>,
    boot_id: Option<String>,
    /// It has sent a heartbeat, and not only presence.
    beats: bool,
}

/// What the view does not show of the nodes.
#[derive(Debug)]
pub(super) struct Peers {
    limits: config::Nodes,
    peers: HashMap<NodeId, Peer>,
}

impl Peers {
    pub(super) fn new(limits: config::Nodes) -> Self {
        Self { limits, peers: HashMap::new() }
    }

    /// A node spoke.
    pub(super) fn heartbeat(
        &mut self,
        view: &mut View,
        node: &NodeId,
        heartbeat: &Heartbeat,
        heard_at: Timestamp,
        now: Now,
    ) -> Option<Change> {
        let peer = self.heard(node, now);
        peer.beats = true;
        peer.interval = heartbeat.interval_ms.map(Duration::from_millis);
        if heartbeat.boot_id.is_some() {
            peer.boot_id.clone_from(&heartbeat.boot_id);
        }
        let because = vec!["heartbeat".into()];
        let mut shown = shown(view, node, now.wall);
        shown.last_heard = Some(heard_at);
        shown.status = heartbeat.status.as_deref().map(Into::into);
        believe(view, node, shown, Verdict::Alive, because, now.wall)
    }

    /// A node was born or died.
    pub(super) fn presence(
        &mut self,
        view: &mut View,
        node: &NodeId,
        presence: &Presence,
        heard_at: Timestamp,
        now: Now,
    ) -> Option<Change> {
        let known = self.peers.get(node).and_then(|peer| peer.boot_id.as_deref());
        if presence.state == PresenceState::Offline
            && let (Some(current), Some(dead)) = (known, presence.boot_id.as_deref())
            && current != dead
        {
            return None; // the will of an earlier boot, come late
        }
        let peer = self.heard(node, now);
        if presence.boot_id.is_some() {
            peer.boot_id.clone_from(&presence.boot_id);
        }
        let (verdict, because) = match presence.state {
            PresenceState::Online => (Verdict::Alive, "presence says online"),
            PresenceState::Offline => (Verdict::Left, "presence says offline"),
        };
        let mut shown = shown(view, node, now.wall);
        shown.last_heard = Some(heard_at);
        believe(view, node, shown, verdict, vec![because.into()], now.wall)
    }

    /// A service on a node spoke.
    pub(super) fn service(
        view: &mut View,
        node: &NodeId,
        service: ServiceId,
        state: ServiceView,
        wall: Timestamp,
    ) {
        let mut shown = shown(view, node, wall);
        shown.services.insert(service, Arc::new(state));
        view.nodes.insert(node.clone(), Arc::new(shown));
    }

    /// What the hub believed before it stopped. It was away since, so it blames
    /// nobody for that time: silence counts from the start.
    pub(super) fn restored(&self, view: &mut View, node: &NodeId, record: VerdictRecord) {
        if let Some(shown) = view.nodes.get_mut(node) {
            let shown = Arc::make_mut(shown);
            (shown.verdict, shown.since) = (record.verdict, record.since);
            shown.because = record.because.into_iter().map(Into::into).collect();
        }
    }

    /// A node was cleared from the tree.
    pub(super) fn forget(&mut self, view: &mut View, node: &NodeId) -> bool {
        self.peers.remove(node);
        view.nodes.remove(node).is_some()
    }

    /// Does the hub know a node by its heartbeat?
    pub(super) fn beats(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.beats)
    }

    /// Time passed.
    pub(super) fn tick(&self, view: &mut View, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        for (node, peer) in &self.peers {
            let Some(shown) = view.nodes.get(node) else { continue };
            if shown.verdict == Verdict::Left {
                continue;
            }
            let silence = now.steady.saturating_sub(peer.heard);
            let limit = |least: Duration, intervals: u32| {
                least.max(peer.interval.unwrap_or_default().saturating_mul(intervals))
            };
            let (late, lost) = (
                limit(self.limits.late_after, LATE_INTERVALS),
                limit(self.limits.lost_after, LOST_INTERVALS),
            );
            let (verdict, limit) = match silence {
                silence if silence >= lost => (Verdict::Lost, lost),
                silence if silence >= late => (Verdict::Late, late),
                _ => continue, // only a word from the node makes it alive again
            };
            let because = format!("silent for more than {}", humantime::format_duration(limit));
            let shown = shown.as_ref().clone();
            changes.extend(believe(view, node, shown, verdict, vec![because.into()], now.wall));
        }
        changes.sort_by(|a, b| a.node.cmp(&b.node));
        changes
    }

    fn heard(&mut self, node: &NodeId, now: Now) -> &mut Peer {
        let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer {
            heard: now.steady,
            interval: None,
            boot_id: None,
            beats: false,
        });
        peer.heard = now.steady;
        peer
    }
}

/// The node as shown now, or as one just met, of which nothing is believed yet.
fn shown(view: &View, node: &NodeId, wall: Timestamp) -> NodeView {
    view.nodes.get(node).map_or_else(
        || NodeView {
            verdict: Verdict::Unknown,
            since: wall,
            because: Vec::new(),
            last_heard: None,
            status: None,
            services: imbl::OrdMap::new(),
        },
        |shown| shown.as_ref().clone(),
    )
}

/// Shows a node and tells whether the verdict on it changed.
fn believe(
    view: &mut View,
    node: &NodeId,
    mut shown: NodeView,
    verdict: Verdict,
    because: Vec<Box<str>>,
    wall: Timestamp,
) -> Option<Change> {
    let was = shown.verdict;
    let changed = was != verdict;
    if changed {
        (shown.verdict, shown.since, shown.because) = (verdict, wall, because.clone());
    }
    view.nodes.insert(node.clone(), Arc::new(shown));
    let was = (was != Verdict::Unknown).then_some(was);
    changed.then(|| Change { node: node.clone(), was, verdict, because })
}

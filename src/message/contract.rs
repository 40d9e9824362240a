//! Which topics exist, who may publish each, and whether it is retained: the
//! table of `topics.md` as code.

use crate::name::{AnnouncementId, Channel, NetworkName, NodeId, ServiceId, SnapshotName, Topic};

/// What a topic is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `mesh/nodes/<node>/heartbeat`
    Heartbeat(NodeId),
    /// `mesh/nodes/<node>/presence`
    Presence(NodeId),
    /// `mesh/nodes/<node>/services/<service>`
    NodeService(NodeId, ServiceId),
    /// `mesh/nodes/<node>/capture`
    Capture(NodeId),
    /// `mesh/nodes/<node>/verdict`
    Verdict(NodeId),
    /// `mesh/services/<service>/heartbeat`
    Service(ServiceId),
    /// `mesh/announce`
    Announce,
    /// `mesh/announce/<id>`
    Outcome(AnnouncementId),
    /// `mesh/announce/<id>/close`
    Close(AnnouncementId),
    /// `mesh/snapshots/<name>`
    Snapshot(SnapshotName),
    /// `mesh/capture`
    CaptureRequest,
    /// `mesh/events`
    Events,
    /// `mesh/irc/<network>/<channel>/said`
    Said(NetworkName, Channel),
    /// `mesh/irc/<network>/<channel>/say`
    Say(NetworkName, Channel),
    /// `mesh/hub`
    Hub,
    /// `mesh/app/<anything>`
    App,
}

/// Who publishes a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// Any client that is let in.
    Anyone,
    /// The hub alone.
    Hub,
}

/// Whether a message on a topic is retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Always, whatever the packet says.
    Always,
    /// Never, whatever the packet says.
    Never,
    /// As the packet says.
    AsPublished,
}

/// A line of the contract: the topic's pattern, who publishes it, whether it is retained.
pub type Line = (&'static str, Author, Kept);

/// Every topic there is; `topics.md` prints the same table.
pub const CONTRACT: [Line; 16] = [
    ("mesh/nodes/<node>/heartbeat", Author::Anyone, Kept::Always),
    ("mesh/nodes/<node>/presence", Author::Anyone, Kept::Always),
    ("mesh/nodes/<node>/services/<service>", Author::Anyone, Kept::Always),
    ("mesh/nodes/<node>/capture", Author::Anyone, Kept::Always),
    ("mesh/nodes/<node>/verdict", Author::Hub, Kept::Always),
    ("mesh/services/<service>/heartbeat", Author::Anyone, Kept::Always),
    ("mesh/announce", Author::Anyone, Kept::Never),
    ("mesh/announce/<id>", Author::Hub, Kept::Never),
    ("mesh/announce/<id>/close", Author::Anyone, Kept::Never),
    ("mesh/snapshots/<name>", Author::Hub, Kept::Always),
    ("mesh/capture", Author::Hub, Kept::Never),
    ("mesh/events", Author::Hub, Kept::Never),
    ("mesh/irc/<network>/<channel>/said", Author::Hub, Kept::Never),
    ("mesh/irc/<network>/<channel>/say", Author::Anyone, Kept::Never),
    ("mesh/hub", Author::Hub, Kept::Always),
    ("mesh/app/<anything>", Author::Anyone, Kept::AsPublished),
];

/// Why a topic is not in the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// No line of the contract has this form.
    #[error(
        "there is no such topic; your own topics go below mesh/app/, the others are in topics.md"
    )]
    NoSuchTopic,
    /// The form is right, but a level is not a name.
    #[error("{0}")]
    Name(String),
}

impl Subject {
    /// Finds the line of the contract that a topic belongs to.
    ///
    /// # Errors
    /// There is no such line, or a level is not the name it should be.
    pub fn of(topic: &Topic) -> Result<Self, ContractError> {
        let named = |e: &dyn std::error::Error| ContractError::Name(e.to_string());
        let node = |raw: &str| NodeId::parse(raw).map_err(|e| named(&e));
        let service = |raw: &str| ServiceId::parse(raw).map_err(|e| named(&e));
        let id = |raw: &str| AnnouncementId::parse(raw).map_err(|e| named(&e));
        let channel = |network: &str, channel: &str| {
            let network = NetworkName::parse(network).map_err(|e| named(&e))?;
            Ok((network, Channel::from_level(channel).map_err(|e| named(&e))?))
        };
        let levels: Vec<&str> = topic.levels().collect();
        match levels.as_slice() {
            ["nodes", n, "heartbeat"] => Ok(Self::Heartbeat(node(n)?)),
            ["nodes", n, "presence"] => Ok(Self::Presence(node(n)?)),
            ["nodes", n, "services", s] => Ok(Self::NodeService(node(n)?, service(s)?)),
            ["nodes", n, "capture"] => Ok(Self::Capture(node(n)?)),
            ["nodes", n, "verdict"] => Ok(Self::Verdict(node(n)?)),
            ["services", s, "heartbeat"] => Ok(Self::Service(service(s)?)),
            ["announce"] => Ok(Self::Announce),
            ["announce", i] => Ok(Self::Outcome(id(i)?)),
            ["announce", i, "close"] => Ok(Self::Close(id(i)?)),
            ["snapshots", s] => Ok(Self::Snapshot(SnapshotName::parse(s).map_err(|e| named(&e))?)),
            ["capture"] => Ok(Self::CaptureRequest),
            ["events"] => Ok(Self::Events),
            ["irc", n, c, "said"] => channel(n, c).map(|(n, c)| Self::Said(n, c)),
            ["irc", n, c, "say"] => channel(n, c).map(|(n, c)| Self::Say(n, c)),
            ["hub"] => Ok(Self::Hub),
            ["app", _, ..] => Ok(Self::App),
            _ => Err(ContractError::NoSuchTopic),
        }
    }

    /// The line of the contract.
    #[must_use]
    pub const fn line(&self) -> Line {
        CONTRACT[match self {
            Self::Heartbeat(_) => 0,
            Self::Presence(_) => 1,
            Self::NodeService(..) => 2,
            Self::Capture(_) => 3,
            Self::Verdict(_) => 4,
            Self::Service(_) => 5,
            Self::Announce => 6,
            Self::Outcome(_) => 7,
            Self::Close(_) => 8,
            Self::Snapshot(_) => 9,
            Self::CaptureRequest => 10,
            Self::Events => 11,
            Self::Said(..) => 12,
            Self::Say(..) => 13,
            Self::Hub => 14,
            Self::App => 15,
        }]
    }

    /// Who may publish it.
    #[must_use]
    pub const fn author(&self) -> Author {
        self.line().1
    }

    /// Whether it is retained.
    #[must_use]
    pub const fn kept(&self) -> Kept {
        self.line().2
    }
}

/// Topics that the hub itself writes; each is valid by construction of its names.
pub mod topics {
    use super::{AnnouncementId, NodeId, SnapshotName, Topic, TopicOf};

    /// `mesh/announce`
    #[must_use]
    pub fn announce() -> Topic {
        "mesh/announce".topic()
    }

    /// `mesh/announce/<id>`
    #[must_use]
    pub fn outcome(id: &AnnouncementId) -> Topic {
        format!("mesh/announce/{id}").as_str().topic()
    }

    /// `mesh/nodes/<node>/verdict`
    #[must_use]
    pub fn verdict(node: &NodeId) -> Topic {
        format!("mesh/nodes/{node}/verdict").as_str().topic()
    }

    /// `mesh/snapshots/<name>`
    #[must_use]
    pub fn snapshot(name: &SnapshotName) -> Topic {
        format!("mesh/snapshots/{name}").as_str().topic()
    }

    /// `mesh/events`
    #[must_use]
    pub fn events() -> Topic {
        "mesh/events".topic()
    }

    /// `mesh/hub`
    #[must_use]
    pub fn hub() -> Topic {
        "mesh/hub".topic()
    }
}

trait TopicOf {
    fn topic(&self) -> Topic;
}

impl TopicOf for str {
    #[expect(clippy::expect_used, reason = "checked names make valid levels; a test builds each")]
    fn topic(&self) -> Topic {
        Topic::parse(self).expect("a topic made of checked names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A concrete topic for a pattern of the table.
    fn example(pattern: &str) -> Topic {
        let raw = pattern
            .replace("<network>", "house")
            .replace("<channel>", "mesh")
            .replace("<name>", "mesh-20260616T141907.123Z-0190c3f2")
            .replace("<anything>", "é/b");
        let raw = raw.replace(['<', '>'], "");
        Topic::parse(&raw).unwrap()
    }

    #[test]
    fn every_line_of_the_contract_is_found_by_a_topic_of_its_form() {
        for line in CONTRACT {
            let subject = Subject::of(&example(line.0)).unwrap();
            assert_eq!(subject.line(), line, "{subject:?}");
        }
    }

    #[test]
    fn a_topic_outside_the_contract_is_refused() {
        for raw in ["mesh/nodes", "mesh/nodes/n", "mesh/foo", "mesh/app", "mesh/hub/x"] {
            let topic = Topic::parse(raw).unwrap();
            assert_eq!(Subject::of(&topic), Err(ContractError::NoSuchTopic), "{raw}");
        }
        for raw in ["mesh/nodes/a b/heartbeat", "mesh/nodes/../heartbeat", "mesh/snapshots/a@b"] {
            let topic = Topic::parse(raw).unwrap();
            assert!(matches!(Subject::of(&topic), Err(ContractError::Name(_))), "{raw}");
        }
    }

    #[test]
    fn the_hubs_own_topics_are_in_the_contract() {
        let id = AnnouncementId::parse(&"x".repeat(64)).unwrap();
        let node = NodeId::parse(&"n".repeat(128)).unwrap();
        for topic in [
            topics::announce(),
            topics::outcome(&id),
            topics::verdict(&node),
            topics::events(),
            topics::hub(),
        ] {
            Subject::of(&topic).unwrap();
        }
    }
}

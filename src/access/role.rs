//! The roles that there always are.

use super::rule::{Rights, Rule};

/// What everybody who may announce needs besides: the answers to his own announcements.
pub(super) const OWN_REPLIES: &str = "mesh/app/replies/%u/#";

/// A role: its name, what it may publish, what it may subscribe to.
type Line = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Contract topics of the hub are nobody's, whatever stands here: the door sees to that.
pub(super) const ROLES: [Line; 4] = [
    // A node speaks for itself and for the services on it, and hears what concerns it.
    (
        "node",
        &["mesh/nodes/%u/#", "mesh/announce", "mesh/announce/+/close"],
        &[
            "mesh/nodes/%u/#",
            "mesh/capture",
            "mesh/hub",
            "mesh/announce/+",
            "mesh/snapshots/+",
            OWN_REPLIES,
        ],
    ),
    // A service that belongs to no node. One that runs on a node is the node's to speak for.
    (
        "service",
        &["mesh/services/%u/heartbeat", "mesh/announce", "mesh/announce/+/close", "mesh/app/%u/#"],
        &[
            "mesh/services/%u/#",
            "mesh/app/%u/#",
            "mesh/hub",
            "mesh/announce/+",
            "mesh/snapshots/+",
            OWN_REPLIES,
        ],
    ),
    // Sees everything, changes nothing.
    ("dashboard", &[], &["#"]),
    // Whatever a client may do at all.
    ("operator", &["#"], &["#"]),
];

/// Reads rules that the program itself holds, of which a test knows that they are well formed.
pub(super) fn rights(publish: &[&str], subscribe: &[&str]) -> Rights {
    let rules = |texts: &[&str]| texts.iter().filter_map(|text| Rule::parse(text).ok()).collect();
    Rights { publish: rules(publish), subscribe: rules(subscribe) }
}

#[cfg(test)]
mod tests {
    use super::super::rule::Who;
    use super::*;

    fn role(name: &str) -> Rights {
        let (_, publish, subscribe) = ROLES.iter().find(|role| role.0 == name).unwrap();
        let rights = rights(publish, subscribe);
        assert_eq!(
            (rights.publish.len(), rights.subscribe.len()),
            (publish.len(), subscribe.len())
        );
        rights
    }

    const WEB1: Who<'_> = Who { user: Some("web1"), client: "web2" };

    #[test]
    fn a_node_writes_below_its_own_name_and_announces() {
        let node = role("node");
        for topic in [
            "mesh/nodes/web1/heartbeat",
            "mesh/nodes/web1/services/nginx",
            "mesh/nodes/web1/presence",
            "mesh/announce",
            "mesh/announce/x/close",
        ] {
            assert!(node.may_publish(WEB1, topic), "{topic}");
        }
        for topic in [
            "mesh/nodes/web2/heartbeat",
            "mesh/nodes/web10/heartbeat",
            "mesh/services/web1/heartbeat",
            "mesh/app/web1/x",
            "mesh/announce/x",
            "mesh/irc/house/mesh/say",
            "mesh/hub",
        ] {
            assert!(!node.may_publish(WEB1, topic), "{topic}");
        }
        for filter in ["mesh/nodes/web1/#", "mesh/capture", "mesh/app/replies/web1/7"] {
            assert!(node.may_subscribe(WEB1, filter), "{filter}");
        }
        for filter in
            ["#", "+/#", "mesh/#", "mesh/nodes/#", "mesh/nodes/+/heartbeat", "mesh/+/web1/#"]
        {
            assert!(!node.may_subscribe(WEB1, filter), "{filter}");
        }
    }

    #[test]
    fn a_service_has_its_heartbeat_and_a_corner_of_its_own() {
        let service = role("service");
        for topic in ["mesh/services/web1/heartbeat", "mesh/app/web1/a/b", "mesh/announce"] {
            assert!(service.may_publish(WEB1, topic), "{topic}");
        }
        for topic in
            ["mesh/services/web2/heartbeat", "mesh/app/web2/a", "mesh/nodes/web1/heartbeat"]
        {
            assert!(!service.may_publish(WEB1, topic), "{topic}");
        }
        assert!(!service.may_subscribe(WEB1, "mesh/app/#"));
    }

    #[test]
    fn a_dashboard_sees_everything_and_changes_nothing() {
        let dashboard = role("dashboard");
        for filter in ["#", "mesh/#", "mesh/nodes/+/heartbeat"] {
            assert!(dashboard.may_subscribe(WEB1, filter), "{filter}");
        }
        for topic in ["mesh/announce", "mesh/app/x", "mesh/nodes/web1/heartbeat"] {
            assert!(!dashboard.may_publish(WEB1, topic), "{topic}");
        }
    }

    #[test]
    fn without_a_user_a_node_and_a_service_may_not_speak_for_anybody() {
        let nobody = Who { user: None, client: "web1" };
        assert!(!role("node").may_publish(nobody, "mesh/nodes/web1/heartbeat"));
        assert!(!role("service").may_publish(nobody, "mesh/services/web1/heartbeat"));
        assert!(role("operator").may_publish(nobody, "mesh/nodes/web1/heartbeat"));
    }
}

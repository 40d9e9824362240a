//! Shared subscriptions: each message to one member of the group.

use std::sync::{Arc, Mutex};

use crate::support::host::House;
use crate::support::{Client, Publish, Server, VERSIONS, Version, wait_until};

/// What each client got, up to the end marker it is also subscribed to.
fn shares(members: &mut [Client], writer: &mut Client) -> Vec<Vec<String>> {
    writer.publish(&Publish::new("end", "").qos(1));
    let texts = |member: &mut Client| {
        member.messages_until("end").iter().map(|message| message.text().to_owned()).collect()
    };
    members.iter_mut().map(texts).collect()
}

fn member(server: &Server, version: Version, id: &str, filter: &str) -> Client {
    let mut member = server.plain(version, id);
    assert_eq!(member.subscribe_all(&[(filter, 1), ("end", 1)], &[]), [1, 1]);
    member
}

#[test]
fn each_message_goes_to_one_member_of_each_group() {
    let server = Server::start();
    let mut writer = server.plain(Version::V4, "writer");
    let groups = ["a", "a", "a", "b", "b"];
    let mut members: Vec<Client> = (0..)
        .zip(groups)
        .map(|(at, group)| {
            let filter = format!("$share/{group}/work/+");
            member(&server, VERSIONS[at % 2], &format!("member-{at}"), &filter)
        })
        .collect();
    for number in 0..60 {
        writer.publish(&Publish::new("work/x", number.to_string()).qos(1));
    }
    let shares = shares(&mut members, &mut writer);
    for group in [&shares[..3], &shares[3..]] {
        let mut all: Vec<u32> = group.concat().iter().map(|text| text.parse().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..60).collect::<Vec<_>>(), "each once");
        assert!(group.iter().all(|share| share.len() >= 60 / group.len() / 2), "{group:?}");
    }
}

#[test]
fn a_member_that_leaves_takes_no_share_along() {
    let server = Server::start();
    let mut writer = server.plain(Version::V4, "writer");
    let leaver = member(&server, Version::V5, "leaver", "$share/g/work");
    let quits = |mut client: Client| {
        client.unsubscribe(&["$share/g/work"]);
        client
    };
    let quitter = quits(member(&server, Version::V4, "quitter", "$share/g/work"));
    let stays = member(&server, Version::V4, "stays", "$share/g/work");
    leaver.disconnect();
    if server.is_ours() {
        wait_until("it is gone", || server.stats().sessions == 3);
    }
    for number in 0..30 {
        writer.publish(&Publish::new("work", number.to_string()).qos(1));
    }
    let shares = shares(&mut [quitter, stays], &mut writer);
    assert_eq!((shares[0].len(), shares[1].len()), (0, 30));
}

#[test]
fn retained_messages_are_not_for_groups() {
    let server = Server::start();
    if !server.is_ours() {
        return; // mosquitto 2.0.11 sends them
    }
    let mut writer = server.plain(Version::V5, "writer");
    writer.publish(&Publish::new("work", "kept").qos(1).retained());
    let member = member(&server, Version::V5, "member", "$share/g/work");
    writer.publish(&Publish::new("work", "live").qos(1));
    assert_eq!(shares(&mut [member], &mut writer), [["live"]]);
}

#[test]
fn a_malformed_share_is_refused() {
    let server = Server::start();
    if !server.is_ours() {
        return; // mosquitto closes the connection
    }
    for version in VERSIONS {
        let mut client = server.plain(version, "client");
        for filter in ["$share/g", "$share//a", "$share/+/a", "$share/#", "$share/g/"] {
            assert!(client.subscribe(filter, 1) >= 0x80, "{filter}");
        }
        client.ping();
    }
}

#[test]
fn the_authority_is_asked_for_the_filter_without_its_group() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let list = asked.clone();
    let house = House {
        may_subscribe: Box::new(move |_, filter| {
            list.lock().unwrap().push(filter.to_owned());
            filter != "secret/#"
        }),
        ..House::default()
    };
    let server = Server::with(house);
    let mut client = server.plain(Version::V5, "client");
    assert_eq!(client.subscribe("$share/g/secret/#", 1), 0x87);
    assert_eq!(*asked.lock().unwrap(), ["secret/#"]);
}

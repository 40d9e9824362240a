//! Rules that change while clients are there, or away; and whose a session is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::host::House;
use crate::support::properties::receive_maximum;
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, wait_until, wire};

/// A house where `secret` filters are allowed and `guest` users may stay until the flag is raised.
fn changing() -> (Server, Arc<AtomicBool>) {
    let strict = Arc::new(AtomicBool::new(false));
    let (subscribing, staying) = (strict.clone(), strict.clone());
    let house = House {
        may_subscribe: Box::new(move |_, filter| {
            !subscribing.load(Ordering::SeqCst) || !filter.contains("secret")
        }),
        may_stay: Box::new(move |who| {
            !staying.load(Ordering::SeqCst) || who.user.as_deref() != Some("guest")
        }),
        ..House::default()
    };
    (Server::with(house), strict)
}

fn change(server: &Server, strict: &AtomicBool) {
    strict.store(true, Ordering::SeqCst);
    server.broker().rules_changed();
}

/// Publishes to both topics and returns what the reader gets of them.
fn heard(server: &Server, reader: &mut Client) -> Vec<String> {
    let mut writer = server.plain(Version::V5, "writer");
    for topic in ["secret/a", "open", "end"] {
        writer.publish(&Publish::new(topic, "").qos(1));
    }
    reader.messages_until("end").into_iter().map(|message| message.topic).collect()
}

#[test]
fn a_subscription_that_is_no_longer_allowed_ends() {
    for version in VERSIONS {
        let (server, strict) = changing();
        let mut reader = server.plain(version, "reader");
        reader.subscribe_all(
            &[("secret/#", 1), ("$share/g/secret/+", 1), ("open", 1), ("end", 1)],
            &[],
        );
        assert_eq!(heard(&server, &mut reader), ["secret/a", "secret/a", "open"]);
        change(&server, &strict);
        wait_until("both are gone", || server.stats().subscriptions == 2);
        assert_eq!(heard(&server, &mut reader), ["open"]);
    }
}

#[test]
fn a_subscription_ends_also_while_its_client_is_away() {
    for version in VERSIONS {
        let (server, strict) = changing();
        let connect = Connect::persistent(version, "reader");
        let mut reader = server.connect(&connect);
        reader.subscribe_all(&[("secret/#", 1), ("open", 1), ("end", 1)], &[]);
        reader.disconnect();
        wait_until("it is away", || server.stats().connections == 0);
        change(&server, &strict);
        wait_until("it is gone", || server.stats().subscriptions == 2);
        let mut reader = server.connect(&connect);
        assert!(reader.session_present);
        assert_eq!(heard(&server, &mut reader), ["open"]);
    }
}

#[test]
fn who_may_no_longer_stay_is_sent_away_and_leaves_no_session() {
    for (version, code) in [(Version::V4, None), (Version::V5, Some(0x98))] {
        let (server, strict) = changing();
        let guest = |id| Connect::persistent(version, id).login("guest", "");
        let mut there = server.connect(&guest("there"));
        there.subscribe("a", 1);
        server.connect(&guest("away")).disconnect();
        let mut other = server.plain(version, "other");
        wait_until("one is away", || server.stats().connections == 2);
        assert_eq!(server.stats().sessions, 3);
        change(&server, &strict);
        assert_eq!(there.closed(), code);
        wait_until("both sessions are gone", || server.stats().sessions == 1);
        assert_eq!(server.stats().subscriptions, 0);
        other.ping();
    }
}

#[test]
fn retained_messages_on_their_way_stop_with_their_subscription() {
    let (server, strict) = changing();
    let mut writer = server.plain(Version::V5, "writer");
    for topic in ["secret/a", "secret/b", "secret/c", "secret/d"] {
        writer.publish(&Publish::new(topic, "x").qos(1).retained());
    }
    let mut reader = server.connect(&Connect::new(Version::V5, "reader").with(receive_maximum(2)));
    reader.acknowledges = false;
    reader.subscribe_all(&[("secret/#", 1), ("end", 0)], &[]);
    let ids = [reader.message().id, reader.message().id];
    change(&server, &strict);
    wait_until("the subscription is gone", || server.stats().subscriptions == 1);
    ids.iter().for_each(|id| reader.send(&wire::ack(wire::PUBACK, *id)));
    reader.ping();
    writer.publish(&Publish::new("end", ""));
    assert_eq!(reader.messages_until("end"), []);
}

#[test]
fn one_client_id_under_two_users_is_two_sessions_while_both_are_there() {
    for version in VERSIONS {
        let server = Server::start();
        let of = |user: &str| Connect::new(version, "same").login(user, "");
        let mut anna = server.connect(&of("anna"));
        let mut others =
            [of("bert"), Connect::new(version, "same")].map(|other| server.connect(&other));
        anna.ping();
        assert_eq!(server.stats().sessions, 3);
        let mut again = server.connect(&of("anna"));
        anna.closed();
        again.ping();
        others.iter_mut().for_each(Client::ping);
    }
}

#[test]
fn who_comes_back_finds_what_he_missed_whoever_used_his_client_id() {
    for version in VERSIONS {
        let server = Server::start();
        let of = |user: &str| Connect::persistent(version, "same").login(user, "");
        let mut anna = server.connect(&of("anna"));
        anna.subscribe("a", 1);
        anna.disconnect();
        wait_until("she is away", || server.stats().connections == 0);
        // Neither where he would come back to a session nor where he begins anew.
        for (clean, missed) in [(false, "1"), (true, "2")] {
            let mut bert = server.connect(&Connect { clean, ..of("bert") });
            assert!(!bert.session_present);
            assert_eq!(bert.publish(&Publish::new("a", missed).qos(1)), 0);
            assert_eq!(server.stats().subscriptions, 1);
            bert.disconnect();
            wait_until("he is away", || server.stats().connections == 0);
        }
        let mut anna = server.connect(&of("anna"));
        assert!(anna.session_present);
        assert_eq!([anna.message().payload, anna.message().payload], [b"1", b"2"]);
    }
}

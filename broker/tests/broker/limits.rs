//! Bounds on what a client may do: each refusal is told to its client and counted.

use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{Limits, MemoryStore};

use crate::support::host::House;
use crate::support::properties::{REASON_STRING, text, user};
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, wait_until};

fn reached(server: &Server, name: &str) -> u64 {
    let limits = server.stats().limits;
    limits.iter().find(|(known, _)| *known == name).expect("a limit of this name").1
}

#[test]
fn a_message_over_a_bound_is_refused_and_its_publisher_told() {
    let server = Server::limited(|limits| {
        limits.payload_max_bytes = 10;
        limits.topic_max_bytes = 12;
        limits.topic_levels_max = 3;
        limits.user_properties_max = 2;
    });
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("#", 1);
    let mut writer = server.plain(Version::V5, "writer");
    let crowded =
        (0..3).fold(Publish::new("a", "x"), |message, _| message.with(user("key", "value")));
    for (message, code, limit) in [
        (Publish::new("a", "0123456789x"), 0x97, "payload_max_bytes"),
        (Publish::new("longer than it", "x"), 0x90, "topic_max_bytes"),
        (Publish::new("a/b/c/d", "x"), 0x90, "topic_max_bytes"),
        (crowded, 0x97, "user_properties_max"),
    ] {
        let before = reached(&server, limit);
        let (answer, properties) = writer.publish_explained(&message.clone().qos(1));
        assert_eq!(answer, code, "{message:?}");
        assert!(text(&properties, REASON_STRING).is_some(), "{message:?} is explained");
        writer.publish(&message);
        writer.ping();
        assert_eq!(reached(&server, limit), before + 2);
    }
    let mut old = server.plain(Version::V4, "old");
    old.publish(&Publish::new("a", "0123456789x").qos(1));
    for fine in [Publish::new("a/b/c", "0123456789"), Publish::new("end", "")] {
        writer.publish(&fine.qos(1));
    }
    let came: Vec<_> = reader.messages_until("end").into_iter().map(|m| m.topic).collect();
    assert_eq!(came, ["a/b/c"]);
    assert_eq!(server.stats().refused, 9);
    assert_eq!(reader.subscribe_all(&[("a/b/c/d/#", 0), ("a/+/#", 0)], &[]), [0x8F, 0]);
}

#[test]
fn a_client_id_over_its_bound_is_refused() {
    let server = Server::limited(|limits| limits.client_id_max_bytes = 10);
    for (version, code) in [(Version::V4, 2), (Version::V5, 0x85)] {
        let connect = Connect::new(version, "0123456789x");
        assert_eq!(Client::try_connect(server.address, &connect).1, code);
        server.plain(version, "0123456789").ping();
    }
    assert_eq!(reached(&server, "client_id_max_bytes"), 2);
}

#[test]
fn who_leaves_session_after_session_keeps_nobody_else_out() {
    let server = Server::limited(|limits| limits.sessions_per_identity_max = 2);
    let mut reached_before = 0;
    for (version, code) in [(Version::V4, 3), (Version::V5, 0x97)] {
        let of = |id: &str, user: &str| Connect::persistent(version, id).login(user, "");
        for id in ["1", "2"] {
            server.connect(&of(id, "anna")).disconnect();
        }
        assert_eq!(Client::try_connect(server.address, &of("3", "anna")).1, code);
        assert_eq!(reached(&server, "sessions_per_identity_max"), reached_before + 1);
        server.connect(&of("1", "anna")).disconnect();
        server.connect(&Connect::new(version, "3").login("bert", "")).disconnect();
        let nameless = ["1", "2"].map(|id| server.plain(version, id));
        assert_eq!(Client::try_connect(server.address, &Connect::new(version, "3")).1, code);
        nameless.into_iter().for_each(Client::disconnect);
        for id in ["1", "2"] {
            let clean = Connect::new(version, id).login("anna", "");
            server.connect(&clean).disconnect();
        }
        wait_until("all have ended", || server.stats().sessions == 0);
        reached_before += 2;
    }
}

#[test]
fn an_identity_holds_so_many_retained_topics_until_it_clears_some() {
    let server = Server::limited(|limits| limits.retained_topics_per_identity_max = 2);
    let of = |id: &str, user: &str| server.connect(&Connect::new(Version::V5, id).login(user, ""));
    let (mut first, mut second) = (of("1", "anna"), of("2", "anna"));
    let retain = |client: &mut Client, topic: &str, payload: &str| {
        client.publish(&Publish::new(topic, payload).qos(1).retained())
    };
    assert_eq!(retain(&mut first, "a", "x"), 0);
    assert_eq!(retain(&mut second, "b", "x"), 0);
    assert_eq!(retain(&mut first, "c", "x"), 0x97, "the user counts, not the client id");
    assert_eq!(retain(&mut first, "b", "newer"), 0, "one it holds already");
    let mut other = server.plain(Version::V5, "other");
    assert_eq!(retain(&mut other, "c", "x"), 0);
    assert_eq!(retain(&mut first, "a", ""), 0);
    assert_eq!(retain(&mut second, "d", "x"), 0);
    assert_eq!(reached(&server, "retained_topics_per_identity_max"), 1);
}

#[test]
fn a_quota_counts_what_the_store_began_with() {
    let store = Arc::new(MemoryStore::new());
    let limits = Limits { retained_topics_per_identity_max: 1, ..Limits::default() };
    for code in [0, 0x97] {
        let server = Server::build(House::default(), limits.clone(), store.clone());
        let mut writer = server.plain(Version::V5, "same");
        let message = Publish::new(&format!("t/{code}"), "x").qos(1).retained();
        assert_eq!(writer.publish(&message), code);
        server.shutdown();
    }
}

#[test]
fn who_publishes_over_the_rate_is_slowed_and_loses_nothing() {
    for version in VERSIONS {
        let server = Server::limited(|limits| limits.publish_rate_max = 100);
        let mut reader = server.plain(version, "reader");
        reader.subscribe("t", 1);
        let mut writer = server.connect(&Connect::new(version, "writer").keep_alive(1));
        let start = std::time::Instant::now();
        // Less than its receive maximum at once, and three seconds' worth after the first.
        for count in 0..400_u32 {
            writer.send_publish(&Publish::new("t", count.to_string()).qos(1));
            if count % 50 == 49 {
                writer.ping();
            }
        }
        for count in 0..400_u32 {
            assert_eq!(reader.message().text(), count.to_string());
        }
        // A lower bound, which no busy machine can break.
        assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
        assert!(reached(&server, "publish_rate_max") > 0);
        writer.ping();
    }
}

#[test]
fn many_who_read_nothing_cannot_take_all_memory() {
    const BOUND: usize = 4 << 20;
    let server = Server::limited(|limits| {
        limits.queues_max_bytes = BOUND;
        limits.stuck_limit = Duration::from_secs(600);
        limits.stall_grace = Duration::from_millis(50);
    });
    // Away, each with a topic of its own, so that nothing is shared.
    for number in 0..20 {
        let version = VERSIONS[number % 2];
        let mut away = server.connect(&Connect::persistent(version, &format!("away-{number}")));
        away.subscribe(&format!("t/{number}"), 1);
        away.disconnect();
    }
    let mut healthy = server.plain(Version::V5, "healthy");
    healthy.subscribe("t/#", 1);
    let mut writer = server.plain(Version::V5, "writer");
    for round in 0..100 {
        for number in 0..20 {
            let message = Publish::new(&format!("t/{number}"), vec![b'x'; 10_000]);
            assert_eq!(writer.publish(&message.qos(1)), 0);
            assert_eq!(healthy.message().payload.len(), 10_000, "round {round}");
        }
    }
    let stats = server.stats();
    assert!(stats.queued_bytes < 2 * BOUND as u64, "{stats:?}");
    assert!(stats.queued_bytes > BOUND as u64 / 2, "{stats:?}");
    assert!(stats.dropped > 1_000 && reached(&server, "queues_max_bytes") > 0, "{stats:?}");
    // Who comes back and begins anew gives back what was kept for him.
    for number in 0..20 {
        server.plain(Version::V4, &format!("away-{number}")).disconnect();
    }
    drop(writer);
    wait_until("all of it is free again", || server.stats().queued_bytes == 0);
}

#[test]
fn unfinished_packets_count_too() {
    let server = Server::limited(|limits| limits.queues_max_bytes = 1 << 20);
    let packet = Publish::new("t", vec![b'x'; 900_000]).encode(Version::V5, 0);
    let mut slow: Vec<_> = (0..4)
        .map(|number| {
            let mut client = server.plain(Version::V5, &format!("slow-{number}"));
            client.send_anyway(&packet[..600_000]);
            client
        })
        .collect();
    wait_until("somebody had to go", || reached(&server, "queues_max_bytes") > 0);
    let mut other = server.plain(Version::V5, "other");
    other.subscribe("t", 0);
    assert_eq!(other.publish(&Publish::new("t", "x").qos(1)), 0);
    assert_eq!(other.message().text(), "x");
    slow.drain(..).for_each(Client::vanish);
    wait_until("all of it is free again", || server.stats().queued_bytes == 0);
}

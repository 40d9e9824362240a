//! A host that cannot keep a message at present: version 5 is told, version 3.1.1 has to come again.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use meshfs_broker::{Admitted, Refusal, RefusalReason};
use tokio::sync::oneshot;

use crate::support::host::House;
use crate::support::wire::{self, PUBACK, PUBREC};
use crate::support::{Connect, Packet, Publish, Server, VERSIONS, Version};

type Held = Arc<Mutex<Vec<oneshot::Sender<Result<(), Refusal>>>>>;

fn refusal(temporary: bool) -> Refusal {
    Refusal { reason: RefusalReason::QuotaExceeded, text: "full".into(), temporary }
}

/// Refuses at once what has the payload `now`, and holds what has the payload `hold`.
fn house(temporary: bool) -> (House, Held) {
    let held = Held::default();
    let holding = held.clone();
    let admit = move |message: &meshfs_broker::Incoming<'_>| match message.payload {
        b"now" => Admitted::Refused(refusal(temporary)),
        b"hold" => {
            let (say, said) = oneshot::channel();
            holding.lock().unwrap().push(say);
            Admitted::AcceptedWhen(Box::pin(async { said.await.unwrap_or(Ok(())) }))
        }
        _ => Admitted::Accepted,
    };
    (House { admit: Box::new(admit), ..House::default() }, held)
}

fn say(held: &Held, verdict: Result<(), Refusal>) {
    held.lock().unwrap().remove(0).send(verdict).expect("somebody waits");
}

#[test]
fn what_cannot_be_kept_now_is_told_in_version_5_and_not_acknowledged_in_3_1_1() {
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        for payload in ["now", "hold"] {
            let (house, held) = house(true);
            let server = Server::with(house);
            let mut reader = server.plain(Version::V5, "reader");
            reader.subscribe("t", 1);
            let message = Publish::new("t", payload).qos(qos);
            for version in VERSIONS {
                // Who is sent away to come again is alive: nobody hears the will.
                let connect = Connect::persistent(version, &format!("{version:?}"))
                    .will(Publish::new("t", "dead"));
                let mut writer = server.connect(&connect);
                writer.send(&message.encode(version, 7));
                if payload == "hold" {
                    assert_eq!(reader.message().text(), "hold");
                    say(&held, Err(refusal(true)));
                }
                if version == Version::V5 {
                    assert_eq!(writer.ack(kind, 7).0, 0x97);
                    writer.ping();
                    continue;
                }
                assert_eq!(writer.packets_until_closed(), [], "{payload} at QoS {qos}");
                // Sent again, it is a message like any other, and this time it is taken.
                let mut writer =
                    server.connect(&Connect::persistent(version, &format!("{version:?}")));
                let again = Publish::new("t", "again").qos(qos).duplicate();
                writer.send(&again.encode(version, 7));
                assert_eq!(writer.ack(kind, 7).0, 0);
                assert_eq!(reader.message().text(), "again");
            }
        }
    }
}

#[test]
fn what_is_refused_for_good_is_acknowledged_and_dropped_in_3_1_1_as_ever() {
    let (house, held) = house(false);
    let server = Server::with(house);
    let mut writer = server.plain(Version::V4, "writer");
    assert_eq!(writer.publish(&Publish::new("t", "now").qos(1)), 0);
    let id = writer.send_publish(&Publish::new("t", "hold").qos(1));
    writer.ping();
    say(&held, Err(refusal(false)));
    assert_eq!(writer.ack(PUBACK, id).0, 0);
    writer.ping();
}

#[test]
fn what_was_acknowledged_before_the_refusal_still_is() {
    let (house, held) = house(true);
    let server = Server::with(house);
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t", 1);
    let mut writer = server.plain(Version::V4, "writer");
    for (id, payload) in [(1, "hold"), (2, "fine"), (3, "hold"), (4, "fine")] {
        writer.send(&Publish::new("t", payload).qos(1).encode(Version::V4, id));
        reader.message();
    }
    say(&held, Ok(()));
    for id in [1, 2] {
        assert_eq!(writer.ack(PUBACK, id).0, 0);
    }
    say(&held, Err(refusal(true)));
    assert_eq!(writer.packets_until_closed(), [], "an acknowledgement overtook a refusal");
}

#[test]
fn a_qos_2_message_sent_again_while_the_host_thinks_is_still_the_same_one() {
    for version in VERSIONS {
        let (house, held) = house(true);
        let server = Server::with(house);
        let mut reader = server.plain(Version::V5, "reader");
        reader.subscribe("t", 1);
        let connect = Connect::persistent(version, "writer");
        let message = Publish::new("t", "hold").qos(2);
        let mut writer = server.connect(&connect);
        writer.send(&message.encode(version, 7));
        assert_eq!(reader.message().text(), "hold");
        writer.vanish();
        let mut writer = server.connect(&connect);
        writer.send(&message.duplicate().encode(version, 7));
        writer.send(&[0xC0, 0]);
        assert_eq!(writer.next(), Packet::Pingresp, "received before the host said so");
        say(&held, Ok(()));
        assert_eq!(writer.ack(PUBREC, 7).0, 0);
        writer.send(&wire::ack(wire::PUBREL, 7));
        writer.ack(wire::PUBCOMP, 7);
        reader.subscribe("end", 0);
        reader.publish(&Publish::new("end", "x"));
        assert!(reader.messages_until("end").is_empty(), "delivered twice");
    }
}

#[test]
fn the_host_knows_whether_anybody_hears_its_answer() {
    let heard = Arc::new((AtomicUsize::new(0), AtomicBool::new(true)));
    let noted = heard.clone();
    let admit = move |message: &meshfs_broker::Incoming<'_>| {
        noted.0.fetch_add(1, SeqCst);
        noted.1.store(message.awaited, SeqCst);
        Admitted::Accepted
    };
    let server = Server::with(House { admit: Box::new(admit), ..House::default() });
    let mut watcher = server.plain(Version::V5, "watcher");
    watcher.subscribe("#", 0);
    let connect = Connect::new(Version::V4, "writer").will(Publish::new("will", "x").qos(1));
    let mut writer = server.connect(&connect);
    for (qos, awaited) in [(0, false), (1, true), (2, true)] {
        writer.send_publish(&Publish::new("t", "x").qos(qos));
        watcher.message();
        assert_eq!(heard.1.load(SeqCst), awaited, "QoS {qos}");
    }
    writer.vanish();
    assert_eq!(watcher.message().topic, "will");
    assert!(!heard.1.load(SeqCst), "its sender is gone");
    assert_eq!(heard.0.load(SeqCst), 4);
}

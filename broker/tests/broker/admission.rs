//! What the host says about a message, and what its publisher hears of it.

use std::sync::{Arc, Mutex};

use meshfs_broker::{Admitted, MemoryStore, Refusal, RefusalReason, Retention};

use crate::support::host::House;
use crate::support::properties::{self, REASON_STRING};
use crate::support::wire::{self, PUBACK, PUBREC};
use crate::support::{Connect, Packet, Publish, Server, VERSIONS, Version};

fn refusal() -> Refusal {
    let reason = RefusalReason::PayloadFormatInvalid;
    Refusal { reason, text: "no reason given".into(), temporary: false }
}

/// Refuses what is published below `bad/`.
fn strict() -> House {
    House {
        admit: Box::new(|message| match message.topic.starts_with("bad/") {
            true => Admitted::Refused(refusal()),
            false => Admitted::Accepted,
        }),
        ..House::default()
    }
}

#[test]
fn a_refused_message_is_neither_delivered_nor_stored_and_its_publisher_is_told() {
    let store = Arc::new(MemoryStore::new());
    let server = Server::build(strict(), meshfs_broker::Limits::default(), store.clone());
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("#", 2);
    for version in VERSIONS {
        let mut writer = server.plain(version, "writer");
        for qos in 0..=2 {
            let bad = Publish::new("bad/x", "x").qos(qos).retained();
            let (code, explanation) = writer.publish_explained(&bad);
            let told = version == Version::V5 && qos > 0;
            assert_eq!(code, if told { 0x99 } else { 0 });
            let text = properties::text(&explanation, REASON_STRING);
            assert_eq!(text, told.then_some("no reason given"));
            assert_eq!(writer.publish(&Publish::new("good", "x").qos(qos)), 0);
        }
        writer.ping();
    }
    reader.subscribe("end", 0);
    reader.publish(&Publish::new("end", "x"));
    let topics: Vec<_> = reader.messages_until("end").into_iter().map(|m| m.topic).collect();
    assert_eq!(topics, ["good"; 6]);
    assert!(store.is_empty());
    assert_eq!(server.stats().refused, 6);
}

#[test]
fn a_refusal_is_not_explained_to_those_who_do_not_want_it_or_have_no_room() {
    let server = Server::with(strict());
    let plain = || Connect::new(Version::V5, "writer");
    let unwilling = plain().with(properties::request_problem_information(false));
    let small = plain().with(properties::maximum_packet_size(10));
    for connect in [unwilling, small] {
        let mut writer = server.connect(&connect);
        let answer = writer.publish_explained(&Publish::new("bad/x", "x").qos(1));
        assert_eq!(answer, (0x99, vec![]));
    }
}

#[test]
fn a_refused_qos_2_message_frees_its_packet_id() {
    let server = Server::with(strict());
    let mut client = server.plain(Version::V5, "client");
    client.subscribe("good", 2);
    client.send(&Publish::new("bad/x", "x").qos(2).encode(Version::V5, 7));
    assert_eq!(client.ack(PUBREC, 7).0, 0x99);
    client.send(&Publish::new("good", "x").qos(2).encode(Version::V5, 7));
    assert_eq!(client.ack(PUBREC, 7).0, 0);
    client.send(&wire::ack(wire::PUBREL, 7));
    client.ack(wire::PUBCOMP, 7);
    assert_eq!(client.message().topic, "good");
}

#[test]
fn the_host_decides_what_is_retained() {
    let store = Arc::new(MemoryStore::new());
    let house = House {
        retention: Box::new(|topic| match topic.split('/').next() {
            Some("always") => Retention::Always,
            Some("never") => Retention::Never,
            _ => Retention::AsPublished,
        }),
        ..House::default()
    };
    let server = Server::build(house, meshfs_broker::Limits::default(), store.clone());
    let mut client = server.plain(Version::V4, "client");
    client.subscribe("#", 1);
    for retain in [false, true] {
        for topic in ["always", "never", "as-published"] {
            let topic = format!("{topic}/{retain}");
            client.publish(&Publish { retain, ..Publish::new(&topic, "x").qos(1) });
            assert_eq!(client.message().topic, topic);
        }
    }
    let kept = |topic: &str| store.get(topic).is_some();
    assert!(kept("always/false") && kept("always/true") && kept("as-published/true"));
    assert_eq!(store.len(), 3);
    // An empty payload removes what counts as retained, and nothing else.
    client.publish(&Publish::new("always/false", "").qos(1));
    client.publish(&Publish::new("as-published/true", "").qos(1));
    client.publish(&Publish::new("never/true", "").qos(1).retained());
    assert!(!kept("always/false") && kept("always/true") && kept("as-published/true"));
    assert_eq!(store.len(), 2);
}

/// Holds every message whose payload is `hold` until its turn comes.
fn patient() -> (House, Gate) {
    let gate = Gate::default();
    let waiting = gate.clone();
    let admit = move |message: &meshfs_broker::Incoming<'_>| {
        if message.payload != b"hold" {
            return Admitted::Accepted;
        }
        let (open, opened) = tokio::sync::oneshot::channel();
        waiting.0.lock().unwrap().push(Some(open));
        Admitted::AcceptedWhen(Box::pin(async { opened.await.unwrap_or(Ok(())) }))
    };
    (House { admit: Box::new(admit), ..House::default() }, gate)
}

type Opener = tokio::sync::oneshot::Sender<Result<(), Refusal>>;

#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Vec<Option<Opener>>>>);

impl Gate {
    fn open(&self, at: usize, verdict: Result<(), Refusal>) {
        self.0.lock().unwrap()[at].take().expect("opened once").send(verdict).expect("awaited");
    }
}

#[test]
fn an_acknowledgement_waits_for_the_host_and_keeps_its_place() {
    for version in VERSIONS {
        let (house, gate) = patient();
        let server = Server::with(house);
        let mut reader = server.plain(version, "reader");
        reader.subscribe("t", 1);
        let mut writer = server.plain(version, "writer");
        for payload in ["hold", "at once", "hold", "hold"] {
            writer.send_publish(&Publish::new("t", payload).qos(1));
        }
        for payload in ["hold", "at once", "hold", "hold"] {
            assert_eq!(reader.message().text(), payload, "delivery does not wait");
        }
        let mut answers = Vec::new();
        for opened in [1, 0, 2] {
            writer.send(&[0xC0, 0]);
            loop {
                match writer.next() {
                    Packet::Pingresp => break,
                    Packet::Ack { kind: PUBACK, id, .. } => answers.push(id),
                    other => panic!("{other:?}"),
                }
            }
            if opened < 2 {
                assert_eq!(answers, [0_u16; 0], "the first message is not safe yet");
            }
            let verdict = if opened == 2 { Err(refusal()) } else { Ok(()) };
            gate.open(opened, verdict);
        }
        while answers.len() < 3 {
            match writer.next() {
                Packet::Ack { kind: PUBACK, id, code: 0, .. } => answers.push(id),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answers, [1, 2, 3]);
        let (code, _) = writer.ack(PUBACK, 4);
        assert_eq!(code, if version == Version::V5 { 0x99 } else { 0 });
    }
}

#[test]
fn qos_2_is_received_when_the_host_says_so() {
    let (house, gate) = patient();
    let server = Server::with(house);
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t", 2);
    let mut writer = server.plain(Version::V5, "writer");
    let id = writer.send_publish(&Publish::new("t", "hold").qos(2));
    assert_eq!(reader.message().text(), "hold");
    writer.send(&[0xC0, 0]);
    assert_eq!(writer.next(), Packet::Pingresp, "PUBREC came too early");
    gate.open(0, Ok(()));
    assert_eq!(writer.ack(PUBREC, id).0, 0);
    writer.send(&wire::ack(wire::PUBREL, id));
    writer.ack(wire::PUBCOMP, id);
}

#[test]
fn a_publisher_that_leaves_while_the_host_thinks_harms_nobody() {
    let (house, gate) = patient();
    let server = Server::with(house);
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("t", 1);
    let mut writer = server.plain(Version::V4, "writer");
    writer.send_publish(&Publish::new("t", "hold").qos(1));
    assert_eq!(reader.message().text(), "hold");
    writer.vanish();
    crate::support::wait_until("the writer is gone", || server.stats().connections == 1);
    let held = gate.0.lock().unwrap()[0].take().expect("still held");
    let _ = held.send(Ok(()));
    let mut next = server.plain(Version::V4, "writer");
    assert_eq!(next.publish(&Publish::new("t", "next").qos(1)), 0);
    assert_eq!(reader.message().text(), "next");
}

//! A host or a reader that is behind slows its publishers down, and nobody else.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use meshfs_broker::{Admitted, BoxFuture, Identity, Limits, MemoryStore, Outgoing, QoS};

use crate::support::host::House;
use crate::support::properties::{RECEIVE_MAXIMUM, number};
use crate::support::{Client, Connect, Publish, Server, VERSIONS, Version, wait_until, wire};

/// A host that takes nothing before it is told to.
#[derive(Clone, Default)]
struct Busy {
    ready: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Busy {
    fn house(&self) -> House {
        let busy = self.clone();
        let ready = move || {
            busy.asked.fetch_add(1, Ordering::SeqCst);
            let gate = busy.ready.clone();
            (!gate.load(Ordering::SeqCst)).then(|| -> BoxFuture<'static, ()> {
                Box::pin(async move {
                    while !gate.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                })
            })
        };
        House { ready: Box::new(ready), ..House::default() }
    }
}

#[test]
fn a_host_that_is_not_ready_holds_publishers_and_nobody_else() {
    const COUNT: u32 = 40_000;
    let busy = Busy::default();
    let server = Server::with(busy.house());
    let mut reader = server.plain(Version::V4, "reader");
    reader.subscribe("t", 0);
    let address = server.address;
    let writer = std::thread::spawn(move || {
        let mut writer = Client::plain(address, Version::V4, "writer");
        for count in 0..COUNT {
            let mut payload = vec![b'x'; 1000];
            payload[..6].copy_from_slice(format!("{count:06}").as_bytes());
            writer.publish(&Publish::new("t", payload));
        }
    });
    wait_until("the host was asked", || busy.asked.load(Ordering::SeqCst) > 0);
    // 40 MB do not fit into the buffers of a socket: only a broker that reads on takes them all.
    for _ in 0..20 {
        reader.ping();
        std::thread::sleep(Duration::from_millis(25));
        assert!(!writer.is_finished(), "read on although the host was not ready");
    }
    assert!(server.stats().messages_in < u64::from(COUNT) / 4, "{:?}", server.stats());
    busy.ready.store(true, Ordering::SeqCst);
    for count in 0..COUNT {
        assert_eq!(&reader.message().payload[..6], format!("{count:06}").as_bytes());
    }
    writer.join().unwrap();
}

#[test]
fn a_publisher_the_host_holds_up_is_not_taken_for_dead() {
    let busy = Busy::default();
    let server = Server::with(busy.house());
    busy.ready.store(true, Ordering::SeqCst);
    let mut writer = server.connect(&Connect::new(Version::V5, "held").keep_alive(1));
    assert_eq!(writer.publish(&Publish::new("t", "x").qos(1)), 0);
    busy.ready.store(false, Ordering::SeqCst);
    // It goes on talking; that nobody reads it is not its fault.
    for _ in 0..6 {
        writer.send_publish(&Publish::new("t", "x").qos(1));
        std::thread::sleep(Duration::from_millis(500));
    }
    busy.ready.store(true, Ordering::SeqCst);
    writer.ping();
}

#[test]
fn a_publisher_a_slow_reader_holds_up_is_not_taken_for_dead() {
    let limits = Limits {
        queue_max_messages: 20,
        inflight_max: 10,
        stuck_limit: Duration::from_secs(60),
        stall_grace: Duration::from_secs(60),
        ..Limits::default()
    };
    let server = Server::build(House::default(), limits, Arc::new(MemoryStore::new()));
    let mut reader = server.plain(Version::V4, "reader");
    reader.acknowledges = false;
    reader.subscribe("t", 1);
    let mut writer = server.connect(&Connect::new(Version::V5, "held").keep_alive(1));
    let mut sent = 0;
    for _ in 0..6 {
        // Within its receive maximum, and more than the reader's queue and window take.
        for _ in 0..60 {
            writer.send_publish(&Publish::new("t", "x").qos(1));
            sent += 1;
        }
        writer.send_anyway(&[0xC0, 0]);
        std::thread::sleep(Duration::from_millis(500));
    }
    // The ten in flight have been read, but not acknowledged.
    for _ in 0..sent {
        let id = reader.message().id;
        reader.send(&wire::ack(wire::PUBACK, id));
    }
    writer.ping();
}

#[test]
fn a_publisher_that_is_held_up_can_be_taken_over() {
    for version in VERSIONS {
        let busy = Busy::default();
        let server = Server::with(busy.house());
        let mut held = server.plain(version, "same");
        for _ in 0..10 {
            held.send_publish(&Publish::new("t", [b'x'; 1000]).qos(1));
        }
        wait_until("the host was asked", || busy.asked.load(Ordering::SeqCst) > 0);
        let mut next = server.plain(version, "same");
        next.ping();
        held.closed();
        assert_eq!(server.stats().connections, 1);
    }
}

#[test]
fn acknowledgements_the_host_never_gives_are_bounded_and_do_not_stop_a_shutdown() {
    let house = House {
        admit: Box::new(|_| Admitted::AcceptedWhen(Box::pin(std::future::pending()))),
        ..House::default()
    };
    let server = Server::with(house);
    let mut patient = server.plain(Version::V5, "patient");
    let allowed = number(&patient.connack_properties, RECEIVE_MAXIMUM).expect("receive maximum");
    for _ in 0..allowed {
        patient.send_publish(&Publish::new("t", "x").qos(1));
    }
    patient.ping();
    let mut greedy = server.plain(Version::V5, "greedy");
    for _ in 0..=allowed + 1 {
        greedy.send_publish(&Publish::new("t", "x").qos(1));
    }
    assert_eq!(greedy.closed(), Some(0x93));
    let mut old = server.plain(Version::V4, "old");
    for _ in 0..allowed * 4 {
        old.send_publish(&Publish::new("t", "x").qos(1));
    }
    wait_until("it is read no further", || server.stats().messages_in >= u64::from(allowed) * 3);
    server.shutdown();
    assert_eq!(patient.closed(), Some(0x8B));
    old.closed();
}

#[test]
fn a_reader_that_drips_is_sent_away_and_holds_nobody_up_for_long() {
    let server = Server::limited(|limits| {
        limits.queue_max_messages = 1_000;
        limits.stuck_limit = Duration::from_secs(1);
    });
    let mut drip = server.plain(Version::V4, "drip");
    drip.subscribe("t", 1);
    let mut healthy = server.plain(Version::V4, "healthy");
    healthy.subscribe("t", 1);
    let over = Arc::new(AtomicBool::new(false));
    let (mut stream, until) = (drip.sender(), over.clone());
    let dripping = std::thread::spawn(move || {
        // One byte now and then, for as long as there is a connection.
        while !until.load(Ordering::SeqCst) && matches!(stream.read(&mut [0; 1]), Ok(1)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let address = server.address;
    let writer = std::thread::spawn(move || {
        let mut writer = Client::plain(address, Version::V5, "writer");
        for _ in 0..20_000 {
            writer.publish(&Publish::new("t", [b'x'; 1000]).qos(1));
        }
    });
    for _ in 0..20_000 {
        healthy.message();
    }
    writer.join().unwrap();
    wait_until("the one that drips is gone", || server.stats().connections == 1);
    over.store(true, Ordering::SeqCst);
    drop(drip);
    dripping.join().unwrap();
}

#[test]
fn the_host_waits_for_a_slow_reader_instead_of_losing_messages() {
    let server = Server::limited(|limits| {
        limits.queue_max_messages = 50;
        limits.stall_grace = Duration::from_secs(60);
        limits.stuck_limit = Duration::from_secs(60);
    });
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t", 1);
    let publishing = host_publishes(&server, 3_000, 0);
    for number in 0..3_000_u32 {
        assert_eq!(reader.message().text(), number.to_string());
    }
    server.runtime().block_on(publishing).unwrap();
    assert_eq!(server.stats().dropped, 0);
}

#[test]
fn a_reader_that_holds_the_host_up_has_to_go() {
    let server = Server::limited(|limits| {
        limits.queue_max_messages = 50;
        limits.stall_grace = Duration::from_secs(600);
        limits.stuck_limit = Duration::from_secs(600);
        limits.host_patience = Duration::from_millis(100);
    });
    // By the other rules it has ten minutes; it reads nothing at all.
    let mut slow = server.plain(Version::V5, "slow");
    slow.subscribe("t", 1);
    let publishing = host_publishes(&server, 3_000, 10_000);
    server.runtime().block_on(publishing).unwrap();
    wait_until("the slow reader is gone", || server.stats().connections == 0);
}

/// The host publishes numbers to `t`, each followed by so many bytes.
fn host_publishes(server: &Server, count: u32, padding: usize) -> tokio::task::JoinHandle<()> {
    let broker = server.broker().clone();
    let by = Arc::new(Identity { client_id: "hub".into(), user: None, address: None, note: 0 });
    server.runtime().spawn(async move {
        for number in 0..count {
            let message = Outgoing {
                topic: "t".into(),
                payload: format!("{number}{}", "x".repeat(padding)).into(),
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: bytes::Bytes::new(),
                expiry: None,
            };
            broker.publish(&by, message).await.expect("is accepted");
        }
    })
}

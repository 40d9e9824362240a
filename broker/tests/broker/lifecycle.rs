//! Start and stop.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{Broker, Limits, MemoryStore, RetainedStore, Settings, StartError};

use crate::support::host::House;
use crate::support::{Connect, LIMIT, Packet, Publish, Server, VERSIONS, Version, wait_until};

async fn start(listen: Vec<SocketAddr>) -> Result<Broker, StartError> {
    let house = Arc::new(House::default());
    let listen = listen.into_iter().map(Into::into).collect();
    let settings = Settings { listen, limits: Limits::default() };
    Broker::start(settings, house.clone(), house, Arc::new(MemoryStore::new())).await
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let taken = TcpListener::bind(any_port()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = start(vec![any_port(), address]).await.expect_err("the port is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    assert_eq!(cause.expect("cause is kept").kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn port_0_takes_a_free_port_for_each_address() {
    let broker = start(vec![any_port(), any_port()]).await.unwrap();
    let addresses = broker.addresses().to_vec();
    assert_eq!(addresses.len(), 2);
    assert_ne!(addresses[0], addresses[1]);
    assert!(addresses.iter().all(|address| address.port() != 0));
    let pinged = tokio::task::spawn_blocking(move || {
        for address in addresses {
            crate::support::Client::plain(address, Version::V5, "client").ping();
        }
    });
    pinged.await.unwrap();
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn nowhere_to_listen_is_an_error() {
    assert!(start(Vec::new()).await.is_err());
}

#[test]
fn shutdown_says_goodbye_and_frees_the_port() {
    let server = Server::start();
    let mut old = server.plain(Version::V4, "old");
    let mut new = server.plain(Version::V5, "new");
    let silent = TcpStream::connect(server.address).unwrap();
    server.shutdown();
    assert_eq!(new.closed(), Some(0x8B));
    assert_eq!(old.closed(), None);
    drop(silent);
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
    TcpListener::bind(server.address).expect("the port is free");
    assert_eq!(server.stats().connections, 0);
    server.shutdown(); // a second time does no harm
}

#[test]
fn shutdown_publishes_no_wills() {
    let store = Arc::new(MemoryStore::new());
    let server = Server::build(House::default(), Limits::default(), store.clone());
    let mut clients = Vec::new();
    for version in VERSIONS {
        let will = Publish::new("will", "gone").retained();
        clients.push(server.connect(&Connect::new(version, &format!("{version:?}")).will(will)));
    }
    server.shutdown();
    for client in &mut clients {
        client.closed();
    }
    assert!(store.is_empty(), "a will was said for a client that did nothing wrong");
}

#[test]
fn shutdown_writes_out_what_is_queued() {
    let server = Server::start();
    let mut reader = server.plain(Version::V5, "reader");
    reader.subscribe("t", 0);
    let mut writer = server.plain(Version::V4, "writer");
    for _ in 0..3_000 {
        writer.publish(&Publish::new("t", vec![b'x'; 1000]));
    }
    writer.ping();
    let reading = std::thread::spawn(move || {
        let mut messages = 0;
        loop {
            match reader.next() {
                Packet::Publish(_) => messages += 1,
                Packet::Disconnect { code, .. } => break (messages, code),
                other => panic!("{other:?}"),
            }
        }
    });
    server.shutdown();
    assert_eq!(reading.join().unwrap(), (3_000, 0x8B));
}

#[test]
fn shutdown_does_not_wait_for_a_reader_that_never_reads() {
    let server = Server::start();
    let mut stuck = server.plain(Version::V4, "stuck");
    stuck.subscribe("t", 0);
    let mut writer = server.plain(Version::V4, "writer");
    for _ in 0..10_000 {
        writer.publish(&Publish::new("t", vec![b'x'; 1000]));
    }
    writer.ping();
    let shutdown = server.broker().shutdown(Duration::from_millis(500));
    server
        .runtime()
        .block_on(async { tokio::time::timeout(LIMIT, shutdown).await })
        .expect("shutdown keeps its limit");
    TcpListener::bind(server.address).expect("the port is free");
}

#[test]
fn retained_messages_outlive_the_broker_in_their_store() {
    let store = Arc::new(MemoryStore::new());
    let first = Server::build(House::default(), Limits::default(), store.clone());
    first.plain(Version::V5, "writer").publish(&Publish::new("t", "x").qos(1).retained());
    first.shutdown();
    let second = Server::build(House::default(), Limits::default(), store);
    let mut reader = second.plain(Version::V4, "reader");
    reader.subscribe("#", 1);
    assert_eq!(reader.message().text(), "x");
}

#[test]
fn a_dropped_broker_leaves_no_task_behind() {
    let store = Arc::new(MemoryStore::new());
    let server = Server::build(House::default(), Limits::default(), store.clone());
    let mut client = server.connect(&Connect::persistent(Version::V5, "client"));
    client.subscribe("#", 1);
    let address = server.address;
    let shared: Arc<dyn RetainedStore> = store;
    let runtime = server.drop_broker();
    client.closed();
    wait_until("the port is free", || TcpListener::bind(address).is_ok());
    wait_until("every task has ended", || Arc::strong_count(&shared) == 1);
    drop(runtime);
}

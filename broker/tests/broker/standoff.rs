//! Clients that publish faster than they read, to each other or to themselves.

use std::io::Write;
use std::thread::JoinHandle;

use crate::support::wire::PUBACK;
use crate::support::{Client, Connect, Packet, Publish, Server, Version};

fn subscriber(server: &Server, id: &str, to: &str) -> Client {
    let mut client = server.connect(&Connect::new(Version::V4, id));
    client.subscribe(to, 1);
    client
}

/// Publishes `count` messages at QoS 1 without waiting, while another thread reads and
/// acknowledges what comes in; returns how many messages came.
fn flood(mut reader: Client, to: &str, count: usize) -> JoinHandle<usize> {
    let mut sender = reader.sender();
    let to = to.to_owned();
    std::thread::spawn(move || {
        let writing = std::thread::spawn(move || {
            for number in 0..count {
                let message = Publish::new(&to, [b'x'; 100]).qos(1);
                let bytes = message.encode(Version::V4, (number % 60_000 + 1) as u16);
                sender.write_all(&bytes).expect("broker reads on in the end");
            }
        });
        let (mut messages, mut acknowledged) = (0, 0);
        while messages < count || acknowledged < count {
            match reader.next() {
                Packet::Publish(_) => messages += 1,
                Packet::Ack { kind: PUBACK, .. } => acknowledged += 1,
                other => panic!("{other:?}"),
            }
        }
        writing.join().unwrap();
        messages
    })
}

#[test]
fn two_clients_that_flood_each_other_both_finish() {
    let server = Server::limited(|limits| limits.queue_max_messages = 500);
    let (here, there) =
        (subscriber(&server, "here", "here"), subscriber(&server, "there", "there"));
    let (here, there) = (flood(here, "there", 10_000), flood(there, "here", 10_000));
    assert_eq!((here.join().unwrap(), there.join().unwrap()), (10_000, 10_000));
    assert_eq!(server.stats().dropped, 0);
}

#[test]
fn a_client_that_floods_itself_finishes() {
    // Over the bound, where others would wait for it; at four times the bound it would have to go.
    let server = Server::limited(|limits| limits.queue_max_messages = 3_000);
    assert_eq!(flood(subscriber(&server, "me", "me"), "me", 10_000).join().unwrap(), 10_000);
    assert_eq!(server.stats().dropped, 0);
}

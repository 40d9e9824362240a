//! Retained messages to a new subscriber, and the memory they take.

use std::io::Write;
use std::time::Instant;

use crate::Outcome;
use crate::connection::{Connection, acknowledge, publish, subscribe};
use crate::engine::Running;

/// Publishes `count` retained messages of 64 bytes at QoS 1 and waits until all are acknowledged.
pub fn fill(broker: &Running, count: usize) -> Outcome<()> {
    let mut writer = Connection::open(broker.address, "filler")?;
    for from in (0..count).step_by(100) {
        let window = from..count.min(from + 100);
        let mut batch = Vec::new();
        for number in window.clone() {
            let topic = format!("mesh/nodes/node-{number:06}/heartbeat");
            batch.extend(publish(&topic, 1, true, (number % 60_000 + 1) as u16, &[b'x'; 64]));
        }
        writer.stream.write_all(&batch)?;
        for _ in window {
            writer.frame()?.ok_or("no PUBACK for a retained message")?;
        }
    }
    Ok(())
}

/// Subscribes to everything; how many arrived of `count`, and the time to the last in ms.
pub fn replay(broker: &Running, qos: u8, count: usize) -> Outcome<(usize, f64)> {
    let mut reader = Connection::open(broker.address, "reader")?;
    let started = Instant::now();
    reader.stream.write_all(&subscribe("#", qos))?;
    let (mut received, mut last, mut acks) = (0, started, Vec::new());
    while received < count && reader.read_more()? {
        while let Some((first, body)) = reader.frames.next() {
            if first >> 4 == 3 {
                received += 1;
                last = Instant::now();
                if first >> 1 & 3 == 1 {
                    acknowledge(body, &mut acks);
                }
            }
        }
        reader.stream.write_all(&acks)?;
        acks.clear();
    }
    Ok((received, (last - started).as_secs_f64() * 1000.0))
}

//! How long one message takes at a modest rate, and how fast clients get in.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::connection::{Connection, acknowledge, publish};
use crate::engine::Running;

const RATE_HZ: u32 = 500;

/// Median and 99th percentile in microseconds of `count` messages, one every 2 ms.
pub fn latency(broker: &Running, qos: u8, count: usize) -> Outcome<(f64, f64)> {
    let mut reader = Connection::open(broker.address, "reader")?;
    reader.subscribe("latency", qos)?;
    let mut writer = Connection::open(broker.address, "writer")?;
    let started = Instant::now();
    let writing = std::thread::spawn(move || -> Outcome<()> {
        for number in 0..count {
            let due = started + Duration::from_secs(1) * number as u32 / RATE_HZ;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let mut payload = [b'x'; 64];
            payload[..8].copy_from_slice(&(started.elapsed().as_nanos() as u64).to_be_bytes());
            let id = (number % 60_000 + 1) as u16;
            writer.stream.write_all(&publish("latency", qos, false, id, &payload))?;
            if qos > 0 {
                writer.frame()?.ok_or("no PUBACK")?;
            }
        }
        Ok(())
    });
    let mut delays = Vec::with_capacity(count);
    while delays.len() < count {
        let (first, body) = reader.frame()?.ok_or("a message was lost")?;
        let now = started.elapsed().as_nanos() as u64;
        let payload = body.get(body.len() - 64..).ok_or("payload too short")?;
        let sent = u64::from_be_bytes(payload[..8].try_into()?);
        delays.push((now - sent) as f64 / 1000.0);
        if first >> 1 & 3 == 1 {
            let mut ack = Vec::new();
            acknowledge(&body, &mut ack);
            reader.stream.write_all(&ack)?;
        }
    }
    writing.join().map_err(|_| "writer panicked")??;
    delays.sort_by(f64::total_cmp);
    Ok((delays[count / 2], delays[count * 99 / 100]))
}

/// Clients per second that connect, are greeted and leave, from two threads.
pub fn connect_rate(broker: &Running, count: usize) -> Outcome<f64> {
    let address = broker.address;
    let started = Instant::now();
    let threads = [0, 1].map(|thread| {
        std::thread::spawn(move || -> Outcome<()> {
            for number in 0..count / 2 {
                let mut client = Connection::open(address, &format!("c{thread}-{number}"))?;
                client.stream.write_all(&[0xE0, 0])?;
            }
            Ok(())
        })
    });
    for thread in threads {
        thread.join().map_err(|_| "client panicked")??;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

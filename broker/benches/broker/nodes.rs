//! Many clients that say little: what they cost at rest, and at one heartbeat a second.

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::connection::{Connection, publish};
use crate::engine::Running;
use crate::workload::Measured;

/// The heartbeat that nodes send: so many bytes, the first eight of which say when.
const HEARTBEAT_BYTES: usize = 150;

/// Lets this process, and the brokers it starts, have so many sockets.
pub fn allow_open_files(count: u64) -> Outcome<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        limit.current = Some(limit.maximum.map_or(count, |maximum| maximum.min(count)));
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(())
}

/// Clients that have connected and say nothing more.
pub fn crowd(broker: &Running, count: usize) -> Outcome<Vec<std::net::TcpStream>> {
    let client = |number| Ok(Connection::open(broker.address, &format!("idle-{number}"))?.stream);
    (0..count).map(client).collect()
}

/// Clients with a heartbeat a second each, retained, QoS 1, at different moments of the second:
/// the processor time of the broker, and how old a heartbeat is when a subscriber has it.
pub fn nodes(broker: &Running, count: usize, seconds: u64) -> Outcome<Vec<Measured>> {
    let mut reader = Connection::open(broker.address, "reader")?;
    reader.subscribe("mesh/#", 0)?;
    let clients = crowd(broker, count)?;
    let began = Instant::now() + Duration::from_secs(1);
    let writing = std::thread::spawn(move || beat_all(clients, began, seconds));
    let expected = count * seconds as usize;
    let mut ages = Vec::with_capacity(expected);
    let mut processor = None;
    while ages.len() < expected {
        let Some((_, body)) = reader.frame()? else { break };
        processor.get_or_insert(broker.processor_s()?);
        let now = began.elapsed().as_nanos() as u64;
        let payload = body.get(body.len() - HEARTBEAT_BYTES..).ok_or("payload too short")?;
        let sent = u64::from_be_bytes(payload[..8].try_into()?);
        ages.push(now.saturating_sub(sent) as f64 / 1000.0);
    }
    let used = broker.processor_s()? - processor.ok_or("no heartbeat arrived")?;
    writing.join().map_err(|_| "a node panicked")??;
    ages.sort_by(f64::total_cmp);
    let lost = expected - ages.len();
    let (p50, p99) = (ages[ages.len() / 2], ages[ages.len() * 99 / 100]);
    let share = used / seconds as f64 * 100.0;
    Ok(vec![Measured { value: share, extra: 0.0, lost }, Measured { value: p50, extra: p99, lost }])
}

fn beat_all(clients: Vec<std::net::TcpStream>, began: Instant, seconds: u64) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let count = clients.len();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            let first = began + Duration::from_secs(1) * number as u32 / count as u32;
            tasks.spawn(beat(client, number, began, first, seconds));
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    })
}

async fn beat(
    client: std::net::TcpStream,
    number: usize,
    began: Instant,
    first: Instant,
    seconds: u64,
) -> Outcome<()> {
    client.set_nonblocking(true)?;
    let mut client = TcpStream::from_std(client)?;
    let topic = format!("mesh/nodes/n{number}/heartbeat");
    let mut payload = [b'x'; HEARTBEAT_BYTES];
    for second in 0..seconds {
        tokio::time::sleep_until((first + Duration::from_secs(second)).into()).await;
        payload[..8].copy_from_slice(&(began.elapsed().as_nanos() as u64).to_be_bytes());
        client.write_all(&publish(&topic, 1, true, 1, &payload)).await?;
        client.read_exact(&mut [0; 4]).await?; // its PUBACK
    }
    Ok(())
}

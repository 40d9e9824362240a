//! As many messages as a broker can take from some publishers to some subscribers.

use std::io::Write;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Outcome;
use crate::connection::{Connection, Frames, SILENCE, acknowledge, publish};
use crate::engine::Running;

/// Messages of one publisher that are not yet acknowledged.
const WINDOW: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub publishers: usize,
    pub subscribers: usize,
    pub qos: u8,
    pub payload_bytes: usize,
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    pub expected: usize,
    pub received: usize,
    pub elapsed: Duration,
    pub processor_s: f64,
}

impl Shape {
    /// Sends `count` messages in all, and waits until each subscriber has got them or is silent.
    pub fn run(self, broker: &Running, count: usize) -> Outcome<Delivered> {
        let each = count.div_ceil(self.publishers);
        let total = each * self.publishers;
        let mut readers = Vec::new();
        for number in 0..self.subscribers {
            let mut reader = Connection::open(broker.address, &format!("reader-{number}"))?;
            reader.subscribe("bench/#", self.qos)?;
            readers.push(reader);
        }
        let mut writers = Vec::new();
        for number in 0..self.publishers {
            let topic = format!("bench/writer-{number:02}");
            let writer = Connection::open(broker.address, &format!("writer-{number}"))?;
            writers.push((writer, topic));
        }
        let before = broker.processor_s()?;
        let started = Instant::now();
        let reading = std::thread::spawn(move || read_all(readers, total, self.qos));
        let writing = std::thread::spawn(move || self.write_all(writers, each));
        let received = reading.join().map_err(|_| "reader panicked")??;
        drop(writing); // a broker that lost messages may also never take the last ones
        let last = received.iter().map(|(_, at)| *at).max().unwrap_or(started);
        Ok(Delivered {
            expected: total * self.subscribers,
            received: received.iter().map(|(count, _)| count).sum(),
            elapsed: last - started,
            processor_s: broker.processor_s()? - before,
        })
    }

    fn write_all(self, writers: Vec<(Connection, String)>, each: usize) -> Outcome<()> {
        let payload = vec![b'x'; self.payload_bytes];
        if self.qos == 0 {
            let bursts: Vec<Vec<u8>> = writers
                .iter()
                .map(|(_, topic)| publish(topic, 0, false, 0, &payload).repeat(200))
                .collect();
            let mut writers = writers;
            for sent in (0..each).step_by(200) {
                for ((writer, _), burst) in writers.iter_mut().zip(&bursts) {
                    let frame = burst.len() / 200;
                    writer.stream.write_all(&burst[..frame * (each - sent).min(200)])?;
                }
            }
            return Ok(());
        }
        single_threaded()?.block_on(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for (writer, topic) in writers {
                tasks.spawn(write_acknowledged(writer, topic, payload.clone(), each));
            }
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
            Ok(())
        })
    }
}

/// Publishes at QoS 1 with a window, all free places of it in one write.
async fn write_acknowledged(
    writer: Connection,
    topic: String,
    payload: Vec<u8>,
    count: usize,
) -> Outcome<()> {
    writer.stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(writer.stream)?;
    let mut frames = writer.frames;
    let (mut sent, mut acknowledged, mut batch) = (0, 0, Vec::new());
    while acknowledged < count {
        while sent < count && sent - acknowledged < WINDOW {
            let id = (sent % 60_000 + 1) as u16;
            batch.extend(publish(&topic, 1, false, id, &payload));
            sent += 1;
        }
        stream.write_all(&batch).await?;
        batch.clear();
        let read = timeout(SILENCE, stream.read(frames.room())).await??;
        if read == 0 {
            return Err("the broker closed a publisher".into());
        }
        frames.filled(read);
        while frames.next().is_some() {
            acknowledged += 1;
        }
    }
    Ok(())
}

/// All subscribers in one thread; for each how many messages, and when the last one came.
fn read_all(readers: Vec<Connection>, total: usize, qos: u8) -> Outcome<Vec<(usize, Instant)>> {
    single_threaded()?.block_on(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for reader in readers {
            tasks.spawn(read_messages(reader, total, qos));
        }
        let mut counts = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            counts.push(ended??);
        }
        Ok(counts)
    })
}

async fn read_messages(reader: Connection, total: usize, qos: u8) -> Outcome<(usize, Instant)> {
    reader.stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(reader.stream)?;
    let mut frames: Frames = reader.frames;
    let (mut received, mut last, mut acks) = (0, Instant::now(), Vec::new());
    while received < total {
        let Ok(read) = timeout(SILENCE, stream.read(frames.room())).await else { break };
        match read? {
            0 => break,
            count => frames.filled(count),
        }
        while let Some((first, body)) = frames.next() {
            if first >> 4 == 3 {
                received += 1;
                if qos > 0 {
                    acknowledge(body, &mut acks);
                }
            }
        }
        last = Instant::now();
        stream.write_all(&acks).await?;
        acks.clear();
    }
    Ok((received, last))
}

fn single_threaded() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

//! What is measured, and in which unit.

use std::fmt;

use crate::Outcome;
use crate::engine::Running;
use crate::latency::{connect_rate, latency};
use crate::nodes::{crowd, nodes};
use crate::replay::{fill, replay};
use crate::throughput::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Throughput(Shape),
    Latency { qos: u8 },
    Connects,
    Idle,
    Connected { count: usize },
    Retained { count: usize },
    Nodes { count: usize, seconds: u64 },
}

/// A line of the table: what is measured, in which unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    /// What the second number is, if there is one.
    pub extra: Option<&'static str>,
}

/// One figure of one run.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub value: f64,
    pub extra: f64,
    pub lost: usize,
}

impl From<f64> for Measured {
    fn from(value: f64) -> Self {
        Self { value, extra: 0.0, lost: 0 }
    }
}

impl Workload {
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (publishers, subscribers) in [(50, 1), (1, 1), (1, 50)] {
            for (qos, payload_bytes) in [(0, 64), (0, 256), (1, 64), (1, 256)] {
                all.push(Self::Throughput(Shape { publishers, subscribers, qos, payload_bytes }));
            }
        }
        all.extend([
            Self::Latency { qos: 0 },
            Self::Latency { qos: 1 },
            Self::Connects,
            Self::Idle,
            Self::Connected { count: 5_000 },
            Self::Retained { count: 10_000 },
            Self::Retained { count: 100_000 },
            Self::Nodes { count: 1_000, seconds: 10 },
        ]);
        all
    }

    /// What a run measures, in the order in which it gives the numbers.
    pub fn figures(self) -> Vec<Figure> {
        let figure = |name: String, unit, extra| Figure { name, unit, extra };
        match self {
            Self::Throughput(Shape { publishers, subscribers, qos, payload_bytes }) => {
                let name = format!("QoS {qos}, {publishers} to {subscribers}, {payload_bytes} B");
                vec![figure(name, "msg/s", Some("us cpu/msg"))]
            }
            Self::Latency { qos } => {
                vec![figure(format!("latency QoS {qos}, 500/s"), "us p50", Some("us p99"))]
            }
            Self::Connects => vec![figure("connect and leave".into(), "conn/s", None)],
            Self::Idle => vec![figure("resident memory, idle".into(), "MiB", None)],
            Self::Connected { count } => {
                vec![figure(format!("resident memory, {count} clients"), "MiB", None)]
            }
            Self::Nodes { count, seconds } => vec![
                figure(format!("{count} clients at 1 Hz, {seconds} s"), "% of a core", None),
                figure("the same, to a # subscriber".into(), "us p50", Some("us p99")),
            ],
            Self::Retained { count } => vec![
                figure(format!("resident memory, {count} retained"), "MiB", None),
                figure(format!("{count} retained to new #, QoS 0"), "ms", None),
                figure(format!("{count} retained to new #, QoS 1"), "ms", None),
            ],
        }
    }

    /// `count` keeps, for one broker, how many messages fill the time of a run.
    pub fn run(
        self,
        broker: &Running,
        count: &mut Option<usize>,
        run_ms: u64,
    ) -> Outcome<Vec<Measured>> {
        match self {
            Self::Throughput(shape) => {
                let messages = match *count {
                    Some(messages) => messages,
                    None => *count.insert(calibrate(shape, broker, run_ms)?),
                };
                let delivered = shape.run(broker, messages)?;
                let received = delivered.received.max(1) as f64;
                Ok(vec![Measured {
                    value: received / delivered.elapsed.as_secs_f64().max(1e-9),
                    extra: delivered.processor_s / received * 1e6,
                    lost: delivered.expected - delivered.received,
                }])
            }
            Self::Latency { qos } => {
                let (value, extra) = latency(broker, qos, 600)?;
                Ok(vec![Measured { value, extra, lost: 0 }])
            }
            Self::Connects => Ok(vec![connect_rate(broker, 1_000)?.into()]),
            Self::Idle => Ok(vec![broker.resident_mib()?.into()]),
            Self::Connected { count } => {
                let clients = crowd(broker, count)?;
                let resident = broker.resident_mib()?;
                drop(clients);
                Ok(vec![resident.into()])
            }
            Self::Nodes { count, seconds } => nodes(broker, count, seconds),
            Self::Retained { count } => {
                fill(broker, count)?;
                let mut measured = vec![broker.resident_mib()?.into()];
                for qos in [0, 1] {
                    let (received, value) = replay(broker, qos, count)?;
                    measured.push(Measured { value, extra: 0.0, lost: count - received });
                }
                Ok(measured)
            }
        }
    }
}

/// Brokers differ a hundredfold, so each is given what it can do in the time of a run.
fn calibrate(shape: Shape, broker: &Running, run_ms: u64) -> Outcome<usize> {
    let mut count = 4_000;
    for _ in 0..3 {
        let delivered = shape.run(broker, count)?;
        let ms = delivered.elapsed.as_secs_f64() * 1000.0;
        if ms * 4.0 > run_ms as f64 || delivered.received < delivered.expected {
            count = (count as f64 * run_ms as f64 / ms.max(1.0)) as usize;
            break;
        }
        count *= 8;
    }
    Ok(count.clamp(2_000, 4_000_000))
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.2}), {} lost", self.value, self.extra, self.lost)
    }
}

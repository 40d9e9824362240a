//! What is measured, and in which unit.

use std::fmt;

use crate::Outcome;
use crate::engine::Running;
use crate::latency::{connect_rate, latency};
use crate::replay::{fill, replay};
use crate::throughput::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    Throughput(Shape),
    Latency { qos: u8 },
    Connects,
    Retained { qos: u8, count: usize },
    Memory { retained: usize },
}

/// One figure of one run, with what goes along with it.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub value: f64,
    /// 99th percentile for latencies, processor time in us a message for rates.
    pub extra: f64,
    pub lost: usize,
}

impl Workload {
    pub fn all() -> Vec<Self> {
        let shape = |publishers, subscribers, qos, payload_bytes| {
            Self::Throughput(Shape { publishers, subscribers, qos, payload_bytes })
        };
        vec![
            shape(50, 1, 1, 64),
            shape(1, 1, 0, 256),
            shape(1, 50, 0, 64),
            shape(1, 1, 1, 64),
            Self::Latency { qos: 0 },
            Self::Latency { qos: 1 },
            Self::Connects,
            Self::Retained { qos: 0, count: 10_000 },
            Self::Retained { qos: 1, count: 10_000 },
            Self::Retained { qos: 0, count: 100_000 },
            Self::Retained { qos: 1, count: 100_000 },
            Self::Memory { retained: 0 },
            Self::Memory { retained: 100_000 },
        ]
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput(_) => "msg/s",
            Self::Latency { .. } => "us p50",
            Self::Connects => "conn/s",
            Self::Retained { .. } => "ms",
            Self::Memory { .. } => "MiB",
        }
    }

    /// What the extra figure is, if there is one.
    pub fn extra(self) -> Option<&'static str> {
        match self {
            Self::Throughput(_) => Some("us cpu/msg"),
            Self::Latency { .. } => Some("us p99"),
            _ => None,
        }
    }

    /// `count` keeps, for one broker, how many messages fill the time of a run.
    pub fn run(
        self,
        broker: &Running,
        count: &mut Option<usize>,
        run_ms: u64,
    ) -> Outcome<Measured> {
        let plain = |value| Measured { value, extra: 0.0, lost: 0 };
        match self {
            Self::Throughput(shape) => {
                let messages = match *count {
                    Some(messages) => messages,
                    None => *count.insert(calibrate(shape, broker, run_ms)?),
                };
                let delivered = shape.run(broker, messages)?;
                let received = delivered.received.max(1) as f64;
                Ok(Measured {
                    value: received / delivered.elapsed.as_secs_f64().max(1e-9),
                    extra: delivered.processor_s / received * 1e6,
                    lost: delivered.expected - delivered.received,
                })
            }
            Self::Latency { qos } => {
                let (value, extra) = latency(broker, qos, 750)?;
                Ok(Measured { value, extra, lost: 0 })
            }
            Self::Connects => Ok(plain(connect_rate(broker, 2_000)?)),
            Self::Retained { qos, count } => {
                fill(broker, count)?;
                let (received, value) = replay(broker, qos, count)?;
                Ok(Measured { value, extra: 0.0, lost: count - received })
            }
            Self::Memory { retained } => {
                fill(broker, retained)?;
                Ok(plain(broker.resident_mib()?))
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

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Throughput(Shape { publishers, subscribers, qos, payload_bytes }) => {
                format!("QoS {qos}, {publishers} to {subscribers}, {payload_bytes} B")
            }
            Self::Latency { qos } => format!("latency QoS {qos}, 500/s"),
            Self::Connects => "connect and leave".into(),
            Self::Retained { qos, count } => format!("{count} retained to new # at QoS {qos}"),
            Self::Memory { retained: 0 } => "resident memory, idle".into(),
            Self::Memory { retained } => format!("resident memory, {retained} retained"),
        };
        f.pad(&text)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.2}), {} lost", self.value, self.extra, self.lost)
    }
}

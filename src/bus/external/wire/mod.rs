//! MQTT 3.1.1 and 5 by rumqttc, as one.
//!
//! Every connection is a client of its own that begins with nothing: what is to
//! be sent again is the outbox's to know. One task polls it, so that a poll is
//! never given up half way, and it stops reading when nobody takes what it heard.

mod v4;
mod v5;

use super::ExternalSettings;
use super::outbox::Item;
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Heard and not yet taken; then the broker is left waiting.
const HEARD_MAX: usize = 1024;
/// Requests that the client takes before it has sent them: more than are ever
/// under way, so that there is always room.
const REQUESTS: usize = 256;
/// Publications the client may have unacknowledged; the link keeps below it.
const INFLIGHT: u16 = 128;
/// How long the broker may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a connection may take to be made.
const CONNECT_LIMIT_S: u64 = 10;
/// Largest packet of the broker. Beyond it the connection is lost, so that it
/// is far above what the hub lets in.
const PACKET_MAX_BYTES: u32 = 64 << 20;

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1.
    V4,
    /// 5.0.
    V5,
}

impl Version {
    /// As people say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "3.1.1",
            Self::V5 => "5.0",
        }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::V4 => Self::V5,
            Self::V5 => Self::V4,
        }
    }
}

/// A message that the broker brings.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) topic: Box<str>,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) content_type: Option<String>,
    pub(super) user_properties: Vec<(String, String)>,
    pub(super) response_topic: Option<String>,
    pub(super) correlation: Option<Bytes>,
    pub(super) expiry_s: Option<u32>,
}

/// What happens on a connection.
#[derive(Debug)]
pub(super) enum Heard {
    /// The broker has let the hub in.
    Connected,
    /// A message.
    Message(Packet),
    /// An answer to SUBSCRIBE, and whether a filter was refused.
    Subscribed { refused: bool },
    /// An answer to UNSUBSCRIBE.
    Unsubscribed,
    /// The next publication of QoS 1 has got this packet id.
    Sent(u16),
    /// A publication was acknowledged, or refused for a reason.
    Acked(u16, Option<String>),
}

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) why: String,
    /// The broker's answer was not understood: it may speak another version.
    pub(super) misunderstood: bool,
}

/// The way to the task that polls the connection.
pub(super) enum Client {
    V4(rumqttc::AsyncClient),
    V5(rumqttc::v5::AsyncClient),
}

pub(super) type Events = mpsc::Receiver<Result<Heard, Lost>>;

/// Begins to connect.
pub(super) fn connect(
    settings: &ExternalSettings,
    version: Version,
    will: Bytes,
) -> (Client, Events) {
    let (tell, events) = mpsc::channel(HEARD_MAX);
    let client = match version {
        Version::V4 => Client::V4(v4::connect(settings, will, tell)),
        Version::V5 => Client::V5(v5::connect(settings, will, tell)),
    };
    (client, events)
}

impl Client {
    /// False if it could not be taken, because the connection is lost.
    pub(super) fn publish(&self, item: &Item) -> bool {
        match self {
            Self::V4(client) => v4::publish(client, item),
            Self::V5(client) => v5::publish(client, item),
        }
    }

    /// The same. What is retained comes with the retain flag, all else without.
    pub(super) fn subscribe(&self, filters: &[Box<str>]) -> bool {
        match self {
            Self::V4(client) => v4::subscribe(client, filters),
            Self::V5(client) => v5::subscribe(client, filters),
        }
    }

    /// The same.
    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        match self {
            Self::V4(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
        }
    }

    pub(super) fn disconnect(&self) {
        // It is about to be dropped in any case.
        let _ = match self {
            Self::V4(client) => client.try_disconnect().is_ok(),
            Self::V5(client) => client.try_disconnect().is_ok(),
        };
    }
}

/// A network that does not wait to fill its packets.
fn network() -> rumqttc::NetworkOptions {
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_LIMIT_S);
    network
}

fn transport(settings: &ExternalSettings) -> rumqttc::Transport {
    match &settings.tls {
        Some(config) => {
            rumqttc::Transport::tls_with_config(rumqttc::TlsConfiguration::Rustls(config.clone()))
        }
        None => rumqttc::Transport::tcp(),
    }
}

/// An error and its causes in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // rumqttc's messages already hold those of their causes.
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

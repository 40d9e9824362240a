//! Where the broker listens and what it bounds.

use std::{io, net::SocketAddr, time::Duration};

use crate::tls::Tls;

/// What [`Broker::start`](crate::Broker::start) needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen and how. Default: plain MQTT on 127.0.0.1:1883.
    pub listen: Vec<Listen>,
    /// Bounds on everything that comes from a client.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 1883)).into()];
        Self { listen, limits: Limits::default() }
    }
}

/// One address and what is spoken there. From a [`SocketAddr`]: plain MQTT.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The TCP address; port 0 takes a free one.
    pub address: SocketAddr,
    /// With TLS; the clone keeps to what the original reloads.
    pub tls: Option<Tls>,
    /// MQTT over WebSocket, on any path and for pages of any origin.
    pub websocket: bool,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, tls: None, websocket: false }
    }
}

/// Bounds on everything that comes from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet a client may send, in bytes after the fixed header.
    pub packet_max_bytes: usize,
    /// Connections at one time; more are closed as they come in.
    pub connections_max: usize,
    /// Connections at one time from one address (IPv6: one /64 network); this machine's own are
    /// not counted. 0: any.
    pub connections_per_address_max: usize,
    /// Longest client id; longer ones are refused.
    pub client_id_max_bytes: usize,
    /// Messages a client may publish a second; who sends more is read from later, nothing is
    /// lost. 0: any.
    pub publish_rate_max: u32,
    /// Bytes a client may send a second, in the same way. 0: any.
    pub publish_bytes_rate_max: u32,
    /// Longest payload; longer ones are refused (0x97).
    pub payload_max_bytes: usize,
    /// Longest topic or filter; longer ones are refused (0x90, 0x8F).
    pub topic_max_bytes: usize,
    /// Most levels of a topic, refused in the same way.
    pub topic_levels_max: usize,
    /// User properties of one message; with more it is refused (0x97).
    pub user_properties_max: usize,
    /// Topics on which one identity (the user, or without one the client id) may hold the retained
    /// message; a further one is refused (0x97). 0: any.
    pub retained_topics_per_identity_max: usize,
    /// Sessions at one time, those of absent clients included; more are refused at CONNECT.
    pub sessions_max: usize,
    /// Those of one identity (the user, or without one the address it came from), absent ones
    /// included; a further one is refused at CONNECT (0x97). 0: any.
    pub sessions_per_identity_max: usize,
    /// Subscriptions of one session; more are refused in the SUBACK.
    pub subscriptions_per_session_max: usize,
    /// Replays of retained messages in progress for one session; with more it is not read from.
    pub replays_per_session_max: usize,
    /// Retained messages waiting in these replays. One replay is always complete; with more
    /// waiting than this a further filter of the same SUBSCRIBE is refused.
    pub replay_max_messages: usize,
    /// Messages in the queue of one session.
    pub queue_max_messages: usize,
    /// Bytes in the queue of one session, and bytes sent to it that it has not acknowledged.
    pub queue_max_bytes: usize,
    /// Bytes in the queues of all sessions and of unfinished packets together. Beyond it nothing
    /// is queued for sessions that do not take what they have: as if their own queues were full.
    pub queues_max_bytes: usize,
    /// QoS 1 and 2 messages sent to one client that it has not acknowledged.
    pub inflight_max: usize,
    /// QoS 1 and 2 messages a version 5 client may send without an acknowledgement (receive
    /// maximum), and acknowledgements one client may be owed.
    pub receive_max: u16,
    /// From the TCP connection to the end of CONNECT; TLS, WebSocket and authentication included.
    pub handshake_limit: Duration,
    /// A client that has taken next to nothing for so long while its queue is full or its socket
    /// is blocked is disconnected.
    pub stuck_limit: Duration,
    /// A client that has taken less than 4 KiB for so long while its queue is full no longer
    /// slows its publishers down: it loses QoS 0 messages instead.
    pub stall_grace: Duration,
    /// How long one message of the host waits for a live subscriber whose queue is full; then that
    /// subscriber is disconnected, so that no reader, however slow, can hold the host up.
    pub host_patience: Duration,
    /// Longest life of a session without a connection; clients that ask for more get this.
    pub session_expiry_max: Duration,
    /// Longest keep-alive of a version 5 client, in seconds; those that ask for more or none are
    /// told to use this. 0: any.
    pub keep_alive_max_s: u16,
    /// Topic aliases a version 5 publisher may define, and most that are used towards a subscriber.
    pub topic_alias_max: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_max_bytes: 1 << 20,
            connections_max: 10_000,
            connections_per_address_max: 0,
            client_id_max_bytes: 65_535,
            publish_rate_max: 0,
            publish_bytes_rate_max: 0,
            payload_max_bytes: usize::MAX,
            topic_max_bytes: 65_535,
            topic_levels_max: 65_536,
            user_properties_max: 1_000,
            retained_topics_per_identity_max: 0,
            sessions_max: 20_000,
            sessions_per_identity_max: 10_000,
            subscriptions_per_session_max: 1_000,
            replays_per_session_max: 64,
            replay_max_messages: 1_000_000,
            queue_max_messages: 100_000,
            queue_max_bytes: 16 << 20,
            queues_max_bytes: 512 << 20,
            inflight_max: 1_000,
            receive_max: 1_000,
            handshake_limit: Duration::from_secs(10),
            stuck_limit: Duration::from_secs(10),
            stall_grace: Duration::from_secs(1),
            host_patience: Duration::from_secs(1),
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            keep_alive_max_s: 0,
            topic_alias_max: 16,
        }
    }
}

impl Limits {
    /// Is a topic or filter within its bounds?
    pub(crate) fn admit_topic(&self, topic: &str) -> bool {
        topic.len() <= self.topic_max_bytes && topic.split('/').count() <= self.topic_levels_max
    }
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as it was given.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no address to listen on.
    #[error("no address to listen on")]
    NoAddress,
}

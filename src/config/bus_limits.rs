//! Section `bus.limits`: bounds on the clients of the embedded broker.

use super::ConfigError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Section `bus.limits`; 0 is "any" where `config/meshfs.toml` says so.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BusLimits {
    /// Connections from one address.
    pub connections_per_address_max: usize,
    /// From the TCP connection to the end of CONNECT.
    #[serde(with = "humantime_serde")]
    pub handshake_limit: Duration,
    /// Longest client id.
    pub client_id_max_bytes: usize,
    /// Messages a client may send a second.
    pub publish_rate_max: u32,
    /// Bytes a client may send a second.
    pub publish_bytes_rate_max: u32,
    /// Retained topics of one user or client.
    pub retained_topics_per_identity_max: usize,
    /// Filters of one client.
    pub subscriptions_max: usize,
    /// Sessions at one time.
    pub sessions_max: usize,
    /// Sessions of one user or address.
    pub sessions_per_identity_max: usize,
    /// Longest life of a session without a connection.
    #[serde(with = "humantime_serde")]
    pub session_expiry_max: Duration,
    /// Unacknowledged messages to one client.
    pub inflight_max: usize,
    /// Messages kept for one client.
    pub queue_max_messages: usize,
    /// Bytes kept for one client.
    pub queue_max_bytes: usize,
    /// Bytes kept for all clients.
    pub queues_max_bytes: usize,
    /// How long a client may take next to nothing.
    #[serde(with = "humantime_serde")]
    pub stuck_limit: Duration,
}

impl BusLimits {
    /// Refuses what would leave no room to work in.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let at_least = [
            ("bus.limits.client_id_max_bytes", self.client_id_max_bytes, 23),
            ("bus.limits.subscriptions_max", self.subscriptions_max, 1),
            ("bus.limits.sessions_max", self.sessions_max, 1),
            ("bus.limits.inflight_max", self.inflight_max, 1),
            ("bus.limits.queue_max_messages", self.queue_max_messages, 1),
            ("bus.limits.queue_max_bytes", self.queue_max_bytes, 65_536),
            ("bus.limits.queues_max_bytes", self.queues_max_bytes, 1 << 20),
        ];
        for (key, value, least) in at_least {
            if value < least {
                let (value, why) = (value.to_string(), format!("at least {least}"));
                return Err(ConfigError::Refused { key, value, why });
            }
        }
        let times = [
            ("bus.limits.handshake_limit", self.handshake_limit),
            ("bus.limits.stuck_limit", self.stuck_limit),
        ];
        for (key, value) in times {
            if !(Duration::from_millis(100)..=Duration::from_secs(600)).contains(&value) {
                let value = humantime::format_duration(value).to_string();
                return Err(ConfigError::Refused { key, value, why: "100ms to 10m".into() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_limit_that_leaves_no_room_is_refused_by_its_name() {
        for (key, value) in [
            ("bus.limits.inflight_max", "0"),
            ("bus.limits.client_id_max_bytes", "22"),
            ("bus.limits.stuck_limit", "1ms"),
        ] {
            let error = Config::load(None, [], &[(key, value.to_owned())]).unwrap_err();
            assert!(error.to_string().starts_with(key), "{error}");
        }
    }
}

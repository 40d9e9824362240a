//! TOML, environment and flags to one checked [`Config`].
//!
//! Every fault is found here, at load, with the file, the key and the reason.
//! The built-in defaults are `config/meshfs.toml` itself, so the file cannot
//! disagree with the program.

mod bus;
mod bus_limits;
mod irc;
mod tls;

pub use bus::{Bus, BusMode, External, MqttVersion};
pub use bus_limits::BusLimits;
pub use irc::{Embedded, Irc, Network};
pub use tls::{BusTls, ClientCertificate, HttpTls};

use crate::name::Dataset;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The defaults, with the why of each: `config/meshfs.toml`.
pub const DEFAULTS: &str = include_str!("../../config/meshfs.toml");

/// What is said of an address that others reach, where nobody can prove who he is.
const NO_USERS: &str = "there are no users, so that nobody could prove who he is: add some \
    (meshfs user add NAME --role ROLE), or let everybody in with bus.allow_anonymous = true, or \
    listen on a loopback address such as 127.0.0.1";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The tree.
    pub root: PathBuf,
    /// The bus.
    pub bus: Bus,
    /// The HTTP interface.
    pub http: Http,
    /// IRC.
    pub irc: Irc,
    /// Snapshots.
    pub snapshot: Snapshot,
    /// Announcements.
    pub announce: Announce,
    /// Liveness of nodes.
    pub nodes: Nodes,
}

/// Section `http`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The same with TLS.
    pub tls: HttpTls,
}

/// Section `snapshot`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Which engine.
    pub engine: EngineKind,
    /// The dataset of the root; `None`: the one that is mounted there.
    #[serde(deserialize_with = "dataset")]
    pub dataset: Option<Dataset>,
}

/// Which engine takes the snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum EngineKind {
    /// By the file system of the root.
    Auto,
    /// The `zfs` command.
    Zfs,
    /// `btrfs subvolume snapshot`.
    Btrfs,
    /// A copy below the root.
    Copy,
}

// Read by hand, because what serde says of an unknown variant through the crate `config`
// does not name the variants that there are.
impl TryFrom<String> for EngineKind {
    type Error = String;
    fn try_from(raw: String) -> Result<Self, String> {
        match raw.as_str() {
            "auto" => Ok(Self::Auto),
            "zfs" => Ok(Self::Zfs),
            "btrfs" => Ok(Self::Btrfs),
            "copy" => Ok(Self::Copy),
            _ => Err(format!("{raw:?} is not an engine: \"auto\", \"zfs\", \"btrfs\" or \"copy\"")),
        }
    }
}

/// Section `announce`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// An announcement ends by then.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// How many may wait for a snapshot.
    pub waiting_max: usize,
}

/// Section `nodes`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Silence after which a node is late.
    #[serde(with = "humantime_serde")]
    pub late_after: Duration,
    /// Silence after which a node is lost.
    #[serde(with = "humantime_serde")]
    pub lost_after: Duration,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file named on the command line is not there.
    #[error("configuration file {0} does not exist")]
    Missing(PathBuf),
    /// A file, variable or flag does not say what it should.
    #[error("{fault} (read from {sources})")]
    Invalid {
        /// The key and the reason.
        fault: String,
        /// Where it can have come from.
        sources: String,
    },
    /// The file of users does not say what it should.
    #[error("{key}: {fault}")]
    Users {
        /// The key that names the file.
        key: &'static str,
        /// The file, the place and the reason.
        fault: String,
    },
    /// A value that reads well and means nothing good.
    #[error("{key} = {value}: {why}")]
    Refused {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// Why, and what to write instead.
        why: String,
    },
}

fn dataset<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Dataset>, D::Error> {
    let raw = String::deserialize(deserializer)?;
    if raw.is_empty() {
        return Ok(None);
    }
    Dataset::parse(&raw).map(Some).map_err(serde::de::Error::custom)
}

/// The places a value can have come from, for an error.
fn sources(
    file: &Path,
    environment: &config::Map<String, String>,
    flags: &[(&str, String)],
) -> String {
    let file = file.is_file().then(|| file.display().to_string());
    let mut variables: Vec<_> = environment.keys().cloned().collect();
    variables.sort();
    let flags = flags.iter().map(|(key, _)| format!("the flag for {key}"));
    let all: Vec<_> = file.into_iter().chain(variables).chain(flags).collect();
    if all.is_empty() { "the built-in defaults".into() } else { all.join(", ") }
}

impl Config {
    /// Reads the defaults, `file` (or `config/meshfs.toml` where that exists),
    /// the environment and `flags` (key and value), in this order.
    ///
    /// The file of users is read too, to see that it can be.
    ///
    /// # Errors
    /// The first fault, with the file or variable, the key and the reason.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let config = Self::read(file, environment, flags)?;
        config.check_users()?;
        Ok(config)
    }

    /// The same without a look at the users, for whoever is about to change them.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        use config::{Environment, File, FileFormat};
        if let Some(file) = file.filter(|f| !f.is_file()) {
            return Err(ConfigError::Missing(file.to_owned()));
        }
        let path = file.unwrap_or(Path::new("config/meshfs.toml"));
        let environment = environment.into_iter().filter(|(k, _)| k.starts_with("MESHFS__"));
        let environment: config::Map<String, String> = environment.collect();
        let sources = sources(path, &environment, flags);
        let invalid = |e: config::ConfigError| ConfigError::Invalid {
            fault: e.to_string(),
            sources: sources.clone(),
        };
        let mut builder = config::Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from(path).format(FileFormat::Toml).required(file.is_some()))
            .add_source(
                Environment::with_prefix("MESHFS")
                    .prefix_separator("__")
                    .separator("__")
                    .source(Some(environment)),
            );
        for (key, value) in flags {
            builder = builder.set_override(*key, value.as_str()).map_err(invalid)?;
        }
        let read = builder.build().map_err(invalid)?;
        let config: Self = read.try_deserialize().map_err(invalid)?;
        config.check()?;
        Ok(config)
    }

    /// Nobody listens to the world before it is said who may come in.
    fn check_users(&self) -> Result<(), ConfigError> {
        let users = self.bus.policy().look().map_err(|error| {
            let causes =
                std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            let fault = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            ConfigError::Users { key: "bus.users", fault }
        })?;
        let mut listeners = vec![("http.listen", self.http.listen)];
        if self.bus.mode == BusMode::Embedded {
            listeners.insert(0, ("bus.listen", self.bus.listen));
        }
        // With TLS a certificate can be what is asked of whoever comes.
        if self.bus.tls.client_certificate == ClientCertificate::Optional {
            listeners.extend(self.bus.tls.listen.map(|listen| ("bus.tls.listen", listen)));
            listeners.extend(self.http.tls.listen.map(|listen| ("http.tls.listen", listen)));
        }
        match listeners.iter().find(|(_, listen)| !listen.ip().is_loopback()) {
            Some((key, listen)) if users == 0 && !self.bus.allow_anonymous => {
                Err(ConfigError::Refused { key, value: listen.to_string(), why: NO_USERS.into() })
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refused = |key, value: &dyn std::fmt::Display, why: &str| {
            Err(ConfigError::Refused { key, value: value.to_string(), why: why.into() })
        };
        let open = "anybody who reaches it could do anything; listen on a loopback address such as 127.0.0.1";
        if self.irc.networks.is_empty() && !self.irc.embedded.listen.ip().is_loopback() {
            return refused("irc.embedded.listen", &self.irc.embedded.listen, open);
        }
        if self.root.as_os_str().is_empty() {
            return refused("root", &"\"\"", "name a folder");
        }
        if !(1024..=64 << 20).contains(&self.bus.packet_max_bytes) {
            return refused("bus.packet_max_bytes", &self.bus.packet_max_bytes, "1024 to 67108864");
        }
        self.bus.limits.check()?;
        if self.bus.connections_max == 0 {
            return refused("bus.connections_max", &0, "at least 1");
        }
        let disk = [
            ("bus.durable_wait", self.bus.durable_wait, 100, "100ms to 1h"),
            ("bus.sync_within", self.bus.sync_within, 10, "10ms to 1h"),
        ];
        for (key, value, least_ms, why) in disk {
            let range = Duration::from_millis(least_ms)..=Duration::from_secs(3600);
            if !range.contains(&value) {
                return refused(key, &humantime::format_duration(value), why);
            }
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600))
            .contains(&self.announce.deadline)
        {
            let value = humantime::format_duration(self.announce.deadline);
            return refused("announce.deadline", &value, "100ms to 1h");
        }
        if !(1..=10_000).contains(&self.announce.waiting_max) {
            return refused("announce.waiting_max", &self.announce.waiting_max, "1 to 10000");
        }
        if self.nodes.late_after.is_zero() || self.nodes.lost_after <= self.nodes.late_after {
            let value = humantime::format_duration(self.nodes.lost_after);
            return refused("nodes.lost_after", &value, "must be longer than nodes.late_after");
        }
        if self.snapshot.engine == EngineKind::Copy && self.snapshot.dataset.is_some() {
            return refused(
                "snapshot.dataset",
                &"set",
                "the copy engine has no dataset; leave it empty",
            );
        }
        self.bus.check()?;
        self.check_tls()?;
        self.irc.check()
    }
}

#[cfg(test)]
mod tests;

//! Opening the ports.

use super::door::HubDoor;
use super::inbox::Inbox;
use crate::bridge::{House, HouseLimits, Link};
use crate::bus::{
    Bus, EmbeddedBus, ExternalBus, ExternalSettings, Restored, Version, client_config,
};
use crate::config::{Config, MqttVersion};
use crate::disk::publication;
use crate::mesh::Telling;
use crate::name::BrokerUrl;
use anyhow::Context as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Longest password, which is also what MQTT can carry.
const PASSWORD_MAX_BYTES: u64 = 65_535;

pub(super) async fn start_bus(
    config: &Config,
    inbox: &Arc<Inbox>,
    retained: Vec<Restored>,
    will: Telling,
) -> anyhow::Result<Bus> {
    let door = Arc::new(HubDoor { inbox: inbox.clone() });
    if let Some(broker) = config.bus.broker() {
        let settings = external(config, broker, will)?;
        return Ok(Bus::External(ExternalBus::start(settings, door, retained)));
    }
    let mut settings =
        meshfs_broker::Settings { listen: vec![config.bus.listen], ..Default::default() };
    settings.limits.packet_max_bytes = config.bus.packet_max_bytes;
    settings.limits.connections_max = config.bus.connections_max;
    let bus = EmbeddedBus::start(settings, door, retained).await;
    Ok(Bus::Embedded(bus.with_context(|| in_use("bus.listen", config.bus.listen))?))
}

/// What is needed to reach another broker: every file is read now, so that its
/// fault is found at the start.
pub(super) fn external(
    config: &Config,
    broker: &BrokerUrl,
    will: Telling,
) -> anyhow::Result<ExternalSettings> {
    let external = &config.bus.external;
    let version = match external.version {
        MqttVersion::Auto => None,
        MqttVersion::V4 => Some(Version::V4),
        MqttVersion::V5 => Some(Version::V5),
    };
    let login = (!external.user.is_empty())
        .then(|| anyhow::Ok((external.user.clone(), password(set(&external.password_file))?)))
        .transpose()?;
    let tls = broker.tls().then(|| {
        let own = set(&external.certificate).zip(set(&external.key));
        client_config(set(&external.ca), own).context("bus.external: TLS cannot be spoken")
    });
    Ok(ExternalSettings {
        broker: broker.clone(),
        version,
        client_id: external.client_id.clone(),
        login,
        tls: tls.transpose()?,
        payload_max_bytes: config.bus.packet_max_bytes,
        will: publication(will),
    })
}

fn set(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// The first line of a file.
fn password(path: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    let failed = || format!("bus.external.password_file = {}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(PASSWORD_MAX_BYTES).read_to_string(&mut text))
        .with_context(failed)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

pub(super) async fn start_house(config: &Config) -> anyhow::Result<Option<House>> {
    if !config.irc.networks.is_empty() {
        return Ok(None);
    }
    let embedded = &config.irc.embedded;
    let house =
        House::start(embedded.listen, &embedded.network, &embedded.channel, HouseLimits::default())
            .await;
    let house = house.with_context(|| in_use("irc.embedded.listen", embedded.listen))?;
    Ok(Some(house))
}

pub(super) fn in_use(key: &str, listen: SocketAddr) -> String {
    format!("{key} = {listen} (MESHFS__{}={}:0 takes any free port)", variable(key), listen.ip())
}

fn variable(key: &str) -> String {
    key.to_uppercase().replace('.', "__")
}

/// The networks to join: the configured ones, or the house.
pub(super) fn links(config: &Config, house: Option<SocketAddr>) -> Vec<Link> {
    match house {
        Some(address) => vec![Link::to_house(&config.irc.embedded, address)],
        None => config.irc.networks.iter().map(Link::from).collect(),
    }
}

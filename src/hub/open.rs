//! Opening the ports.

use super::door::HubDoor;
use super::external;
use super::inbox::Inbox;
use crate::access::Access;
use crate::bridge::{House, HouseLimits, Link};
use crate::bus::{Bus, EmbeddedBus, ExternalBus, Restored, Tls};
use crate::config::{BusLimits, Config};
use crate::http::Port;
use crate::mesh::{Event, Telling};
use crate::message::Entry;
use anyhow::Context as _;
use meshfs_broker::{Listen, StartError};
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::info;

/// Who may come in; whoever guesses passwords gets into the journal.
pub(super) fn open_access(config: &Config, inbox: &Arc<Inbox>) -> anyhow::Result<Arc<Access>> {
    let inbox = inbox.clone();
    let access = Access::open(config.bus.policy(), move |address, still| {
        let (address, seconds) = (address.to_string(), still.as_secs());
        inbox.push(Event::Noted(Entry::ShutOut { address, seconds }));
    });
    let access = access.context("bus.users")?;
    let (users, anonymous_role) = (access.users(), &config.bus.anonymous_role);
    info!(users, anonymous_role, anywhere = config.bus.allow_anonymous, "who may come in");
    Ok(Arc::new(access))
}

fn set_limits(limits: &mut meshfs_broker::Limits, from: &BusLimits) {
    limits.connections_per_address_max = from.connections_per_address_max;
    limits.handshake_limit = from.handshake_limit;
    limits.client_id_max_bytes = from.client_id_max_bytes;
    limits.publish_rate_max = from.publish_rate_max;
    limits.publish_bytes_rate_max = from.publish_bytes_rate_max;
    limits.retained_topics_per_identity_max = from.retained_topics_per_identity_max;
    limits.subscriptions_per_session_max = from.subscriptions_max;
    limits.sessions_max = from.sessions_max;
    limits.sessions_per_identity_max = from.sessions_per_identity_max;
    limits.session_expiry_max = from.session_expiry_max;
    limits.inflight_max = from.inflight_max;
    limits.queue_max_messages = from.queue_max_messages;
    limits.queue_max_bytes = from.queue_max_bytes;
    limits.queues_max_bytes = from.queues_max_bytes;
    limits.stuck_limit = from.stuck_limit;
}

pub(super) async fn start_bus(
    config: &Config,
    door: HubDoor,
    access: &Arc<Access>,
    retained: Vec<Restored>,
    tls: Option<&Tls>,
    will: Telling,
) -> anyhow::Result<Bus> {
    let door = Arc::new(door);
    if let Some(broker) = config.bus.broker() {
        let settings = external::settings(config, broker, will)?;
        return Ok(Bus::External(ExternalBus::start(settings, door, retained)));
    }
    let mut settings =
        meshfs_broker::Settings { listen: vec![config.bus.listen.into()], ..Default::default() };
    if let Some(listen) = config.bus.tls.listen {
        settings.listen.push(Listen { tls: tls.cloned(), ..listen.into() });
    }
    settings.limits.packet_max_bytes = config.bus.packet_max_bytes;
    settings.limits.connections_max = config.bus.connections_max;
    set_limits(&mut settings.limits, &config.bus.limits);
    let bus = EmbeddedBus::start(settings, door, access.clone(), retained).await;
    bus.map(Bus::Embedded).map_err(|error| match (&error, config.bus.tls.listen) {
        (StartError::Listen { address, .. }, Some(listen)) if *address == listen => {
            anyhow::Error::new(error).context(in_use("bus.tls.listen", listen))
        }
        _ => anyhow::Error::new(error).context(in_use("bus.listen", config.bus.listen)),
    })
}

/// The HTTP ports: the plain one, and after it the one with TLS, if there is one.
pub(super) async fn open_http(config: &Config, tls: Option<&Tls>) -> anyhow::Result<Vec<Port>> {
    let plain = (("http.listen", config.http.listen), None);
    let secure = config.http.tls.listen.map(|listen| (("http.tls.listen", listen), tls.cloned()));
    let mut ports = Vec::new();
    for ((key, listen), tls) in std::iter::once(plain).chain(secure) {
        let port = Port::open(listen, tls).await;
        ports.push(port.with_context(|| in_use(key, listen))?);
    }
    Ok(ports)
}

pub(super) fn address(port: Option<&Port>) -> Option<SocketAddr> {
    port?.address().ok()
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

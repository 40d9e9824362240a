//! What is needed to reach another broker, from the configuration and its files.

use crate::bus::{ExternalSettings, Version, client_config};
use crate::config::{Config, MqttVersion};
use crate::disk::publication;
use crate::mesh::Telling;
use crate::name::BrokerUrl;
use anyhow::Context as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest password, which is also what MQTT can carry.
const PASSWORD_MAX_BYTES: u64 = 65_535;

/// Reads every file now, so that its fault is found at the start.
pub(super) fn settings(
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
    File::open(path)
        .and_then(|file| file.take(PASSWORD_MAX_BYTES).read_to_string(&mut text))
        .with_context(failed)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

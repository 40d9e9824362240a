//! The certificates of the hub's TLS ports.

use super::reload::Part;
use crate::config::{self, BusTls, Config};
use jiff::Timestamp;
use meshfs_broker::{ClientCertificate, Tls, TlsError, TlsFiles};
use std::time::SystemTime;
use tracing::warn;

/// Reads the certificates, if any port needs them.
pub(super) fn load(config: &Config) -> anyhow::Result<Option<Tls>> {
    let settings = &config.bus.tls;
    let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else {
        return Ok(None);
    };
    if !config.uses_tls() {
        return Ok(None);
    }
    let files = TlsFiles {
        certificate: certificate.clone(),
        key: key.clone(),
        client_ca: settings.client_ca.clone(),
        client_certificate: match settings.client_certificate {
            config::ClientCertificate::Optional => ClientCertificate::Optional,
            config::ClientCertificate::Required => ClientCertificate::Required,
        },
    };
    Tls::load(files).map(Some).map_err(|error| named(error, settings))
}

/// What is read again on SIGHUP.
pub(super) fn part(config: &Config, tls: Tls) -> Part {
    let settings = config.bus.tls.clone();
    Part::new("certificates", move || {
        tls.reload().map_err(|error| named(error, &settings))?;
        warn_of_time(&tls);
        Ok(describe(&tls))
    })
}

/// The key of the configuration whose file is at fault.
fn named(error: TlsError, settings: &BusTls) -> anyhow::Error {
    let key = match &error {
        TlsError::Mismatch { .. } | TlsError::Pem { wanted: "private key", .. } => "bus.tls.key",
        TlsError::ClientCa { .. } => "bus.tls.client_ca",
        TlsError::Unusable { .. } => "bus.tls.certificate",
        // Read in this order.
        TlsError::Read { file, .. } | TlsError::Pem { file, .. } => match Some(file) {
            file if file == settings.certificate.as_ref() => "bus.tls.certificate",
            file if file == settings.key.as_ref() => "bus.tls.key",
            _ => "bus.tls.client_ca",
        },
    };
    anyhow::Error::new(error).context(key)
}

/// The certificate in a few words.
pub(super) fn describe(tls: &Tls) -> String {
    let file = tls.files().certificate.display();
    match until(tls) {
        Some(until) if is_out_of_time(tls) => {
            format!("{file} is not valid now (its time ends {until:.0}); clients will refuse it")
        }
        Some(until) => format!("{file} is valid until {until:.0}"),
        None => format!("{file} can be used"),
    }
}

/// Not an error: a hub that keeps running with an old certificate still serves its files.
pub(super) fn warn_of_time(tls: &Tls) {
    if is_out_of_time(tls) {
        let (file, until) = (tls.files().certificate.display(), until(tls));
        warn!(%file, ?until, "the certificate is not valid now; clients will refuse it");
    }
}

fn is_out_of_time(tls: &Tls) -> bool {
    tls.validity().is_some_and(|validity| !validity.holds_at(SystemTime::now()))
}

fn until(tls: &Tls) -> Option<Timestamp> {
    Timestamp::try_from(tls.validity()?.until).ok()
}

/// For `meshfs check`: what the files are worth, without keeping them.
pub(super) fn look(config: &Config) -> Result<Option<String>, String> {
    let tls = load(config).map_err(|error| format!("{error:#}"))?;
    Ok(tls.as_ref().map(describe))
}

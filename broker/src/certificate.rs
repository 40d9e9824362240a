//! What a certificate says: whose it is, and until when.

use std::time::{Duration, SystemTime};

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

/// Longest name taken from a certificate.
const NAME_MAX_BYTES: usize = 256;

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: SystemTime,
    /// Until then.
    pub until: SystemTime,
}

impl Validity {
    /// Is it valid at this moment?
    pub fn holds_at(&self, now: SystemTime) -> bool {
        self.from <= now && now <= self.until
    }
}

/// Reads the validity of a certificate; `None` when it cannot be read.
pub(crate) fn validity(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    Some(Validity { from: time(validity.not_before), until: time(validity.not_after) })
}

fn time(at: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The name a verified client certificate stands for: the common name of its subject, else its
/// first DNS name. One that is empty, very long or holds control characters is no name.
pub(crate) fn client_name(der: &[u8]) -> Option<Box<str>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut common_names = certificate.subject().iter_common_name();
    // One that cannot be read is one all the same: no other name stands in for it.
    let common = common_names.next().map(|name| name.as_str().unwrap_or_default());
    if common_names.next().is_some() {
        return None; // two names are none: another reader could take the other one
    }
    let names = certificate.subject_alternative_name().ok().flatten();
    let dns = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .find_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
    let good = |name: &&str| {
        !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.contains(char::is_control)
    };
    // An unusable common name is not passed over: the certificate claims to be that.
    common.or(dns).filter(good).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(common: Option<&str>, dns: &[&str]) -> Vec<u8> {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.not_before = rcgen::date_time_ymd(2020, 1, 2);
        params.not_after = rcgen::date_time_ymd(2021, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_counts_and_else_the_first_dns_name() {
        let name = |common, dns: &[&str]| client_name(&certificate(common, dns));
        assert_eq!(name(Some("web1"), &["other"]).as_deref(), Some("web1"));
        assert_eq!(name(Some("Zoë"), &[]).as_deref(), Some("Zoë"));
        assert_eq!(name(None, &["web1.example", "b"]).as_deref(), Some("web1.example"));
        assert_eq!(name(None, &[]), None);
    }

    #[test]
    fn an_unusable_name_is_none() {
        for bad in ["", "a\0b", "a\nb", &"x".repeat(300)] {
            assert_eq!(client_name(&certificate(Some(bad), &["dns"])), None, "{bad:?}");
        }
        assert_eq!(client_name(b"no certificate"), None);
        let mut two = CertificateParams::new(Vec::new()).unwrap();
        two.distinguished_name.push(DnType::CommonName, "web1");
        two.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "web2");
        let two = two.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(client_name(two.der()), None, "two names");
    }

    #[test]
    fn the_time_of_validity_is_read() {
        let validity = validity(&certificate(None, &["a"])).unwrap();
        let year = |years: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(years * 31_557_600);
        assert!(!validity.holds_at(year(49)) && !validity.holds_at(year(52)));
        assert!(validity.holds_at(year(50) + Duration::from_secs(100 * 86_400)));
    }
}

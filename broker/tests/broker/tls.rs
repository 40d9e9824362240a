//! TLS: versions, certificates of clients, faulty files, and reading them anew.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use meshfs_broker::{ClientCertificate, Limits, Listen, MemoryStore, Tls, TlsError};
use rcgen::{DistinguishedName, DnType};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::authority::Authority;
use crate::support::host::House;
use crate::support::server::any_port;
use crate::support::tunnel::{Over, Tunnel};
use crate::support::{Client, Connect, Packet, Server, VERSIONS, Version};

type Names = Arc<Mutex<Vec<Option<String>>>>;

/// A TLS broker that notes the names in its clients' certificates.
fn server(tls: &Tls) -> (Server, Names) {
    let names = Names::default();
    let noted = names.clone();
    let house = House {
        login: Box::new(move |credentials| {
            noted.lock().unwrap().push(credentials.certificate.map(Into::into));
            Ok(())
        }),
        ..House::default()
    };
    let how = Listen { tls: Some(tls.clone()), ..any_port().into() };
    (Server::listening(how, house, Limits::default(), Arc::new(MemoryStore::new())), names)
}

fn tunnel(server: &Server, client: TlsConnector) -> SocketAddr {
    let over = Over::by(client);
    Tunnel::dig(server.runtime(), server.address, &over).address
}

/// Whether a client that uses this gets as far as a CONNACK.
fn gets_in(server: &Server, client: TlsConnector) -> bool {
    let mut client = Client::dial(tunnel(server, client), Version::V5);
    client.send_anyway(&Connect::new(Version::V5, "client").encode());
    matches!(client.try_next(crate::support::LIMIT), Some(Packet::Connack { code: 0, .. }))
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let authority = Authority::new();
    let (server, _) = server(&authority.server(None));
    for version in [&TLS12, &TLS13] {
        assert!(gets_in(&server, authority.client_of(None, &[version])), "{version:?}");
    }
}

#[test]
fn the_name_in_a_verified_client_certificate_reaches_the_host() {
    let authority = Authority::new();
    authority.issue("web1", |_| {});
    authority.issue("nameless", |params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "not asked for");
    });
    let (server, names) = server(&authority.server(Some(ClientCertificate::Optional)));
    for client in [Some("web1"), Some("nameless"), None] {
        for version in VERSIONS {
            let tunnel = tunnel(&server, authority.client(client));
            Client::plain(tunnel, version, "client").disconnect();
        }
    }
    let expected = [Some("web1"), Some("localhost"), None];
    let expected = expected.iter().flat_map(|name| [*name; 2].map(|n| n.map(str::to_owned)));
    assert_eq!(*names.lock().unwrap(), expected.collect::<Vec<_>>());
}

#[test]
fn where_a_certificate_is_required_nobody_gets_in_without() {
    let authority = Authority::new();
    authority.issue("web1", |_| {});
    let (server, names) = server(&authority.server(Some(ClientCertificate::Required)));
    assert!(!gets_in(&server, authority.client(None)));
    assert!(gets_in(&server, authority.client(Some("web1"))));
    assert_eq!(names.lock().unwrap().len(), 1);
}

#[test]
fn a_certificate_that_does_not_verify_is_worse_than_none() {
    let authority = Authority::new();
    let foreign = Authority::new();
    for name in ["web1", "expired"] {
        foreign.issue(name, |_| {});
    }
    authority.issue("expired", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let (server, names) = server(&authority.server(Some(ClientCertificate::Optional)));
    for name in ["web1.pem", "web1.key"] {
        std::fs::copy(foreign.path(name), authority.path(name)).unwrap();
    }
    assert!(!gets_in(&server, authority.client(Some("web1"))), "another CA's");
    assert!(!gets_in(&server, authority.client(Some("expired"))));
    assert!(names.lock().unwrap().is_empty());
    assert!(gets_in(&server, authority.client(None)));
}

#[test]
fn plain_mqtt_on_a_tls_port_is_refused() {
    let authority = Authority::new();
    let (server, names) = server(&authority.server(None));
    let mut client = Client::dial(server.address, Version::V4);
    client.send(&Connect::new(Version::V4, "plain").encode());
    // An alert of TLS, and no CONNACK.
    assert!(client.bytes_until_closed().starts_with(&[0x15]));
    assert!(names.lock().unwrap().is_empty());
}

#[test]
fn new_certificates_are_for_new_connections_and_old_ones_live_on() {
    let authority = Authority::new();
    let tls = authority.server(None);
    let (server, _) = server(&tls);
    let mut old = Client::plain(tunnel(&server, authority.client(None)), Version::V5, "old");
    let other = Authority::new();
    other.issue("server", |_| {});
    for name in ["server.pem", "server.key"] {
        std::fs::copy(other.path(name), authority.path(name)).unwrap();
    }
    assert!(gets_in(&server, authority.client(None)), "files are read at reload, not before");
    tls.reload().unwrap();
    assert!(!gets_in(&server, authority.client(None)), "the old CA does not know the new one");
    assert!(gets_in(&server, other.client(None)));
    old.ping();
}

#[test]
fn a_broken_new_file_keeps_the_old_one() {
    let authority = Authority::new();
    let tls = authority.server(Some(ClientCertificate::Optional));
    let (server, _) = server(&tls);
    for name in ["server.pem", "server.key", "ca.pem"] {
        let good = std::fs::read(authority.path(name)).unwrap();
        let (head, _) = good.split_at(good.len() / 2);
        for broken in [&b""[..], b"rubbish", head] {
            std::fs::write(authority.path(name), broken).unwrap();
            let error = tls.reload().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        std::fs::remove_file(authority.path(name)).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Read { .. })));
        std::fs::write(authority.path(name), good).unwrap();
        assert!(gets_in(&server, authority.client(None)));
    }
    tls.reload().unwrap();
}

#[test]
fn a_fault_of_the_files_names_the_file_and_the_reason() {
    let authority = Authority::new();
    authority.issue("server", |_| {});
    authority.issue("other", |_| {});
    let good = authority.files(Some(ClientCertificate::Required));
    Tls::load(good.clone()).unwrap();

    let mut files = good.clone();
    files.key = authority.path("other.key");
    let error = Tls::load(files).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("other.key") && error.to_string().contains("server.pem"));

    let mut files = good.clone();
    files.certificate = authority.path("server.key");
    let error = Tls::load(files).unwrap_err();
    assert!(error.to_string().ends_with("server.key holds no certificate in PEM form"), "{error}");

    let mut files = good;
    files.client_ca = Some(authority.path("missing.pem"));
    let error = Tls::load(files).unwrap_err();
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    assert_eq!(cause.expect("cause is kept").kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn the_validity_of_the_certificate_can_be_asked() {
    let authority = Authority::new();
    authority.issue("server", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let tls = Tls::load(authority.files(None)).unwrap();
    let now = std::time::SystemTime::now();
    assert!(!tls.validity().unwrap().holds_at(now));
    authority.issue("server", |_| {});
    tls.reload().unwrap();
    assert!(tls.validity().unwrap().holds_at(now));
}

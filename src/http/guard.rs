//! Keeps web pages out. The interface listens on loopback without a password,
//! and every page that a browser on this machine shows could reach it.

use super::problem::Problem;
use axum::Extension;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// How a request came in.
#[derive(Debug, Clone)]
pub(super) enum Via {
    Plain,
    Tls {
        /// The name in the client's verified certificate.
        certificate: Option<Arc<str>>,
    },
}

impl Via {
    pub(super) fn certificate(&self) -> Option<Box<str>> {
        match self {
            Self::Tls { certificate } => certificate.as_deref().map(Into::into),
            Self::Plain => None,
        }
    }
}

/// Refuses what a page of another origin sends, and what reaches the interface
/// under a name that is not this machine's (DNS rebinding).
pub(super) async fn same_origin(
    Extension(via): Extension<Via>,
    request: Request,
    next: Next,
) -> Response {
    match foreign(&via, request.headers()) {
        Some(why) => Problem::forbidden(why).into_response(),
        None => next.run(request).await,
    }
}

fn foreign(via: &Via, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    // With TLS a name that is not ours meets a certificate that does not have it.
    if matches!(via, Via::Plain) && !is_local(host) {
        return Some("the Host header must be localhost or a loopback address");
    }
    match text(header::ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != Some(host) => {
            Some("pages of another origin may not use this interface")
        }
        _ => None,
    }
}

fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        foreign(&Via::Plain, &headers).is_none()
    }

    #[test]
    fn with_tls_any_name_is_good_but_no_other_origin() {
        let via = Via::Tls { certificate: None };
        let verdict = |host: &str, origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            foreign(&via, &headers).is_none()
        };
        assert!(verdict("hub.example:8443", "https://hub.example:8443"));
        for origin in ["https://evil.example", "null", "https://hub.example", ""] {
            assert!(!verdict("hub.example:8443", origin), "{origin}");
        }
        assert!(!verdict("", ""));
    }

    #[test]
    fn this_machine_and_its_own_pages_are_let_in() {
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:80", "127.0.0.2"] {
            assert!(verdict(host, None), "{host}");
        }
        assert!(verdict("localhost:8080", Some("http://localhost:8080")));
    }

    #[test]
    fn other_pages_and_other_names_are_kept_out() {
        for host in
            ["evil.example", "evil.example:8080", "192.168.1.1", "", "localhost.evil.example"]
        {
            assert!(!verdict(host, None), "{host}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:9"] {
            assert!(!verdict("localhost:8080", Some(origin)), "{origin}");
        }
    }
}

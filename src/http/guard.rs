//! Keeps web pages out: whoever is let in without a name is let in because he is on this machine,
//! and every page that a browser here shows could reach the interface too.

use super::Api;
use super::problem::Problem;
use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
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
    pub(super) fn certificate(&self) -> Option<&str> {
        match self {
            Self::Tls { certificate } => certificate.as_deref(),
            Self::Plain => None,
        }
    }

    /// With TLS a name that is not ours meets a certificate that does not have it.
    const fn proves_host(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }
}

/// For what needs no login at this door: the other guard alone.
pub(super) async fn guard(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(via): Extension<Via>,
    request: Request,
    next: Next,
) -> Response {
    let nameless = api.access.takes_anonymous(peer.ip());
    match same_origin(&via, request.headers(), nameless) {
        Err(problem) => problem.into_response(),
        Ok(()) => next.run(request).await,
    }
}

/// Refuses what a page of another origin sends, and, from somebody without a name, what comes
/// under a name that is not an address of this machine (DNS rebinding): a browser sends what it
/// knows of a login only to the host that it belongs to.
pub(super) fn same_origin(via: &Via, headers: &HeaderMap, nameless: bool) -> Result<(), Problem> {
    match foreign(headers, nameless && !via.proves_host()) {
        Some(why) => Err(Problem::forbidden(why)),
        None => Ok(()),
    }
}

fn foreign(headers: &HeaderMap, by_address: bool) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).unwrap_or_default();
    if by_address && !is_address(host) {
        return Some("without a login the Host header must be localhost or an address");
    }
    match text(header::ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, host)| host) != Some(host) => {
            Some("pages of another origin may not use this interface")
        }
        _ => None,
    }
}

/// True for what no DNS server can point elsewhere.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: &str, origin: Option<&str>, nameless: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        same_origin(&Via::Plain, &headers, nameless).is_ok()
    }

    #[test]
    fn addresses_and_their_own_pages_are_let_in() {
        for host in ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:80", "192.168.1.1"] {
            assert!(verdict(host, None, true), "{host}");
        }
        assert!(verdict("localhost:8080", Some("http://localhost:8080"), true));
        assert!(
            verdict("hub.example", Some("https://hub.example"), false),
            "a login names its host"
        );
    }

    #[test]
    fn other_pages_and_without_a_login_other_names_are_kept_out() {
        for host in
            ["evil.example", "evil.example:8080", "", "localhost.evil.example", "127.0.0.1.x"]
        {
            assert!(!verdict(host, None, true), "{host}");
        }
        for origin in ["http://evil.example", "null", "http://localhost:9"] {
            for nameless in [true, false] {
                assert!(!verdict("localhost:8080", Some(origin), nameless), "{origin}");
            }
        }
    }

    #[test]
    fn with_tls_any_name_is_good_but_no_other_origin() {
        let via = Via::Tls { certificate: None };
        let verdict = |host: &str, origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            same_origin(&via, &headers, true).is_ok()
        };
        assert!(verdict("hub.example:8443", "https://hub.example:8443"));
        for origin in ["https://evil.example", "null", "https://hub.example", ""] {
            assert!(!verdict("hub.example:8443", origin), "{origin}");
        }
        assert!(!verdict("", ""));
    }
}

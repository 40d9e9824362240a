//! Who asks: HTTP Basic (RFC 7617), with the users and roles of the bus.

use super::guard::Via;
use super::problem::Problem;
use super::{Api, guard};
use crate::access::{Claim, Denied, Who};
use crate::name::{By, Door};
use axum::Extension;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::net::{IpAddr, SocketAddr};

/// What reading takes: a subscription to everything, since an answer may hold anything.
const READS: &str = "mesh/#";
/// What announcing takes.
const ANNOUNCES: &str = "mesh/announce";

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    address: IpAddr,
    user: Option<Box<str>>,
}

impl Caller {
    /// The sender of what is published for him: our own commands say who they are.
    pub(super) fn by(&self, headers: &HeaderMap) -> By {
        let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let cli = agent.is_some_and(|agent| agent.starts_with("meshfs/"));
        let door = if cli { Door::Cli } else { Door::Http };
        By { user: self.user.clone(), ..By::new(door, self.address.to_string()) }
    }
}

/// Lets in who may do what he asks for, and leaves a [`Caller`] with the request.
pub(super) async fn login(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(via): Extension<Via>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match caller(&api, peer.ip(), &via, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = guard::same_origin(&via, request.headers(), caller.user.is_none()) {
        return problem.into_response();
    }
    if let Err(problem) = may(&api, &caller, request.method(), request.uri().path()) {
        return problem.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

async fn caller(
    api: &Api,
    address: IpAddr,
    via: &Via,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let credentials = match headers.get(header::AUTHORIZATION) {
        None => None,
        Some(value) => Some(basic(value.as_bytes()).ok_or_else(|| {
            Problem::unauthorized(
                "the Authorization header has to be Basic, with user and password",
            )
        })?),
    };
    let claim = Claim {
        user: credentials.as_ref().map(|(user, _)| user.as_str()),
        password: credentials.as_ref().map(|(_, password)| password.as_slice()),
        certificate: via.certificate(),
        address,
    };
    match api.access.admit(claim).await {
        Ok(guest) => Ok(Caller { address, user: guest.user }),
        Err(denied) => Err(match denied {
            Denied::Wrong | Denied::Anonymous => Problem::unauthorized(&denied.to_string()),
            Denied::ShutOut(still) => Problem::too_many(&denied.to_string(), still),
            Denied::Busy => Problem::unavailable(&denied.to_string()),
        }),
    }
}

/// User and password of a Basic header.
fn basic(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

fn may(api: &Api, caller: &Caller, method: &Method, path: &str) -> Result<(), Problem> {
    let client = caller.address.to_string();
    let who = Who { user: caller.user.as_deref(), client: &client };
    let (allowed, what) = if matches!(*method, Method::GET | Method::HEAD) {
        (api.access.may_subscribe(who, READS), "read here: it takes a subscription to mesh/#")
    } else if path == "/v1/announcements" || path.starts_with("/v1/announcements/") {
        (
            api.access.may_publish(who, ANNOUNCES),
            "announce: it takes the right to publish mesh/announce",
        )
    } else {
        (
            api.access.may_publish_all(who, READS),
            "change this: it takes the right to publish mesh/#",
        )
    };
    if allowed {
        return Ok(());
    }
    let name = caller.user.as_deref().unwrap_or("nobody without a user name");
    Err(Problem::forbidden(&format!("{name} may not {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basic_header_is_user_colon_password_and_nothing_else() {
        let of = |text: &str| BASE64_STANDARD.encode(text);
        let read = |value: String| basic(value.as_bytes());
        let anna = Some(("anna".to_owned(), b"a:b c".to_vec()));
        assert_eq!(read(format!("Basic {}", of("anna:a:b c"))), anna);
        assert_eq!(read(format!("basic   {} ", of("anna:a:b c"))), anna);
        assert_eq!(read(format!("Basic {}", of(":"))), Some((String::new(), Vec::new())));
        for bad in ["", "Basic", "Basic ", "Basic !!!!", "Bearer YTpi", "Basic YW5uYQ==", "YTpi"] {
            assert_eq!(read(bad.to_owned()), None, "{bad}");
        }
        assert_eq!(basic(b"Basic \xff\xff"), None);
        assert_eq!(read(format!("Basic {}", BASE64_STANDARD.encode(b"\xff:x"))), None);
    }
}

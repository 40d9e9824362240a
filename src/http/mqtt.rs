//! `/mqtt`: the way to the bus for clients that have WebSocket and nothing else.
//!
//! HTTP does the handshake; from then on the connection is the bus's, under
//! its limits and with its end, and holds no place here.

use super::Api;
use super::guard::Via;
use super::problem::Problem;
use crate::bus::websocket_answer;
use axum::Extension;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tracing::debug;

/// How long the answer may take to get out.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn upgrade(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(via): Extension<Via>,
    mut request: Request,
) -> Result<Response, Problem> {
    let Some(bus) = api.bus else {
        return Err(Problem::not_found("the bus is a broker of its own; connect to that"));
    };
    let answer = websocket_answer(&request).map_err(|e| Problem::bad_request(&e.to_string()))?;
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match tokio::time::timeout(ANSWER_LIMIT, upgraded).await {
            Ok(Ok(stream)) => {
                bus.serve_websocket(TokioIo::new(stream), peer, via.certificate().map(Into::into));
            }
            Ok(Err(error)) => debug!(%peer, %error, "WebSocket not opened"),
            Err(_) => debug!(%peer, "WebSocket not opened in time"),
        }
    });
    Ok(answer.map(|()| Body::empty()))
}

//! MQTT over WebSocket: subprotocol `mqtt`, binary frames. Frames and packets need not begin or end
//! together, so what frames carry is one stream of bytes.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Error, Message,
        handshake::server::{ErrorResponse, create_response_with_body},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{lock::lock, pipe::Far, stream::READ_BYTES};

/// The subprotocol that both sides name.
const SUBPROTOCOL: &str = "mqtt";
/// First read from a connection; grows with what its frames need.
const READ_BUFFER_BYTES: usize = 4096;
/// Room for one frame and for answers to pings. Without a bound a client that pings and never reads
/// would make the library hoard its pongs.
const WRITE_BUFFER_MAX_BYTES: usize = 4 * READ_BYTES;
/// A frame may be larger than the largest packet by this.
const FRAME_SLACK_BYTES: usize = 64 * 1024;

/// Why a request for a WebSocket is not granted.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeRefused {
    /// It does not ask for a WebSocket, or not in the right way.
    #[error("not a WebSocket handshake: {0}")]
    Handshake(String),
    /// It does not offer the subprotocol.
    #[error("the WebSocket subprotocol must be \"mqtt\"")]
    Subprotocol,
}

/// The answer to an HTTP request that asks to speak MQTT over WebSocket, status 101. When it has
/// been sent, the connection is for
/// [`Broker::serve_websocket`](crate::Broker::serve_websocket).
///
/// Browsers send such requests for any page: whether its origin is welcome is for the caller to
/// decide.
///
/// # Errors
/// When the request is no such request; the answer is then status 400.
pub fn websocket_answer<B>(request: &Request<B>) -> Result<Response<()>, UpgradeRefused> {
    let answer = create_response_with_body(request, || ());
    let mut answer = answer.map_err(|error| UpgradeRefused::Handshake(error.to_string()))?;
    choose_subprotocol(request.headers(), answer.headers_mut())?;
    Ok(answer)
}

fn choose_subprotocol(offered: &HeaderMap, answer: &mut HeaderMap) -> Result<(), UpgradeRefused> {
    let lists =
        offered.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|list| list.to_str().ok());
    if !lists.flat_map(|list| list.split(',')).any(|offer| offer.trim() == SUBPROTOCOL) {
        return Err(UpgradeRefused::Subprotocol);
    }
    answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(())
}

fn config(packet_max_bytes: usize) -> WebSocketConfig {
    let message_max_bytes = Some(packet_max_bytes.saturating_add(FRAME_SLACK_BYTES));
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_MAX_BYTES)
        .max_message_size(message_max_bytes)
        .max_frame_size(message_max_bytes)
}

/// Does the HTTP part by itself, for a listener that serves nothing else. Any path will do.
pub(crate) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    transport: T,
    packet_max_bytes: usize,
) -> Result<WebSocketStream<T>, Error> {
    #[allow(clippy::result_large_err, reason = "the type is the library's")]
    let choose = |request: &Request<()>, mut answer: Response<()>| match choose_subprotocol(
        request.headers(),
        answer.headers_mut(),
    ) {
        Ok(()) => Ok(answer),
        Err(refused) => {
            let mut refusal = ErrorResponse::new(Some(format!("{refused}\n")));
            *refusal.status_mut() = StatusCode::BAD_REQUEST;
            Err(refusal)
        }
    };
    accept_hdr_async_with_config(transport, choose, Some(config(packet_max_bytes))).await
}

/// A connection whose HTTP part somebody else has done.
pub(crate) async fn upgraded<T: AsyncRead + AsyncWrite + Unpin>(
    transport: T,
    packet_max_bytes: usize,
) -> WebSocketStream<T> {
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(config(packet_max_bytes))).await
}

/// Moves the bytes in frames, until both directions have ended.
pub(crate) async fn carry_frames<T: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<T>,
    far: Far,
) {
    let (sink, stream) = socket.split();
    // Why the stream ended, for the close frame.
    let fault = Mutex::new(CloseCode::Normal);
    tokio::join!(inward(stream, &far, &fault), outward(sink, &far, &fault));
}

/// What a client sent.
enum Received {
    Bytes(Bytes),
    /// Ping, which is answered by the library, or pong.
    Nothing,
    End(CloseCode),
}

impl From<Option<Result<Message, Error>>> for Received {
    fn from(next: Option<Result<Message, Error>>) -> Self {
        match next {
            Some(Ok(Message::Binary(bytes))) => Self::Bytes(bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Self::Nothing,
            Some(Ok(Message::Text(_))) => Self::End(CloseCode::Unsupported),
            Some(Ok(Message::Close(_))) | None => Self::End(CloseCode::Normal),
            Some(Err(Error::Capacity(_))) => Self::End(CloseCode::Size),
            Some(Err(Error::Utf8(_))) => Self::End(CloseCode::Invalid),
            Some(Err(_)) => Self::End(CloseCode::Protocol),
        }
    }
}

type Messages<'a, S> = Pin<&'a mut S>;

/// `None` when the session is over.
fn poll_received<S: Stream<Item = Result<Message, Error>>>(
    stream: Messages<'_, S>,
    far: &Far,
    context: &mut Context<'_>,
) -> Poll<Option<Received>> {
    if !ready!(far.poll_room(context)) {
        return Poll::Ready(None);
    }
    stream.poll_next(context).map(|next| Some(next.into()))
}

async fn inward<S>(mut stream: S, far: &Far, fault: &Mutex<CloseCode>)
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        let received = std::future::poll_fn(|c| poll_received(Pin::new(&mut stream), far, c)).await;
        match received {
            Some(Received::Bytes(bytes)) => {
                if !far.write_all(&bytes).await {
                    break;
                }
            }
            Some(Received::Nothing) => {}
            Some(Received::End(code)) => {
                *lock(fault) = code;
                far.finish();
                break;
            }
            None => break,
        }
    }
    // The closing handshake: closing a socket with unread bytes would eat what was sent last.
    while let Some(Ok(_)) = stream.next().await {}
}

async fn outward<S>(mut sink: S, far: &Far, fault: &Mutex<CloseCode>)
where
    S: Sink<Message, Error = Error> + Unpin,
{
    while let Some(bytes) = far.take().await {
        if sink.send(Message::Binary(bytes.into())).await.is_err() {
            return far.abandon();
        }
    }
    let code = *lock(fault);
    // It may be gone, or may have said goodbye first.
    let _ = sink.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder()
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn the_answer_is_that_of_the_standard() {
        for offers in [&["mqtt"][..], &["mqttv3.1, mqtt"], &["chat", "mqtt"]] {
            let offers: Vec<_> = offers.iter().map(|o| ("sec-websocket-protocol", *o)).collect();
            let answer = websocket_answer(&request(&offers)).unwrap();
            assert_eq!(answer.status(), 101);
            // The example of RFC 6455, section 1.3.
            assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_eq!(answer.headers()["sec-websocket-protocol"], "mqtt");
        }
    }

    #[test]
    fn a_request_without_the_subprotocol_is_refused() {
        for offers in [&[][..], &[("sec-websocket-protocol", "mqttv3.1, MQTT5")]] {
            let refused = websocket_answer(&request(offers)).unwrap_err();
            assert!(matches!(refused, UpgradeRefused::Subprotocol));
        }
    }

    #[test]
    fn a_request_that_asks_for_something_else_is_refused() {
        let request = Request::builder().header("sec-websocket-protocol", "mqtt").body(()).unwrap();
        assert!(matches!(websocket_answer(&request), Err(UpgradeRefused::Handshake(_))));
    }
}

//! A way for the plain client of the tests to reach a broker over TLS or WebSocket: a port of the
//! loopback interface from which every connection is carried on over that transport.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use meshfs_broker::{Listen, Tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::authority::Authority;
use super::server::any_port;

/// A transport, with what both sides need for it.
#[derive(Clone)]
pub struct Over {
    pub client: Option<TlsConnector>,
    pub server: Option<Tls>,
    /// Bytes from the client in one frame; 0: as they come.
    pub websocket: Option<usize>,
    pub _authority: Option<Arc<Authority>>,
}

impl std::fmt::Debug for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Over").field("websocket", &self.websocket).finish_non_exhaustive()
    }
}

impl Over {
    pub fn websocket() -> Self {
        Self { client: None, server: None, websocket: Some(0), _authority: None }
    }

    pub fn tls() -> Self {
        let authority = Authority::new();
        let server = Some(authority.server(None));
        let client = Some(authority.client(None));
        Self { client, server, websocket: None, _authority: Some(Arc::new(authority)) }
    }

    /// TLS by a client of the test's making.
    pub fn by(client: TlsConnector) -> Self {
        Self { client: Some(client), server: None, websocket: None, _authority: None }
    }

    pub fn websocket_and_tls() -> Self {
        Self { websocket: Some(0), ..Self::tls() }
    }

    pub fn named(name: &str) -> Self {
        match name {
            "tls" => Self::tls(),
            "websocket" => Self::websocket(),
            "websocket+tls" => Self::websocket_and_tls(),
            _ => panic!("BROKER_OVER={name}: tls, websocket or websocket+tls"),
        }
    }

    /// How a broker has to listen for it.
    pub fn listen(&self) -> Listen {
        let (address, tls) = (any_port(), self.server.clone());
        Listen { address, tls, websocket: self.websocket.is_some() }
    }
}

/// The near end of a tunnel.
#[derive(Debug)]
pub struct Tunnel {
    pub address: SocketAddr,
}

impl Tunnel {
    /// Opens a port that leads to `to`, for as long as the runtime lives.
    pub fn dig(runtime: &Runtime, to: SocketAddr, over: &Over) -> Self {
        let listener = runtime.block_on(TcpListener::bind(any_port())).expect("a port");
        let address = listener.local_addr().expect("its address");
        let over = over.clone();
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let _ = near.set_nodelay(true);
                tokio::spawn(carry(near, to, over.clone()));
            }
        });
        Self { address }
    }
}

async fn carry(near: TcpStream, to: SocketAddr, over: Over) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    let _ = far.set_nodelay(true);
    let Some(tls) = over.client else { return frame(near, far, over.websocket).await };
    let name = ServerName::try_from("localhost").expect("a name");
    if let Ok(far) = tls.connect(name, far).await {
        frame(near, far, over.websocket).await;
    }
}

async fn frame(
    mut near: TcpStream,
    mut far: impl AsyncRead + AsyncWrite + Unpin,
    size: Option<usize>,
) {
    let Some(size) = size else {
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        return;
    };
    let mut request = "ws://localhost/mqtt".into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().expect("a value"));
    let Ok((socket, _)) = client_async(request, far).await else { return };
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = near.split();
    let out = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            for frame in buffer[..count].chunks(if size == 0 { count } else { size }) {
                if sink.send(Message::Binary(frame.to_vec().into())).await.is_err() {
                    return;
                }
            }
        }
        let _ = sink.close().await;
    };
    let back = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(bytes) = message
                && writer.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::join!(out, back);
}

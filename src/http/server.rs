//! Ports and connections: so many at a time, each with a limit for its TLS
//! handshake, its headers and for taking its answer, so that who does nothing
//! keeps nobody out for long.

use super::drain::Drained;
use super::guard::Via;
use super::{Api, router};
use crate::bus::Tls;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// Connections at one time; the next one waits for a place.
const CONNECTIONS_MAX: u32 = 1024;
/// How long a request's headers may take to arrive, and an idle connection to send the next; and a
/// TLS handshake.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An open port.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    tls: Option<Tls>,
}

impl Port {
    /// Opens it.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn open(listen: SocketAddr, tls: Option<Tls>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(listen).await?, tls })
    }

    /// Where it is, also where port 0 was asked for.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A running HTTP interface.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    places: Arc<Semaphore>,
    ports: Vec<JoinHandle<()>>,
}

/// Serves the interface on open ports.
#[must_use]
pub fn serve(ports: impl IntoIterator<Item = Port>, api: Api) -> Server {
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let serving = Serving { router: router(api), places: places.clone(), stopped };
    let ports = ports.into_iter().map(|port| tokio::spawn(accept(port, serving.clone())));
    Server { stop, places, ports: ports.collect() }
}

impl Server {
    /// Takes no more requests and waits for those under way.
    pub async fn stop(&mut self, limit: Duration) {
        self.stop.send_replace(true);
        let (ports, places) = (&mut self.ports, &self.places);
        let ended = async {
            for port in ports {
                let _ = port.await;
            }
            drop(places.acquire_many(CONNECTIONS_MAX).await);
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            warn!(?limit, "HTTP requests still under way");
            self.ports.iter().for_each(JoinHandle::abort);
        }
    }
}

/// What connections share.
#[derive(Clone)]
struct Serving {
    router: Router,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Serving {
    /// An error means that the hub is gone, which is a reason to stop too.
    async fn stopped(&self) {
        let _ = self.stopped.clone().wait_for(|stop| *stop).await;
    }
}

async fn accept(port: Port, serving: Serving) {
    let mut stop = pin!(serving.stopped());
    loop {
        let next = async {
            let place = serving.places.clone().acquire_owned().await;
            (place, port.listener.accept().await)
        };
        let next = tokio::select! { next = next => next, () = &mut stop => return };
        let (Ok(place), accepted) = next else { return };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, serving) = (port.tls.clone(), serving.clone());
                tokio::spawn(connection(stream, peer, tls, serving, place));
            }
            Err(error) => {
                warn!(%error, "HTTP connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await; // out of file descriptors, most likely
            }
        }
    }
}

/// Holds its place until it ends, or until it has become a WebSocket and is the bus's.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
    serving: Serving,
    _place: OwnedSemaphorePermit,
) {
    // Answers that are written in two pieces would otherwise wait for the client's delayed ack.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return talk(stream, peer, Via::Plain, serving).await };
    let handshake = Box::pin(tls.accept(stream));
    let secured = tokio::select! {
        () = serving.stopped() => return,
        secured = tokio::time::timeout(HEADER_LIMIT, handshake) => secured,
    };
    match secured {
        Ok(Ok(secured)) => {
            let via = Via::Tls { certificate: secured.client.map(Into::into) };
            talk(secured.stream, peer, via, serving).await;
        }
        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => debug!(%peer, "TLS handshake not done in time"),
    }
}

async fn talk<T>(stream: T, peer: SocketAddr, via: Via, serving: Serving)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = serving.router.clone().layer(Extension(ConnectInfo(peer))).layer(Extension(via));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(Drained::new(stream)), TowerToHyperService::new(service))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = serving.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::http::{Response, StatusCode};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Becomes a stream that echoes.
    async fn upgrade(mut request: Request) -> Response<Body> {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
        answer.headers_mut().insert("upgrade", "echo".parse().unwrap());
        answer
    }

    #[tokio::test]
    async fn an_upgraded_connection_holds_no_place_and_outlives_the_interface() {
        let port = Port::open(([127, 0, 0, 1], 0).into(), None).await.unwrap();
        let address = port.address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(2));
        let router = Router::new().route("/", get(upgrade));
        let serving = Serving { router, places: places.clone(), stopped };
        let accepting = tokio::spawn(accept(port, serving));

        let mut streams = Vec::new();
        // One place is always held for the next connection.
        for _ in 0..5 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request =
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = vec![];
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await.unwrap());
            }
            assert!(answer.starts_with(b"HTTP/1.1 101 "));
            streams.push(stream);
        }
        stop.send_replace(true);
        accepting.await.unwrap();
        drop(places.acquire_many(2).await.unwrap());
        for stream in &mut streams {
            stream.write_all(b"x").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
        }
    }
}

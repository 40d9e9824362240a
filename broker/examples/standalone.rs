//! The broker alone, any topic allowed: for test suites and load generators.

#[path = "standalone/files.rs"]
mod files;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use files::FileStore;
use meshfs_broker::{
    Admission, Admitted, Authority, BoxFuture, Broker, ClientCertificate, ConnectRefused,
    Credentials, Identity, Incoming, Limits, Listen, MemoryStore, RetainedStore, Retention,
    Settings, Tls, TlsError, TlsFiles,
};
use tokio::signal::unix::{SignalKind, signal};

/// Run the broker alone with every topic allowed
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    transports: Transports,
    /// Messages in the queue of one session
    #[arg(long, value_name = "COUNT")]
    queue_messages: Option<usize>,
    /// Bytes in the queue of one session
    #[arg(long, value_name = "BYTES")]
    queue_bytes: Option<usize>,
    /// Unacknowledged messages to one client
    #[arg(long, value_name = "COUNT")]
    inflight: Option<usize>,
    /// Unacknowledged messages from one version 5 client
    #[arg(long, value_name = "COUNT")]
    receive: Option<u16>,
    /// Longest packet from a client
    #[arg(long, value_name = "BYTES")]
    packet_bytes: Option<usize>,
    /// Longest keep-alive of a version 5 client; 0: any
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    keep_alive_max: u16,
    /// Connections at one time
    #[arg(long, value_name = "COUNT")]
    connections: Option<usize>,
    /// Filter that nobody may subscribe to (0x80, so that suites for 3.1.1 and 5 expect the same);
    /// may be given more than once
    #[arg(long, alias = "deny", value_name = "FILTER")]
    deny_subscribe: Vec<String>,
    /// Directory that keeps retained messages across restarts; otherwise they live in memory
    #[arg(long, value_name = "DIR")]
    retained: Option<PathBuf>,
    /// Worker threads
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    threads: usize,
}

/// Other ways to be reached than plain TCP.
#[derive(Debug, clap::Args)]
struct Transports {
    /// Address for MQTT over WebSocket
    #[arg(long, value_name = "ADDRESS")]
    websocket: Vec<SocketAddr>,
    /// Address for MQTT over TLS
    #[arg(long, value_name = "ADDRESS", requires = "cert")]
    tls: Vec<SocketAddr>,
    /// Address for MQTT over WebSocket over TLS
    #[arg(long, value_name = "ADDRESS", requires = "cert")]
    websocket_tls: Vec<SocketAddr>,
    /// Certificate of the server, with its chain
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Key of the certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// CA that client certificates come from; clients need none
    #[arg(long, value_name = "FILE", requires = "cert")]
    client_ca: Option<PathBuf>,
}

impl Transports {
    fn listen(self, plain: Vec<SocketAddr>) -> Result<Vec<Listen>, TlsError> {
        let tls = match (self.cert, self.key) {
            (Some(certificate), Some(key)) => Some(Tls::load(TlsFiles {
                certificate,
                key,
                client_ca: self.client_ca,
                client_certificate: ClientCertificate::Optional,
            })?),
            _ => None,
        };
        let how = |websocket, tls: &Option<Tls>| {
            let tls = tls.clone();
            move |address| Listen { address, tls: tls.clone(), websocket }
        };
        let plain = plain.into_iter().map(how(false, &None));
        let websocket = self.websocket.into_iter().map(how(true, &None));
        let secure = self.tls.into_iter().map(how(false, &tls));
        let both = self.websocket_tls.into_iter().map(how(true, &tls));
        Ok(plain.chain(websocket).chain(secure).chain(both).collect())
    }
}

impl Arguments {
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            queue_max_messages: self.queue_messages.unwrap_or(default.queue_max_messages),
            queue_max_bytes: self.queue_bytes.unwrap_or(default.queue_max_bytes),
            inflight_max: self.inflight.unwrap_or(default.inflight_max),
            receive_max: self.receive.unwrap_or(default.receive_max),
            packet_max_bytes: self.packet_bytes.unwrap_or(default.packet_max_bytes),
            connections_max: self.connections.unwrap_or(default.connections_max),
            keep_alive_max_s: self.keep_alive_max,
            ..default
        }
    }
}

/// Everybody may do everything, but for the filters denied on the command line.
struct Open(Vec<String>);

impl Authority for Open {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Identity>, ConnectRefused>> {
        let identity = Identity {
            client_id: credentials.client_id.into(),
            user: credentials.user.map(Into::into),
            address: Some(credentials.address),
            note: 0,
        };
        Box::pin(std::future::ready(Ok(Arc::new(identity))))
    }

    fn may_publish(&self, _who: &Identity, _topic: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _who: &Identity, filter: &str) -> bool {
        !self.0.iter().any(|denied| denied == filter)
    }

    fn reveals_denials(&self) -> bool {
        false
    }
}

impl Admission for Open {
    fn retention(&self, _topic: &str) -> Retention {
        Retention::AsPublished
    }

    fn admit(&self, _message: &Incoming<'_>) -> Admitted {
        Admitted::Accepted
    }

    fn ready(&self) -> Option<BoxFuture<'_, ()>> {
        None
    }
}

#[allow(clippy::print_stdout, reason = "whoever starts it waits for this line")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let store: Arc<dyn RetainedStore> = match &arguments.retained {
        Some(folder) => Arc::new(FileStore::open(folder)?),
        None => Arc::new(MemoryStore::new()),
    };
    let limits = arguments.limits();
    let listen = arguments.transports.listen(arguments.listen)?;
    let settings = Settings { limits, listen };
    let open = Arc::new(Open(arguments.deny_subscribe));
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let broker = Broker::start(settings, open.clone(), open, store).await?;
    for address in broker.addresses() {
        println!("listening on {address}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    broker.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads.max(2))
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

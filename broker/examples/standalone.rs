//! The broker alone, any topic allowed: for test suites and load generators.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use meshfs_broker::{
    Admission, Admitted, Authority, BoxFuture, Broker, ConnectRefused, Credentials, Identity,
    Incoming, Limits, MemoryStore, Retention, Settings,
};
use tokio::signal::unix::{SignalKind, signal};

/// Run the broker alone with every topic allowed
#[derive(Debug, Parser)]
struct Arguments {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    listen: Vec<SocketAddr>,
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
    /// Filter that nobody may subscribe to; may be given more than once
    #[arg(long, value_name = "FILTER")]
    deny: Vec<String>,
    /// Worker threads
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    threads: usize,
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

    fn may_publish(&self, _who: &Identity, topic: &str) -> bool {
        !self.0.iter().any(|denied| denied == topic)
    }

    fn may_subscribe(&self, _who: &Identity, filter: &str) -> bool {
        !self.0.iter().any(|denied| denied == filter)
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
    let settings = Settings { limits: arguments.limits(), listen: arguments.listen };
    let open = Arc::new(Open(arguments.deny));
    let store = Arc::new(MemoryStore::new());
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

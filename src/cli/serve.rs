//! `meshfs serve`

use super::{ConfigArgs, Exit, Failure, output};
use crate::config::Config;
use crate::hub::{Hub, Reload};
use std::io::IsTerminal as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Arguments of `meshfs serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// How logs are written
    #[arg(long, value_enum, default_value = "human")]
    log: Log,
    /// Print the addresses as one line of JSON
    #[arg(long)]
    json: bool,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.load()?;
    start_log(args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::fault(format!("could not start: {e}")))?;
    let done = runtime.block_on(serve(config, args.json));
    // A thread that hangs on a dead disk must not keep the process from ending.
    runtime.shutdown_background();
    done.map_err(|error| Failure { exit: Exit::Fault, message: format!("{error:#}") })
}

async fn serve(config: Config, json: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // From the first moment, so that a SIGHUP during a slow start ends nothing.
    let mut hangup = signal(SignalKind::hangup())?;
    let terminal = std::io::stderr().is_terminal();
    let root = config.root.clone();
    // A start can hang on a dead disk: it must not keep the process from being stopped.
    let starting = tokio::spawn(Hub::start(config));
    let hub = tokio::select! {
        started = starting => started??,
        _ = terminate.recv() => anyhow::bail!("stopped before it had started"),
        _ = interrupt.recv() => anyhow::bail!("stopped before it had started"),
    };
    if json {
        let line = serde_json::to_string(hub.addresses())?;
        output::print(&line).map_err(|failure| anyhow::anyhow!(failure.message))?;
    } else {
        let text = welcome(&hub, &root);
        output::print(&text).map_err(|failure| anyhow::anyhow!(failure.message))?;
    }
    let (again, mut second) = tokio::sync::mpsc::channel::<()>(1);
    let reload = hub.reload();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = reload_on(&mut hangup, &reload, terminal) => {}
        }
        info!("asked to stop; once more ends the process at once");
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            // The receiver is gone when the shutdown is done.
            let _ = again.send(()).await;
        });
    };
    tokio::select! {
        done = hub.run(stop) => done,
        Some(()) = second.recv() => {
            warn!("asked twice: not waiting for what is under way");
            Ok(())
        }
    }
}

/// Has the hub read its files again at each SIGHUP; returns when the signal came because the
/// terminal it was started in is gone, which is meant as the end.
async fn reload_on(hangup: &mut Signal, reload: &Reload, terminal: bool) {
    while hangup.recv().await.is_some() {
        if terminal && !std::io::stderr().is_terminal() {
            return;
        }
        reload.run().await;
    }
    std::future::pending::<()>().await;
}

fn welcome(hub: &Hub, root: &std::path::Path) -> String {
    let addresses = hub.addresses();
    let irc = match addresses.irc {
        Some(irc) => format!("irc://{irc}"),
        None => "the networks of the configuration".to_owned(),
    };
    let secure = |line: &str, address: Option<std::net::SocketAddr>| {
        address.map(|address| format!("\n  {line}{address}")).unwrap_or_default()
    };
    format!(
        "meshfs {} is ready\n  tree  {}\n  mqtt  {}{}\n  http  http://{}{}\n  irc   {irc}",
        env!("CARGO_PKG_VERSION"),
        root.display(),
        hub.broker(),
        secure("mqtts mqtts://", addresses.mqtts),
        addresses.http,
        secure("https https://", addresses.https),
    )
}

fn start_log(form: Log) -> Result<(), Failure> {
    let levels = std::env::var("MESHFS_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&levels).map_err(|e| Failure {
        exit: Exit::Config,
        message: format!("MESHFS_LOG={levels}: {e}"),
    })?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match form {
        Log::Json => log.json().init(),
        Log::Human => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).with_target(false).init();
        }
    }
    Ok(())
}

//! The brokers that are compared, each in a process of its own.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    Ours,
    Mosquitto,
    Rumqttd,
}

/// Nothing that mosquitto has is held back: no queue limit, no in-flight limit, no delay.
const MOSQUITTO: &str = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n\
                         set_tcp_nodelay true\npersistence false\nlog_type none\n";

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours => "ours",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
        })
    }
}

/// A running broker; ends when it is dropped.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    child: Child,
    _files: tempfile::TempDir,
}

/// Those of `wanted` that can be run here; builds ours.
pub fn available(wanted: &[Engine]) -> Outcome<Vec<Engine>> {
    let mut engines = Vec::new();
    for engine in wanted {
        match engine {
            Engine::Ours => build_standalone()?,
            Engine::Mosquitto if Command::new("mosquitto").arg("-h").output().is_err() => {
                eprintln!("SKIP mosquitto: it is not installed");
                continue;
            }
            Engine::Mosquitto | Engine::Rumqttd => {}
        }
        engines.push(*engine);
    }
    Ok(engines)
}

/// What a reader of the table must know to judge it.
pub fn conditions(engines: &[Engine]) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!("{cores} cores, brokers and load generator share them, loopback\n");
    if engines.contains(&Engine::Mosquitto) {
        text += &format!("mosquitto.conf: {}\n", MOSQUITTO.trim_end().replace('\n', "; "));
    }
    if engines.contains(&Engine::Rumqttd) {
        text += "rumqttd 0.20.0: 10 segments of 100 MiB, 200 outgoing packets (as it ships)\n";
    }
    text
}

fn build_standalone() -> Outcome<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--example", "standalone"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .status()?;
    if status.success() { Ok(()) } else { Err("the standalone broker does not build".into()) }
}

/// Cargo puts benchmarks into `release/deps` and examples into `release/examples`.
fn standalone() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    let release = program.ancestors().nth(2).ok_or("benchmark is not in a target directory")?;
    Ok(release.join("examples").join("standalone"))
}

impl Engine {
    pub fn start(self) -> Outcome<Running> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let files = tempfile::tempdir()?;
        let mut command = match self {
            Self::Ours => {
                let mut command = Command::new(standalone()?);
                command.args(["--listen", &address.to_string()]);
                command
            }
            Self::Mosquitto => {
                let config = files.path().join("mosquitto.conf");
                let listener = format!("listener {} 127.0.0.1\n{MOSQUITTO}", address.port());
                std::fs::write(&config, listener)?;
                let mut command = Command::new("mosquitto");
                command.arg("-c").arg(config);
                command
            }
            Self::Rumqttd => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--serve-rumqttd", &address.to_string()]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running { address, child: command.spawn()?, _files: files };
        running.wait_for_port()?;
        Ok(running)
    }
}

impl Running {
    fn wait_for_port(&self) -> Outcome<()> {
        let start = Instant::now();
        while let Err(error) = TcpStream::connect(self.address) {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(error.into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Resident memory in MiB.
    pub fn resident_mib(&self) -> Outcome<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        Ok(kib.ok_or("no VmRSS")?.parse::<f64>()? / 1024.0)
    }

    /// Processor time used so far, in seconds.
    pub fn processor_s(&self) -> Outcome<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, after_name) = stat.rsplit_once(')').ok_or("no process name")?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields.get(11).ok_or("no utime")?.parse::<u64>()?
            + fields.get(12).ok_or("no stime")?.parse::<u64>()?;
        Ok(ticks as f64 / 100.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs rumqttd as it ships, in this process, until it is killed.
pub fn serve_rumqttd(listen: SocketAddr) -> Outcome<()> {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 1 << 20,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "stock".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = rumqttd::RouterConfig {
        max_connections: 10_010,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 << 20,
        max_segment_count: 10,
        ..rumqttd::RouterConfig::default()
    };
    let v4 = Some(HashMap::from([("stock".to_owned(), server)]));
    rumqttd::Broker::new(rumqttd::Config { router, v4, ..rumqttd::Config::default() }).start()?;
    Ok(())
}

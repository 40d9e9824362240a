//! What the hub itself costs: announcements beyond their snapshot, files a
//! second, starting, a thousand nodes, resident memory.
//!
//! `cargo bench --bench hub [-- FOLDER]` works in a folder below FOLDER, by
//! default the system's for temporary files: the file system decides.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark ends where it fails")]
#![allow(clippy::print_stdout, reason = "it prints its figures")]

mod nodes;

use meshfs::config::Config;
use meshfs::hub::Hub;
use meshfs::live::{Meta, Store};
use meshfs::name::{By, Door, Topic};
use meshfs::snapshot::FakeEngine;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ANNOUNCEMENTS: usize = 1000;
const FILES: usize = 10_000;
const STARTS: usize = 9;

fn main() {
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    println!("folder: {}", folder.display());
    let fresh = || tempfile::tempdir_in(&folder).unwrap();
    announcements(fresh().path());
    files(fresh().path());
    let dir = fresh();
    starts("start, empty tree", dir.path());
    fill(dir.path());
    starts("start, 10,000 files", dir.path());
    nodes::run(fresh().path());
}

fn row(what: &str, figures: &str) {
    println!("{what:<44} {figures}");
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() - 1) as f64 * q).round() as usize;
    sorted[at].as_secs_f64() * 1000.0
}

/// From the publish to the answer on the bus, with an engine that takes no time.
fn announcements(root: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let zero = "127.0.0.1:0".to_owned();
        let mut flags = vec![("root", root.display().to_string())];
        flags.extend(
            ["bus.listen", "http.listen", "irc.embedded.listen"].map(|k| (k, zero.clone())),
        );
        let config = Config::load(None, [], &flags).unwrap();
        let engine = Arc::new(FakeEngine::new());
        let hub = Hub::start_with(config, engine, "a benchmark".into()).await.unwrap();
        let (client, mut events) = connect(hub.addresses().mqtt.unwrap(), "caller");
        let running = tokio::spawn(hub.run(std::future::pending()));
        client.subscribe("mesh/app/r", QoS::AtLeastOnce).await.unwrap();
        wait(&mut events, |p| matches!(p, Packet::SubAck(_))).await;
        let mut took = Vec::with_capacity(ANNOUNCEMENTS);
        for _ in 0..ANNOUNCEMENTS {
            let began = Instant::now();
            let body = r#"{"reason":"a benchmark","reply_to":"mesh/app/r"}"#;
            client.publish("mesh/announce", QoS::AtLeastOnce, false, body).await.unwrap();
            wait(&mut events, |p| matches!(p, Packet::Publish(_))).await;
            took.push(began.elapsed());
        }
        took.sort();
        let (p50, p99) = (quantile(&took, 0.5), quantile(&took, 0.99));
        row("announcement without its snapshot", &format!("p50 {p50:.2} ms, p99 {p99:.2} ms"));
        running.abort();
    });
}

fn connect(hub: SocketAddr, id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", hub.port());
    options.set_inflight(500).set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = AsyncClient::new(options, 1000);
    // Else the client's own system holds small packets back for 40 ms (RFC 896 and delayed ACKs).
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    (client, events)
}

async fn wait(events: &mut EventLoop, so: impl Fn(&Packet) -> bool) {
    loop {
        if let Event::Incoming(packet) = events.poll().await.unwrap()
            && so(&packet)
        {
            return;
        }
    }
}

/// The `count`th heartbeat of a node, in the shape that shell loops send.
fn heartbeat(node: usize, count: u64) -> (Topic, String) {
    let payload = format!(
        r#"{{"node": "n{node}", "status": "ALIVE", "timestamp": "2026-06-16T14:19:07Z", "uptime": "{count}.81", "load": "3.63 3.55 3.53", "memory": "66/64217MB"}}"#
    );
    (Topic::parse(&format!("mesh/nodes/n{node}/heartbeat")).unwrap(), payload)
}

fn put_all(store: &Store, count: u64) -> f64 {
    let meta = Meta {
        by: By::new(Door::Mqtt, "benchmark"),
        received_at: jiff::Timestamp::now(),
        qos: 1,
        content_type: None,
        user_properties: Vec::new(),
        expires_at: None,
    };
    let beats: Vec<_> = (0..FILES).map(|node| heartbeat(node, count)).collect();
    let began = Instant::now();
    for (topic, payload) in &beats {
        store.put(topic, payload.as_bytes(), &meta).unwrap();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let count = FILES as f64;
    count / began.elapsed().as_secs_f64()
}

fn files(root: &Path) {
    let store = Store::open(root, jiff::Timestamp::now()).unwrap();
    row("new files", &format!("{:.0} /s", put_all(&store, 1)));
    row("files replaced", &format!("{:.0} /s", put_all(&store, 2)));
}

fn fill(root: &Path) {
    put_all(&Store::open(root, jiff::Timestamp::now()).unwrap(), 1);
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Starts the program; gives where its broker listens.
#[expect(clippy::disallowed_methods, reason = "it measures the program")]
fn serve(root: &Path) -> (Process, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshfs"));
    command.args(["serve", "--json", "--root"]).arg(root).env("MESHFS_LOG", "error");
    for key in ["BUS__LISTEN", "HTTP__LISTEN", "IRC__EMBEDDED__LISTEN"] {
        command.env(format!("MESHFS__{key}"), "127.0.0.1:0");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
    (Process(child), addresses["mqtt"].as_str().unwrap().parse().unwrap())
}

fn starts(what: &str, root: &Path) {
    let mut took: Vec<_> = (0..STARTS)
        .map(|_| {
            let began = Instant::now();
            let hub = serve(root);
            let took = began.elapsed();
            drop(hub);
            took
        })
        .collect();
    took.sort();
    row(what, &format!("median {:.0} ms of {STARTS}", quantile(&took, 0.5)));
}

/// A number from `/proc/<pid>/<file>`.
fn proc(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

fn resident_mb(pid: u32) -> f64 {
    let status = proc(pid, "status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// User and system time in seconds; the kernel counts hundredths.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = proc(pid, "stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

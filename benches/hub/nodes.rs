//! A thousand nodes with a connection each, one heartbeat a second, for a minute: the processor
//! time of the hub, its memory, and how long after its publish a heartbeat is in its file.

use super::{Process, connect, cpu_seconds, heartbeat, quantile, resident_mb, row, serve};
use rumqttc::{AsyncClient, QoS};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const NODES: u32 = 1000;
const SECONDS: u64 = 60;
/// One node in so many is watched: looking costs processor time, too.
const WATCHED: u32 = 50;
/// How often a watched file is looked at, which is how exact the lag is.
const LOOK: Duration = Duration::from_micros(500);
/// A file that is so late will not come.
const LAG_MAX: Duration = Duration::from_secs(10);

pub(super) fn run(root: &Path) {
    let (hub, mqtt): (Process, _) = serve(root);
    let pid = hub.0.id();
    row("resident, idle", &format!("{:.1} MB", resident_mb(pid)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (used, mut lags) = runtime.block_on(async {
        let began = Instant::now() + Duration::from_secs(2);
        let (tell, mut told) = mpsc::channel(NODES as usize * SECONDS as usize);
        for node in 0..NODES {
            let (client, mut events) = connect(mqtt, &format!("n{node}"));
            tokio::spawn(async move { while events.poll().await.is_ok() {} });
            let file = root.join(format!("live/nodes/n{node}/heartbeat.json"));
            let watch = (node % WATCHED == 0).then(|| (file, tell.clone()));
            tokio::spawn(beat(client, node, began, watch));
        }
        drop(tell);
        // The first second meets every node for the first time.
        tokio::time::sleep_until((began + Duration::from_secs(1)).into()).await;
        let from = cpu_seconds(pid);
        tokio::time::sleep_until((began + Duration::from_secs(SECONDS + 1)).into()).await;
        let used = cpu_seconds(pid) - from;
        let mut lags = Vec::new();
        while let Some(lag) = told.recv().await {
            lags.push(lag);
        }
        (used, lags)
    });
    lags.sort();
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = used / SECONDS as f64 * 100.0;
    row("1,000 nodes at 1 Hz", &format!("{share:.1} % of a core over {SECONDS} s"));
    let (p50, p99) = (quantile(&lags, 0.5), quantile(&lags, 0.99));
    let worst = quantile(&lags, 1.0);
    let samples = lags.len();
    row("file lag", &format!("p50 {p50:.1} ms, p99 {p99:.1} ms, worst {worst:.0} ms of {samples}"));
    row("resident, 1,000 nodes", &format!("{:.1} MB", resident_mb(pid)));
}

/// The heartbeats of one node, each at its own moment of the second.
async fn beat(
    client: AsyncClient,
    node: u32,
    began: Instant,
    watch: Option<(PathBuf, mpsc::Sender<Duration>)>,
) {
    let first = began + Duration::from_secs(1) * node / NODES;
    for second in 0..=SECONDS {
        tokio::time::sleep_until((first + Duration::from_secs(second)).into()).await;
        let (topic, payload) = heartbeat(node as usize, second);
        let published = Instant::now();
        client.publish(topic.as_str(), QoS::AtLeastOnce, true, payload.as_str()).await.unwrap();
        if second > 0
            && let Some((file, tell)) = &watch
        {
            tokio::spawn(look(file.clone(), payload, published, tell.clone()));
        }
    }
    // A client that is dropped would take its connection, and so its PUBACK, with it.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Looks at a file until it is what was published.
async fn look(file: PathBuf, payload: String, published: Instant, tell: mpsc::Sender<Duration>) {
    while published.elapsed() < LAG_MAX {
        if std::fs::read(&file).is_ok_and(|read| read == payload.as_bytes()) {
            return tell.send(published.elapsed()).await.unwrap();
        }
        tokio::time::sleep(LOOK).await;
    }
    tell.send(LAG_MAX).await.unwrap();
}

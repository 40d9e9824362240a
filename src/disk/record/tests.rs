use super::*;
use crate::bus::FakePublisher;
use crate::message::contract::topics;
use std::path::Path;

fn line(count: u64) -> Job {
    let time = "2026-06-16T14:19:07Z".parse().unwrap();
    let line = Box::new(JournalLine { time, entry: Entry::Refusals { count } });
    let topic = topics::hub();
    let then =
        Telling { topic, payload: count.to_string().into(), retain: true, correlation: None };
    Job::Line(line, Some(then), None)
}

/// A line that says that something was announced, and a receipt for it.
fn announced(id: &str) -> (Job, crate::disk::Promise) {
    let text = format!(
        r#"{{"time":"2026-06-16T14:19:07Z","kind":"announcement","id":"{id}","by":{{"door":"mqtt","client":"c"}},"requested_at":"2026-06-16T14:19:07Z","request":{{"reason":"r"}}}}"#
    );
    let (receipt, promise) = Receipt::new();
    let then = Telling {
        topic: topics::outcome(&crate::name::AnnouncementId::parse(id).unwrap()),
        payload: "accepted".into(),
        retain: false,
        correlation: None,
    };
    (Job::Line(serde_json::from_str(&text).unwrap(), Some(then), Some(receipt)), promise)
}

struct Running {
    send: mpsc::Sender<Job>,
    publisher: Arc<FakePublisher>,
    health: Health,
    task: JoinHandle<()>,
}

fn start(root: &Path) -> Running {
    let publisher = Arc::new(FakePublisher::default());
    let (send, jobs) = mpsc::channel(1000);
    let health = Health::default();
    let recorder = Recorder {
        publisher: publisher.clone(),
        jobs,
        pen: Pen::Ready(Box::new(Journal::open(root).unwrap())),
        unwritten: Vec::new(),
        unsynced_since: None,
        sync_within: Duration::from_millis(100),
        health: health.clone(),
    };
    Running { send, publisher, health, task: tokio::spawn(recorder.run()) }
}

#[tokio::test]
async fn what_a_disk_refuses_is_told_all_the_same_and_written_when_it_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let Running { send, publisher, health, task } = start(dir.path());
    // A folder stands where the day's file belongs: every write is refused.
    let day = dir.path().join("journal/2026-06-16.jsonl");
    std::fs::create_dir(&day).unwrap();
    send.send(line(1)).await.unwrap();
    let mut told = publisher.next().await;
    while told.len() < 2 {
        told.extend(publisher.next().await);
    }
    assert_eq!((told[0].topic.as_str(), &told[1].payload[..]), ("mesh/events", &b"1"[..]));

    assert!(health.journal().is_some_and(|trouble| trouble.why.contains("journal")));

    std::fs::remove_dir(&day).unwrap();
    send.send(line(2)).await.unwrap();
    drop(send);
    task.await.unwrap();
    let text = std::fs::read_to_string(&day).unwrap();
    let counts: Vec<_> = text.lines().map(|l| l.split("count\":").nth(1).unwrap()).collect();
    assert_eq!(counts, ["1}", "2}"]);
    assert_eq!(health.journal(), None);
}

#[tokio::test]
async fn an_announcement_that_is_not_on_disk_is_neither_acknowledged_nor_said_to_be_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let Running { send, publisher, health, task } = start(dir.path());
    let day = dir.path().join("journal/2026-06-16.jsonl");
    std::fs::create_dir(&day).unwrap();
    let (job, promise) = announced("a");
    send.send(job).await.unwrap();
    let trouble = promise.await.unwrap().unwrap_err();
    assert_eq!(Some(trouble), health.journal());
    std::fs::remove_dir(&day).unwrap();
    let (job, promise) = announced("b");
    send.send(job).await.unwrap();
    assert_eq!(promise.await.unwrap(), Ok(()));
    drop(send);
    task.await.unwrap();
    let told: Vec<_> = publisher.take().into_iter().map(|said| said.topic.to_string()).collect();
    assert_eq!(told, ["mesh/events", "mesh/events", "mesh/announce/b"]);
    let lines = std::fs::read_to_string(&day).unwrap();
    assert_eq!(lines.lines().count(), 2, "the first one is on record all the same: {lines}");
}

#[tokio::test]
async fn many_announcements_share_their_syncs_and_other_lines_are_synced_later() {
    let dir = tempfile::tempdir().unwrap();
    let Running { send, health, task, .. } = start(dir.path());
    let mut promises = Vec::new();
    for n in 0..500 {
        let (job, promise) = announced(&format!("a{n}"));
        send.send(job).await.unwrap();
        promises.push(promise);
    }
    for promise in promises {
        assert_eq!(promise.await.unwrap(), Ok(()));
    }
    let syncs = health.syncs();
    assert!((1..=20).contains(&syncs), "{syncs} syncs for 500 announcements");
    // Nobody waits for this one.
    send.send(line(1)).await.unwrap();
    while health.syncs() == syncs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (receipt, promise) = Receipt::new();
    send.send(Job::Settle(receipt)).await.unwrap();
    assert_eq!(promise.await.unwrap(), Ok(()));
    drop(send);
    task.await.unwrap();
    assert_eq!(health.syncs(), syncs + 1, "nothing was left to sync");
}

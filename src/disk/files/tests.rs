use super::*;
use crate::disk::Promise;
use crate::name::{By, Door, Filter};
use std::path::Path;
use std::thread::JoinHandle;

struct Running {
    files: Files,
    health: Health,
    thread: JoinHandle<usize>,
    _aside: mpsc::Receiver<Aside>,
}

fn start(root: &Path) -> Running {
    let filter = Filter::parse("mesh/nodes/+/presence").unwrap();
    let rules = Rules { durable: Durable::new(&[filter]), sync_within: Duration::from_millis(100) };
    let (tell, aside) = mpsc::channel(8);
    let health = Health::default();
    let store = Store::open(root, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let (files, thread) = Files::start(store, rules, health.clone(), tell).unwrap();
    Running { files, health, thread, _aside: aside }
}

impl Running {
    fn end(self) -> usize {
        self.files.close();
        self.thread.join().unwrap()
    }
}

fn received(topic: &str, payload: &str, property_bytes: usize) -> Box<Received> {
    let property = ("k".to_owned(), "x".repeat(property_bytes));
    Box::new(Received {
        topic: Topic::parse(topic).unwrap(),
        payload: payload.to_owned().into(),
        by: By::new(Door::Mqtt, "c"),
        received_at: jiff::Timestamp::UNIX_EPOCH,
        qos: 1,
        content_type: None,
        user_properties: if property_bytes > 0 { vec![property] } else { Vec::new() },
        expires_at: None,
    })
}

fn put(files: &Files, received: Box<Received>) -> Promise {
    let (receipt, promise) = Receipt::new();
    files.put(received, Some(receipt));
    promise
}

#[tokio::test]
async fn many_who_wait_share_their_syncs() {
    const CLIENTS: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let topic = |n: usize| format!("mesh/nodes/n{n}/presence");
    let promises: Vec<_> =
        (0..CLIENTS).map(|n| put(&running.files, received(&topic(n), "{}", 0))).collect();
    for promise in promises {
        assert_eq!(promise.await.unwrap(), Ok(()));
    }
    for n in 0..CLIENTS {
        assert!(dir.path().join(format!("live/nodes/n{n}/presence.json")).exists());
    }
    running.files.flushed().await;
    let syncs = running.health.syncs();
    assert!((1..=50).contains(&syncs), "{syncs} syncs for {CLIENTS} changes");
    assert_eq!(running.end(), 0);
}

#[tokio::test]
async fn a_newer_value_keeps_the_promise_for_the_one_that_it_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let file = dir.path().join("live/nodes/n/presence.json");
    let numbers = 0..200;
    let promises: Vec<_> = numbers
        .map(|n| put(&running.files, received("mesh/nodes/n/presence", &n.to_string(), 0)))
        .collect();
    for (n, promise) in promises.into_iter().enumerate() {
        assert_eq!(promise.await.unwrap(), Ok(()));
        let there: usize = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        assert!(there >= n, "{there} is there, {n} was promised");
    }
    let (receipt, promise) = Receipt::new();
    running.files.remove(Topic::parse("mesh/nodes/n/presence").unwrap(), Some(receipt));
    assert_eq!(promise.await.unwrap(), Ok(()));
    assert!(!file.exists());
    assert_eq!(running.end(), 0);
}

#[tokio::test]
async fn one_file_that_cannot_be_written_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    // No file system keeps so large an attribute.
    let bad = put(&running.files, received("mesh/nodes/bad/presence", "{}", 1 << 20));
    let trouble = bad.await.unwrap().unwrap_err();
    assert!(!trouble.everywhere, "{trouble:?}");
    assert_eq!(running.files.trouble(), Some(trouble));
    let good = put(&running.files, received("mesh/nodes/good/presence", "{}", 0));
    assert_eq!(good.await.unwrap(), Ok(()));
    assert!(running.files.trouble().is_some(), "it is still not written");
    let better = put(&running.files, received("mesh/nodes/bad/presence", "{}", 0));
    assert_eq!(better.await.unwrap(), Ok(()));
    running.files.flushed().await;
    assert_eq!(running.files.trouble(), None);
    assert_eq!(running.end(), 0);
}

#[tokio::test]
async fn what_nobody_waits_for_is_in_its_file_at_once_and_synced_together_later() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    for n in 0..300 {
        running.files.put(received(&format!("mesh/app/a{n}"), "x", 0), None);
    }
    running.files.flushed().await;
    assert!((0..300).all(|n| dir.path().join(format!("live/app/a{n}.raw")).exists()));
    let before = running.health.syncs();
    let replaced = received("mesh/app/a7", "y", 0);
    running.files.put(replaced, None);
    running.files.flushed().await;
    let synced = || std::fs::read_dir(dir.path().join(".tmp/kept")).unwrap().next().is_none();
    while !synced() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(running.end(), 0);
    assert!(before <= 4, "{before} syncs for 300 files");
    assert_eq!(std::fs::read(dir.path().join("live/app/a7.raw")).unwrap(), b"y");
}

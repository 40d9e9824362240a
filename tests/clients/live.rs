//! `meshfs live` and `/v1/live` on a real hub, and on trees without one.

use super::Hub;
use super::hub::{LIMIT, files, meshfs, until};
use super::retained::publish;
use meshfs::http::api::{LiveMessage, Purge};
use meshfs::message::{Entry, JournalLine};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

fn publish_all(hub: &Hub, messages: &[(&str, &str)]) {
    let owned: Vec<_> = messages.iter().map(|(t, p)| ((*t).to_owned(), (*p).to_owned())).collect();
    let count = owned.len();
    assert_eq!(publish(hub, owned.into_iter()), count);
}

/// `meshfs live …` on a hub: exit code, standard output, standard error.
fn live(hub: &Hub, arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let url = hub.url();
    run(&[&["live"], arguments, &["--hub", &url]].concat())
}

fn run(arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let output = meshfs(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), output.stdout, error)
}

fn listed(output: &[u8]) -> Vec<String> {
    let messages: Vec<LiveMessage> = serde_json::from_slice(output).unwrap();
    messages.iter().map(|message| message.topic.as_str().to_owned()).collect()
}

fn purges(root: &Path) -> Vec<Entry> {
    let days = fs::read_dir(root.join("tree/journal")).unwrap();
    let text: String = days.map(|day| fs::read_to_string(day.unwrap().path()).unwrap()).collect();
    let entries = text.lines().map(|l| serde_json::from_str::<JournalLine>(l).unwrap().entry);
    entries.filter(|entry| matches!(entry, Entry::Purge { .. })).collect()
}

#[test]
fn what_is_retained_is_listed_counted_and_printed_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let beat = r#"{"node":"n1"}"#;
    publish_all(&hub, &[("mesh/nodes/n1/heartbeat", beat), ("mesh/app/a b/é%2F", "\0\n\u{1b}[0m")]);
    let (code, output, _) = live(&hub, &["ls", "mesh/app/#", "--json"]);
    let messages: Vec<LiveMessage> = serde_json::from_slice(&output).unwrap();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((code, message.topic.as_str(), message.bytes), (0, "mesh/app/a b/é%2F", 6));
    assert_eq!((message.by.to_string().as_str(), message.qos), ("mqtt:publisher", 1));
    let (_, output, _) = live(&hub, &["ls", "mesh/nodes/+/heartbeat"]);
    let table = String::from_utf8(output).unwrap();
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1]), ("mesh/nodes/n1/heartbeat", "13"), "{table}");
    let (_, output, _) = live(&hub, &["ls", "--count", "mesh/+/n1/heartbeat"]);
    assert_eq!(output, b"1 message, 13 bytes\n");

    assert_eq!(live(&hub, &["cat", "mesh/app/a b/é%2F"]).1, b"\0\n\x1b[0m");
    let (_, meta, _) = live(&hub, &["cat", "--meta", "mesh/nodes/n1/heartbeat"]);
    assert_eq!(serde_json::from_slice::<LiveMessage>(&meta).unwrap().bytes, 13);
    let (code, output, error) = live(&hub, &["cat", "mesh/app/none"]);
    assert_eq!((code, output.len()), (1, 0));
    assert!(error.contains("nothing is retained"), "{error}");
}

#[test]
fn a_payload_is_no_page_of_the_interface() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    publish_all(&hub, &[("mesh/app/x", "<script>"), ("mesh/nodes/n/heartbeat", "{}")]);
    let head = |path: &str| {
        let mut stream = std::net::TcpStream::connect(hub.http).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", hub.http)
            .unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let app = head("/v1/live/app/x");
    assert!(app.contains("content-security-policy: default-src 'none'; sandbox"), "{app}");
    assert!(app.contains("content-type: application/octet-stream"), "{app}");
    assert!(app.contains("x-content-type-options: nosniff"), "{app}");
    let beat = head("/v1/live/nodes/n/heartbeat");
    assert!(beat.contains("content-type: application/json"), "{beat}");
    let metadata = beat.lines().find_map(|l| l.strip_prefix("meshfs-metadata: ")).unwrap();
    let metadata: LiveMessage = serde_json::from_str(metadata).unwrap();
    assert_eq!(metadata.topic.as_str(), "mesh/nodes/n/heartbeat");
}

#[test]
fn names_that_a_terminal_would_obey_do_not_reach_it() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let hostile = "mesh/app/a\u{1b}[2J\n\r\u{9b}31m\u{202e}b";
    publish_all(&hub, &[(hostile, "x")]);
    let tree = dir.path().join("tree");
    until("the file", || files(dir.path()).contains_key(hostile));
    fs::write(tree.join("live/app/\u{1b}[31m"), "foreign").unwrap();
    let tree = tree.to_str().unwrap();
    for more in [&[][..], &["--json"]] {
        let outputs = [
            live(&hub, &[&["ls", "mesh/app/#"], more].concat()),
            live(&hub, &[&["purge", "mesh/app/#"], more].concat()),
            run(&[&["live", "ls", "mesh/app/#", "--root", tree], more].concat()),
        ];
        for (_, output, error) in outputs {
            let text = String::from_utf8(output).unwrap() + &error;
            let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(obeyed), "{text:?}");
            assert!(text.contains("mesh/app/a"), "{text:?}");
        }
    }
    let (_, output, _) = live(&hub, &["ls", "mesh/app/#", "--json"]);
    assert_eq!(listed(&output), [hostile], "JSON says exactly what it is");
}

#[test]
fn a_filter_is_nothing_but_a_filter() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    publish_all(&hub, &[("mesh/app/a", "x"), ("mesh/app/a&limit=0", "x"), ("mesh/app/%23", "x")]);
    for topic in ["mesh/app/a", "mesh/app/a&limit=0", "mesh/app/%23"] {
        assert_eq!(listed(&live(&hub, &["ls", topic, "--json"]).1), [topic]);
    }
    for filter in ["mesh/a#", "mesh/#/x", "", "other/#", &"mesh/".repeat(300)] {
        assert_eq!(live(&hub, &["ls", filter]).0, 2, "{filter}");
        assert_eq!(live(&hub, &["purge", "--yes", filter]).0, 2, "{filter}");
    }
    for query in ["filter=mesh/a%23", "limit=0", "limit=1001", "limit=x", "filer=mesh/app/a"] {
        assert_eq!(hub.request("GET", &format!("/v1/live?{query}"), "").0, 400, "{query}");
    }
    for path in ["../nodes", "%2e%2e/%2e%2e/etc/passwd", "app/%00", "app//a", "", "app/%ff"] {
        let (status, _) = hub.request("GET", &format!("/v1/live/{path}"), "");
        assert!(status == 404 || status == 400, "{path}: {status}");
    }
    for body in ["", "{}", r#"{"filter":"mesh/a#"}"#, r##"{"filter":"#","dryrun":false}"##, "[]"] {
        assert_eq!(hub.request("POST", "/v1/live/purge", body).0, 400, "{body}");
    }
    assert_eq!(hub.request("POST", "/v1/live/purge", &"x".repeat(20_000)).0, 413);
    assert_eq!(hub.request("GET", "/v1/live?filter=mesh/app/%2b&limit=2", "").0, 200);
    assert_eq!(listed(&live(&hub, &["ls", "mesh/app/+", "--json"]).1).len(), 3);
}

#[test]
fn a_purge_clears_what_it_says_and_nothing_else_and_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let old = ["heartbeat", "presence", "services/a", "capture"];
    let old = old.map(|what| format!("mesh/nodes/old/{what}"));
    let mut messages: Vec<_> =
        old.iter().map(|topic| (topic.as_str(), r#"{"state":"online"}"#)).collect();
    messages.extend([("mesh/nodes/older/heartbeat", "{}"), ("mesh/app/old", "x")]);
    publish_all(&hub, &messages);
    // What is published, two verdicts and the hub itself.
    until("the files", || files(dir.path()).len() == messages.len() + 3);
    let topics = || files(dir.path()).into_keys().collect::<Vec<_>>();
    let before = topics();

    let (code, output, _) = live(&hub, &["purge", "mesh/nodes/old/#"]);
    let output = String::from_utf8(output).unwrap();
    assert_eq!(code, 0, "{output}");
    assert!(old.iter().all(|topic| output.contains(topic)), "{output}");
    assert!(output.contains("would clear 4 messages") && output.contains("--yes"), "{output}");
    assert!(output.contains("1 more are the hub's own"), "{output}");
    assert_eq!(topics(), before, "a dry run");
    assert_eq!(purges(dir.path()), []);

    let (code, output, _) = live(&hub, &["purge", "mesh/nodes/old/#", "--yes"]);
    assert_eq!((code, output.starts_with(b"cleared 4 messages")), (0, true));
    until("the files and the verdict to go", || !dir.path().join("tree/live/nodes/old").exists());
    let left = files(dir.path());
    assert!(left.contains_key("mesh/nodes/older/heartbeat") && left.contains_key("mesh/app/old"));
    let [Entry::Purge { by, filter, messages, .. }] = &purges(dir.path())[..] else {
        panic!("{:?}", purges(dir.path()))
    };
    assert_eq!((filter.as_str(), *messages), ("mesh/nodes/old/#", 4));
    assert_eq!(by.to_string(), "cli:127.0.0.1");
    assert_eq!(hub.request("GET", "/v1/nodes/old", "").0, 404);

    let (code, _, error) = live(&hub, &["purge", "mesh/hub", "--yes"]);
    assert!(code == 1 && error.contains("hub itself publishes"), "{error}");
    assert_eq!(live(&hub, &["purge", "mesh/app/none", "--yes"]).0, 0);
    assert_eq!(purges(dir.path()).len(), 1, "nothing was cleared");
}

#[test]
fn ten_thousand_topics_are_listed_and_purged_step_by_step() {
    const TOPICS: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    let messages = (0..TOPICS).map(|n| (format!("mesh/app/t/{n:05}"), "x".repeat(n % 7)));
    let messages = messages.map(|(topic, payload)| (topic, payload + "."));
    assert_eq!(publish(&hub, messages), TOPICS);
    let bytes: usize = (0..TOPICS).map(|n| n % 7 + 1).sum();
    let expected = format!("{TOPICS} messages, {bytes} bytes\n");
    assert_eq!(live(&hub, &["ls", "mesh/app/t/#", "--count"]).1, expected.as_bytes());
    let topics = listed(&live(&hub, &["ls", "mesh/app/t/+", "--json"]).1);
    assert_eq!(topics.len(), TOPICS);
    assert!(topics.is_sorted());
    until("the files", || files(dir.path()).len() > TOPICS);
    let tree = dir.path().join("tree");
    let from_files =
        run(&["live", "ls", "mesh/app/t/+", "--json", "--root", tree.to_str().unwrap()]);
    assert_eq!((from_files.0, listed(&from_files.1)), (0, topics));

    let reports = purge_in_steps(&hub, "mesh/app/t/#");
    assert!(reports.len() > 10, "{} reports", reports.len());
    assert!(reports.windows(2).all(|pair| pair[0].purged <= pair[1].purged));
    let last = reports.last().unwrap();
    assert_eq!((last.ended, last.purged, last.selected), (true, 10_000, 10_000));
    assert_eq!((last.topics.len(), &last.error), (1000, &None));
    assert_eq!(live(&hub, &["ls", "mesh/app/#", "--count"]).1, b"0 messages, 0 bytes\n");
    until("the files to go", || !tree.join("live/app").exists());
    assert_eq!(purges(dir.path()).len(), 1);
}

/// A purge over HTTP with a report for each step.
fn purge_in_steps(hub: &Hub, filter: &str) -> Vec<Purge> {
    let mut stream = std::net::TcpStream::connect(hub.http).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let body = format!(r#"{{"filter":"{filter}","dry_run":false}}"#);
    write!(
        stream,
        "POST /v1/live/purge HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        hub.http,
        body.len()
    )
    .unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(&l).unwrap()).collect()
}

#[test]
fn a_tree_is_read_without_a_hub_and_what_is_torn_or_foreign_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path());
    publish_all(&hub, &[("mesh/nodes/n/heartbeat", r#"{"node":"n"}"#), ("mesh/app/x/y", "pay")]);
    let (status, outcome) = hub.request("POST", "/v1/announcements", "before it all goes wrong");
    assert_eq!(status, 201, "{outcome}");
    hub.kill();
    let tree = dir.path().join("tree");
    let copies = fs::read_dir(tree.join(".snapshots")).unwrap();
    let copy = copies.map(|copy| copy.unwrap().path()).next().unwrap();
    for root in [&tree, &copy] {
        let root = root.to_str().unwrap();
        let (code, output, error) = run(&["live", "ls", "--json", "--root", root]);
        assert_eq!((code, error.as_str()), (0, ""));
        let topics = listed(&output);
        assert!(topics.contains(&"mesh/app/x/y".into()) && topics.contains(&"mesh/hub".into()));
        assert_eq!(run(&["live", "cat", "mesh/app/x/y", "--root", root]).1, b"pay");
        let (_, meta, _) = run(&["live", "cat", "--meta", "mesh/app/x/y", "--root", root]);
        let meta: LiveMessage = serde_json::from_slice(&meta).unwrap();
        assert_eq!(meta.by.to_string(), "mqtt:publisher");
    }
    damage(&tree.join("live"));
    let before = listing(&tree);
    let root = tree.to_str().unwrap();
    let (code, output, error) = run(&["live", "ls", "--json", "--root", root]);
    assert_eq!(code, 1);
    assert!(error.contains("5 files"), "{error}");
    let lines: Vec<Value> = serde_json::from_slice(&output).unwrap();
    let mut found: Vec<_> = lines
        .iter()
        .filter_map(|line| Some((line["path"].as_str()?, line["why"].as_str()?)))
        .collect();
    found.sort_unstable();
    let expected = [
        ("app/fifo.raw", "not a regular file"),
        ("app/link", "not a regular file"),
        ("app/notes.txt", "no topic has this path"),
        ("app/x/y.raw", "torn"),
        ("nodes/n/heartbeat.json", "no attribute"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((path, why), (wanted, because)) in found.iter().zip(expected) {
        assert!(*path == wanted && why.contains(because), "{path}: {why}");
    }
    // Other folders are nobody's concern when one is asked for.
    assert_eq!(run(&["live", "ls", "mesh/hub", "--root", root]).0, 0);
    let (code, output, error) = run(&["live", "cat", "mesh/app/x/y", "--root", root]);
    assert_eq!((code, output.as_slice()), (1, b"p".as_slice()), "{error}");
    assert!(error.contains("not to be trusted"), "{error}");
    assert_eq!(listing(&tree), before, "reading changed something");
}

/// One torn file, one without its attribute, and three things that are no files of ours.
fn damage(live: &Path) {
    fs::write(live.join("app/x/y.raw"), "p").unwrap();
    let beat = live.join("nodes/n/heartbeat.json");
    fs::remove_file(&beat).unwrap();
    fs::write(&beat, "{}").unwrap();
    fs::write(live.join("app/notes.txt"), "mine").unwrap();
    symlink("/etc", live.join("app/link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = live.join("app/fifo.raw");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn listing(folder: &Path) -> Vec<(std::path::PathBuf, i64, i64, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            found.extend(listing(&path));
        }
        found.push((path, stat.mtime(), stat.ctime_nsec(), stat.size()));
    }
    found.sort();
    found
}

#[test]
fn no_topic_and_no_link_leads_out_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, secret) = (dir.path().join("tree"), dir.path().join("secret.raw"));
    fs::create_dir_all(tree.join("live/app")).unwrap();
    fs::write(&secret, "secret").unwrap();
    symlink(dir.path(), tree.join("live/app/out")).unwrap();
    symlink(&secret, tree.join("live/app/link.raw")).unwrap();
    let root = tree.to_str().unwrap();
    for topic in [
        "mesh/app/out/secret",
        "mesh/app/link",
        "mesh/app/../../secret",
        "mesh/../../secret",
        "mesh/app/..%2F..%2Fsecret",
        "/etc/passwd",
        "../secret",
        "mesh//etc/passwd",
    ] {
        let (code, output, error) = run(&["live", "cat", topic, "--root", root]);
        assert!(code != 0 && output.is_empty() && !error.is_empty(), "{topic}: {output:?} {error}");
    }
    // And a live/ that is itself a link is none.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    symlink(tree.join("live"), other.join("live")).unwrap();
    let (code, _, error) = run(&["live", "ls", "--root", other.to_str().unwrap()]);
    assert!(code == 1 && error.contains("live") && error.contains("--root"), "{error}");
}

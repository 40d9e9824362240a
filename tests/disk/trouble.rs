//! A disk that is full, read-only or forbidden: the bus lives on, what could not
//! be kept is refused with the reason, and all is written when the disk takes it.

use super::Client;
use super::hub::program;
use super::hub::{Hub, files, until};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, unmounted when dropped.
struct Mounted(tempfile::TempDir);

#[expect(clippy::disallowed_methods, reason = "tests start real programs")]
fn run(arguments: &[&str]) -> bool {
    Command::new(arguments[0])
        .args(&arguments[1..])
        .output()
        .is_ok_and(|done| done.status.success())
}

impl Mounted {
    /// `None`, and said, where nobody may mount or the file system keeps no attributes.
    fn tmpfs(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().to_str().unwrap();
        if !run(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", point]) {
            eprintln!("SKIP {test}: no file system can be mounted here (it takes root)");
            return None;
        }
        let mounted = Self(dir);
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(mounted.0.path(), "user.meshfs", b"x", flags).is_err() {
            eprintln!("SKIP {test}: tmpfs keeps no user attributes here (Linux 6.6 does)");
            return None;
        }
        Some(mounted)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// ext4 in a file, which is still there after it was unmounted.
    fn ext4(test: &str, image: &Path) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (point, image) = (dir.path().to_str().unwrap(), image.to_str().unwrap());
        let made = Path::new(image).exists()
            || run(&["truncate", "-s", "32M", image]) && run(&["mkfs.ext4", "-q", "-F", image]);
        // What was interrupted is put in order as any machine does at its start.
        run(&["fsck.ext4", "-p", image]);
        if made && run(&["mount", "-o", "loop", image, point]) {
            return Some(Self(dir));
        }
        eprintln!("SKIP {test}: no image can be mounted here (it takes root and mkfs.ext4)");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(&["umount", "-l", self.path().to_str().unwrap()]);
    }
}

/// Puts the tree of a hub that is started in `log` onto the file system.
fn link(mounted: &Path, log: &Path) {
    std::fs::create_dir(mounted.join("tree")).unwrap();
    std::os::unix::fs::symlink(mounted.join("tree"), log.join("tree")).unwrap();
}

const PRESENCE: &str = "mesh/nodes/n1/presence";

fn presence(number: u32) -> String {
    format!(r#"{{"node":"n1","state":"online","boot_id":"{number}"}}"#)
}

/// What the hub says of its disk.
fn trouble(hub: &Hub) -> Option<String> {
    let mut reader = Client::connect(hub.mqtt, "reader", false);
    reader.subscribe("mesh/hub");
    let said: serde_json::Value = serde_json::from_str(&reader.message().1).unwrap();
    said["trouble"].as_str().map(ToOwned::to_owned)
}

/// A durable message is refused: the first one on its way, those after it at the door.
fn refuses(hub: &Hub, node: &mut Client, code: u8, word: &str) {
    for number in 100..120 {
        let (found, why) = node.publish(PRESENCE, &presence(number), 1).unwrap();
        assert_eq!(found, code, "{why}");
        assert!(why.contains(word), "{why:?} does not say {word:?}");
    }
    // Whoever cannot be told no has to come again.
    let mut old = Client::connect(hub.mqtt, "old", false);
    assert_eq!(old.publish(PRESENCE, &presence(120), 1), None, "acknowledged and not kept");
}

/// The bus lives, durable messages are refused and the hub says why; then the disk is mended,
/// and all is well without a restart.
fn lives_through(hub: &Hub, log: &Path, code: u8, word: &str, mend: impl FnOnce()) {
    let mut node = Client::connect(hub.mqtt, "node", true);
    let mut reader = Client::connect(hub.mqtt, "watcher", false);
    reader.subscribe("mesh/nodes/+/heartbeat");
    refuses(hub, &mut node, code, word);
    // Everything else goes on.
    assert_eq!(node.publish("mesh/nodes/n1/heartbeat", r#"{"beat":7}"#, 1).unwrap().0, 0);
    assert_eq!(reader.message().1, r#"{"beat":7}"#);
    node.send(PRESENCE, &presence(200), 0);
    until("the trouble to be said", || trouble(hub).is_some_and(|why| why.contains(word)));
    until("not ready", || hub.request("GET", "/readyz", "").0 == 503);
    assert_eq!(hub.request("GET", "/healthz", "").0, 200);
    mend();
    until("all to be well", || trouble(hub).is_none());
    until("ready", || hub.request("GET", "/readyz", "").0 == 200);
    let found = files(log);
    assert_eq!(found[PRESENCE], presence(200).as_bytes(), "the newest that was let in");
    assert_eq!(found["mesh/nodes/n1/heartbeat"], br#"{"beat":7}"#);
    assert_eq!(node.publish(PRESENCE, &presence(300), 1).unwrap().0, 0);
    assert_eq!(files(log)[PRESENCE], presence(300).as_bytes());
    let log = std::fs::read_to_string(log.join("hub.log")).unwrap();
    assert_eq!(log.matches("live store not written").count(), 1, "said once: {log}");
}

#[test]
fn a_full_disk_refuses_durable_messages_and_is_recovered_from() {
    let Some(mounted) = Mounted::tmpfs("a_full_disk") else { return };
    let log = tempfile::tempdir().unwrap();
    link(mounted.path(), log.path());
    let hub = Hub::start(log.path());
    let mut node = Client::connect(hub.mqtt, "first", true);
    assert_eq!(node.publish(PRESENCE, &presence(1), 1).unwrap().0, 0);
    let filler = mounted.path().join("filler");
    fill(&filler);
    lives_through(&hub, log.path(), 0x97, "free space", || std::fs::remove_file(&filler).unwrap());
    assert_eq!(hub.stop(), Some(0));
}

#[test]
fn a_hub_starts_on_a_full_disk_with_what_it_knew_and_recovers() {
    let Some(mounted) = Mounted::tmpfs("a_start_on_a_full_disk") else { return };
    let log = tempfile::tempdir().unwrap();
    link(mounted.path(), log.path());
    let hub = Hub::start(log.path());
    let mut node = Client::connect(hub.mqtt, "first", true);
    assert_eq!(node.publish(PRESENCE, &presence(1), 1).unwrap().0, 0);
    assert_eq!(hub.stop(), Some(0));
    let filler = mounted.path().join("filler");
    fill(&filler);
    let hub = Hub::start(log.path());
    let mut reader = Client::connect(hub.mqtt, "reader", false);
    reader.subscribe(PRESENCE);
    assert_eq!(reader.message().1, presence(1));
    lives_through(&hub, log.path(), 0x97, "free space", || std::fs::remove_file(&filler).unwrap());
    assert_eq!(hub.stop(), Some(0));
}

/// Writes until there is no more room.
fn fill(filler: &PathBuf) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(filler).unwrap();
    for bytes in [1 << 16, 4096, 1] {
        while file.write_all(&vec![0; bytes]).is_ok() {}
    }
}

#[test]
fn a_disk_that_became_read_only_refuses_durable_messages_and_has_what_was_acknowledged() {
    let log = tempfile::tempdir().unwrap();
    let image = log.path().join("image");
    let Some(mounted) = Mounted::ext4("a_read_only_disk", &image) else { return };
    link(mounted.path(), log.path());
    let hub = Hub::start(log.path());
    let mut node = Client::connect(hub.mqtt, "node", true);
    assert_eq!(node.publish(PRESENCE, &presence(1), 1).unwrap().0, 0);
    // As after an error of the disk: at once, and whoever has files open.
    assert!(run(&["mount", "-o", "remount,abort", mounted.path().to_str().unwrap()]));
    until("the file system to be read-only", || {
        std::fs::write(mounted.path().join("x"), "x").is_err()
    });
    refuses(&hub, &mut node, 0x83, "read-only");
    until("the trouble to be said", || trouble(&hub).is_some_and(|why| why.contains("ead-only")));
    let (status, answer) = hub.request("POST", "/v1/announcements", "over HTTP");
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("ead-only"), "{answer}");
    hub.kill();
    drop(mounted);
    std::fs::remove_file(log.path().join("tree")).unwrap();
    let Some(mounted) = Mounted::ext4("a_read_only_disk", &image) else { panic!("not again") };
    std::os::unix::fs::symlink(mounted.path().join("tree"), log.path().join("tree")).unwrap();
    let hub = Hub::start(log.path());
    assert_eq!(files(log.path())[PRESENCE], presence(1).as_bytes());
    hub.kill();
}

#[test]
fn a_tree_that_may_not_be_written_any_more_refuses_durable_messages_and_is_recovered_from() {
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let program_of = env!("CARGO_BIN_EXE_meshfs");
    let allowed = [&nobody[..], &[program_of, "--version"]].concat();
    if !run(&allowed) {
        eprintln!("SKIP permission_lost: it takes root, setpriv and a program that all may run");
        return;
    }
    let log = tempfile::tempdir().unwrap();
    let tree = log.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    assert!(run(&["chmod", "755", log.path().to_str().unwrap()]));
    assert!(run(&["chown", "65534", tree.to_str().unwrap()]));
    let mut command = program(nobody[0]);
    command.args(&nobody[1..]).arg(program_of);
    let hub = Hub::launch(command, log.path(), &[], None);
    let mut node = Client::connect(hub.mqtt, "first", true);
    assert_eq!(node.publish(PRESENCE, &presence(1), 1).unwrap().0, 0);
    let scratch = tree.join(".tmp");
    assert!(run(&["chmod", "555", scratch.to_str().unwrap()]));
    lives_through(&hub, log.path(), 0x83, "permission", || {
        assert!(run(&["chmod", "755", scratch.to_str().unwrap()]));
    });
    assert_eq!(hub.stop(), Some(0));
}

/// Lets a file system write again, whatever becomes of the test.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(point: &Path) -> Option<Self> {
        run(&["fsfreeze", "-f", point.to_str().unwrap()]).then(|| Self(point.to_owned()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        run(&["fsfreeze", "-u", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_disk_that_hangs_holds_up_only_who_waits_for_it_and_them_not_for_ever() {
    let log = tempfile::tempdir().unwrap();
    let image = log.path().join("image");
    let Some(mounted) = Mounted::ext4("a_disk_that_hangs", &image) else { return };
    link(mounted.path(), log.path());
    let hub = Hub::start_with(log.path(), &[("MESHFS__BUS__DURABLE_WAIT", "500ms")]);
    let mut node = Client::connect(hub.mqtt, "node", true);
    assert_eq!(node.publish(PRESENCE, &presence(1), 1).unwrap().0, 0);
    let Some(frozen) = Frozen::freeze(mounted.path()) else {
        eprintln!("SKIP a_disk_that_hangs: it cannot be frozen here");
        return;
    };
    let mut others = Client::connect(hub.mqtt, "others", false);
    let mut reader = Client::connect(hub.mqtt, "reader", true);
    reader.subscribe("mesh/#");
    for number in 2..5 {
        let (waiting, _) = node.send(PRESENCE, &presence(number), 1);
        // While it waits: heartbeats come and go, and the hub answers.
        let beat = format!(r#"{{"beat":{number}}}"#);
        assert_eq!(others.publish("mesh/nodes/n2/heartbeat", &beat, 1).unwrap().0, 0);
        while reader.message() != ("mesh/nodes/n2/heartbeat".to_owned(), beat.clone()) {}
        assert_eq!(hub.request("GET", "/healthz", "").0, 200);
        let Some(super::client::Packet::Ack { id, code, text }) = node.next() else {
            panic!("the node was sent away")
        };
        assert_eq!((id, code), (waiting, 0x83), "{text}");
        assert!(text.contains("within 500ms") || text.contains("does not end"), "{text}");
    }
    until("the hub to say that it hangs", || {
        trouble(&hub).is_some_and(|why| why.contains("live store: a write does not end"))
    });
    let (code, why) = node.publish(PRESENCE, &presence(9), 1).unwrap();
    assert!(code == 0x83 && why.contains("does not end"), "known at the door: {why}");
    drop(frozen);
    until("all to be well", || trouble(&hub).is_none());
    assert_eq!(node.publish(PRESENCE, &presence(10), 1).unwrap().0, 0);
    assert_eq!(files(log.path())[PRESENCE], presence(10).as_bytes());
    assert_eq!(files(log.path())["mesh/nodes/n2/heartbeat"], br#"{"beat":4}"#);
    assert_eq!(hub.stop(), Some(0));
}

//! The power is cut at every moment: the program's own system calls are recorded
//! under a random load, and after each of them what a power cut could leave is
//! made on a real file system and read back as a hub would.

use super::hub::{installed, program, until};
use super::model::{Fate, Model};
use super::trace::{Argument, Step, read};
use super::{Client, client};
use meshfs::journal::Journal;
use meshfs::live::{Store, path};
use meshfs::message::Entry;
use meshfs::name::Topic;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MESSAGES: u16 = 150;
/// What the model has to know: everything that changes names or contents, and what is answered.
const CALLS: &str = "trace=open,openat,mkdir,mkdirat,write,writev,pwrite64,ftruncate,truncate,setxattr,fsetxattr,\
    rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fsync,fdatasync,syncfs,sendto";

/// A message, by its packet id minus one; no payload: the topic is cleared.
#[derive(Debug, Clone)]
struct Sent {
    topic: String,
    payload: Option<String>,
}

impl Sent {
    fn is_durable(&self) -> bool {
        self.topic.ends_with("/presence")
    }
}

/// A random message; its number makes it one of a kind.
fn message(number: u16) -> Sent {
    let node = format!("n{}", fastrand::u8(0..12));
    let (topic, payload) = match fastrand::u8(0..20) {
        0 => ("mesh/announce".into(), format!(r#"{{"reason":"r","id":"a{number}"}}"#)),
        1..=6 => (
            format!("mesh/nodes/{node}/presence"),
            format!(r#"{{"node":"{node}","state":"online","boot_id":"{number}"}}"#),
        ),
        7 => return Sent { topic: format!("mesh/nodes/{node}/presence"), payload: None },
        8 => return Sent { topic: format!("mesh/app/{node}/deep/x"), payload: None },
        9..=11 => (format!("mesh/app/{node}/deep/x"), format!("number {number}")),
        _ => (
            format!("mesh/nodes/{node}/heartbeat"),
            format!(r#"{{"node":"{node}","beat":{number}}}"#),
        ),
    };
    Sent { topic, payload: Some(payload) }
}

/// The hub under strace; killed when dropped.
struct Traced(Child, i32);

impl Drop for Traced {
    fn drop(&mut self) {
        let hub = rustix::process::Pid::from_raw(self.1).unwrap();
        let _ = rustix::process::kill_process(hub, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

fn traced(root: &Path) -> Command {
    let mut command = program("strace");
    command
        .args(["-f", "-yy", "-xx", "-s", "1000000", "-e", "signal=none", "-e", CALLS, "-o"])
        .arg(root.join("trace"))
        .args(["--", env!("CARGO_BIN_EXE_meshfs"), "serve", "--json", "--root"])
        .arg(root.join("tree"))
        .envs(
            ["BUS", "HTTP", "IRC__EMBEDDED"]
                .map(|part| (format!("MESHFS__{part}__LISTEN"), "127.0.0.1:0")),
        )
        .env("MESHFS__BUS__SYNC_WITHIN", "100ms")
        .env("MESHFS_LOG", "error");
    command
}

/// Publishes at random, sometimes waiting; gives the messages and the hub's MQTT port.
fn load(root: &Path) -> (Vec<Sent>, u16) {
    let mut child = traced(root).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address: std::net::SocketAddr = addresses["mqtt"].as_str().unwrap().parse().unwrap();
    let lock = std::fs::read_to_string(root.join("tree/.lock")).unwrap();
    let hub = Traced(child, lock.split_whitespace().nth(1).unwrap().parse().unwrap());
    let mut client = Client::connect(address, "load", false);
    let (mut sent, mut owed) = (Vec::new(), 0);
    for number in 1..=MESSAGES {
        let message = message(number);
        let (id, there) = client.send(&message.topic, message.payload.as_deref().unwrap_or(""), 1);
        assert!(there && id == number);
        sent.push(message);
        owed += 1;
        let wait = fastrand::u8(0..10);
        while wait < 3 && owed > 0 || owed >= 20 {
            assert!(matches!(client.next(), Some(client::Packet::Ack { code: 0, .. })));
            owed -= 1;
        }
        if wait == 9 {
            // Longer than it takes to sync what nobody waits for.
            std::thread::park_timeout(std::time::Duration::from_millis(120));
        }
    }
    while owed > 0 {
        assert!(matches!(client.next(), Some(client::Packet::Ack { code: 0, .. })));
        owed -= 1;
    }
    drop(hub);
    (sent, address.port())
}

/// What has to be there from some moment on.
#[derive(Debug, Default)]
struct Owed {
    /// By topic, the number of the last message that may not be lost.
    least: BTreeMap<String, usize>,
    announced: BTreeSet<String>,
    aside: usize,
}

/// Takes what a step acknowledges.
fn acknowledge(step: &Step, port: u16, sent: &[Sent], owed: &mut Owed) {
    let Step::Begun(_, name, arguments) = step else { return };
    let from = format!("TCP:[127.0.0.1:{port}->");
    let ours = |on: &Argument| matches!(on, Argument::Fd(path) if path.to_string_lossy().starts_with(&from));
    if name != "sendto" || !ours(&arguments[0]) {
        return;
    }
    for packet in arguments[1].bytes().chunks(4) {
        let [0x40, 2, high, low] = *packet else { continue };
        let number = usize::from(u16::from_be_bytes([high, low])) - 1;
        let Sent { topic, payload } = &sent[number];
        if topic == "mesh/announce" {
            let id = payload.as_ref().unwrap().split('"').nth(7).unwrap();
            owed.announced.insert(id.to_owned());
        } else if sent[number].is_durable() {
            owed.least.insert(topic.clone(), number);
        }
    }
}

/// Reads back what was left and compares it with what is owed; gives which message is there.
fn look(left: &Path, sent: &[Sent], owed: &mut Owed, moment: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    if left.join("live").is_dir() {
        let store = Store::open(left, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let loaded = store.load(&|_, _| Ok(())).unwrap();
        owed.aside += loaded.aside.len();
        for message in loaded.messages {
            let (topic, payload) =
                (message.topic.as_str(), String::from_utf8(message.payload).unwrap());
            if !["presence", "heartbeat", "x"].iter().any(|end| topic.ends_with(end)) {
                continue; // the hub's own
            }
            let this = |sent: &Sent| sent.topic == topic && sent.payload.as_ref() == Some(&payload);
            let number = sent.iter().position(this);
            found.insert(
                topic.to_owned(),
                number.unwrap_or_else(|| panic!("{topic}: {payload:?} was never sent")),
            );
        }
    }
    for (topic, least) in &owed.least {
        let cleared =
            |number: usize| sent[number].topic == *topic && sent[number].payload.is_none();
        let good = match found.get(topic) {
            Some(number) => number >= least,
            None => (*least..sent.len()).any(cleared),
        };
        assert!(
            good,
            "{topic}: {:?} is there, {least} was on disk: {:?}; {moment}",
            found.get(topic),
            sent[*least]
        );
    }
    if !owed.announced.is_empty() {
        let journal = Journal::open(left).unwrap().recall().unwrap();
        let ids: BTreeSet<_> = journal
            .iter()
            .filter_map(|entry| match entry {
                Entry::Announcement { id, .. } => Some(id.as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert!(
            owed.announced.is_subset(&ids),
            "{:?} are missing; {moment}",
            &owed.announced - &ids
        );
    }
    found
}

/// Somewhere fast that keeps extended attributes.
fn somewhere() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.unwrap();
    let keeps =
        rustix::fs::setxattr(dir.path(), "user.meshfs", b"x", rustix::fs::XattrFlags::empty());
    if keeps.is_ok() { dir } else { tempfile::tempdir().unwrap() }
}

/// Only files that are not seen yet, or that are only added to, are ever written to.
fn nothing_else_is_written(written: &BTreeSet<PathBuf>) {
    for path in written {
        let unseen = path.starts_with(".tmp") || path.starts_with("journal");
        assert!(unseen, "{} was written to in its place", path.display());
    }
    assert!(written.iter().any(|path| path.starts_with("journal")) && written.len() > 2);
}

#[test]
fn a_power_cut_after_any_system_call_takes_nothing_that_was_acknowledged_as_durable() {
    if !installed("a_power_cut", "strace") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let attach = program("strace").args(["-o", "/dev/null", "true"]).status();
    if !attach.is_ok_and(|status| status.success()) {
        eprintln!("SKIP a_power_cut: strace may not trace here");
        return;
    }
    let (sent, port) = load(dir.path());
    until("the trace", || dir.path().join("trace").exists());
    let steps = read(&std::fs::read_to_string(dir.path().join("trace")).unwrap());
    let mut model = Model::new(&dir.path().join("tree").canonicalize().unwrap());
    let (mut owed, mut moments) = (Owed::default(), 0_u64);
    let place = somewhere();
    let left = place.path().join("left");
    for step in &steps {
        acknowledge(step, port, &sent, &mut owed);
        if !model.follow(step) {
            continue;
        }
        moments += 1;
        let fates = [Fate::Nothing, Fate::NamesOnly, Fate::Lots(moments), Fate::Lots(!moments)];
        for fate in fates {
            std::fs::create_dir(&left).unwrap();
            model.leave(fate, &left);
            let moment = format!("cut after {step:?}, {fate:?}");
            let found = look(&left, &sent, &mut owed, &moment);
            std::fs::remove_dir_all(&left).unwrap();
            if fate == Fate::Nothing {
                // What the hub takes to be on disk, and is, must not be lost later, whether anybody
                // waited for it or not.
                let path = |topic: &str| path::of(&Topic::parse(topic).unwrap()).unwrap();
                for (topic, number) in found.into_iter().filter(|(t, _)| model.is_settled(&path(t)))
                {
                    let least = owed.least.entry(topic).or_insert(number);
                    *least = number.max(*least);
                }
            }
        }
    }
    nothing_else_is_written(&model.written);
    let durable = sent.iter().filter(|sent| sent.is_durable()).count();
    assert!(owed.least.keys().any(|topic| topic.ends_with("heartbeat")), "{:?}", owed.least);
    assert!(durable > 10 && !owed.announced.is_empty() && moments > 200, "{moments} moments");
    eprintln!("{moments} moments, {} files set aside in all", owed.aside);
}

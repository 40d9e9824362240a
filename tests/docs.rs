//! What the documents print works: the tour of the README word for word in real
//! terminals, and every example of `topics.md`, with real clients on the default
//! ports. Each runs in a network namespace of its own, so that the ports are free.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where it fails"
)]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command may take to show what the document says it shows; the
/// first one may have to build.
const PATIENCE: Duration = Duration::from_secs(280);

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// True if the tools are there; else says loudly what is missing.
fn have(test: &str, tools: &[&str]) -> bool {
    let there = |tool: &&&str| run("sh", &["-c", &format!("command -v {tool}")]).0;
    let missing: Vec<_> = tools.iter().filter(|tool| !there(tool)).collect();
    if !missing.is_empty() {
        eprintln!("SKIP {test}: not installed: {missing:?}; tests/run installs them");
        return false;
    }
    let namespaces = run("unshare", &["--net", "--mount", "ip", "link", "set", "lo", "up"]).0;
    if !namespaces {
        eprintln!("SKIP {test}: no namespaces for network and mounts can be made (it takes root)");
    }
    namespaces
}

#[expect(clippy::disallowed_methods, reason = "the documents tell people to run programs")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MESHFS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = command(program).args(arguments).output();
    match output {
        Ok(output) => {
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => (false, String::new()),
    }
}

/// Ends a process group when the test does, however it does.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A fenced block and the comment that stands above it.
#[derive(Debug)]
struct Block {
    mark: String,
    kind: String,
    lines: Vec<String>,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut mark = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(comment) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) {
            mark = comment.to_owned();
        } else if let Some(kind) = line.strip_prefix("```") {
            let body = lines.by_ref().take_while(|l| *l != "```").map(ToOwned::to_owned);
            let lines = body.collect();
            blocks.push(Block { mark: std::mem::take(&mut mark), kind: kind.to_owned(), lines });
        }
    }
    blocks
}

/// True if a line holds the pieces between the `…` of a pattern, in order.
fn shows(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    pattern.split('…').map(str::trim).filter(|piece| !piece.is_empty()).all(|piece| {
        let found = rest.find(piece);
        found.map(|at| rest = &rest[at + piece.len()..]).is_some()
    })
}

#[test]
fn a_pattern_is_found_piece_by_piece() {
    assert!(shows("confirmed: snapshot mesh-1 in 12 ms", "confirmed: snapshot mesh-… in … ms"));
    assert!(!shows("in 12 ms: confirmed", "confirmed … in"));
    assert!(!shows("", "Welcome"));
}

/// The terminals of the tour: windows of a tmux of its own, in a network of its own.
struct Terminals {
    socket: PathBuf,
    _server: Group,
}

impl Terminals {
    /// Opens terminals in `folder`, in which `tree` stands for the folder `mesh`.
    fn open(socket: PathBuf, folder: &Path, tree: &Path, windows: &[&str]) -> Self {
        let session = format!(
            "ip link set lo up; mount --bind {} mesh && cd . && exec tmux -D -S {}",
            tree.display(),
            socket.display()
        );
        let server = command("unshare")
            .args(["--net", "--mount", "sh", "-c", &session])
            .current_dir(folder)
            .process_group(0)
            .spawn()
            .expect("unshare");
        let terminals = Self { socket, _server: Group(server) };
        let folder = folder.to_str().expect("a folder");
        let (first, others) = windows.split_first().expect("a window");
        let shell = "PS1='$ ' exec bash --norc";
        until("tmux", || {
            let new = [
                "new-session",
                "-d",
                "-s",
                "tour",
                "-x",
                "220",
                "-y",
                "50",
                "-n",
                first,
                "-c",
                folder,
                shell,
            ];
            terminals.tmux(&new).0
        });
        for window in others {
            assert!(terminals.tmux(&["new-window", "-d", "-n", window, "-c", folder, shell]).0);
        }
        terminals
    }

    fn tmux(&self, arguments: &[&str]) -> (bool, String) {
        let socket = self.socket.to_str().expect("a path");
        run("tmux", &[&["-S", socket], arguments].concat())
    }

    fn kind(&self, window: &str, line: &str) {
        assert!(self.tmux(&["send-keys", "-t", window, "-l", line]).0, "{window}: {line}");
        assert!(self.tmux(&["send-keys", "-t", window, "Enter"]).0);
    }

    fn screen(&self, window: &str) -> String {
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-200", "-t", window]).1
    }
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn the_tour_of_the_readme_works_word_for_word() {
    if !have("the tour", &["tmux", "irssi", "mosquitto_pub", "ip", "unshare"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    // The tour is taken in the checkout, where everything is built, but with a tree of its own:
    // the terminals have another folder mounted where a new user's ./mesh will be.
    let tree = home.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let made = fs::create_dir(checkout().join("mesh")).is_ok();
    let socket = home.path().join("tmux");
    let terminals = Terminals::open(socket, checkout(), &tree, &["hub", "me", "irc"]);
    let readme = fs::read_to_string(checkout().join("README.md")).unwrap();
    let mut window = String::new();
    let mut steps = 0;
    for block in blocks(&readme) {
        if let Some(name) = block.mark.strip_prefix("tour: ") {
            name.clone_into(&mut window);
            for line in &block.lines {
                settled(&terminals, &window);
                terminals.kind(&window, line);
            }
            steps += 1;
        } else if let Some(seen) = block.mark.strip_prefix("see") {
            let window = seen.strip_prefix(": ").unwrap_or(&window);
            for pattern in &block.lines {
                let what = format!("{pattern:?} in terminal {window}");
                until(&what, || terminals.screen(window).lines().any(|line| shows(line, pattern)));
            }
        }
    }
    assert!(steps >= 8, "the README has no tour");
    terminals.kind("irc", "/quit");
    terminals.tmux(&["send-keys", "-t", "hub", "C-c"]);
    until("the hub to stop", || !is_locked(&tree));
    terminals.tmux(&["kill-server"]);
    if made {
        fs::remove_dir(checkout().join("mesh")).unwrap();
    }
}

/// In a shell the next line is typed when the one before has ended.
fn settled(terminals: &Terminals, window: &str) {
    if window == "me" {
        until("the prompt", || terminals.screen(window).trim_end().ends_with('$'));
    }
}

fn is_locked(tree: &Path) -> bool {
    let file = fs::File::open(tree.join(".lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

#[test]
fn every_example_of_topics_md_works() {
    if !have("the examples", &["mosquitto_pub", "mosquitto_rr", "ip", "unshare", "timeout"]) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let document = fs::read_to_string(checkout().join("topics.md")).unwrap();
    let blocks = blocks(&document);
    let mut script = format!(
        "ip link set lo up; cd {home}\n{hub} serve --root mesh >hub.out 2>hub.err & hub=$!\n\
         until grep -q 'is ready' hub.out; do kill -0 $hub || exit 99; read -rt 0.1 <> <(:); done\n",
        home = home.path().display(),
        hub = env!("CARGO_BIN_EXE_meshfs"),
    );
    for (n, block) in blocks.iter().enumerate().filter(|(_, block)| block.kind == "sh") {
        fs::write(home.path().join(format!("{n}.sh")), block.lines.join("\n")).unwrap();
        script += &format!("timeout 60 bash -e {n}.sh >{n}.out 2>{n}.err; echo $? >{n}.rc\n");
    }
    script += "kill $hub; wait $hub; echo $? >hub.rc\n";
    let started =
        command("unshare").args(["--net", "bash", "-c", &script]).process_group(0).spawn();
    let mut group = Group(started.unwrap());
    group.0.wait().unwrap();
    let read = |name: String| fs::read_to_string(home.path().join(name)).unwrap_or_default();
    assert_eq!(read("hub.rc".into()).trim(), "0", "the hub: {}", read("hub.err".into()));
    let mut examples = 0;
    for (n, block) in blocks.iter().enumerate().filter(|(_, block)| block.kind == "sh") {
        let (code, out) = (read(format!("{n}.rc")), read(format!("{n}.out")));
        let all = format!("{}\n{out}{}", block.lines.join("\n"), read(format!("{n}.err")));
        assert_eq!(code.trim(), "0", "{all}");
        if let Some(expected) = blocks.get(n + 1).filter(|next| next.kind == "text") {
            for pattern in &expected.lines {
                assert!(out.lines().any(|line| shows(line, pattern)), "no {pattern:?} in:\n{all}");
            }
        }
        examples += 1;
    }
    assert!(examples >= 16, "{examples} examples");
}

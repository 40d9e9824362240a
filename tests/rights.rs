//! Users and rights, from outside: the whole program with real clients, and with packets that no
//! client would send.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(dead_code, clippy::print_stderr, reason = "the helpers are shared; a skip is said")]

#[path = "rights/attacks.rs"]
mod attacks;
#[path = "clients/certificates.rs"]
mod certificates;
#[path = "rights/clients.rs"]
mod clients;
#[path = "rights/command.rs"]
mod command;
#[path = "rights/elsewhere.rs"]
mod elsewhere;
#[path = "rights/guessing.rs"]
mod guessing;
#[path = "clients/hub.rs"]
mod hub;
#[path = "rights/interface.rs"]
mod interface;
#[path = "rights/reload.rs"]
mod reload;
#[path = "rights/wire.rs"]
mod wire;

use hub::{Hub, meshfs, program};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

/// The password of everybody here.
const PASSWORD: &str = "correct horse";

/// A hub with users, in a folder of its own.
struct Guarded {
    hub: Hub,
    users: PathBuf,
    dir: tempfile::TempDir,
}

impl Guarded {
    /// With a node `web1`, a node `web2`, a service `crm`, a dashboard `wall`, an operator `anna`,
    /// and nobody without a name.
    fn start() -> Self {
        Self::start_with("none", "")
    }

    /// With more in the file, and another role for those without a name.
    fn start_with(anonymous_role: &str, more: &str) -> Self {
        Self::start_in(anonymous_role, more, &[])
    }

    /// With other settings besides.
    fn start_in(anonymous_role: &str, more: &str, settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users.toml");
        write_users(&users, more);
        let mut environment = vec![
            ("MESHFS__BUS__USERS", users.to_str().unwrap()),
            ("MESHFS__BUS__ANONYMOUS_ROLE", anonymous_role),
        ];
        environment.extend(settings);
        let hub = Hub::start_with(dir.path(), &environment);
        Self { hub, users, dir }
    }

    /// The lines of the journal of a kind.
    fn journal(&self, kind: &str) -> Vec<serde_json::Value> {
        let mut found = Vec::new();
        for day in std::fs::read_dir(self.dir.path().join("tree/journal")).unwrap() {
            let text = std::fs::read_to_string(day.unwrap().path()).unwrap();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            found.extend(lines.filter(|line: &serde_json::Value| line["kind"] == kind));
        }
        found
    }

    fn live(&self, topic: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("tree/live").join(topic)).ok()
    }

    /// Reads the files again and waits until the journal says so; gives what it says.
    fn reload(&self) -> serde_json::Value {
        let before = self.journal("reload").len();
        self.hub.hang_up();
        hub::until("the reading to be journalled", || self.journal("reload").len() > before);
        self.journal("reload").into_iter().rfind(|line| line["what"] == "users").unwrap()
    }
}

/// What a program printed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The hash of [`PASSWORD`], made once by the program itself.
fn hashed() -> &'static str {
    static HASHED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    HASHED.get_or_init(|| hash(PASSWORD))
}

/// What the program writes for a password.
fn hash(password: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users.toml");
    let added = user(&users, &["add", "x", "--role", "node"], password);
    assert!(added.status.success(), "{added:?}");
    let text = std::fs::read_to_string(users).unwrap();
    let at = text.find("$argon2id$").unwrap();
    text[at..].split('"').next().unwrap().to_owned()
}

fn write_users(path: &Path, more: &str) {
    let mut text = more.to_owned();
    for (name, role) in [
        ("web1", "node"),
        ("web2", "node"),
        ("crm", "service"),
        ("wall", "dashboard"),
        ("anna", "operator"),
    ] {
        text += &format!("\n[users.{name}]\nrole = \"{role}\"\npassword = \"{}\"\n", hashed());
    }
    std::fs::write(path, text).unwrap();
}

/// `meshfs user` with a line on standard input.
fn user(users: &Path, arguments: &[&str], line: &str) -> Output {
    let mut process = program(env!("CARGO_BIN_EXE_meshfs"))
        .arg("user")
        .args(arguments)
        .arg("--users")
        .arg(users)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may refuse before it reads.
    let _ = writeln!(process.stdin.take().unwrap(), "{line}");
    process.wait_with_output().unwrap()
}

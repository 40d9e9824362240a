//! A hub as a process, and the clients that people have.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

#[derive(serde::Deserialize)]
struct Addresses {
    mqtt: Option<SocketAddr>,
    mqtts: Option<SocketAddr>,
    http: SocketAddr,
    https: Option<SocketAddr>,
    irc: Option<SocketAddr>,
}

pub(crate) struct Hub {
    process: Child,
    pub(crate) mqtt: SocketAddr,
    pub(crate) mqtts: Option<SocketAddr>,
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) irc: Option<SocketAddr>,
}

#[expect(clippy::disallowed_methods, reason = "tests start real programs")]
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MESHFS_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// `meshfs` with arguments, run to its end.
pub(crate) fn meshfs(arguments: &[&str]) -> Output {
    program(env!("CARGO_BIN_EXE_meshfs")).args(arguments).output().unwrap()
}

/// False, and said, where a client is not installed.
pub(crate) fn installed(test: &str, client: &str) -> bool {
    let there = program(client).arg("--help").output().is_ok();
    if !there {
        eprintln!("SKIP {test}: {client} is not installed; tests/run installs it");
    }
    there
}

impl Hub {
    pub(crate) fn start(root: &Path) -> Self {
        Self::start_with(root, &[])
    }

    pub(crate) fn start_with(root: &Path, environment: &[(&str, &str)]) -> Self {
        Self::start_on(root, environment, None)
    }

    /// The same on another's broker, to which clients of the bus then go.
    pub(crate) fn start_on(
        root: &Path,
        environment: &[(&str, &str)],
        broker: Option<SocketAddr>,
    ) -> Self {
        Self::launch(program(env!("CARGO_BIN_EXE_meshfs")), root, environment, broker)
    }

    /// Starts a hub on free ports, with a command that ends in the program, and waits until it
    /// says where it listens.
    pub(crate) fn launch(
        mut command: Command,
        root: &Path,
        environment: &[(&str, &str)],
        broker: Option<SocketAddr>,
    ) -> Self {
        let log =
            std::fs::File::options().create(true).append(true).open(root.join("hub.log")).unwrap();
        let mut process = command
            .args(["serve", "--json", "--root"])
            .arg(root.join("tree"))
            .env("MESHFS__BUS__LISTEN", "127.0.0.1:0")
            .env("MESHFS__HTTP__LISTEN", "127.0.0.1:0")
            .env("MESHFS__IRC__EMBEDDED__LISTEN", "127.0.0.1:0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let found: Addresses = serde_json::from_str(&line).unwrap_or_else(|_| {
            panic!("no hub: {}", std::fs::read_to_string(root.join("hub.log")).unwrap())
        });
        let Addresses { mqtt, mqtts, http, https, irc } = found;
        Self { process, mqtt: mqtt.or(broker).unwrap(), mqtts, http, https, irc }
    }

    /// No hub at all, for the clients of another's broker.
    pub(crate) fn away(broker: SocketAddr) -> Self {
        let process = program("true").spawn().unwrap();
        Self { process, mqtt: broker, mqtts: None, http: broker, https: None, irc: None }
    }

    /// Waits until it is connected and has compared what is retained.
    pub(crate) fn ready(&self) {
        until("the hub to be ready", || self.request("GET", "/readyz", "").0 == 200);
    }

    /// Ends it without a warning.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks it to stop and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Has it read its files again.
    pub(crate) fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// A client program of mosquitto, aimed at this hub.
    pub(crate) fn mosquitto(&self, name: &str) -> Command {
        let mut command = program(name);
        command.args(["-h", "127.0.0.1", "-p", &self.mqtt.port().to_string()]);
        command
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// One HTTP request; gives status and body.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let host = format!("Host: {}\r\n", self.http);
        let (head, body) = self.request_with(method, path, &host, body);
        (head[9..12].parse().unwrap(), body)
    }

    /// One HTTP request with these header lines; gives head and body.
    pub(crate) fn request_with(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (String, String) {
        request_to(self.http, method, path, headers, body)
    }
}

/// One HTTP request to an address; gives head and body.
pub(crate) fn request_to(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (String, String) {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits for a condition, looking often.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !so() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The files below `live/`, as topic and payload.
pub(crate) fn files(root: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, live: &Path, found: &mut std::collections::BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, live, found);
            } else {
                let below = path.strip_prefix(live).unwrap();
                let topic = meshfs::live::path::topic(below)
                    .unwrap_or_else(|| panic!("{} is no topic's file", below.display()));
                found.insert(topic.as_str().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut found = std::collections::BTreeMap::new();
    let live = root.join("tree/live");
    walk(&live, &live, &mut found);
    found
}

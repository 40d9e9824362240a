//! Real programs as child processes that end with the test.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

/// A child process, killed by its own id when the test lets go of it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    _files: Option<tempfile::TempDir>,
}

impl Running {
    pub fn new(child: Child) -> Self {
        Self { child, _files: None }
    }

    /// Whether the process has ended by itself.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("child can be asked").is_some()
    }

    /// The lines the child prints from now on; only once.
    pub fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        use std::io::BufRead;
        let output = self.child.stdout.take().expect("output is piped and not yet taken");
        std::io::BufReader::new(output).lines().map_while(Result::ok)
    }

    /// What the child printed until it ended, one string a line.
    pub fn finish(mut self) -> Vec<String> {
        let lines = self.lines().collect();
        let _ = self.child.wait();
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `program` can be run; says loudly that `test` is skipped if not.
pub fn available(program: &str, test: &str) -> bool {
    let found = Command::new(program).arg("--help").output().is_ok();
    if !found {
        let _ = writeln!(std::io::stderr(), "SKIP {test}: {program} is not installed");
    }
    found
}

/// Starts one of mosquitto's clients against `address`, with everything it prints in a pipe.
pub fn client(program: &str, address: SocketAddr, arguments: &[&str]) -> Running {
    let child = Command::new(program)
        .args(["-h", "127.0.0.1", "-p", &address.port().to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("program starts");
    Running::new(child)
}

/// A port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    probe.local_addr().expect("its address")
}

/// Starts mosquitto on a free port of the loopback interface.
pub fn mosquitto() -> (Running, SocketAddr) {
    let address = free_address();
    let files = tempfile::tempdir().expect("temp dir");
    let config = files.path().join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n\
         max_inflight_messages 0\nset_tcp_nodelay true\n",
        address.port()
    );
    std::fs::write(&config, text).expect("configuration is written");
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto starts");
    super::wait_until("mosquitto listens", || TcpStream::connect(address).is_ok());
    (Running { child, _files: Some(files) }, address)
}

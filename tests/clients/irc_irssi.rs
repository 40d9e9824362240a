//! irssi, as a person runs it, on the house server.

use std::process::{Command, Stdio};

use crate::servers::{Kind, Server};
use crate::{Hub, eventually, link, quick};

/// irssi in a terminal of its own.
struct Irssi {
    socket: String,
    _home: tempfile::TempDir,
}

impl Drop for Irssi {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

impl Irssi {
    fn start(server: &str, nick: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("tmux").display().to_string();
        let irssi = Self { socket, _home: home };
        let (host, port) = server.split_once(':').unwrap();
        let config = irssi._home.path().join("irssi").display().to_string();
        let run = format!("irssi --home={config} -c {host} -p {port} -n {nick}");
        irssi
            .tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "50", &run])
            .unwrap();
        irssi
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts the client it looks at")]
    fn tmux(&self, args: &[&str]) -> std::io::Result<String> {
        let mut command = Command::new("tmux");
        command.args(["-S", &self.socket]).args(args).stdin(Stdio::null());
        Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
    }

    fn enter(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]).unwrap();
        self.tmux(&["send-keys", "Enter"]).unwrap();
    }

    /// Waits until the screen shows this.
    async fn shows(&self, text: &str) {
        let mut screen = String::new();
        let look = || {
            screen = self.tmux(&["capture-pane", "-p"]).unwrap();
            screen.contains(text).then_some(())
        };
        eventually(&format!("irssi shows {text:?}"), look).await;
    }
}

fn missing() -> Option<&'static str> {
    let installed = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(program).exists())
    };
    ["tmux", "irssi"].into_iter().find(|program| !installed(program))
}

#[tokio::test]
async fn an_ordinary_client_can_connect_join_and_talk() {
    if let Some(program) = missing() {
        eprintln!("SKIP an_ordinary_client_can_connect_join_and_talk: {program} is not installed");
        return;
    }
    let server = Server::start(Kind::House, "irssi").await.unwrap();
    let hub = Hub::start(link(&server.address, true), quick());
    hub.joined().await;
    let irssi = Irssi::start(&server.address, "alice");
    irssi.shows("This is the IRC server of a meshfs hub").await;
    irssi.enter("/join #mesh");
    irssi.shows("Topic for #mesh: meshfs: announcements and snapshots").await;
    irssi.shows("2 normal]").await;
    irssi.enter("hello hub");
    let said = hub.published("mesh/irc/net/mesh/said").await;
    assert!(said[0].payload.windows(9).any(|text| text == b"hello hub"));
    irssi.enter("!help");
    irssi.shows("< meshfs> !snapshot <reason>").await;
    irssi.enter("!snapshot before the upgrade");
    hub.published("mesh/announce").await;
    hub.confirm("snapshot mesh-1 taken");
    irssi.shows("< meshfs> snapshot mesh-1 taken").await;
}

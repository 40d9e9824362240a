//! Real IRC servers from Debian, on loopback, in a directory of their own, ended with the test.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshfs::bridge::{House, HouseLimits};
use meshfs::name::{Channel, NetworkName};
use rustix::process::{Pid, Signal, kill_process};

use crate::LIMIT;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    House,
    Ngircd,
    /// As delivered: who floods is slowed.
    Inspircd,
    /// Set to throw out who floods.
    InspircdKill,
}

enum Running {
    House(House),
    Process(Child),
}

pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts it on a free port; `None`, loudly, if this machine has no such program.
    pub(crate) async fn start(kind: Kind, test: &str) -> Option<Self> {
        if let Some(program) = kind.program()
            && !Path::new(program).exists()
        {
            eprintln!("SKIP {test} on {kind:?}: {program} is not installed");
            return None;
        }
        let mut server =
            Self { kind, address: String::new(), running: None, dir: tempfile::tempdir().unwrap() };
        for _ in 0..5 {
            // Another process may take the port between the probe and the start.
            server.address = free_port().to_string();
            if server.run().await {
                return Some(server);
            }
        }
        panic!("{kind:?} does not start: {}", server.log());
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        match self.running.take() {
            Some(Running::Process(mut child)) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Some(Running::House(house)) => drop(house),
            None => {}
        }
    }

    /// Stops a process in the middle of everything, as a machine that hangs does; or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let Some(Running::Process(child)) = &self.running else { panic!("not a process") };
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Starts it again where it was.
    pub(crate) async fn restart(&mut self) {
        assert!(self.run().await, "{:?} does not start again: {}", self.kind, self.log());
    }

    async fn run(&mut self) -> bool {
        let address: SocketAddr = self.address.parse().unwrap();
        if self.kind == Kind::House {
            let (network, channel) =
                (NetworkName::parse("net").unwrap(), Channel::parse("#mesh").unwrap());
            // A house that was just dropped may hold its port for a moment.
            let start = || House::start(address, &network, &channel, HouseLimits::default());
            for _ in 0..500 {
                if let Ok(house) = start().await {
                    self.running = Some(Running::House(house));
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return false;
        }
        let mut child = self.spawn(address.port());
        let up = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                if child.try_wait().unwrap().is_some() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            true
        };
        let up = tokio::time::timeout(LIMIT, up).await.unwrap_or(false);
        self.running = Some(Running::Process(child));
        if !up {
            self.kill();
        }
        up
    }

    #[expect(clippy::disallowed_methods, reason = "a test starts the server it talks to")]
    fn spawn(&self, port: u16) -> Child {
        let dir = self.dir.path();
        let conf = dir.join("server.conf");
        fs::write(&conf, self.kind.conf(port, dir)).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(self.kind.program().unwrap());
        match self.kind {
            Kind::Ngircd => command.arg("-n").arg("-f").arg(&conf),
            _ => command.args(["--nofork", "--runasroot", "--config"]).arg(&conf),
        };
        command.current_dir(dir).stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        command.spawn().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Kind {
    const fn program(self) -> Option<&'static str> {
        match self {
            Self::House => None,
            Self::Ngircd => Some("/usr/sbin/ngircd"),
            Self::Inspircd | Self::InspircdKill => Some("/usr/sbin/inspircd"),
        }
    }

    fn conf(self, port: u16, dir: &Path) -> String {
        let dir = dir.display();
        match self {
            Self::House => String::new(),
            Self::Ngircd => format!(
                "[Global]\nName = irc.test.net\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\n\
                 MotdPhrase = hello\nAdminEMail = a@example.net\nServerUID = 0\nServerGID = 0\n\
                 [Limits]\nMaxConnectionsIP = 0\nMaxNickLength = 16\n\
                 [Options]\nDNS = no\nIdent = no\nPAM = no\n"
            ),
            Self::Inspircd | Self::InspircdKill => {
                let fakelag = if self == Self::Inspircd { "on" } else { "off" };
                let modules = ["cap", "chanhistory", "ircv3_batch", "ircv3_servertime", "botmode"];
                let modules = modules.map(|name| format!("<module name=\"{name}\">\n")).concat();
                format!(
                    "<server name=\"irc.test.net\" description=\"test\" network=\"test\">\n\
                     <admin name=\"a\" nick=\"a\" email=\"a@example.net\">\n\
                     <bind address=\"127.0.0.1\" port=\"{port}\" type=\"clients\">\n\
                     <connect name=\"all\" allow=\"*\" timeout=\"60\" pingfreq=\"120\" hardsendq=\"1M\" \
                      softsendq=\"8192\" recvq=\"8K\" threshold=\"10\" commandrate=\"1000\" \
                      fakelag=\"{fakelag}\" localmax=\"100\" globalmax=\"100\" resolvehostnames=\"no\" \
                      useident=\"no\">\n\
                     <log method=\"file\" type=\"*\" level=\"default\" target=\"{dir}/ircd.log\">\n\
                     <pid file=\"{dir}/pid\">\n<path datadir=\"{dir}\" logdir=\"{dir}\" runtimedir=\"{dir}\">\n\
                     <options defaultmodes=\"ont\">\n{modules}"
                )
            }
        }
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

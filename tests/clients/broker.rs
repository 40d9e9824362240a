//! The brokers that a hub can live on, each as a process of its own.

use super::hub::{Hub, program, until};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// Which broker, and how the hub speaks with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The hub's own.
    Embedded,
    /// mosquitto, MQTT 3.1.1.
    Mosquitto4,
    /// mosquitto, MQTT 5.
    Mosquitto5,
    /// mosquitto with TLS and a client certificate, the version left to the hub.
    MosquittoTls,
    /// nats-server with JetStream, which has 3.1.1 only.
    Nats,
}

impl Kind {
    /// Whether a client's response topic reaches the hub.
    pub(crate) fn has_properties(self) -> bool {
        !matches!(self, Self::Mosquitto4 | Self::Nats)
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::Embedded => None,
            Self::Mosquitto4 | Self::Mosquitto5 | Self::MosquittoTls => Some("mosquitto"),
            Self::Nats => Some("nats-server"),
        }
    }
}

/// A broker and a folder for a hub's tree.
pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) dir: tempfile::TempDir,
    ports: [u16; 3],
    process: Option<Child>,
    /// Lines for mosquitto's configuration.
    pub(crate) more: &'static str,
}

impl Stage {
    /// With the broker running; `None`, and said, where it is not installed.
    pub(crate) fn new(kind: Kind, test: &str) -> Option<Self> {
        let mut stage = Self::prepare(kind, test, "")?;
        stage.start_broker();
        Some(stage)
    }

    /// With everything but the broker.
    pub(crate) fn prepare(kind: Kind, test: &str, more: &'static str) -> Option<Self> {
        if let Some(name) = kind.program()
            && program(name).arg("-h").output().is_err()
        {
            eprintln!("SKIP {test} on {kind:?}: {name} is not installed; tests/run installs it");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        if kind == Kind::MosquittoTls {
            certificates(dir.path());
        }
        Some(Self { kind, dir, ports: free_ports(), process: None, more })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it, again on the same port.
    pub(crate) fn start_broker(&mut self) {
        let Some(name) = self.kind.program() else { return };
        let config = self.file("broker.conf");
        fs::write(&config, self.config()).unwrap();
        let mut tries = 0;
        loop {
            let log = fs::File::options().create(true).append(true).open(self.file("broker.log"));
            let log = log.unwrap();
            let mut process = program(name)
                .arg("-c")
                .arg(&config)
                .current_dir(self.dir.path())
                .stdout(log.try_clone().unwrap())
                .stderr(Stdio::from(log))
                .spawn()
                .unwrap();
            let mut ended = false;
            until("the broker to listen", || {
                ended = process.try_wait().unwrap().is_some();
                ended || TcpStream::connect(self.address()).is_ok()
            });
            if !ended {
                self.process = Some(process);
                return;
            }
            tries += 1;
            let log = || fs::read_to_string(self.file("broker.log")).unwrap();
            assert!(tries < 5, "{name} does not start: {}", log());
        }
    }

    /// Ends it without a warning.
    pub(crate) fn kill_broker(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Asks it to end, so that it can save what it has.
    pub(crate) fn stop_broker(&mut self) {
        let mut process = self.process.take().unwrap();
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        process.wait().unwrap();
    }

    /// Where clients connect, without TLS.
    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    fn config(&self) -> String {
        let [plain, tls, other] = self.ports;
        let dir = self.dir.path().display();
        let more = self.more;
        match self.kind {
            Kind::Embedded => String::new(),
            Kind::Nats => format!(
                "server_name: test\nlisten: \"127.0.0.1:{other}\"\n\
                 jetstream {{ store_dir: \"{dir}/jetstream\" }}\n\
                 mqtt {{ host: \"127.0.0.1\", port: {plain} }}\n"
            ),
            Kind::Mosquitto4 | Kind::Mosquitto5 => {
                let more = if more.is_empty() { "allow_anonymous true" } else { more };
                format!("user root\nlistener {plain} 127.0.0.1\n{more}\n")
            }
            Kind::MosquittoTls => format!(
                "user root\nper_listener_settings true\n\
                 listener {plain} 127.0.0.1\nallow_anonymous true\n\
                 listener {tls} 127.0.0.1\nrequire_certificate true\nuse_identity_as_username true\n\
                 cafile {dir}/ca.pem\ncertfile {dir}/broker.pem\nkeyfile {dir}/broker.key\n{more}\n"
            ),
        }
    }

    /// How a hub is told to use this broker.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let [plain, tls, _] = self.ports;
        let file = |name: &str| self.file(name).display().to_string();
        let (url, version) = match self.kind {
            Kind::Embedded => return Vec::new(),
            Kind::Mosquitto4 => (format!("mqtt://127.0.0.1:{plain}"), "4"),
            Kind::Mosquitto5 => (format!("mqtt://localhost:{plain}"), "5"),
            Kind::MosquittoTls => (format!("mqtts://localhost:{tls}"), "auto"),
            Kind::Nats => (format!("mqtt://127.0.0.1:{plain}"), "auto"),
        };
        let mut all = vec![
            ("MESHFS__BUS__MODE", "external".to_owned()),
            ("MESHFS__BUS__EXTERNAL__URL", url),
            ("MESHFS__BUS__EXTERNAL__VERSION", version.to_owned()),
        ];
        if self.kind == Kind::MosquittoTls {
            all.push(("MESHFS__BUS__EXTERNAL__CA", file("ca.pem")));
            all.push(("MESHFS__BUS__EXTERNAL__CERTIFICATE", file("hub.pem")));
            all.push(("MESHFS__BUS__EXTERNAL__KEY", file("hub.key")));
        }
        all
    }

    /// A hub on this broker that is ready.
    pub(crate) fn hub(&self) -> Hub {
        let hub = self.hub_with(&[]);
        hub.ready();
        hub
    }

    /// A hub on this broker; the broker need not be there.
    pub(crate) fn hub_with(&self, more: &[(&str, &str)]) -> Hub {
        let environment = self.environment();
        let mut all: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        all.extend(more);
        let broker = (self.kind != Kind::Embedded).then(|| self.address());
        Hub::start_on(self.path(), &all, broker)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ports that nobody listens on; whoever comes first has them.
fn free_ports() -> [u16; 3] {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// An authority, and certificates of it for a broker and a hub.
fn certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let ca = params.self_signed(&key).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, host) in [("broker", "localhost"), ("hub", "hub")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

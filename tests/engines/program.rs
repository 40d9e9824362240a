//! The meshfs program, started for a test and ended with it.

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A hub of its own, on ports of its own.
pub(crate) struct Program {
    child: Child,
    http: String,
    mqtt: SocketAddr,
}

/// The program: beside this test in the virtual machine, where cargo put it elsewhere.
pub(crate) fn meshfs() -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name("meshfs");
    if beside.exists() { beside } else { env!("CARGO_BIN_EXE_meshfs").into() }
}

impl Program {
    /// Starts `command`, which has to end in the program, as `serve` for a root, and
    /// waits until it says where it listens.
    pub(crate) fn serve(mut command: Command, root: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = command
            .args(["serve", "--json"])
            .current_dir("/")
            .env("MESHFS__ROOT", root)
            .env("MESHFS__BUS__LISTEN", "127.0.0.1:0")
            .env("MESHFS__HTTP__LISTEN", "127.0.0.1:0")
            .env("MESHFS__IRC__EMBEDDED__LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: it said {line:?} and not where it listens"));
        let http = format!("http://{}", addresses["http"].as_str().unwrap());
        let mqtt = addresses["mqtt"].as_str().unwrap().parse().unwrap();
        Self { child, http, mqtt }
    }

    /// Announces over HTTP; gives the status and the outcome.
    pub(crate) fn announce(&self, announcement: &Value) -> (u16, Value) {
        let agent = agent();
        let mut answer =
            agent.post(format!("{}/v1/announcements", self.http)).send_json(announcement).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap())
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let mut answer = agent().get(format!("{}{path}", self.http)).call().unwrap();
        answer.body_mut().read_json().unwrap()
    }

    /// Runs `meshfs announce`; gives its exit status.
    pub(crate) fn announce_by_command(&self, reason: &str) -> Option<i32> {
        let mut command = Command::new(meshfs());
        command.args(["announce", "--hub", &self.http, reason]).stdin(Stdio::null());
        command.output().unwrap().status.code()
    }

    /// A connection to the broker.
    pub(crate) fn connect(&self, id: &str) -> Bus {
        let mut options = MqttOptions::new(id, self.mqtt.ip().to_string(), self.mqtt.port());
        options.set_keep_alive(Duration::from_secs(60));
        let (client, connection) = Client::new(options, 100);
        Bus { client, connection }
    }

    /// Kills it without waiting: it may hang in the kernel.
    pub(crate) fn leave(mut self) {
        self.child.kill().unwrap();
        std::mem::forget(self);
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> ureq::Agent {
    let limit = Some(Duration::from_secs(120));
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(limit)
        .build()
        .new_agent()
}

/// An MQTT client.
pub(crate) struct Bus {
    client: Client,
    connection: rumqttc::Connection,
}

impl Bus {
    /// Publishes at QoS 1, and waits until the broker has it.
    pub(crate) fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, true, payload).unwrap();
        self.wait_for(|packet| matches!(packet, Packet::PubAck(_)).then_some(()));
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        self.client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.wait_for(|packet| matches!(packet, Packet::SubAck(_)).then_some(()));
    }

    /// The next message on a topic.
    pub(crate) fn receive(&mut self, topic: &str) -> Vec<u8> {
        self.wait_for(|packet| match packet {
            Packet::Publish(publish) if publish.topic == topic => Some(publish.payload.to_vec()),
            _ => None,
        })
    }

    fn wait_for<T>(&mut self, wanted: impl Fn(&Packet) -> Option<T>) -> T {
        for _ in 0..10_000 {
            let event = self.connection.recv_timeout(Duration::from_secs(60)).expect("no answer");
            if let Event::Incoming(packet) = event.expect("no connection")
                && let Some(found) = wanted(&packet)
            {
                return found;
            }
        }
        panic!("10000 packets and none is it");
    }
}

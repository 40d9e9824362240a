//! The broker under test, on a free port of the loopback interface.
//!
//! With `BROKER_UNDER_TEST=mosquitto` in the environment the tests that need
//! nothing but the protocol run against mosquitto instead: that is how one
//! learns whether a failure is the broker's fault or the test's. With
//! `BROKER_OVER=tls`, `websocket` or `websocket+tls` they reach our broker by a
//! tunnel over that transport.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meshfs_broker::{Broker, Limits, Listen, MemoryStore, RetainedStore, Settings, Stats};
use tokio::runtime::Runtime;

use super::host::House;
use super::process::{self, Running};
use super::tunnel::{Over, Tunnel};
use super::{Client, Connect, LIMIT, Version};

/// Some free port of the loopback interface.
pub fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// A running broker; ends with the test.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Ours { broker: Broker, runtime: Runtime },
    Mosquitto { _process: Running },
}

impl Server {
    /// A broker that lets everybody do everything.
    pub fn start() -> Self {
        if std::env::var("BROKER_UNDER_TEST").is_ok_and(|name| name == "mosquitto") {
            let (process, address) = process::mosquitto();
            return Self { address, engine: Engine::Mosquitto { _process: process } };
        }
        Self::with(House::default())
    }

    /// Our broker in a house with rules of its own.
    pub fn with(house: House) -> Self {
        Self::build(house, Limits::default(), Arc::new(MemoryStore::default()))
    }

    /// Our broker, open to everybody, with limits of the test's choice.
    pub fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::build(House::default(), limits, Arc::new(MemoryStore::default()))
    }

    pub fn build(house: House, limits: Limits, store: Arc<dyn RetainedStore>) -> Self {
        match std::env::var("BROKER_OVER") {
            Ok(over) => {
                let over = Over::named(&over);
                let mut server = Self::listening(over.listen(), house, limits, store);
                server.address = Tunnel::dig(server.runtime(), server.address, &over).address;
                server
            }
            Err(_) => Self::listening(any_port().into(), house, limits, store),
        }
    }

    /// Our broker on any transport.
    pub fn listening(
        how: Listen,
        house: House,
        limits: Limits,
        store: Arc<dyn RetainedStore>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let house = Arc::new(house);
        let settings = Settings { listen: vec![how], limits };
        let broker = runtime
            .block_on(Broker::start(settings, house.clone(), house, store))
            .expect("broker starts");
        let address = broker.addresses()[0];
        Self { address, engine: Engine::Ours { broker, runtime } }
    }

    /// Our broker's handle.
    pub fn broker(&self) -> &Broker {
        match &self.engine {
            Engine::Ours { broker, .. } => broker,
            Engine::Mosquitto { .. } => panic!("this test needs the broker in this process"),
        }
    }

    pub fn runtime(&self) -> &Runtime {
        match &self.engine {
            Engine::Ours { runtime, .. } => runtime,
            Engine::Mosquitto { .. } => panic!("this test needs the broker in this process"),
        }
    }

    /// Lets go of our broker's last handle, and keeps what it ran on.
    pub fn drop_broker(self) -> Runtime {
        match self.engine {
            Engine::Ours { runtime, .. } => runtime,
            Engine::Mosquitto { .. } => panic!("this test needs the broker in this process"),
        }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self.engine, Engine::Ours { .. })
    }

    pub fn stats(&self) -> Stats {
        self.broker().stats()
    }

    pub fn shutdown(&self) {
        let shutdown = self.broker().shutdown(Duration::from_secs(5));
        self.runtime()
            .block_on(async { tokio::time::timeout(LIMIT, shutdown).await })
            .expect("shutdown ends");
    }

    pub fn plain(&self, version: Version, client_id: &str) -> Client {
        Client::plain(self.address, version, client_id)
    }

    pub fn connect(&self, connect: &Connect) -> Client {
        Client::connect(self.address, connect)
    }
}

//! The bridge against the house server, ngircd, inspircd and a scripted server, with people who
//! are raw sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where it fails, and says what it skips"
)]

#[path = "clients/irc_irssi.rs"]
mod irssi;
#[path = "clients/irc_person.rs"]
mod person;
#[path = "clients/irc_scripted.rs"]
mod scripted;
#[path = "clients/irc_servers.rs"]
mod servers;
#[path = "clients/irc_suite.rs"]
mod suite;

use std::sync::Arc;
use std::time::Duration;

use meshfs::bridge::{Bridge, Link, NetworkStatus, Pace, Timing};
use meshfs::bus::{FakePublisher, Publication, Publisher};
use meshfs::mesh::{Say, SayKind, View};
use meshfs::name::{Channel, NetworkName, Nick};
use tokio::sync::watch;

/// How long anything may take before a test gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a condition, looking often; fails with what was waited for.
async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Times that do not make a test wait where a network would.
fn quick() -> Timing {
    Timing {
        reconnect_min: Duration::from_millis(50),
        rejoin_min: Duration::from_secs(1),
        quarantine: Duration::ZERO,
        regain: Duration::from_secs(2),
        ..Timing::default()
    }
}

/// A bridge to one network, and what stands for the rest of the hub.
struct Hub {
    bridge: Bridge,
    publisher: Arc<FakePublisher>,
    _view: watch::Sender<View>,
}

impl Hub {
    fn start(link: Link, timing: Timing) -> Self {
        let publisher = Arc::new(FakePublisher::default());
        let (sender, view) = watch::channel(View::default());
        let shared: Arc<dyn Publisher> = Arc::clone(&publisher) as _;
        let bridge = Bridge::start(vec![link], timing, &shared, &view);
        Self { bridge, publisher, _view: sender }
    }

    fn status(&self) -> NetworkStatus {
        self.bridge.status().remove(0)
    }

    fn confirm(&self, text: &str) {
        self.bridge.say(&Say::everywhere(SayKind::Confirmed, text));
    }

    /// Waits until the bridge is in its channel.
    async fn joined(&self) {
        eventually("the bridge is in its channel", || {
            (self.status().channels.len() == 1).then_some(())
        })
        .await;
    }

    /// The next publications on a topic.
    async fn published(&self, topic: &str) -> Vec<Publication> {
        eventually(topic, || {
            let all = self.publisher.take();
            let found: Vec<_> = all.into_iter().filter(|p| p.topic.as_str() == topic).collect();
            (!found.is_empty()).then_some(found)
        })
        .await
    }
}

/// A link to a server under test.
fn link(server: &str, house: bool) -> Link {
    Link {
        name: NetworkName::parse("net").unwrap(),
        server: server.to_owned(),
        nick: Nick::parse("meshfs").unwrap(),
        channels: vec![Channel::parse("#mesh").unwrap()],
        password: None,
        house,
        pace: Pace { burst: 5, every: Duration::from_millis(400), ..Pace::default() },
    }
}

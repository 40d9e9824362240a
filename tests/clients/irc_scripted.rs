//! Servers that real programs do not play: silent, dead, endless, refusing.

use std::sync::Arc;
use std::time::Duration;

use meshfs::bridge::{Bridge, Timing};
use meshfs::bus::{BoxFuture, Publication, PublishError, Publisher};
use meshfs::mesh::View;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Hub, LIMIT, eventually, link, quick};

/// A server whose every line a test writes.
struct Scripted(TcpListener);

/// One connection of the bridge to it.
struct Accepted {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Scripted {
    async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn hub(&self, timing: Timing) -> Hub {
        Hub::start(link(&self.address(), false), timing)
    }

    fn address(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }

    async fn accept(&self) -> Accepted {
        let (stream, _): (TcpStream, _) =
            timeout(LIMIT, self.0.accept()).await.expect("the bridge connects").unwrap();
        let (read, write) = stream.into_split();
        Accepted { read: BufReader::new(read), write }
    }

    /// Accepts, welcomes and lets the bridge in.
    async fn let_in(&self) -> Accepted {
        let mut peer = self.accept().await;
        peer.expect("CAP LS").await;
        peer.send(":s CAP * LS :").await;
        peer.expect("CAP END").await;
        peer.send(":s 001 meshfs :Welcome\r\n:s 376 meshfs :End").await;
        peer.expect("JOIN #mesh").await;
        peer.send(":meshfs!m@h JOIN #mesh\r\n:s 353 meshfs = #mesh :@op meshfs\r\n:s 366 meshfs #mesh :End")
            .await;
        peer
    }
}

impl Accepted {
    /// The next line; `None` when the bridge has closed.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(LIMIT, self.read.read_line(&mut line)).await.expect("a line in time");
        (read.unwrap_or(0) > 0).then(|| line.trim_end().to_owned())
    }

    /// Reads on to a line that begins like this.
    async fn expect(&mut self, start: &str) -> String {
        let mut passed = Vec::new();
        while let Some(line) = self.line().await {
            if line.starts_with(start) {
                return line;
            }
            passed.push(line);
        }
        panic!("no {start:?} in {passed:?}");
    }

    async fn send(&mut self, lines: &str) {
        self.write.write_all(lines.as_bytes()).await.unwrap();
        self.write.write_all(b"\r\n").await.unwrap();
    }

    async fn closed(&mut self) {
        while self.line().await.is_some() {}
    }
}

fn impatient() -> Timing {
    let ms = Duration::from_millis;
    Timing { registration: ms(300), ping_answer: ms(300), ..quick() }
}

#[tokio::test]
async fn a_server_that_never_welcomes_is_left_and_tried_again() {
    let server = Scripted::listen().await;
    let hub = server.hub(impatient());
    let mut first = server.accept().await;
    first.send("PING :only this\r\n:s NOTICE * :*** looking up").await;
    first.expect("PONG :only this").await;
    first.closed().await;
    server.accept().await;
    let error = hub.status().last_error.unwrap();
    assert_eq!(error, "the server did not welcome us in time");
}

#[tokio::test]
async fn what_a_dead_server_swallowed_is_said_again_on_the_next_connection() {
    let server = Scripted::listen().await;
    let hub = server.hub(impatient());
    let mut dead = server.let_in().await;
    hub.confirm("snapshot mesh-1");
    dead.expect("PRIVMSG #mesh :snapshot mesh-1").await;
    dead.expect("PING :meshfs-").await;
    dead.closed().await;
    assert_eq!(hub.status().last_error.unwrap(), "the server fell silent");
    let mut alive = server.let_in().await;
    alive.expect("PRIVMSG #mesh :snapshot mesh-1").await;
    let ping = alive.expect("PING :meshfs-").await;
    assert_eq!(hub.status().events_said, 0);
    alive.send(&format!(":s PONG s {}", &ping["PING ".len()..])).await;
    eventually("it is confirmed", || (hub.status().events_said == 1).then_some(())).await;
    assert_eq!(hub.status().events_held, 0);
}

#[tokio::test]
async fn an_endless_line_and_bytes_that_are_no_text_are_survived() {
    let server = Scripted::listen().await;
    let hub = server.hub(quick());
    let mut peer = server.let_in().await;
    let endless = vec![b'x'; 2_000_000];
    peer.write.write_all(&endless).await.unwrap();
    peer.write.write_all(b"\r\n:op!o@h PRIVMSG #mesh :caf\xe9\0\r\n").await.unwrap();
    let said = hub.published("mesh/irc/net/mesh/said").await;
    let text: serde_json::Value = serde_json::from_slice(&said[0].payload).unwrap();
    assert_eq!(text["text"], "caf\u{fffd} ");
    assert_eq!(hub.status().losses, 0);
}

#[tokio::test]
async fn a_wrong_password_is_reported_as_what_it_is() {
    let server = Scripted::listen().await;
    let mut link = link(&server.address(), false);
    link.password = Some("pass\r\nQUIT".into());
    let hub = Hub::start(link, quick());
    let mut peer = server.accept().await;
    assert_eq!(peer.line().await.unwrap(), "PASS :pass  QUIT");
    peer.expect("USER").await;
    peer.send(":s 464 * :Password incorrect").await;
    peer.closed().await;
    let error = eventually("the loss", || hub.status().last_error).await;
    assert_eq!(error, "the server does not let us in: Password incorrect");
}

#[tokio::test]
async fn at_the_end_it_says_what_waits_and_quits_even_if_nobody_closes() {
    let server = Scripted::listen().await;
    let hub = server.hub(Timing { farewell: Duration::from_millis(200), ..quick() });
    let mut peer = server.let_in().await;
    hub.joined().await;
    hub.confirm("one");
    peer.expect("PRIVMSG #mesh :one").await;
    hub.bridge.shutdown(LIMIT).await;
    peer.expect("QUIT :meshfs stops").await;
    peer.closed().await;
}

/// A bus that takes nothing.
#[derive(Debug)]
struct Refusing;

impl Publisher for Refusing {
    fn publish(&self, _: Publication) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async { Err(PublishError::Closed) })
    }
}

#[tokio::test]
async fn who_announces_and_is_refused_is_told() {
    let server = Scripted::listen().await;
    let publisher: Arc<dyn Publisher> = Arc::new(Refusing);
    let (_sender, view) = watch::channel(View::default());
    let _bridge = Bridge::start(vec![link(&server.address(), false)], quick(), &publisher, &view);
    let mut peer = server.let_in().await;
    peer.send(":op!o@h PRIVMSG #mesh :!snapshot x").await;
    let told = peer.expect("PRIVMSG #mesh :").await;
    assert_eq!(told, "PRIVMSG #mesh :op: not announced, the bus is closed");
}

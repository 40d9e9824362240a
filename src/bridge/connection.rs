//! One network's task: connect, talk, and after any end try again, for as long as the hub runs.
//!
//! The protocol is in [`Session`], the pace in [`Outbox`]; here are the socket, the clocks and the
//! queues between them and the rest of the hub.

use std::future::Future;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::command;
use super::digest::Event;
use super::line::{INPUT_MAX_BYTES, Line, LineReader, parse};
use super::outbox::{Outbox, Step};
use super::report::{Feedback, Reporter};
use super::session::{Action, Session};
use super::status::Status;
use super::{ConnectionError, Link, Timing};
use crate::mesh::View;
use crate::name::Channel;

/// An event on its way to one channel, or to all of the network.
pub(super) type Told = (Option<Channel>, Event);

/// How a connection came to its end.
enum Ended {
    /// The hub stops.
    Asked,
    /// By itself.
    Lost(ConnectionError),
}

/// The task's own, over all connections.
pub(super) struct Connection {
    pub(super) link: Arc<Link>,
    pub(super) timing: Timing,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) view: watch::Receiver<View>,
    pub(super) reporter: Reporter,
    pub(super) feedback: mpsc::Receiver<Feedback>,
    pub(super) status: Arc<Status>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) outbox: Outbox,
}

impl Connection {
    /// Runs until the hub stops.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new(self.timing.reconnect_min, self.timing.reconnect_max);
        loop {
            let began = Instant::now();
            let ended = Box::pin(self.connect()).await;
            self.outbox.disconnected();
            self.status.held(&self.outbox);
            let Ended::Lost(error) = ended else { return };
            if began.elapsed() >= self.timing.healthy {
                backoff.reset();
            }
            if error.is_permanent() {
                backoff.give_up_for_long();
            }
            let pause = backoff.pause(fastrand::f64());
            self.status.lost(&error);
            warn!(
                network = %self.link.name,
                server = %self.link.server,
                error = &error as &dyn std::error::Error,
                again_in_ms = pause.as_millis() as u64,
                "irc connection lost"
            );
            if self.meanwhile(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something while events are taken in; `None` if the hub stops first.
    async fn meanwhile<F: Future>(&mut self, what: F) -> Option<F::Output> {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                output = &mut what => return Some(output),
                told = self.told.recv() => self.take_in(told?),
                _ = self.stop.changed() => return None,
            }
        }
    }

    /// Takes in an event and those behind it, as many as wait now.
    fn take_in(&mut self, first: Told) {
        let waiting = self.told.len();
        let rest = std::iter::from_fn(|| self.told.try_recv().ok()).take(waiting);
        for (channel, event) in std::iter::once(first).chain(rest) {
            if !self.outbox.push(channel.as_ref(), &event) {
                self.status.unroutable();
            }
        }
        self.status.held(&self.outbox);
    }

    async fn connect(&mut self) -> Ended {
        let server = self.link.server.clone();
        let refused = |source| ConnectionError::Connect { server: server.clone(), source };
        let attempt = timeout(self.timing.connect, TcpStream::connect(server.as_str()));
        let stream = match self.meanwhile(attempt).await {
            None => return Ended::Asked,
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return Ended::Lost(refused(error)),
            Some(Err(_)) => return Ended::Lost(refused(std::io::ErrorKind::TimedOut.into())),
        };
        // Without it a reply may wait for the acknowledgement of the line before.
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let reader = LineReader::new(read, INPUT_MAX_BYTES);
        let session = Session::new(Arc::clone(&self.link), self.timing, Instant::now());
        let mut wire = Wire { write, limit: self.timing.ping_answer, lines: 0 };
        match self.talk(reader, &mut wire, session).await {
            Err(error) => Ended::Lost(error),
            Ok(reader) => {
                farewell(reader, &mut wire, self.timing).await;
                Ended::Asked
            }
        }
    }

    /// Talks until the hub stops, or fails.
    async fn talk(
        &mut self,
        mut reader: LineReader<OwnedReadHalf>,
        wire: &mut Wire,
        mut session: Session,
    ) -> Result<LineReader<OwnedReadHalf>, ConnectionError> {
        for line in session.open() {
            wire.send(&line).await?;
        }
        loop {
            let speak_at = self.speak(wire, &mut session).await?;
            self.status.update(&session, &self.outbox, wire.lines);
            let wake = speak_at.map_or(session.due_at(), |at| at.min(session.due_at()));
            let actions = tokio::select! {
                line = reader.next() => {
                    let line = line.map_err(|source| ConnectionError::Broken { source })?;
                    let message = match line.ok_or(ConnectionError::Closed)? {
                        Line::Text(text) => parse(&text),
                        Line::TooLong => None,
                    };
                    session.receive(message.as_ref(), Instant::now())
                }
                Some(told) = self.told.recv() => {
                    self.take_in(told);
                    Vec::new()
                }
                Some(Feedback { target, text }) = self.feedback.recv() => {
                    vec![Action::Reply { target, text }]
                }
                () = sleep_until(wake) => session.tick(Instant::now()),
                _ = self.stop.changed() => {
                    self.last_words(wire, &mut session).await;
                    return Ok(reader);
                }
            };
            for action in actions {
                self.act(action, wire, &session).await?;
            }
        }
    }

    /// Says what the pace allows; when more may be said, if anything waits.
    async fn speak(
        &mut self,
        wire: &mut Wire,
        session: &mut Session,
    ) -> Result<Option<Instant>, ConnectionError> {
        loop {
            let now = Instant::now();
            let line = match self.outbox.next(now, |channel| session.room(channel, now)) {
                Step::Say(line) => format!("PRIVMSG {} :{}", line.target, line.text),
                Step::Probe(number) => {
                    session.asked(now);
                    format!("PING :meshfs-{number}")
                }
                Step::Wait(at) => return Ok(Some(at)),
                Step::Idle => return Ok(None),
            };
            wire.send(&line).await?;
        }
    }

    async fn act(
        &mut self,
        action: Action,
        wire: &mut Wire,
        session: &Session,
    ) -> Result<(), ConnectionError> {
        match action {
            Action::Write(line) => {
                self.outbox.charge(Instant::now());
                wire.send(&line).await?;
            }
            Action::Reply { target, text } => {
                self.outbox.reply(&target, &text, session.room_for(&target));
            }
            Action::Ask { by, request } => {
                let text = command::answer(&self.view.borrow(), &request, jiff::Timestamp::now());
                let target = by.channel.as_str();
                self.outbox.reply(target, &text, session.room_for(target));
            }
            Action::Announce { by, reason } => {
                info!(network = %self.link.name, channel = %by.channel, by = %by.mask, "announced on irc");
                if let Some(Feedback { target, text }) = self.reporter.announce(&by, &reason) {
                    self.outbox.reply(&target, &text, session.room_for(&target));
                }
            }
            Action::Said { by, text } => self.reporter.said(&by, &text),
            Action::Welcomed => {
                info!(network = %self.link.name, nick = session.nick(), "irc connected");
                self.outbox.connected(Instant::now());
            }
            Action::Rejected(channel) => {
                warn!(network = %self.link.name, %channel, "irc channel does not take what we say");
                self.outbox.rejected(&channel);
            }
            Action::Answered(number) => self.outbox.confirm(number),
            Action::End(error) => return Err(error),
        }
        Ok(())
    }

    /// What already waits is said if the pace allows, before the hub stops.
    async fn last_words(&mut self, wire: &mut Wire, session: &mut Session) {
        while let Ok((channel, event)) = self.told.try_recv() {
            self.outbox.push(channel.as_ref(), &event);
        }
        if let Err(error) = self.speak(wire, session).await {
            debug!(error = &error as &dyn std::error::Error, "irc server did not take last words");
        }
    }
}

/// The writing side, with the time a server has to read.
struct Wire {
    write: OwnedWriteHalf,
    limit: std::time::Duration,
    lines: u64,
}

impl Wire {
    async fn send(&mut self, line: &str) -> Result<(), ConnectionError> {
        let bytes = format!("{line}\r\n");
        match timeout(self.limit, self.write.write_all(bytes.as_bytes())).await {
            Ok(Ok(())) => {
                self.lines += 1;
                Ok(())
            }
            Ok(Err(source)) => Err(ConnectionError::Broken { source }),
            Err(_) => Err(ConnectionError::Silent),
        }
    }
}

/// QUIT, then read until the server has closed: one that is left early says we vanished.
async fn farewell(mut reader: LineReader<OwnedReadHalf>, wire: &mut Wire, timing: Timing) {
    let goodbye = async {
        if wire.send("QUIT :meshfs stops").await.is_ok() {
            while let Ok(Some(_)) = reader.next().await {}
        }
    };
    if timeout(timing.farewell, goodbye).await.is_err() {
        debug!("irc server did not close in time");
    }
}

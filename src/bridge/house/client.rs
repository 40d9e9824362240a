//! One client's connection: lines in at a bounded pace, lines out while it reads them.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::{HouseLimits, Shared};
use crate::bridge::line::{Line, LineReader};

/// Lines written with one system call.
const WRITE_BATCH: usize = 64;

/// Serves until the client leaves, is silent too long, or the state lets go of it.
pub(super) async fn serve(
    stream: TcpStream,
    id: u64,
    lines: mpsc::Receiver<String>,
    shared: Shared,
) {
    let reason = talk(stream, id, lines, &shared).await;
    shared.state().remove(id, reason);
    debug!(client = id, reason, "irc client gone");
}

async fn talk(
    stream: TcpStream,
    id: u64,
    mut lines: mpsc::Receiver<String>,
    shared: &Shared,
) -> &'static str {
    let limits = shared.limits.as_ref();
    // Without it a reply may wait for the acknowledgement of the line before.
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut reader = LineReader::new(read, limits.line_max_bytes);
    let mut watch = Watch::new(limits, Instant::now());
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = lines.recv_many(&mut batch, WRITE_BATCH) => {
                if count == 0 {
                    return "Connection closed";
                }
                if !flush(&mut write, &mut batch, limits.ping_answer).await {
                    return "Write error";
                }
            }
            line = reader.next(), if watch.may_read() => {
                match line {
                    Ok(Some(Line::Text(text))) => shared.state().receive(id, &text),
                    Ok(Some(Line::TooLong)) => shared.state().too_long(id),
                    Ok(None) => return "Connection closed",
                    Err(_) => return "Read error",
                }
                let registered = shared.state().is_registered(id);
                watch.heard(limits, registered, Instant::now());
            }
            () = sleep_until(watch.next()) => {
                if let Some(reason) = watch.due(limits, Instant::now(), || shared.state().ping(id)) {
                    shared.state().close(id, reason);
                }
            }
        }
    }
}

async fn flush(write: &mut OwnedWriteHalf, batch: &mut Vec<String>, limit: Duration) -> bool {
    let mut bytes = Vec::with_capacity(batch.iter().map(|line| line.len() + 2).sum());
    for line in batch.drain(..) {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    matches!(timeout(limit, write.write_all(&bytes)).await, Ok(Ok(())))
}

/// The clocks of one client: registration, silence, and the pace of its lines.
#[derive(Debug)]
struct Watch {
    /// Until then it must have registered, or spoken.
    deadline: Instant,
    registered: bool,
    asked: bool,
    /// When the last of its lines is paid for, at the pace it may keep.
    paid_until: Instant,
    /// Set while it has to wait before its next line is read.
    resume: Option<Instant>,
}

impl Watch {
    fn new(limits: &HouseLimits, now: Instant) -> Self {
        Self {
            deadline: now + limits.registration,
            registered: false,
            asked: false,
            paid_until: now,
            resume: None,
        }
    }

    const fn may_read(&self) -> bool {
        self.resume.is_none()
    }

    fn next(&self) -> Instant {
        self.resume.map_or(self.deadline, |resume| resume.min(self.deadline))
    }

    /// A line came.
    fn heard(&mut self, limits: &HouseLimits, registered: bool, now: Instant) {
        if registered {
            self.registered = true;
            self.asked = false;
            self.deadline = now + limits.ping_idle;
        }
        self.paid_until = self.paid_until.max(now) + limits.line_every;
        let ahead = limits.line_every * limits.lines_burst;
        self.resume = (self.paid_until > now + ahead).then(|| self.paid_until - ahead);
    }

    /// A time has come; the reason, if it is the end.
    fn due(
        &mut self,
        limits: &HouseLimits,
        now: Instant,
        ping: impl FnOnce(),
    ) -> Option<&'static str> {
        if self.resume.is_some_and(|resume| resume <= now) {
            self.resume = None;
        }
        if self.deadline > now {
            return None;
        }
        self.deadline = now + limits.ping_answer;
        match (self.registered, self.asked) {
            (false, _) => Some("Registration timed out"),
            (true, true) => Some("Ping timeout"),
            (true, false) => {
                self.asked = true;
                ping();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_faster_than_allowed_is_read_no_faster() {
        let (limits, start) = (HouseLimits::default(), Instant::now());
        let mut watch = Watch::new(&limits, start);
        let mut now = start;
        let mut read = 0;
        while now < start + Duration::from_secs(10) {
            if watch.may_read() {
                read += 1;
                watch.heard(&limits, true, now);
            } else {
                now = watch.next();
                assert_eq!(watch.due(&limits, now, || ()), None);
            }
        }
        // The burst, and a line each tenth of a second.
        assert_eq!(read, 20 + 100);
        now += Duration::from_secs(60);
        assert_eq!(watch.due(&limits, now, || ()), None);
        assert!((0..20).all(|_| {
            watch.heard(&limits, true, now);
            watch.may_read()
        }));
    }
}

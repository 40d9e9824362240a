//! A person on IRC: a raw socket that answers PING and remembers every line.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

use crate::eventually;

#[derive(Default)]
struct Heard {
    lines: Vec<Vec<u8>>,
    looked_at: usize,
    ended: bool,
}

pub(crate) struct Person {
    nick: String,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    heard: Arc<Mutex<Heard>>,
    reading: JoinHandle<()>,
    sent: AtomicU32,
}

impl Drop for Person {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Person {
    /// Connects and registers.
    pub(crate) async fn connect(server: &str, nick: &str) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        let (read, write) = stream.into_split();
        let write = Arc::new(tokio::sync::Mutex::new(write));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let reading = tokio::spawn(read_all(BufReader::new(read), write.clone(), heard.clone()));
        let person = Self { nick: nick.to_owned(), write, heard, reading, sent: AtomicU32::new(0) };
        person.send(&format!("NICK {nick}")).await;
        person.send(&format!("USER {nick} 0 * :{nick}")).await;
        person.wait("welcome", |line| numeric(line, "376") || numeric(line, "422")).await;
        person
    }

    /// Connects and joins `#mesh`.
    pub(crate) async fn join(server: &str, nick: &str) -> Self {
        let person = Self::connect(server, nick).await;
        person.send("JOIN #mesh").await;
        person.wait("names of the channel", |line| numeric(line, "366")).await;
        person
    }

    /// Sends a line; after the first few no faster than a person types, since strict servers throw
    /// out who floods.
    pub(crate) async fn send(&self, line: &str) {
        if self.sent.fetch_add(1, Ordering::Relaxed) >= 5 {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
        let bytes = format!("{line}\r\n");
        self.write.lock().await.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// Says something in `#mesh`.
    pub(crate) async fn say(&self, text: &str) {
        self.send(&format!("PRIVMSG #mesh :{text}")).await;
    }

    /// Waits for the next line that fits; lines before it are passed over.
    pub(crate) async fn wait(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let what = format!("{} hears {what}", self.nick);
        let _told = OnPanic(self);
        eventually(&what, || {
            let mut heard = self.heard.lock().unwrap();
            while let Some(line) = heard.lines.get(heard.looked_at).cloned() {
                heard.looked_at += 1;
                let line = String::from_utf8(line).expect("a line that is not UTF-8");
                if fits(&line) {
                    return Some(line);
                }
            }
            None
        })
        .await
    }

    /// Waits for something the bridge says in `#mesh` with this in it; gives its text.
    pub(crate) async fn told(&self, part: &str) -> String {
        let line =
            self.wait(part, |line| said_by_bridge(line).is_some_and(|t| t.contains(part))).await;
        said_by_bridge(&line).unwrap().to_owned()
    }

    /// Everything heard so far, lossily.
    pub(crate) fn all(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Every text of the bridge in `#mesh` so far.
    pub(crate) fn all_told(&self) -> Vec<String> {
        self.all().iter().filter_map(|line| said_by_bridge(line)).map(str::to_owned).collect()
    }

    /// Waits until the server has closed.
    pub(crate) async fn ended(&self) {
        eventually("the server closes", || self.heard.lock().unwrap().ended.then_some(())).await;
    }
}

/// The text, if the line is the bridge speaking in `#mesh`.
fn said_by_bridge(line: &str) -> Option<&str> {
    let rest = line.strip_prefix(":meshfs")?;
    rest.split_once(" PRIVMSG #mesh :").map(|(_, text)| text)
}

fn numeric(line: &str, code: &str) -> bool {
    line.split(' ').nth(1) == Some(code)
}

async fn read_all(
    mut read: BufReader<tokio::net::tcp::OwnedReadHalf>,
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    heard: Arc<Mutex<Heard>>,
) {
    loop {
        let mut line = Vec::new();
        let read = read.read_until(b'\n', &mut line);
        match tokio::time::timeout(Duration::from_secs(600), read).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => break,
        }
        while line.last().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
            line.pop();
        }
        if let Some(token) = line.strip_prefix(b"PING ") {
            let pong = [b"PONG ", token, b"\r\n"].concat();
            let _ = write.lock().await.write_all(&pong).await;
        }
        heard.lock().unwrap().lines.push(line);
    }
    heard.lock().unwrap().ended = true;
}

/// Shows what a person heard when a test fails waiting.
struct OnPanic<'a>(&'a Person);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} heard {:#?}", self.0.nick, self.0.all());
        }
    }
}

//! Nothing a client brought outlives it: so many distinct client ids, filters and topics in turn
//! leave resident memory where it was.
//!
//! `cargo build --release -p meshfs-broker --examples`, then `target/release/examples/soak`, takes a
//! million; the first tenth warms up.
//! Exits with 1 when memory grew by more than the tolerance after that.

use std::{
    error::Error,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, ExitCode, Stdio},
    time::Instant,
};

use clap::Parser;

/// Send many short-lived clients through a broker and print its resident memory
#[derive(Debug, Parser)]
struct Arguments {
    /// Clients in all, each with its own id, filter, retained and other topic
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    clients: usize,
    /// Growth after the first tenth that is still none, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 2048)]
    tolerance_kib: u64,
}

/// The broker; ends with this program.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Starts the standalone broker, which cargo has built beside this program.
#[allow(clippy::disallowed_methods, reason = "it measures the memory of another process")]
fn start() -> Outcome<(Broker, SocketAddr)> {
    let program = std::env::current_exe()?.with_file_name("standalone");
    if !program.is_file() {
        return Err("build it first: cargo build --release -p meshfs-broker --examples".into());
    }
    let mut child = Command::new(program)
        .args(["--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Broker)?;
    let output = child.0.stdout.as_mut().ok_or("its output is piped")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while output.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let line = String::from_utf8(line)?;
    let port = line.rsplit(':').next().ok_or("an address")?.trim().parse()?;
    Ok((child, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

fn resident_kib(broker: &Broker) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.0.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("resident memory")?;
    Ok(line.split_whitespace().nth(1).ok_or("a number")?.parse()?)
}

fn frame(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    [&[first, length as u8][..], &parts.concat()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// A whole life in one write: connect, subscribe, publish, retain, clear, leave.
fn live(address: SocketAddr, number: usize) -> Outcome<()> {
    let retained = text(&format!("soak/{number}/retained"));
    let life = [
        frame(0x10, &[&text("MQTT"), &[4, 2, 0, 0], &text(&format!("soak-{number}"))]),
        frame(0x82, &[&[0, 1], &text(&format!("soak/{number}/#")), &[1]]),
        frame(0x31, &[&retained, b"x"]),
        frame(0x32, &[&text(&format!("soak/{number}/other")), &[0, 2], b"x"]),
        frame(0x31, &[&retained]),
        vec![0xE0, 0],
    ];
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&life.concat())?;
    let mut answers = Vec::new();
    // The broker may close before it has been read to the end.
    let _ = stream.read_to_end(&mut answers);
    if answers.first() == Some(&0x20) { Ok(()) } else { Err("no CONNACK".into()) }
}

fn round(address: SocketAddr, numbers: std::ops::Range<usize>) -> Outcome<()> {
    let threads: Vec<_> = (0..2)
        .map(|half| {
            let mut numbers = numbers.clone().filter(move |number| number % 2 == half);
            std::thread::spawn(move || numbers.try_for_each(|number| live(address, number)))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "prints its figures")]
fn main() -> Outcome<ExitCode> {
    let arguments = Arguments::parse();
    let (broker, address) = start()?;
    println!("{:>9} {:>12} {:>8}", "clients", "resident KiB", "seconds");
    println!("{:>9} {:>12} {:>8.1}", 0, resident_kib(&broker)?, 0.0);
    let (start, step) = (Instant::now(), arguments.clients.div_ceil(10));
    let mut warm = None;
    for tenth in 0..10 {
        round(address, tenth * step..(tenth + 1) * step)?;
        let resident = resident_kib(&broker)?;
        warm.get_or_insert(resident);
        println!("{:>9} {resident:>12} {:>8.1}", (tenth + 1) * step, start.elapsed().as_secs_f64());
    }
    let grown = resident_kib(&broker)?.saturating_sub(warm.unwrap_or_default());
    println!("grew by {grown} KiB after the first tenth");
    Ok(if grown <= arguments.tolerance_kib { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

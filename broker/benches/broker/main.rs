//! Our broker against mosquitto and stock rumqttd, paired in the same run.
//!
//! `cargo bench -p meshfs-broker --bench broker` runs every workload in alternating order and
//! prints medians and ratios to mosquitto; `-- --help` tells what can be chosen.
//! Each run has a fresh broker in a process of its own, and the load comes from
//! raw frames with batched writes and acknowledgements, so that the generator
//! is not what is measured.
#![allow(unreachable_pub, reason = "nothing leaves this binary, so there is nothing to tell apart")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "prints its table and starts the brokers it compares"
)]

mod connection;
mod engine;
mod latency;
mod nodes;
mod replay;
mod table;
mod throughput;
mod workload;

use std::error::Error;
use std::net::SocketAddr;
use std::time::Instant;

use clap::Parser;

use crate::engine::Engine;
use crate::table::Table;
use crate::workload::Workload;

/// What goes wrong in a benchmark is said and ends it.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Compare our broker with mosquitto and stock rumqttd
#[derive(Debug, Parser)]
struct Arguments {
    /// Run only what has a line in the table whose name contains this (may be given several times)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Runs of each workload with each broker; the table has the medians
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
    /// Brokers to compare
    #[arg(long, value_delimiter = ',', default_value = "ours,mosquitto,rumqttd")]
    engines: Vec<Engine>,
    /// How long a throughput run should take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500)]
    run_ms: u64,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// List the lines of the table and end
    #[arg(long)]
    list: bool,
    /// Be a stock rumqttd at this address (what the benchmark starts itself as)
    #[arg(long, hide = true)]
    serve_rumqttd: Option<SocketAddr>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by test runners that ask for a list of tests; there are none here
    #[arg(long, hide = true)]
    format: Option<String>,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    if let Some(address) = arguments.serve_rumqttd {
        return engine::serve_rumqttd(address);
    }
    if arguments.format.is_some() || !(arguments.bench || arguments.list) {
        return Ok(()); // a test run, not a benchmark
    }
    let chosen = |workload: &Workload| {
        let figures = workload.figures();
        let wanted = |text: &String| figures.iter().any(|figure| figure.name.contains(text));
        arguments.only.is_empty() || arguments.only.iter().any(wanted)
    };
    let workloads: Vec<Workload> = Workload::all().into_iter().filter(chosen).collect();
    if arguments.list {
        let figures = workloads.into_iter().flat_map(Workload::figures);
        figures.for_each(|figure| println!("{}", figure.name));
        return Ok(());
    }
    nodes::allow_open_files(12_000)?;
    let engines = engine::available(&arguments.engines)?;
    let started = Instant::now();
    let table = compare(&workloads, &engines, &arguments)?;
    if arguments.json {
        println!("{}", table.json());
    } else {
        println!("\n{}", engine::conditions(&engines));
        println!("medians of {} rounds, {:.0?} in all\n", arguments.rounds, started.elapsed());
        println!("{table}");
    }
    Ok(())
}

/// Runs every workload with every broker, in an order that changes from round to round.
fn compare(workloads: &[Workload], engines: &[Engine], arguments: &Arguments) -> Outcome<Table> {
    let mut table = Table::new(engines);
    for workload in workloads {
        let mut counts = vec![None; engines.len()];
        let figures = workload.figures();
        for round in 0..arguments.rounds {
            for turn in 0..engines.len() {
                let at = (turn + round) % engines.len();
                let running = engines[at].start()?;
                let measured = workload.run(&running, &mut counts[at], arguments.run_ms);
                let measured = measured
                    .map_err(|error| format!("{workload:?} with {}: {error}", engines[at]))?;
                for (figure, measured) in figures.iter().zip(measured) {
                    eprintln!("{}, {}: {measured}", figure.name, engines[at]);
                    table.add(figure, at, measured);
                }
            }
        }
    }
    Ok(table)
}

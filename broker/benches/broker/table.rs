//! Medians, ratios to mosquitto, and how they are printed.

use std::fmt;

use crate::engine::Engine;
use crate::workload::{Figure, Measured};

#[derive(Debug)]
pub struct Table {
    engines: Vec<Engine>,
    rows: Vec<(Figure, Vec<Vec<Measured>>)>,
}

impl Table {
    pub fn new(engines: &[Engine]) -> Self {
        Self { engines: engines.to_vec(), rows: Vec::new() }
    }

    pub fn add(&mut self, figure: &Figure, engine: usize, measured: Measured) {
        let row = self.rows.iter().position(|(known, _)| known == figure);
        let row = row.unwrap_or_else(|| {
            self.rows.push((figure.clone(), vec![Vec::new(); self.engines.len()]));
            self.rows.len() - 1
        });
        self.rows[row].1[engine].push(measured);
    }

    /// The ratio of an engine's median to mosquitto's.
    fn ratio(&self, cells: &[Vec<Measured>], engine: usize) -> Option<f64> {
        let reference = self.engines.iter().position(|engine| *engine == Engine::Mosquitto)?;
        Some(median(&cells[engine], |run| run.value)? / median(&cells[reference], |run| run.value)?)
    }

    /// Everything as one JSON object; names hold nothing that would have to be escaped.
    pub fn json(&self) -> String {
        let mut rows = Vec::new();
        for (figure, cells) in &self.rows {
            for (at, runs) in cells.iter().enumerate() {
                let (Some(value), Some(extra)) =
                    (median(runs, |run| run.value), median(runs, |run| run.extra))
                else {
                    continue;
                };
                let ratio = self.ratio(cells, at).map_or("null".into(), |it| format!("{it:.3}"));
                let all: Vec<String> = runs.iter().map(|run| format!("{:.3}", run.value)).collect();
                rows.push(format!(
                    "{{\"workload\":\"{}\",\"engine\":\"{}\",\"unit\":\"{}\",\
                     \"median\":{value:.3},\"ratio_to_mosquitto\":{ratio},\"extra\":{extra:.3},\
                     \"extra_unit\":\"{}\",\"lost\":{},\"runs\":[{}]}}",
                    figure.name,
                    self.engines[at],
                    figure.unit,
                    figure.extra.unwrap_or_default(),
                    lost(runs),
                    all.join(",")
                ));
            }
        }
        format!("{{\"results\":[{}]}}", rows.join(",\n"))
    }
}

fn median(runs: &[Measured], figure: impl Fn(&Measured) -> f64) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The worst run's loss.
fn lost(runs: &[Measured]) -> usize {
    runs.iter().map(|run| run.lost).max().unwrap_or(0)
}

/// A number with three figures that matter.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.2} M", value / 1e6),
        large if large >= 1e4 => format!("{:.1} k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<36}", "")?;
        for engine in &self.engines {
            write!(f, "| {engine:<36} ")?;
        }
        writeln!(f)?;
        for (figure, cells) in &self.rows {
            write!(f, "{:<36}", figure.name)?;
            for (at, runs) in cells.iter().enumerate() {
                let Some(value) = median(runs, |run| run.value) else { continue };
                let mut cell = format!("{} {}", short(value), figure.unit);
                if let Some(ratio) = self.ratio(cells, at) {
                    cell += &format!(" x{}", short(ratio));
                }
                if let (Some(_), Some(extra)) = (figure.extra, median(runs, |run| run.extra)) {
                    cell += &format!(" ({})", short(extra));
                }
                if lost(runs) > 0 {
                    cell += &format!(" LOST {}", lost(runs));
                }
                write!(f, "| {cell:<36} ")?;
            }
            writeln!(f)?;
        }
        let legend = "x: ratio to mosquitto (rates: more is better; us, ms and MiB: less is); \
                      in brackets: processor time in us a message, or the 99th percentile";
        writeln!(f, "\n{legend}")
    }
}

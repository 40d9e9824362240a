//! Tables and JSON.

use super::Failure;
use serde::Serialize;
use std::io::Write as _;
use tabled::settings::{Padding, Style};
use tabled::{Table, Tabled};

/// Prints a value as one JSON document. A reader that has gone away (`| head`) is no fault.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::fault(e.to_string()))?;
    print(&text)
}

/// Prints rows under their headings.
pub(super) fn table<T: Tabled>(rows: &[T]) -> Result<(), Failure> {
    let mut table = Table::new(rows);
    table.with(Style::blank()).with(Padding::new(0, 2, 0, 0));
    let lines: Vec<_> = table.to_string().lines().map(|l| l.trim_end().to_owned()).collect();
    print(&lines.join("\n"))
}

/// Prints text and a line end.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::fault(format!("could not print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Text that came over the network, with nothing in it that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    // Also what would show a text in another order than it has, or hide a part of it.
    let unseen = |c: char| matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    text.chars().map(|c| if c.is_control() || unseen(c) { '\u{FFFD}' } else { c }).collect()
}

/// How long ago, as a person says it.
pub(super) fn ago(then: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0).unsigned_abs();
    match seconds {
        0 => "now".to_owned(),
        1..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

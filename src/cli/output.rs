//! Tables and JSON.

use super::Failure;
use serde::Serialize;
use std::io::Write as _;
use tabled::settings::{Padding, Style};
use tabled::{Table, Tabled};

/// Prints a value as one JSON document, in which what a terminal would obey is escaped. A reader
/// that has gone away (`| head`) is no fault.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::fault(e.to_string()))?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // Line ends stand between values; within a text JSON has them escaped already.
        if c != '\n' && unseen(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    print(&safe)
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
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::fault(format!("could not print: {error}")))
        }
        _ => Ok(()),
    }
}

/// Text that came over the network, with nothing in it that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if unseen(c) { '\u{FFFD}' } else { c }).collect()
}

/// True for what a terminal obeys, and for what would show a text in another order than it has,
/// or hide a part of it.
fn unseen(c: char) -> bool {
    let hides = matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    c.is_control() || hides
}

/// `1 message`, `2 messages`.
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How long ago, as a person says it.
pub(super) fn ago(then: jiff::Timestamp) -> String {
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0).unsigned_abs();
    if seconds == 0 { "now".to_owned() } else { format!("{} ago", span(seconds)) }
}

/// When, before or after now, as a person says it.
pub(super) fn when(then: jiff::Timestamp) -> String {
    let seconds = then.duration_since(jiff::Timestamp::now()).as_secs();
    if seconds > 0 { format!("in {}", span(seconds.unsigned_abs())) } else { ago(then) }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

//! `meshfs live purge`

use super::super::client::Client;
use super::super::output::{self, plain};
use super::super::{Failure, HubArgs};
use super::volume;
use crate::http::api::{Purge, PurgeRequest};
use crate::name::Filter;
use std::io::IsTerminal as _;

/// Arguments of `meshfs live purge`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// Which: an MQTT filter; mesh/nodes/old/# is that node and all below it
    filter: Filter,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// How long to wait for the end; the hub goes on without anybody waiting
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    timeout: humantime::Duration,
    #[command(flatten)]
    hub: HubArgs,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.hub, Some(args.timeout.into()))?;
    let request = PurgeRequest { filter: args.filter.to_string(), dry_run: !args.yes };
    let mut last = Purge::default();
    let mut progress = Progress { shown: false };
    let answered = client.post_lines("/v1/live/purge", &request, |report: Purge| {
        progress.show(&report);
        last = report;
        Ok(())
    });
    progress.end();
    answered?;
    if !last.ended {
        return Err(Failure::fault(format!(
            "the hub's answer broke off when {} of {} messages were cleared; `meshfs live ls` shows what is left",
            last.purged, last.selected
        )));
    }
    if args.hub.json {
        output::json(&last)?;
    } else {
        output::print(&summary(&last))?;
    }
    match &last.error {
        Some(why) => Err(Failure::fault(format!(
            "cleared {} of {}: {}",
            last.purged,
            last.selected,
            plain(why)
        ))),
        None => Ok(()),
    }
}

/// What is said at the end.
fn summary(purge: &Purge) -> String {
    let filter = plain(&purge.filter);
    let Purge { selected, bytes, kept, purged, .. } = purge;
    let mut lines = Vec::new();
    if purge.dry_run {
        lines.extend(purge.topics.iter().map(|topic| plain(topic.as_str())));
        let unlisted = selected.saturating_sub(lines.len() as u64);
        if unlisted > 0 {
            lines.push(format!("... and {unlisted} more"));
        }
    }
    lines.push(match (purge.dry_run, selected) {
        (_, 0) => format!("nothing is retained on {filter}"),
        (true, _) => format!("would clear {}; to do it:", volume(*selected, *bytes)),
        (false, _) => format!("cleared {}", volume(*purged, *bytes)),
    });
    if purge.dry_run && *selected > 0 {
        lines.push(format!("  meshfs live purge '{}' --yes", filter.replace('\'', r"'\''")));
    }
    if *kept > 0 {
        lines.push(format!("{kept} more are the hub's own and stay"));
    }
    lines.join("\n")
}

/// A line on the terminal that counts.
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&mut self, report: &Purge) {
        if report.ended || report.dry_run || !std::io::stderr().is_terminal() {
            return;
        }
        self.shown = true;
        eprint!("\rcleared {} of {}", report.purged, report.selected);
    }

    fn end(&self) {
        if self.shown {
            eprintln!();
        }
    }
}

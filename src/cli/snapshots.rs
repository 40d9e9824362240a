//! `meshfs snapshots`

use super::client::Client;
use super::output::{self, ago, plain};
use super::{Failure, HubArgs};
use crate::http::api::Snapshot;
use tabled::Tabled;

/// What can be done with snapshots.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the snapshots and why each was taken
    List {
        #[command(flatten)]
        hub: HubArgs,
    },
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    snapshot: String,
    engine: String,
    taken: String,
    by: String,
    reason: String,
}

impl Row {
    fn new(record: &Snapshot) -> Self {
        let first = record.announcements.first();
        let more = record.announcements.len().saturating_sub(1);
        let reason = first.map(|a| plain(&a.reason)).unwrap_or_default();
        Self {
            snapshot: record.snapshot.name.to_string(),
            engine: plain(&record.snapshot.engine),
            taken: ago(record.taken_at),
            by: first.map(|a| plain(&a.by.to_string())).unwrap_or_default(),
            reason: if more > 0 { format!("{reason} (+{more} more)") } else { reason },
        }
    }
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let Command::List { hub } = command;
    let snapshots: Vec<Snapshot> = Client::new(hub, None)?.get("/v1/snapshots")?;
    if hub.json {
        return output::json(&snapshots);
    }
    if snapshots.is_empty() {
        return output::print("no snapshot yet; `meshfs announce REASON` takes one");
    }
    output::table(&snapshots.iter().map(Row::new).collect::<Vec<_>>())
}

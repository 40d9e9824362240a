//! `meshfs live`

mod purge;
mod source;

use super::output::{self, ago, plain, when};
use super::{Failure, HubArgs};
use crate::http::api::LiveMessage;
use crate::name::{Filter, Topic};
use serde::Serialize;
use source::Listed;
use std::path::PathBuf;
use tabled::Tabled;

/// What can be done with retained messages.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List retained messages
    ///
    /// With --root the files themselves are read and no hub is needed: after a catastrophe, or in
    /// a snapshot (--root mesh/.snapshots/NAME, --root /tank/meshfs/.zfs/snapshot/NAME). Files that
    /// are torn, or that meshfs did not write, are listed with the reason, and the exit code is 1.
    Ls {
        /// Which: an MQTT filter, such as mesh/nodes/+/heartbeat or mesh/app/#
        #[arg(default_value = "mesh/#")]
        filter: Filter,
        /// Print only how many there are, and the bytes of their payloads
        #[arg(long)]
        count: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Print the payload of a retained message, byte for byte
    Cat {
        /// Its topic
        topic: String,
        /// Print who published it, when and how, as JSON, in place of the payload
        #[arg(long)]
        meta: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Clear the retained messages that a filter selects
    ///
    /// Without --yes it only says what would go. Each is cleared by an empty retained publish in
    /// your name, and the journal says who cleared what. What only the hub publishes stays: the
    /// verdict on a node goes with its heartbeat, the record of a snapshot with the snapshot.
    /// What is cleared is kept in snapshots only: `meshfs announce` first.
    Purge(purge::Args),
}

/// Where to read.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    #[command(flatten)]
    hub: HubArgs,
    /// Read the files of this tree, or of a snapshot of it, in place of asking the hub
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    topic: String,
    size: u64,
    age: String,
    publisher: String,
    expires: String,
}

impl From<&LiveMessage> for Row {
    fn from(message: &LiveMessage) -> Self {
        Self {
            topic: plain(message.topic.as_str()),
            size: message.bytes,
            age: ago(message.received_at),
            publisher: plain(&message.by.to_string()),
            expires: message.expires_at.map_or_else(|| "-".to_owned(), when),
        }
    }
}

/// A file that is no retained message.
#[derive(Debug, Serialize, Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct NotOurs {
    /// Below `live/`.
    path: String,
    why: String,
}

/// What `--json` prints for one file or message.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Message(&'a LiveMessage),
    NotOurs(&'a NotOurs),
}

#[derive(Debug, Serialize)]
struct Count {
    messages: u64,
    bytes: u64,
    /// Files that are no messages; absent when a hub was asked, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ours: Option<u64>,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Ls { filter, count, source } => ls(filter, *count, source),
        Command::Cat { topic, meta, source } => {
            let topic = Topic::parse(topic).map_err(|e| Failure::usage(e.to_string()))?;
            source::cat(&topic, *meta || source.hub.json, source)
        }
        Command::Purge(args) => purge::run(args),
    }
}

fn ls(filter: &Filter, count: bool, source: &Source) -> Result<(), Failure> {
    let Listed { messages, not_ours } = match &source.root {
        Some(root) => source::in_files(root, filter)?,
        None => source::in_hub(&source.hub, filter)?,
    };
    if count {
        let bytes = messages.iter().map(|message| message.bytes).sum();
        let (messages, foreign) = (messages.len() as u64, not_ours.len() as u64);
        let count = Count { messages, bytes, not_ours: source.root.is_some().then_some(foreign) };
        print_count(&count, source.hub.json)?;
    } else if source.hub.json {
        let messages = messages.iter().map(Line::Message);
        let lines: Vec<_> = messages.chain(not_ours.iter().map(Line::NotOurs)).collect();
        output::json(&lines)?;
    } else {
        print_tables(filter, &messages, &not_ours)?;
    }
    match not_ours.len() {
        0 => Ok(()),
        1 => Err(Failure::fault("1 file is torn, or meshfs did not write it")),
        many => Err(Failure::fault(format!("{many} files are torn, or meshfs did not write them"))),
    }
}

fn volume(messages: u64, bytes: u64) -> String {
    format!("{}, {}", output::count(messages, "message"), output::count(bytes, "byte"))
}

fn print_count(count: &Count, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(count);
    }
    output::print(&volume(count.messages, count.bytes))
}

fn print_tables(
    filter: &Filter,
    messages: &[LiveMessage],
    not_ours: &[NotOurs],
) -> Result<(), Failure> {
    if messages.is_empty() {
        output::print(&format!("nothing is retained on {}", plain(filter.as_str())))?;
    } else {
        output::table(&messages.iter().map(Row::from).collect::<Vec<_>>())?;
    }
    if !not_ours.is_empty() {
        output::print("")?;
        output::table(not_ours)?;
    }
    Ok(())
}

//! `meshfs status`

use super::client::Client;
use super::output::{self, ago, plain};
use super::{Failure, HubArgs};
use crate::http::api::Node;
use tabled::Tabled;

/// Arguments of `meshfs status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show this node only
    #[arg(value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    hub: HubArgs,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    node: String,
    verdict: String,
    since: String,
    #[tabled(rename = "LAST HEARD")]
    heard: String,
    status: String,
    services: String,
    because: String,
}

impl Row {
    fn new(node: &Node) -> Self {
        let services: Vec<_> = node.services.keys().map(|name| plain(name)).collect();
        Self {
            node: plain(&node.node),
            verdict: node.verdict.to_string(),
            since: ago(node.since),
            heard: node.last_heard.map_or_else(|| "-".to_owned(), ago),
            status: node.status.as_deref().map_or_else(|| "-".to_owned(), plain),
            services: if services.is_empty() { "-".to_owned() } else { services.join(" ") },
            because: plain(&node.because.join(", ")),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.hub, None)?;
    let nodes: Vec<Node> = match &args.node {
        Some(node) => {
            // A name, so that nothing else can become part of the path.
            let node =
                crate::name::NodeId::parse(node).map_err(|e| Failure::usage(e.to_string()))?;
            vec![client.get(&format!("/v1/nodes/{node}"))?]
        }
        None => client.get("/v1/nodes")?,
    };
    if args.hub.json {
        return match (&args.node, nodes.first()) {
            (Some(_), Some(node)) => output::json(node),
            _ => output::json(&nodes),
        };
    }
    if nodes.is_empty() {
        return output::print("no node was heard yet; topics.md shows how to send a heartbeat");
    }
    output::table(&nodes.iter().map(Row::new).collect::<Vec<_>>())
}

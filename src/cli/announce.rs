//! `meshfs announce`

use super::client::{Client, parse, problem};
use super::output::{self, plain};
use super::{Exit, Failure, HubArgs, mqtt};
use crate::http::api::Announcement;
use crate::message::State;
use serde::Serialize;
use std::time::Duration;

/// Arguments of `meshfs announce`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is about to happen, in a few words
    reason: String,
    /// This may really break things: capture the running state of every node first
    #[arg(long)]
    flush: bool,
    /// What announces, such as the name of a service
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Idempotency key: the same one again gets the same outcome and no second snapshot
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// How long the risky act may take, such as 10m
    #[arg(long, value_name = "DURATION")]
    window: Option<humantime::Duration>,
    /// Give up waiting after so long; the announcement stands
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: humantime::Duration,
    #[command(flatten)]
    hub: HubArgs,
}

/// The request's body.
#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    reason: &'a str,
    flush: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let request = Request {
        reason: &args.reason,
        flush: args.flush,
        source: args.source.as_deref(),
        id: args.id.as_deref(),
        window: args.window.map(|window| window.to_string()),
    };
    let limit: Duration = args.timeout.into();
    let over_mqtt = ["mqtt://", "mqtts://"].iter().any(|scheme| args.hub.hub.starts_with(scheme));
    let outcome: Announcement = if over_mqtt {
        mqtt::announce(&args.hub, &request, limit)?
    } else {
        let answer = Client::new(&args.hub, Some(limit))?.post("/v1/announcements", &request)?;
        // 201 confirmed, 503 failed: both carry the outcome.
        match parse(&answer) {
            Ok(outcome) => outcome,
            // The hub could not even take it: no snapshot, as with an outcome that failed.
            Err(_) if answer.status == 503 => {
                return Err(Failure { exit: Exit::Failed, message: problem(&answer) });
            }
            Err(_) => return Err(Failure::fault(problem(&answer))),
        }
    };
    if args.hub.json {
        output::json(&outcome)?;
    }
    let failed = |message: String| Err(Failure { exit: Exit::Failed, message });
    match (outcome.state, outcome.snapshot) {
        (State::Confirmed, Some(snapshot)) => {
            if !args.hub.json {
                let took = outcome.timings_ms.total;
                output::print(&format!("confirmed: snapshot {} in {took} ms", snapshot.name))?;
                output::print(&format!("  {}", plain(&snapshot.full)))?;
            }
            Ok(())
        }
        _ => {
            let why = outcome.error.as_deref().unwrap_or("no reason given");
            failed(format!("no snapshot: {}", plain(why)))
        }
    }
}

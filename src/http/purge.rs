//! `POST /v1/live/purge`: clears every retained message that a filter selects.
//!
//! Each is cleared by an empty retained publish in the caller's name, so that everybody who
//! follows the bus sees it go. It is said in the journal first, and done to the end although
//! the caller may be gone by then.

use super::announcements::read;
use super::login::Caller;
use super::problem::Problem;
use super::{Api, api};
use crate::bus::Publication;
use crate::message::contract::Author;
use crate::message::{Entry, Subject};
use crate::name::{By, Filter, Topic};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use std::convert::Infallible;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};

/// Topics that an answer lists.
const TOPICS_MAX: usize = 1000;
/// Messages looked at in one go.
const PAGE: usize = 1000;
/// Messages cleared between two looks at whether the hub keeps up.
const BATCH: usize = 256;
/// Reports that may wait for the caller; the purge does not wait for it.
const REPORTS: usize = 64;
/// One line a report, for those who want to see how it goes.
const LINES: &str = "application/x-ndjson";

/// What a purge is to clear, and what of it is for the caller.
struct Plan {
    topics: Vec<Topic>,
    report: api::Purge,
}

/// Says what would be cleared, or clears it. With `Accept: application/x-ndjson` the answer is
/// a line for each step, else one object at the end.
pub(super) async fn purge(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let request: api::PurgeRequest = serde_json::from_slice(&read(body).await?).map_err(|e| {
        Problem::bad_request(&format!("a purge is {{\"filter\",\"dry_run\"}}: {e}"))
    })?;
    let filter =
        Filter::parse(&request.filter).map_err(|e| Problem::bad_request(&e.to_string()))?;
    let plan = plan(&api, &filter, request.dry_run).await;
    if plan.topics.is_empty() && plan.report.kept > 0 {
        return Err(Problem::forbidden(
            "the filter selects only what the hub itself publishes: a verdict goes with its \
             node's heartbeat, the record of a snapshot with the snapshot",
        ));
    }
    if request.dry_run || plan.topics.is_empty() {
        return Ok(Json(ended(plan.report, &plan.topics)).into_response());
    }
    let turn = api.purging.clone().try_acquire_owned();
    let turn =
        turn.map_err(|_| Problem::conflict("another purge is under way; wait for its end"))?;
    let (tell, told) = mpsc::channel(REPORTS);
    tokio::spawn(carry_out(api, plan, caller.by(&headers), tell, turn));
    let reports = ReceiverStream::new(told);
    if headers.get(header::ACCEPT).is_some_and(|accept| accept == LINES) {
        return Ok(lines(reports));
    }
    let last = reports.filter(|report| report.ended).next().await;
    let last = last.ok_or_else(|| Problem::unavailable("the purge broke off"))?;
    let status = match last.error {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok((status, Json(last)).into_response())
}

fn lines(reports: impl Stream<Item = api::Purge> + Send + 'static) -> Response {
    let lines = reports.map(|report| {
        // Numbers and texts only: it always serialises.
        let mut line = serde_json::to_vec(&report).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(line)
    });
    ([(header::CONTENT_TYPE, LINES)], Body::from_stream(lines)).into_response()
}

async fn plan(api: &Api, filter: &Filter, dry_run: bool) -> Plan {
    let mut topics = Vec::new();
    let mut report = api::Purge { filter: filter.to_string(), dry_run, ..api::Purge::default() };
    let mut after: Option<Box<str>> = None;
    loop {
        let page = api.retained.page(filter, after.as_deref(), PAGE);
        for message in page.messages {
            if is_the_hubs(api, &message.topic) {
                report.kept += 1;
                continue;
            }
            report.bytes += message.payload.len() as u64;
            topics.push(message.topic);
        }
        after = page.next;
        if after.is_none() {
            report.selected = topics.len() as u64;
            return Plan { topics, report };
        }
        tokio::task::yield_now().await;
    }
}

/// Only the hub clears what it alone publishes; but not the verdict on a node it knows no more.
fn is_the_hubs(api: &Api, topic: &Topic) -> bool {
    match Subject::of(topic) {
        Ok(Subject::Verdict(node)) => api.view.borrow().nodes.contains_key(&node),
        Ok(subject) => subject.author() == Author::Hub,
        Err(_) => false,
    }
}

async fn carry_out(
    api: Api,
    plan: Plan,
    by: By,
    tell: mpsc::Sender<api::Purge>,
    turn: OwnedSemaphorePermit,
) {
    let Plan { topics, mut report } = plan;
    api.intake.note(Entry::Purge {
        by: by.clone(),
        filter: report.filter.clone(),
        messages: report.selected,
        bytes: report.bytes,
    });
    for batch in topics.chunks(BATCH) {
        api.intake.room().await;
        // The view ends with the loop that takes in what is published.
        if api.view.has_changed().is_err() {
            report.error = Some("the hub is shutting down".to_owned());
            break;
        }
        clear(&api, batch, &by, &mut report).await;
        // A caller who reads slowly misses a step, and one who has gone all of them.
        let _ = tell.try_send(report.clone());
    }
    drop(turn);
    let _ = tell.send(ended(report, &topics)).await;
}

async fn clear(api: &Api, topics: &[Topic], by: &By, report: &mut api::Purge) {
    let mut clearing = JoinSet::new();
    for topic in topics {
        let publication =
            Publication { by: by.clone(), ..Publication::hub(topic.clone(), Vec::new(), true) };
        let publisher = api.publisher.clone();
        clearing.spawn(async move { publisher.publish(publication).await });
    }
    while let Some(cleared) = clearing.join_next().await {
        let refused = match cleared {
            Ok(Ok(())) => {
                report.purged += 1;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        report.refused += 1;
        report.error.get_or_insert(refused);
    }
}

fn ended(report: api::Purge, topics: &[Topic]) -> api::Purge {
    let topics = topics.iter().take(TOPICS_MAX).cloned().collect();
    api::Purge { ended: true, topics, ..report }
}

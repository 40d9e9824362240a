//! `/v1/announcements`: the answer to a request is the outcome itself.

use super::login::Caller;
use super::problem::Problem;
use super::{Answer, Api, Name, api};
use crate::bus::{Publication, PublishError};
use crate::message::contract::topics;
use crate::message::{Announcement, Outcome, State};
use crate::name::AnnouncementId;
use axum::body::{Body, to_bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Largest request body.
const BODY_MAX_BYTES: usize = 16 << 10;
/// How long a request's body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// How long beyond the announcement's own deadline the outcome may take to get here.
const GRACE: Duration = Duration::from_secs(10);

/// `POST /v1/announcements`: 201 when confirmed, 503 when failed, both with the outcome.
pub(super) async fn announce(
    Extract(api): Extract<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = read(body).await?;
    let mut announcement =
        Announcement::parse(&body).map_err(|e| Problem::bad_request(&e.to_string()))?;
    let id = announcement.id.take().unwrap_or_else(AnnouncementId::fresh);
    announcement.id = Some(id.clone());
    let payload =
        serde_json::to_vec(&announcement).map_err(|e| Problem::bad_request(&e.to_string()))?;
    let by = caller.by(&headers);
    let publication =
        Publication { by: by.clone(), ..Publication::hub(topics::announce(), payload, false) };
    let published = api.publisher.publish(publication).await;
    published.map_err(|error| match error {
        PublishError::Refused { .. } => Problem::bad_request(&error.to_string()),
        PublishError::NotNow { .. } | PublishError::Closed => {
            Problem::unavailable(&error.to_string())
        }
    })?;
    let outcome = outcome(&api, &id).await?;
    if outcome.by.user != by.user {
        return Err(Problem::conflict(
            "this id is of another user's announcement: take another one, or none",
        ));
    }
    Ok(answer(&outcome))
}

/// Reads a request's body, within its bounds of size and time.
pub(super) async fn read(body: Body) -> Result<Bytes, Problem> {
    tokio::time::timeout(BODY_LIMIT, to_bytes(body, BODY_MAX_BYTES))
        .await
        .map_err(|_| Problem::bad_request("the request's body did not arrive in time"))?
        .map_err(|_| Problem::too_large("a request has at most 16 KiB"))
}

/// Waits until the view shows how it ended.
async fn outcome(api: &Api, id: &AnnouncementId) -> Result<Arc<Outcome>, Problem> {
    let mut view = api.view.clone();
    let ended = view.wait_for(|view| {
        view.announcements.get(id).is_some_and(|outcome| outcome.state.is_final())
    });
    let late = || Problem::unavailable("no outcome in time; ask again with the same id");
    let view = tokio::time::timeout(api.deadline + GRACE, ended).await.map_err(|_| late())?;
    let view = view.map_err(|_| Problem::unavailable("the hub is shutting down"))?;
    view.announcements.get(id).cloned().ok_or_else(late)
}

fn answer(outcome: &Outcome) -> Response {
    let status = match outcome.state {
        State::Confirmed => StatusCode::CREATED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = (status, Json(outcome)).into_response();
    let location = HeaderValue::from_str(&format!("/v1/announcements/{}", outcome.id));
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// `GET /v1/announcements`: the latest state of each that is remembered.
pub(super) async fn list(Extract(api): Extract<Api>) -> Json<Vec<api::Announcement>> {
    let view = api.view.borrow().clone();
    let mut all: Vec<_> = view.announcements.values().map(|o| o.as_ref().clone()).collect();
    all.sort_by_key(|outcome| outcome.requested_at);
    Json(all)
}

/// `GET /v1/announcements/{id}`
pub(super) async fn one(Extract(api): Extract<Api>, Name(id): Name) -> Answer<api::Announcement> {
    let view = api.view.borrow().clone();
    let id = AnnouncementId::parse(&id).map_err(|e| Problem::not_found(&e.to_string()))?;
    let outcome = view.announcements.get(&id);
    let outcome =
        outcome.ok_or_else(|| Problem::not_found("no announcement with this id is remembered"))?;
    Ok(Json(outcome.as_ref().clone()))
}

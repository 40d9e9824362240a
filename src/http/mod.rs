//! Room 7: HTTP. A write is a publish like any other, a read is the view.

mod announcements;
pub mod api;
mod drain;
mod guard;
mod live;
mod login;
mod mqtt;
mod problem;
mod purge;
mod server;

pub use server::{Port, Server, serve};

use crate::access::Access;
use crate::bus::{BoxFuture, EmbeddedBus, Publisher, RetainedSet};
use crate::mesh::View;
use crate::message::Entry;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use problem::Problem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// Where writes go.
    pub publisher: Arc<dyn Publisher>,
    /// Where reads come from.
    pub view: watch::Receiver<View>,
    /// Who may come in, and what each may do.
    pub access: Arc<Access>,
    /// The retained messages.
    pub retained: Arc<dyn RetainedSet>,
    /// Where the journal's lines go.
    pub intake: Arc<dyn Intake>,
    /// Held by the purge that is under way: there is one at a time.
    pub purging: Arc<Semaphore>,
    /// By when an announcement has its outcome.
    pub deadline: Duration,
    /// The bus that takes over what comes to `/mqtt`.
    pub bus: Option<EmbeddedBus>,
}

/// The way to the core for what is no publish.
pub trait Intake: Send + Sync + 'static {
    /// Has a line written into the journal, before what is published after this call.
    fn note(&self, entry: Entry);
    /// Resolves when the hub keeps up with what comes in.
    fn room(&self) -> BoxFuture<'_, ()>;
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Everything but the health of the hub takes a login, where one is asked for; who comes to the bus
/// logs in there.
fn router(api: Api) -> Router {
    let login = axum::middleware::from_fn_with_state(api.clone(), login::login);
    let guard = axum::middleware::from_fn_with_state(api.clone(), guard::guard);
    let open = Router::new()
        .route("/mqtt", get(mqtt::upgrade))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(guard);
    Router::new()
        .route("/v1/announcements", post(announcements::announce).get(announcements::list))
        .route("/v1/announcements/{id}", get(announcements::one))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}", get(node))
        .route("/v1/snapshots", get(snapshots))
        .route("/v1/snapshots/{name}", get(snapshot))
        .route("/v1/live", get(live::list))
        .route("/v1/live/purge", post(purge::purge))
        .route("/v1/live/{*path}", get(live::one))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(login)
        .merge(open)
        .with_state(api)
}

/// A name in a path; what is not even text is a problem like every other.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|e| Problem::bad_request(&e.body_text()))
    }
}

/// What follows the `?`; what is not understood is a problem like every other.
struct Params<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|e| Problem::bad_request(&e.body_text()))
    }
}

type Answer<T> = Result<Json<T>, Problem>;

async fn nodes(State(api): State<Api>) -> Json<Vec<api::Node>> {
    let view = api.view.borrow().clone();
    Json(view.nodes.iter().map(|(id, node)| api::Node::new(id, node)).collect())
}

async fn node(State(api): State<Api>, Name(id): Name) -> Answer<api::Node> {
    let view = api.view.borrow().clone();
    let found = view.nodes.iter().find(|(known, _)| known.as_str() == id);
    let (id, node) = found.ok_or_else(|| Problem::not_found("no such node was ever heard of"))?;
    Ok(Json(api::Node::new(id, node)))
}

async fn snapshots(State(api): State<Api>) -> Json<Vec<api::Snapshot>> {
    let view = api.view.borrow().clone();
    Json(view.snapshots.values().map(|record| record.as_ref().clone()).collect())
}

async fn snapshot(State(api): State<Api>, Name(name): Name) -> Answer<api::Snapshot> {
    let view = api.view.borrow().clone();
    let found = view.snapshots.iter().find(|(known, _)| known.as_str() == name);
    let (_, record) = found.ok_or_else(|| Problem::not_found("no snapshot has this name"))?;
    Ok(Json(record.as_ref().clone()))
}

/// The process is there and answers.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The hub can do its job: what comes in reaches the disk.
async fn readyz(State(api): State<Api>) -> axum::response::Response {
    let hub = api.view.borrow().hub.clone();
    match (hub.started_at, hub.trouble) {
        (None, _) => Problem::unavailable("the hub is starting").into_response(),
        (_, Some(trouble)) => Problem::unavailable(&trouble).into_response(),
        (Some(_), None) => "ready\n".into_response(),
    }
}

//! Room 7: HTTP. A write is a publish like any other, a read is the view.

mod announcements;
pub mod api;
mod guard;
mod live;
mod problem;
mod purge;

use crate::bus::{BoxFuture, Publisher, RetainedSet};
use crate::mesh::View;
use crate::message::Entry;
use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use problem::Problem;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

/// Connections at one time; the next one waits for a place.
const CONNECTIONS_MAX: usize = 1024;
/// How long a request's headers may take to arrive, and an idle connection to send the next.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// Where writes go.
    pub publisher: Arc<dyn Publisher>,
    /// Where reads come from.
    pub view: watch::Receiver<View>,
    /// The retained messages.
    pub retained: Arc<dyn RetainedSet>,
    /// Where the journal's lines go.
    pub intake: Arc<dyn Intake>,
    /// Held by the purge that is under way: there is one at a time.
    pub purging: Arc<Semaphore>,
    /// By when an announcement has its outcome.
    pub deadline: Duration,
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

/// A running HTTP interface.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Opens the port.
///
/// # Errors
/// The address cannot be listened on.
pub async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(listen).await
}

/// Serves the interface on an open port.
#[must_use]
pub fn serve(listener: TcpListener, api: Api) -> Server {
    let (stop, stopped) = watch::channel(false);
    Server { stop, task: tokio::spawn(accept(listener, router(api), stopped)) }
}

/// Takes in connections, so many at a time and each with a limit for its
/// headers: whoever says nothing keeps nobody else out for long.
async fn accept(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // An error means that the hub is gone, which is a reason to stop too.
    let stop = stopped.wait_for(|stop| *stop);
    tokio::pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! { next = next => next, _ = &mut stop => break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "HTTP connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await; // out of file descriptors, most likely
                continue;
            }
        };
        let service = router.clone().layer(Extension(ConnectInfo(peer)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%peer, %error, "HTTP connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

impl Server {
    /// Takes no more requests and waits for those under way.
    pub async fn stop(&mut self, limit: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(limit, &mut self.task).await.is_err() {
            warn!(?limit, "HTTP requests still under way");
            self.task.abort();
        }
    }
}

fn router(api: Api) -> Router {
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
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(axum::middleware::from_fn(guard::same_origin))
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

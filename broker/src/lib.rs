//! An embeddable MQTT broker for 3.1.1 and 5.0 that asks its host what to admit and where retained
//! messages live.
//!
//! The way of a message: `listener` lets a connection in (TLS and WebSocket go through a `pipe`
//! that `carry` and `websocket` fill and empty), `session::connect` finds out who it is
//! and attaches it to its session, `session::connection` reads batches and `session::batch` splits
//! them with `codec`; `fanout` finds takers through `routes` in the `subscriptions` tree, asks the
//! host ([`Admission`]), stores ([`RetainedStore`]), encodes runs into `chunk`s and puts these into
//! the sessions' queues; `session::deliver` writes them.
//!
//! What always holds:
//! - Retained messages are admitted, stored and queued in one order that all subscribers see; a
//!   subscriber never ends with an older value than the store.
//! - Everything that comes from a client is bounded, and freed when its session ends.
//! - Nobody waits for a client that takes nothing.

pub(crate) mod arrivals;
pub(crate) mod listener;
pub(crate) mod stream;

pub(crate) mod carry;
pub(crate) mod certificate;
pub(crate) mod pipe;
pub(crate) mod tls;
pub(crate) mod websocket;

pub(crate) mod codec;
pub(crate) mod session;

pub(crate) mod chunk;
pub(crate) mod fanout;
pub(crate) mod routes;
pub(crate) mod subscriptions;

pub(crate) mod bounds;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod housekeeping;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod shared;
pub(crate) mod tasks;
#[cfg(test)]
mod testing;

mod api;
mod broker;
mod properties;
mod retained;
mod settings;
mod stats;
mod topic;

pub use api::{
    Admission, Admitted, Authority, BoxFuture, ConnectRefused, Credentials, Identity, Incoming,
    QoS, Refusal, RefusalReason, Retention,
};
pub use broker::{Broker, Outgoing};
pub use certificate::Validity;
pub use properties::{Properties, PropertiesBuilder};
pub use retained::{MemoryStore, Page, Retained, RetainedStore};
pub use settings::{Limits, Listen, Settings, StartError};
pub use stats::{LimitStats, Stats};
pub use tls::{ClientCertificate, Secured, Tls, TlsError, TlsFiles};
pub use topic::{filter_matches, valid_filter, valid_topic};
pub use websocket::{UpgradeRefused, websocket_answer};

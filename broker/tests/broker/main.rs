//! What the host of the broker leans on, checked over real sockets.
#![allow(unreachable_pub, reason = "nothing leaves this binary, so there is nothing to tell apart")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, says what it measured, and starts real programs"
)]

mod support;

mod admission;
mod again;
mod authority;
mod backpressure;
mod clients;
mod connect;
mod counted;
mod flow;
mod fuzz;
mod killers;
mod lifecycle;
mod limits;
mod memory;
mod model;
mod order;
mod properties;
mod publish;
mod retained;
mod rules;
mod rumqttd;
mod sessions;
mod shared;
mod standoff;
mod subscribe;
mod tls;
mod transports;
mod websocket;
mod wills;

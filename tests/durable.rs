//! What is left when a hub is killed or its power is cut, and how it lives with
//! a disk that refuses: the program itself, on real file systems.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(clippy::print_stderr, reason = "a skip is said")]

#[path = "disk/client.rs"]
mod client;
#[path = "disk/crash.rs"]
mod crash;
#[path = "clients/hub.rs"]
#[allow(dead_code, reason = "shared with the tests of serve")]
mod hub;
#[path = "disk/keeping.rs"]
mod keeping;
#[path = "disk/model.rs"]
mod model;
#[path = "disk/power.rs"]
mod power;
#[path = "disk/trace.rs"]
mod trace;
#[path = "disk/trouble.rs"]
mod trouble;

use client::Client;
use hub::Hub;

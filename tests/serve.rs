//! `meshfs serve` as a process of its own, with real clients: what is left
//! after `kill -9`, ten thousand topics, a hundred announcements, a zfs that hangs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where it fails"
)]
#![allow(clippy::print_stderr, reason = "a skip is said")]
#![allow(dead_code, reason = "the hub's helpers are shared with other tests")]

#[path = "clients/announcements.rs"]
mod announcements;
#[path = "clients/hub.rs"]
mod hub;
#[path = "clients/live.rs"]
mod live;
#[path = "clients/retained.rs"]
mod retained;

use hub::Hub;

//! What the tests stand on: raw clients, a broker under test, real programs.

pub mod authority;
pub mod client;
pub mod host;
pub mod process;
pub mod properties;
pub mod server;
pub mod tunnel;
pub mod wire;

pub use client::{Client, LIMIT};
pub use server::Server;
pub use wire::{Connect, Packet, Publish, VERSIONS, Version};

use std::time::Instant;

/// Waits until `condition` holds; fails the test when it does not within [`LIMIT`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

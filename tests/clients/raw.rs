//! The raw MQTT client of the broker's own tests, which sends what no library would.
#![allow(unreachable_pub, reason = "it is shared with the broker's tests")]

#[path = "../../broker/tests/broker/support/client.rs"]
pub mod client;
#[path = "../../broker/tests/broker/support/properties.rs"]
pub mod properties;
#[path = "../../broker/tests/broker/support/wire.rs"]
pub mod wire;

pub(crate) use client::Client;
pub(crate) use wire::{Connect, Publish, Version};

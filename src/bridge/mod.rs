//! Room 6, IRC: the bridge to networks of people, and the house server for a machine that has none.
#![allow(dead_code)]

mod authority;
mod command;
mod digest;
mod house;
mod isupport;
mod line;
mod outbox;

pub use house::{House, HouseError, HouseLimits};
pub use outbox::Pace;

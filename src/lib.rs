//! meshfs: keeps the last known state of a mesh on disk and snapshots it before anybody does something risky.

pub mod bridge;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod http;
pub mod hub;
pub mod journal;
pub mod live;
pub mod mesh;
pub mod message;
pub mod name;
pub mod snapshot;

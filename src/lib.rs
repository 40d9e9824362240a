//! meshfs: keeps the last known state of a mesh on disk and snapshots it before anybody does something risky.

pub mod name;
pub mod snapshot;

//! The snapshot engines: copy for real, zfs against recorded answers, and zfs for
//! real in the virtual machine that `tests/engines/zfs` runs this program in.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test ends at the first thing that is wrong, says so, and drives real programs"
)]

#[path = "engines/acceptance.rs"]
mod acceptance;
#[path = "engines/copy.rs"]
mod copy;
#[path = "engines/fake_zfs.rs"]
mod fake_zfs;
#[path = "engines/hanging_zfs.rs"]
mod hanging_zfs;
#[path = "engines/places.rs"]
mod places;
#[path = "engines/program.rs"]
mod program;
#[path = "engines/real_hub.rs"]
mod real_hub;
#[path = "engines/real_zfs.rs"]
mod real_zfs;
#[path = "engines/tree.rs"]
mod tree;

use meshfs::name::SnapshotName;
use meshfs::snapshot::{Labels, Request};
use std::time::Duration;

/// A request with a limit that no healthy engine reaches.
fn request(name: &str, id: &str) -> Request {
    let labels = Labels {
        reason: "migrating \"schema\"\tof\nthe café \\ -".to_owned(),
        source: Some("crm-api".to_owned()),
        id: id.to_owned(),
        ids: vec![id.to_owned(), "other-1".to_owned()],
        flush: true,
    };
    let name = SnapshotName::parse(name).unwrap();
    Request { name, labels, deadline: Duration::from_secs(60) }
}

//! Room 4, the live store: retained messages as files.
//!
//! `live/` is what the mesh says is true now, one file per retained topic, so
//! that a snapshot of its dataset is a snapshot of the mesh.
//!
//! Invariants:
//! - A reader sees the old payload or the new one, never a mixture.
//! - Two different topics never share a file.
//! - No symbolic link below the root is followed.
//! - A file is on disk before the call that promised so returns, and no power cut
//!   leaves a topic without the last value that was.
//! - What this module did not write is set aside, never served and never deleted.

mod atomic;
mod commit;
mod error;
mod load;
mod meta;
pub mod path;
mod reader;
mod store;
mod unsynced;

pub(crate) use atomic::folder_made as make_folder;
pub use commit::Change;
pub use error::StoreError;
pub use meta::Meta;
pub use reader::{Foreign, Found, Reader};
pub use store::{Aside, Loaded, Meaning, Retained, Store};

//! Checked names. Whoever holds one need not check it again.
//!
//! Text becomes one of these at the edge of the program, with an error that
//! says what is wrong; nothing here does I/O.

mod broker;
mod by;
mod dataset;
mod filter;
mod id;
mod irc;
mod snapshot;
mod topic;

pub use broker::{BrokerUrl, BrokerUrlError};
pub use by::{By, Door};
pub use dataset::{Dataset, DatasetError};
pub use filter::{Filter, FilterError};
pub use id::{AnnouncementId, NameError, NodeId, ServiceId, UserName};
pub use irc::{Channel, IrcNameError, NetworkName, Nick};
pub use snapshot::{SnapshotName, SnapshotNameError};
pub use topic::{Topic, TopicError};

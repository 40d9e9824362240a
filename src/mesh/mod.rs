//! Room 3: every decision meshfs makes, with no I/O.

mod say;
mod view;

pub use say::{Say, SayKind, SayTo};
pub use view::{NodeView, ServiceView, Verdict, View};

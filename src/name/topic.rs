//! A concrete MQTT topic below `mesh/`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest topic in bytes: escaped three to one it still fits a path.
const TOPIC_MAX_BYTES: usize = 1024;
/// Deepest topic: a tree that a person can still walk.
const TOPIC_MAX_LEVELS: usize = 32;

/// A concrete topic of the mesh: below `mesh/`, no wildcard, no empty level.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Box<str>);

/// Why a text is not a topic of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Outside `mesh/`.
    #[error("only topics below mesh/ exist here")]
    OutsideMesh,
    /// `+` or `#`, which only filters have.
    #[error("a topic has no wildcard ('+' or '#')")]
    Wildcard,
    /// Two slashes in a row, or one at the end.
    #[error("a topic has no empty level")]
    EmptyLevel,
    /// U+0000, which MQTT forbids.
    #[error("a topic has no NUL character")]
    Nul,
    /// Longer than 1,024 bytes.
    #[error("a topic has at most {TOPIC_MAX_BYTES} bytes")]
    TooLong,
    /// Deeper than 32 levels.
    #[error("a topic has at most {TOPIC_MAX_LEVELS} levels")]
    TooDeep,
}

impl Topic {
    /// Checks a text.
    ///
    /// # Errors
    /// The text is not a concrete topic below `mesh/`, or is too long or deep.
    pub fn parse(raw: &str) -> Result<Self, TopicError> {
        if raw.len() > TOPIC_MAX_BYTES {
            return Err(TopicError::TooLong);
        }
        if raw.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        if raw.contains('\0') {
            return Err(TopicError::Nul);
        }
        let below = raw.strip_prefix("mesh/").ok_or(TopicError::OutsideMesh)?;
        if below.split('/').any(str::is_empty) {
            return Err(TopicError::EmptyLevel);
        }
        if below.split('/').count() >= TOPIC_MAX_LEVELS {
            return Err(TopicError::TooDeep);
        }
        Ok(Self(raw.into()))
    }

    /// The text, `mesh/` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The levels below `mesh/`; there is at least one.
    pub fn levels(&self) -> std::str::Split<'_, char> {
        self.0["mesh/".len()..].split('/')
    }

    /// True below `mesh/app/`, which belongs to the users.
    #[must_use]
    pub fn is_app(&self) -> bool {
        self.0.starts_with("mesh/app/")
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;
    fn try_from(raw: String) -> Result<Self, TopicError> {
        Self::parse(&raw)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_concrete_and_below_mesh() {
        for good in ["mesh/hub", "mesh/app/é/ /%41/..", "mesh/nodes/n/heartbeat"] {
            assert_eq!(Topic::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("mesh", TopicError::OutsideMesh),
            ("é/x", TopicError::OutsideMesh),
            ("$SYS/x", TopicError::OutsideMesh),
            ("mesh/", TopicError::EmptyLevel),
            ("mesh/a//b", TopicError::EmptyLevel),
            ("mesh/+/b", TopicError::Wildcard),
            ("mesh/#", TopicError::Wildcard),
            ("mesh/a\0", TopicError::Nul),
        ] {
            assert_eq!(Topic::parse(bad), Err(why), "{bad:?}");
        }
        assert_eq!(Topic::parse(&format!("mesh/{}", "x".repeat(1020))), Err(TopicError::TooLong));
        assert_eq!(Topic::parse(&format!("mesh{}", "/x".repeat(32))), Err(TopicError::TooDeep));
    }
}

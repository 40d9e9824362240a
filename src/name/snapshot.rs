//! The name of a snapshot: the part after the `@`, which is also a directory
//! of the copy engine, a topic level and a part of an address.

use super::dataset::is_component_char;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Leaves room in a file name (255 bytes) for `.json` and for a marker in front.
const SNAPSHOT_MAX_BYTES: usize = 240;

/// Characters of the tag that keeps two snapshots of one millisecond apart.
const TAG_CHARS: usize = 8;

/// Why a text is not the name of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotNameError {
    /// Nothing there.
    #[error("a snapshot name must not be empty")]
    Empty,
    /// Would not fit into a file name.
    #[error("a snapshot name has at most {SNAPSHOT_MAX_BYTES} bytes, this one has {len}")]
    TooLong {
        /// The length found in bytes.
        len: usize,
    },
    /// Would be read as an option or be a hidden file.
    #[error("snapshot name {raw:?} begins with '-', '.' or a space")]
    Start {
        /// The text refused.
        raw: String,
    },
    /// A character that no snapshot has.
    #[error("snapshot name {raw:?} holds {found:?}: letters, digits and - _ . : are allowed")]
    Character {
        /// The text refused.
        raw: String,
        /// The first wrong character.
        found: char,
    },
}

/// A snapshot's name, such as `mesh-20260616T141907.123Z-0190c3f2`.
///
/// The order is that of the text: good for a set, not for what came first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(Box<str>);

impl SnapshotName {
    /// Names a snapshot by the time it is asked for and a tag of 8 hex digits
    /// that is unlike any other's.
    #[must_use]
    pub fn new(at: jiff::Timestamp, tag: &str) -> Self {
        let tag = tag.chars().filter(char::is_ascii_alphanumeric).take(TAG_CHARS);
        let tag: String = tag.map(|c| c.to_ascii_lowercase()).collect();
        Self(format!("mesh-{}-{tag}", at.strftime("%Y%m%dT%H%M%S.%3fZ")).into())
    }

    /// Checks a text: any tag ZFS can have that is also safe as a file name.
    ///
    /// # Errors
    /// When it is not.
    pub fn parse(raw: &str) -> Result<Self, SnapshotNameError> {
        if raw.is_empty() {
            return Err(SnapshotNameError::Empty);
        }
        if raw.len() > SNAPSHOT_MAX_BYTES {
            return Err(SnapshotNameError::TooLong { len: raw.len() });
        }
        if let Some(found) = raw.chars().find(|&c| !is_component_char(c)) {
            return Err(SnapshotNameError::Character { raw: raw.to_owned(), found });
        }
        if raw.starts_with(['-', '.', ' ']) {
            return Err(SnapshotNameError::Start { raw: raw.to_owned() });
        }
        Ok(Self(raw.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = SnapshotNameError;
    fn try_from(raw: String) -> Result<Self, SnapshotNameError> {
        Self::parse(&raw)
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> Self {
        name.0.into()
    }
}

impl std::str::FromStr for SnapshotName {
    type Err = SnapshotNameError;
    fn from_str(raw: &str) -> Result<Self, SnapshotNameError> {
        Self::parse(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_name_says_when_and_is_told_apart_by_its_tag() {
        let at: jiff::Timestamp = "2026-06-16T14:19:07.123456Z".parse().unwrap();
        let name = SnapshotName::new(at, "0190C3F2-aaaa");
        assert_eq!(name.as_str(), "mesh-20260616T141907.123Z-0190c3f2");
        assert_eq!(SnapshotName::parse(name.as_str()).unwrap(), name);
    }

    #[test]
    fn each_fault_has_its_error() {
        let fault = |raw: &str| SnapshotName::parse(raw).unwrap_err();
        assert_eq!(fault(""), SnapshotNameError::Empty);
        assert_eq!(fault(&"s".repeat(241)), SnapshotNameError::TooLong { len: 241 });
        for raw in ["-r", ".", "..", ".hidden", " x"] {
            assert_eq!(fault(raw), SnapshotNameError::Start { raw: raw.into() }, "{raw:?}");
        }
        for (raw, found) in [("a/b", '/'), ("a@b", '@'), ("a%b", '%'), ("a\0", '\0'), ("a+b", '+')]
        {
            assert_eq!(fault(raw), SnapshotNameError::Character { raw: raw.into(), found });
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_safe_file_name_and_no_option(raw in ".{0,300}") {
            if let Ok(name) = SnapshotName::parse(&raw) {
                let path = std::path::Path::new(name.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().unwrap(), name.as_str());
                prop_assert!(!name.as_str().starts_with(['-', '.']));
                prop_assert!(!name.as_str().contains(['+', '#', '/', '\0']));
            }
        }

        #[test]
        fn every_time_makes_a_name_that_parses(seconds in -377_705_023_201_i64..253_402_207_200) {
            let at = jiff::Timestamp::from_second(seconds).unwrap();
            let name = SnapshotName::new(at, "0190c3f2");
            prop_assert_eq!(SnapshotName::parse(name.as_str()).unwrap(), name);
        }
    }
}

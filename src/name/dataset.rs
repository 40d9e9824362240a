//! The name of a ZFS dataset, by ZFS's own rules.

use serde::{Deserialize, Serialize};
use std::fmt;

/// ZFS keeps names in 256 bytes, one of them the end mark.
const DATASET_MAX_BYTES: usize = 255;

/// How deep ZFS nests datasets (`zfs_max_dataset_nesting`).
const DATASET_MAX_LEVELS: usize = 50;

/// Why a text is not the name of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// Nothing there.
    #[error("a dataset name must not be empty")]
    Empty,
    /// Longer than ZFS allows.
    #[error("a dataset name has at most {DATASET_MAX_BYTES} bytes, this one has {len}")]
    TooLong {
        /// The length found in bytes.
        len: usize,
    },
    /// More levels than ZFS allows.
    #[error("a dataset is nested at most {DATASET_MAX_LEVELS} deep, {raw:?} is deeper")]
    TooDeep {
        /// The text refused.
        raw: String,
    },
    /// A pool's name begins with a letter; this also keeps `-` out of first place.
    #[error("dataset {raw:?} does not begin with a letter, as every pool does")]
    Pool {
        /// The text refused.
        raw: String,
    },
    /// A level is empty, `.` or `..`.
    #[error("dataset {raw:?} has an empty level or one that is . or ..: write POOL/NAME")]
    Level {
        /// The text refused.
        raw: String,
    },
    /// A character that no dataset has.
    #[error("dataset {raw:?} holds {found:?}: a filesystem has letters, digits and - _ . : in it")]
    Character {
        /// The text refused.
        raw: String,
        /// The first wrong character.
        found: char,
    },
}

/// A ZFS filesystem such as `tank/meshfs`: never a snapshot, never an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Dataset(Box<str>);

impl Dataset {
    /// Checks a text by ZFS's rules.
    ///
    /// # Errors
    /// When ZFS could not have a filesystem of this name.
    pub fn parse(raw: &str) -> Result<Self, DatasetError> {
        let owned = || raw.to_owned();
        if raw.is_empty() {
            return Err(DatasetError::Empty);
        }
        if raw.len() > DATASET_MAX_BYTES {
            return Err(DatasetError::TooLong { len: raw.len() });
        }
        if let Some(found) = raw.chars().find(|&c| c != '/' && !is_component_char(c)) {
            return Err(DatasetError::Character { raw: owned(), found });
        }
        if !raw.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(DatasetError::Pool { raw: owned() });
        }
        if raw.split('/').any(|level| matches!(level, "" | "." | "..")) {
            return Err(DatasetError::Level { raw: owned() });
        }
        if raw.split('/').count() > DATASET_MAX_LEVELS {
            return Err(DatasetError::TooDeep { raw: owned() });
        }
        Ok(Self(raw.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pool it lives in.
    #[must_use]
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }
}

/// What ZFS allows in a level of a dataset and in the tag of a snapshot.
pub(super) fn is_component_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | ' ')
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Dataset {
    type Error = DatasetError;
    fn try_from(raw: String) -> Result<Self, DatasetError> {
        Self::parse(&raw)
    }
}

impl From<Dataset> for String {
    fn from(dataset: Dataset) -> Self {
        dataset.0.into()
    }
}

impl std::str::FromStr for Dataset {
    type Err = DatasetError;
    fn from_str(raw: &str) -> Result<Self, DatasetError> {
        Self::parse(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_zfs_has_are_taken() {
        for good in ["tank", "tank/meshfs", "tank/a b/c-d_e.f:g", "rpool/data/subvol-100-disk-0"] {
            assert_eq!(Dataset::parse(good).unwrap().as_str(), good);
        }
        assert_eq!(Dataset::parse("tank/a/b").unwrap().pool(), "tank");
    }

    #[test]
    fn each_fault_has_its_error() {
        let fault = |raw: &str| Dataset::parse(raw).unwrap_err();
        assert_eq!(fault(""), DatasetError::Empty);
        assert_eq!(fault(&"t".repeat(256)), DatasetError::TooLong { len: 256 });
        for raw in ["-r", "-o/x", "1tank", "/tank", ".", " tank"] {
            assert_eq!(fault(raw), DatasetError::Pool { raw: raw.into() }, "{raw:?}");
        }
        for raw in ["tank/", "tank//x", "tank/..", "tank/./x"] {
            assert_eq!(fault(raw), DatasetError::Level { raw: raw.into() }, "{raw:?}");
        }
        for (raw, found) in
            [("tank@x", '@'), ("tank/x#y", '#'), ("t%x", '%'), ("t\n", '\n'), ("t/é", 'é')]
        {
            assert_eq!(fault(raw), DatasetError::Character { raw: raw.into(), found }, "{raw:?}");
        }
        assert!(matches!(fault(&["t"; 51].join("/")), DatasetError::TooDeep { .. }));
    }

    #[test]
    fn json_is_the_text_and_is_checked() {
        let dataset = Dataset::parse("tank/meshfs").unwrap();
        assert_eq!(serde_json::to_string(&dataset).unwrap(), r#""tank/meshfs""#);
        assert!(serde_json::from_str::<Dataset>(r#""-r""#).is_err());
    }
}

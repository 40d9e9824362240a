//! Names of nodes, services and announcements: each is one topic level and one
//! file name, so the alphabet is what both can carry unescaped.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the {noun} must not be empty")]
    Empty {
        /// What the name is of.
        noun: &'static str,
    },
    /// Longer than any file or topic level should be.
    #[error("the {noun} has at most {max} characters, this one has {len}")]
    TooLong {
        /// What the name is of.
        noun: &'static str,
        /// The limit in bytes.
        max: usize,
        /// The length found in bytes.
        len: usize,
    },
    /// A character outside the alphabet.
    #[error(
        "{raw:?} is no {noun}: use letters, digits, '.', '_' and '-', starting with a letter or digit"
    )]
    Alphabet {
        /// What the name is of.
        noun: &'static str,
        /// The text refused.
        raw: String,
    },
}

fn check(noun: &'static str, raw: &str, max: usize) -> Result<Box<str>, NameError> {
    if raw.is_empty() {
        return Err(NameError::Empty { noun });
    }
    if raw.len() > max {
        return Err(NameError::TooLong { noun, max, len: raw.len() });
    }
    let inside = raw.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !inside || !raw.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(NameError::Alphabet { noun, raw: raw.into() });
    }
    Ok(raw.into())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $noun:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// Checks a text.
            ///
            /// # Errors
            /// The text is empty, too long, or holds a character outside the alphabet.
            pub fn parse(raw: &str) -> Result<Self, NameError> {
                check($noun, raw, $max).map(Self)
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(raw: String) -> Result<Self, NameError> {
                Self::parse(&raw)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.into()
            }
        }
    };
}

name!(
    /// A node of the mesh: an LXC container or a host.
    NodeId, "node name", 128
);
name!(
    /// A service, on a node or free of any.
    ServiceId, "service name", 128
);
name!(
    /// An announcement: the caller's idempotency key, or one the hub made.
    AnnouncementId, "announcement id", 64
);
name!(
    /// Somebody who can prove who he is. Also the name of a node or service that connects
    /// under it, so that a rule can say where it may write.
    UserName, "user name", 128
);

impl AnnouncementId {
    /// An id for an announcement that brought none: a UUID, version 7 (RFC 9562).
    #[must_use]
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_topic_level() {
        for good in ["hauki-crm", "n1", "a.b_c-d", "0"] {
            assert_eq!(NodeId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "a+", "#", "é", "a\0", "a\n"] {
            assert!(NodeId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AnnouncementId::parse(&"x".repeat(65)).is_err());
        let fresh = AnnouncementId::fresh();
        assert_eq!(AnnouncementId::parse(fresh.as_str()), Ok(fresh));
    }
}

//! A filter: which topics of the mesh somebody means.

use super::Topic;
use std::fmt;
use std::str::FromStr;

/// Longest filter in bytes: as long as the longest topic.
const FILTER_MAX_BYTES: usize = 1024;
/// Deepest filter; no topic has as many levels.
const FILTER_MAX_LEVELS: usize = 64;

/// An MQTT filter that can select something below `mesh/`: `+` stands for one
/// level, a `#` at the end for all that are left, the level before it included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(Box<str>);

/// Why a text is not a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It can select nothing that exists.
    #[error("only topics below mesh/ exist here; a filter begins with mesh, + or #")]
    OutsideMesh,
    /// A wildcard that shares its level, or a `#` that is not the last.
    #[error(
        "a wildcard stands alone in its level, and # comes last (mesh/nodes/+/heartbeat, mesh/app/#)"
    )]
    Wildcard,
    /// Two slashes in a row, or one at the end.
    #[error("a filter has no empty level")]
    EmptyLevel,
    /// U+0000, which MQTT forbids.
    #[error("a filter has no NUL character")]
    Nul,
    /// Longer than any topic.
    #[error("a filter has at most {FILTER_MAX_BYTES} bytes")]
    TooLong,
    /// Deeper than any topic.
    #[error("a filter has at most {FILTER_MAX_LEVELS} levels")]
    TooDeep,
}

impl Filter {
    /// Checks a text.
    ///
    /// # Errors
    /// The text is no filter, or can select nothing below `mesh/`.
    pub fn parse(raw: &str) -> Result<Self, FilterError> {
        if raw.len() > FILTER_MAX_BYTES {
            return Err(FilterError::TooLong);
        }
        if raw.contains('\0') {
            return Err(FilterError::Nul);
        }
        let levels = raw.split('/').count();
        if levels > FILTER_MAX_LEVELS {
            return Err(FilterError::TooDeep);
        }
        for (at, level) in raw.split('/').enumerate() {
            match level {
                "" => return Err(FilterError::EmptyLevel),
                "+" => {}
                "#" if at + 1 == levels => {}
                _ if level.contains(['+', '#']) => return Err(FilterError::Wildcard),
                "mesh" => {}
                _ if at == 0 => return Err(FilterError::OutsideMesh),
                _ => {}
            }
        }
        Ok(Self(raw.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Does it select this topic?
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        let (mut wanted, mut levels) = (self.0.split('/'), topic.as_str().split('/'));
        loop {
            match (wanted.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(raw: &str) -> Result<Self, FilterError> {
        Self::parse(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_of_mqtt_that_can_select_something_here() {
        for good in ["#", "+", "mesh/#", "+/nodes/+/heartbeat", "mesh/hub", "mesh/app/é x/#"] {
            assert_eq!(Filter::parse(good).unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", FilterError::EmptyLevel),
            ("mesh/", FilterError::EmptyLevel),
            ("mesh//x", FilterError::EmptyLevel),
            ("meshes/#", FilterError::OutsideMesh),
            ("$share/g/mesh/#", FilterError::OutsideMesh),
            ("mesh/#/x", FilterError::Wildcard),
            ("mesh/a+", FilterError::Wildcard),
            ("mesh/a#", FilterError::Wildcard),
            ("mesh/\0", FilterError::Nul),
        ] {
            assert_eq!(Filter::parse(bad), Err(why), "{bad:?}");
        }
        assert_eq!(Filter::parse(&"+/".repeat(600)), Err(FilterError::TooLong));
        assert_eq!(Filter::parse(&vec!["+"; 65].join("/")), Err(FilterError::TooDeep));
    }

    #[test]
    fn it_selects_level_by_level() {
        for (filter, topic, selects) in [
            ("#", "mesh/hub", true),
            ("mesh/nodes/old/#", "mesh/nodes/old/services/a", true),
            ("mesh/nodes/old/#", "mesh/nodes/old2/heartbeat", false),
            ("mesh/app/x/#", "mesh/app/x", true),
            ("mesh/+/+/heartbeat", "mesh/nodes/n/heartbeat", true),
            ("mesh/+", "mesh/nodes/n/heartbeat", false),
            ("mesh/nodes/n/heartbeat/+", "mesh/nodes/n/heartbeat", false),
            ("+/hub", "mesh/hub", true),
        ] {
            let topic = Topic::parse(topic).unwrap();
            assert_eq!(Filter::parse(filter).unwrap().matches(&topic), selects, "{filter} {topic}");
        }
    }
}

//! Names of the IRC side: network, channel and nick.
//!
//! Each is safe to put into a line that is sent to a server: no space, comma, colon in front,
//! control character or line end can be in one, so no name can inject a parameter or a command.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name of a network, in bytes: it is one level of a topic.
const NETWORK_MAX_BYTES: usize = 32;
/// Longest channel with its `#`, in bytes: what most servers allow.
const CHANNEL_MAX_BYTES: usize = 64;
/// Longest nick, in bytes.
const NICK_MAX_BYTES: usize = 32;

/// Why a text is no name of the IRC side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrcNameError {
    /// Not `[a-z0-9_-]`, or too long, or empty.
    #[error("network name {0:?} is not 1 to 32 of a-z, 0-9, '-' and '_'")]
    Network(Box<str>),
    /// No `#` in front, too long, or a character that would end the parameter.
    #[error("channel {0:?} is not '#' and 1 to 63 bytes without space, comma, colon or control")]
    Channel(Box<str>),
    /// Not a nick by RFC 2812.
    #[error(
        "nick {0:?} is not 1 to 32 letters, digits and []\\`_^{{|}}-, with no digit or '-' first"
    )]
    Nick(Box<str>),
    /// A topic level that no channel has.
    #[error("topic level {0:?} names no channel")]
    Level(Box<str>),
}

/// The name meshfs gives to an IRC network, as in `mesh/irc/<network>/...`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(Box<str>);

impl NetworkName {
    /// Checks a network name.
    pub fn parse(raw: &str) -> Result<Self, IrcNameError> {
        let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if raw.is_empty() || raw.len() > NETWORK_MAX_BYTES || !raw.bytes().all(good) {
            return Err(IrcNameError::Network(shown(raw)));
        }
        Ok(Self(raw.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A channel, with its `#`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Channel(Box<str>);

impl Channel {
    /// Checks a channel, as it is written on IRC (`#mesh`).
    pub fn parse(raw: &str) -> Result<Self, IrcNameError> {
        let bad = |c: char| c.is_control() || matches!(c, ' ' | ',' | ':');
        let good = raw.strip_prefix('#').is_some_and(|rest| !rest.is_empty());
        if !good || raw.len() > CHANNEL_MAX_BYTES || raw.contains(bad) {
            return Err(IrcNameError::Channel(shown(raw)));
        }
        Ok(Self(raw.into()))
    }

    /// The channel with its `#`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The channel as a topic level: without its `#`, and with what a topic level cannot hold
    /// (`/`, `+`, `#`, `%`) as `%XX`, so that two channels never share a topic.
    pub fn level(&self) -> String {
        let mut level = String::with_capacity(self.0.len());
        for c in self.0.chars().skip(1) {
            match c {
                '/' => level.push_str("%2F"),
                '+' => level.push_str("%2B"),
                '#' => level.push_str("%23"),
                '%' => level.push_str("%25"),
                other => level.push(other),
            }
        }
        level
    }

    /// The channel a topic level stands for; the inverse of [`Channel::level`].
    pub fn from_level(level: &str) -> Result<Self, IrcNameError> {
        let refused = || IrcNameError::Level(shown(level));
        let mut raw = String::from("#");
        let mut rest = level;
        while let Some(at) = rest.find('%') {
            raw.push_str(&rest[..at]);
            raw.push(match rest.get(at..at + 3) {
                Some("%2F") => '/',
                Some("%2B") => '+',
                Some("%23") => '#',
                Some("%25") => '%',
                _ => return Err(refused()),
            });
            rest = &rest[at + 3..];
        }
        raw.push_str(rest);
        Self::parse(&raw).map_err(|_| refused())
    }
}

/// A nick that meshfs asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nick(Box<str>);

impl Nick {
    /// Checks a nick by RFC 2812, but for its length: 32 bytes here.
    pub fn parse(raw: &str) -> Result<Self, IrcNameError> {
        let special =
            |b: u8| matches!(b, b'[' | b']' | b'\\' | b'`' | b'_' | b'^' | b'{' | b'|' | b'}');
        let first = |b: u8| b.is_ascii_alphabetic() || special(b);
        let later = |b: u8| first(b) || b.is_ascii_digit() || b == b'-';
        let good = raw.bytes().next().is_some_and(first) && raw.bytes().all(later);
        if !good || raw.len() > NICK_MAX_BYTES {
            return Err(IrcNameError::Nick(shown(raw)));
        }
        Ok(Self(raw.into()))
    }

    /// The nick as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A refused text as far as an error message should repeat it.
fn shown(raw: &str) -> Box<str> {
    raw.chars().take(80).collect::<String>().into()
}

macro_rules! conversions {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IrcNameError;

            fn try_from(raw: String) -> Result<Self, Self::Error> {
                Self::parse(&raw)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    )*};
}
conversions!(NetworkName, Channel, Nick);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_would_inject_a_parameter_or_a_command_are_refused() {
        for raw in ["#", "mesh", "#a b", "#a,b", "#a:b", "#a\r\nQUIT", "#a\0", "", "&mesh"] {
            assert!(Channel::parse(raw).is_err(), "{raw:?}");
        }
        for raw in ["", "1bot", "-bot", "bot bot", "bot\r\nQUIT", ":bot", "bot!x", "böt"] {
            assert!(Nick::parse(raw).is_err(), "{raw:?}");
        }
        for raw in ["", "Libera", "a/b", "a b", "#x", "+", &"a".repeat(33)] {
            assert!(NetworkName::parse(raw).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn ordinary_names_are_accepted() {
        for raw in ["#mesh", "##rust", "#c++", "#é", "#a/b%", "#mesh.ops"] {
            assert_eq!(Channel::parse(raw).unwrap().as_str(), raw);
        }
        for raw in ["meshfs", "[bot]", "bot-1", "b0t_"] {
            assert_eq!(Nick::parse(raw).unwrap().as_str(), raw);
        }
        assert_eq!(NetworkName::parse("libera-1").unwrap().as_str(), "libera-1");
    }

    #[test]
    fn a_channel_is_one_topic_level_without_wildcards() {
        assert_eq!(Channel::parse("#mesh").unwrap().level(), "mesh");
        assert_eq!(Channel::parse("##c++/a").unwrap().level(), "%23c%2B%2B%2Fa");
        assert!(Channel::from_level("a%2").is_err());
        assert!(Channel::from_level("a%41").is_err());
        assert!(Channel::from_level("").is_err());
        assert!(Channel::from_level("é%").is_err());
    }

    proptest! {
        #[test]
        fn the_level_of_a_channel_leads_back_to_it(raw in "#[^ ,:\\pC]{1,15}") {
            let channel = Channel::parse(&raw).unwrap();
            let level = channel.level();
            prop_assert!(!level.contains(['/', '+', '#']));
            prop_assert_eq!(Channel::from_level(&level).unwrap(), channel);
        }
    }
}

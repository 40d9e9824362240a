//! Topic to path and back: pure, total on what the door lets in, and injective.
//!
//! The leading `mesh/` goes; the last level gets `.json` for topics of the
//! contract and `.raw` below `mesh/app/`. Within a level every byte is written
//! `%XX` unless it is `[A-Za-z0-9._-]` or part of a printable character outside
//! ASCII; so are a leading dot (no hidden file, no `.`, no `..`) and the dot of
//! a directory that would look like a file of ours. Nothing that a topic can
//! contain leads out of the root, and a path decodes to a topic only if that
//! topic encodes to the very same path.

use crate::name::Topic;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Longest file name in bytes on every file system meshfs is run on.
const FILE_NAME_MAX_BYTES: usize = 255;

/// A level of a topic is too long for a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a topic level becomes a file name and that has at most {FILE_NAME_MAX_BYTES} bytes after escaping"
)]
pub struct LevelTooLong;

/// Characters outside ASCII that leave no ink or change the order of others.
/// A fixed list and no Unicode property, because a path must mean the same
/// topic in every later release.
const INVISIBLE: [std::ops::RangeInclusive<char>; 12] = [
    '\u{80}'..='\u{A0}',
    '\u{AD}'..='\u{AD}',
    '\u{300}'..='\u{36F}',
    '\u{61C}'..='\u{61C}',
    '\u{180B}'..='\u{180F}',
    '\u{2000}'..='\u{200F}',
    '\u{2028}'..='\u{202F}',
    '\u{205F}'..='\u{206F}',
    '\u{3000}'..='\u{3000}',
    '\u{E000}'..='\u{F8FF}',
    '\u{FE00}'..='\u{FEFF}',
    '\u{FFF0}'..='\u{10FFFF}',
];

/// The file of a topic, relative to `live/`.
///
/// # Errors
/// A level's file name would pass 255 bytes.
pub fn of(topic: &Topic) -> Result<PathBuf, LevelTooLong> {
    let extension = if topic.is_app() { ".raw" } else { ".json" };
    let mut levels = topic.levels().peekable();
    let mut path = PathBuf::new();
    while let Some(level) = levels.next() {
        let mut name = String::with_capacity(level.len() + extension.len());
        encode(level, &mut name);
        if levels.peek().is_none() {
            name.push_str(extension);
        } else if let Some(stem) = stem(&name) {
            let dot = stem.len();
            name.replace_range(dot..=dot, "%2E");
        }
        if name.len() > FILE_NAME_MAX_BYTES {
            return Err(LevelTooLong);
        }
        path.push(name);
    }
    Ok(path)
}

/// The topic of a file, given relative to `live/`; `None` if no topic has it.
#[must_use]
pub fn topic(path: &Path) -> Option<Topic> {
    let mut raw = String::from("mesh");
    let mut names = path.iter().map(|name| name.to_str()).peekable();
    while let Some(name) = names.next() {
        let name = name?;
        let level = if names.peek().is_none() { stem(name)? } else { name };
        raw.push('/');
        raw.push_str(&decode(level)?);
    }
    let topic = Topic::parse(&raw).ok()?;
    (of(&topic).ok()? == path).then_some(topic)
}

/// The name without `.json` or `.raw`, if it ends so.
fn stem(name: &str) -> Option<&str> {
    name.strip_suffix(".json").or_else(|| name.strip_suffix(".raw"))
}

fn encode(level: &str, into: &mut String) {
    for (at, c) in level.char_indices() {
        let plain = match c {
            '.' => at > 0,
            _ if c.is_ascii() => c.is_ascii_alphanumeric() || matches!(c, '_' | '-'),
            _ => !INVISIBLE.iter().any(|range| range.contains(&c)),
        };
        if plain {
            into.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(into, "%{byte:02X}");
            }
        }
    }
}

fn decode(level: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(level.len());
    let mut rest = level.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> String {
        of(&Topic::parse(raw).unwrap()).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn the_paths_are_those_of_the_design() {
        for (topic, expected) in [
            ("mesh/nodes/hauki-crm/heartbeat", "nodes/hauki-crm/heartbeat.json"),
            ("mesh/hub", "hub.json"),
            ("mesh/app/x", "app/x.raw"),
            ("mesh/app/x.json", "app/x.json.raw"),
            ("mesh/app/x.json/y", "app/x%2Ejson/y.raw"),
            ("mesh/app/.raw/y", "app/%2Eraw/y.raw"),
            ("mesh/app/../y", "app/%2E./y.raw"),
            ("mesh/app/./y", "app/%2E/y.raw"),
            ("mesh/app/%41/a b*", "app/%2541/a%20b%2A.raw"),
            ("mesh/app/käyttäjä/日本", "app/käyttäjä/日本.raw"),
            ("mesh/app/a\u{202E}b/\u{1}", "app/a%E2%80%AEb/%01.raw"),
        ] {
            assert_eq!(path(topic), expected);
            assert_eq!(super::topic(Path::new(expected)).unwrap().as_str(), topic);
        }
    }

    #[test]
    fn a_path_that_no_topic_has_decodes_to_none() {
        for foreign in [
            "",
            "notes.txt",
            "nodes",
            "app/x",
            "app/x.raw/y.raw",
            "app/%2e.raw",
            "app/%41.raw",
            "app/x.json",
            "hub.raw",
            "app/%zz.raw",
            "app/%.raw",
            "app/.hidden.raw",
            "app/a b.raw",
            "app/%FF.raw",
            "../x.raw",
            "/app/x.raw",
            "app/%00.raw",
            "app/.raw",
        ] {
            assert_eq!(super::topic(Path::new(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn a_level_too_long_for_a_file_name_is_refused() {
        assert!(of(&Topic::parse(&format!("mesh/app/{}", "x".repeat(251))).unwrap()).is_ok());
        assert!(of(&Topic::parse(&format!("mesh/app/{}", "x".repeat(252))).unwrap()).is_err());
        assert!(of(&Topic::parse(&format!("mesh/app/{}", " ".repeat(84))).unwrap()).is_err());
    }
}

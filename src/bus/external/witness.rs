//! Whether a broker still knows what it knew.
//!
//! A retained message that the broker has no more was either cleared or lost
//! with the broker's memory, and the two want opposite answers: remove the file,
//! or give the message back. The hub's own retained presence is the witness: a
//! broker that still has the last one has lost nothing since.

use bytes::Bytes;
use serde::Deserialize;

/// What a broker's memory is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// All is there: what is missing was cleared.
    Intact,
    /// It has gone back to an earlier state.
    RolledBack,
    /// It is empty, or another hub's, or this one's from before its tree.
    Unknown,
}

/// The presence: which run of a hub said it, and the how manieth it was of
/// that run. A will has the number of its connection instead.
#[derive(Debug, Deserialize)]
struct Presence {
    started_at: String,
    #[serde(default)]
    number: Option<u64>,
    #[serde(default)]
    connection: Option<u64>,
}

/// A will, for the connection of this number.
pub(super) fn will_of(will: &Bytes, connection: u64) -> Bytes {
    let read = serde_json::from_slice::<serde_json::Map<_, _>>(will);
    let Ok(mut fields) = read else { return will.clone() };
    fields.insert("connection".to_owned(), connection.into());
    serde_json::to_vec(&fields).map_or_else(|_| will.clone(), Into::into)
}

/// Compares the presence that the broker was last known to have with the one
/// that it has. `connection` is the number of the last one of this run, if
/// there was any.
pub(super) fn judge(last: Option<&[u8]>, found: Option<&[u8]>, connection: Option<u64>) -> Memory {
    let read = |payload: Option<&[u8]>| serde_json::from_slice::<Presence>(payload?).ok();
    let (Some(last), Some(found)) = (read(last), read(found)) else { return Memory::Unknown };
    if last.started_at != found.started_at {
        return Memory::Unknown;
    }
    let behind = match (found.number, found.connection) {
        (Some(found), _) => last.number.is_some_and(|last| found < last),
        // The will of the last connection was said after everything else.
        (None, Some(will)) => connection.is_some_and(|connection| will < connection),
        (None, None) => false,
    };
    if behind { Memory::RolledBack } else { Memory::Intact }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presence_tells_a_broker_that_forgot_from_one_that_was_told_to() {
        let said = |run: &str, number: &str| {
            format!(r#"{{"state":"online","started_at":"{run}","number":{number}}}"#)
        };
        let judge =
            |last: &str, found: &str| judge(Some(last.as_bytes()), Some(found.as_bytes()), Some(3));
        let will = |connection: u64| {
            let will = r#"{"state":"offline","started_at":"2026-01-01T00:00:00Z"}"#;
            let will = will_of(&Bytes::from_static(will.as_bytes()), connection);
            String::from_utf8(will.to_vec()).unwrap()
        };
        let last = said("2026-01-01T00:00:00Z", "7");
        for (found, memory) in [
            (last.clone(), Memory::Intact),
            (said("2026-01-01T00:00:00Z", "8"), Memory::Intact),
            (will(3), Memory::Intact),
            (will(2), Memory::RolledBack),
            (said("2026-01-01T00:00:00Z", "6"), Memory::RolledBack),
            (said("2025-01-01T00:00:00Z", "9"), Memory::Unknown),
            ("gibberish".into(), Memory::Unknown),
        ] {
            assert_eq!(judge(&last, &found), memory, "{found}");
        }
        assert_eq!(super::judge(Some(last.as_bytes()), None, None), Memory::Unknown);
        // After a restart of the hub nothing is known of its connections before.
        let (last, will) = (last.as_bytes(), will(2));
        assert_eq!(super::judge(Some(last), Some(will.as_bytes()), None), Memory::Intact);
        let last = std::str::from_utf8(last).unwrap();
        assert_eq!(super::judge(None, Some(last.as_bytes()), None), Memory::Unknown);
    }
}

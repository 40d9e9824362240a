//! Whether a broker still knows what it knew.
//!
//! A retained message that the broker has no more was either cleared or lost
//! with the broker's memory, and the two want opposite answers: remove the file,
//! or give the message back. The hub's own retained presence is the witness: a
//! broker that still has the last one has lost nothing since.

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
/// that run. A will is of its run and has no number.
#[derive(Debug, Deserialize)]
struct Presence {
    started_at: String,
    #[serde(default)]
    number: Option<u64>,
}

/// Compares the presence that the broker was last known to have with the one
/// that it has.
pub(super) fn judge(last: Option<&[u8]>, found: Option<&[u8]>) -> Memory {
    let read = |payload: Option<&[u8]>| serde_json::from_slice::<Presence>(payload?).ok();
    let (Some(last), Some(found)) = (read(last), read(found)) else { return Memory::Unknown };
    if last.started_at != found.started_at {
        return Memory::Unknown;
    }
    match (last.number, found.number) {
        (Some(last), Some(found)) if found < last => Memory::RolledBack,
        // The will was said after everything else of that run, and is what there is now.
        (None, Some(_)) => Memory::RolledBack,
        _ => Memory::Intact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presence_tells_a_broker_that_forgot_from_one_that_was_told_to() {
        let said = |run: &str, number: &str| {
            format!(r#"{{"state":"online","started_at":"{run}","number":{number}}}"#)
        };
        let judge = |last: &str, found: &str| judge(Some(last.as_bytes()), Some(found.as_bytes()));
        let last = said("2026-01-01T00:00:00Z", "7");
        for (found, memory) in [
            (last.clone(), Memory::Intact),
            (said("2026-01-01T00:00:00Z", "8"), Memory::Intact),
            (r#"{"state":"offline","started_at":"2026-01-01T00:00:00Z"}"#.into(), Memory::Intact),
            (said("2026-01-01T00:00:00Z", "6"), Memory::RolledBack),
            (said("2025-01-01T00:00:00Z", "9"), Memory::Unknown),
            ("gibberish".into(), Memory::Unknown),
        ] {
            assert_eq!(judge(&last, &found), memory, "{found}");
        }
        assert_eq!(super::judge(Some(last.as_bytes()), None), Memory::Unknown);
        assert_eq!(super::judge(None, Some(last.as_bytes())), Memory::Unknown);
    }
}

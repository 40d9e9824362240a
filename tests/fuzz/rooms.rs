//! The rooms that read what comes from outside, built alone.
//!
//! They import nothing of the hub but each other (`tests/architecture.rs` holds them to it), so
//! that a fuzzer need not wait for everything else the hub is made of.

#[path = "../../src/name/mod.rs"]
pub mod name;

#[path = "../../src/clock.rs"]
pub mod clock;

#[path = "../../src/message/mod.rs"]
pub mod message;

#[path = "../../src/live/mod.rs"]
#[allow(unused_imports, reason = "other rooms of the hub use what this one offers them")]
pub mod live;

#[path = "../../src/access/filter.rs"]
mod filter;

#[path = "../../src/live/meta.rs"]
#[allow(clippy::duplicate_mod, dead_code, reason = "`live` shows nobody its inside")]
mod meta;

/// What stands beside a payload in the tree.
pub mod beside {
    /// The attribute of a payload; `None` if there can be none.
    pub fn seal(payload: &[u8], meta: &str) -> Option<Vec<u8>> {
        crate::meta::seal(payload, &serde_json::from_str(meta).ok()?).ok()
    }

    /// The metadata as JSON, if it vouches for the payload; else why not.
    pub fn unseal(attribute: &[u8], payload: &[u8]) -> Result<String, String> {
        let meta = crate::meta::unseal(attribute, payload).map_err(|why| why.to_string())?;
        serde_json::to_string(&meta).map_err(|e| e.to_string())
    }
}

/// What a rule and a subscription mean to each other.
pub mod rights {
    /// Is this a filter?
    pub fn valid(filter: &str) -> bool {
        crate::filter::valid(filter)
    }

    /// Does a filter select a topic?
    pub fn selects(filter: &str, topic: &str) -> bool {
        crate::filter::selects(filter, topic)
    }

    /// Does a rule grant everything that a filter selects?
    pub fn covers(rule: &str, filter: &str) -> bool {
        crate::filter::covers(rule, filter)
    }

    /// Is this a level that stands for nothing but itself?
    pub fn is_plain_level(text: &str) -> bool {
        crate::filter::is_plain_level(text)
    }
}

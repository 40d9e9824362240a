//! How often one person may ask. Pure: `now` is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Commands of one person within the span; then silence.
const COMMANDS_MAX: usize = 6;
/// The span.
const SPAN: Duration = Duration::from_secs(60);
/// People remembered at once; with more, strangers have to wait.
const PEOPLE_MAX: usize = 256;

/// The commands of the last minute, by person.
#[derive(Debug, Default)]
pub(super) struct RateLimit(BTreeMap<Box<str>, VecDeque<Instant>>);

impl RateLimit {
    /// Whether this person may ask now; if so it is counted.
    pub(super) fn allows(&mut self, person: &str, now: Instant) -> bool {
        if !self.0.contains_key(person) && self.0.len() >= PEOPLE_MAX {
            self.0.retain(|_, asked| asked.back().is_some_and(|&at| now < at + SPAN));
            if self.0.len() >= PEOPLE_MAX {
                return false;
            }
        }
        let asked = self.0.entry(person.into()).or_default();
        while asked.front().is_some_and(|&at| now >= at + SPAN) {
            asked.pop_front();
        }
        let allowed = asked.len() < COMMANDS_MAX;
        if allowed {
            asked.push_back(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_a_minute_and_then_silence() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let allowed = (0..10).filter(|&s| limit.allows("a@h", at(s))).count();
        assert_eq!(allowed, COMMANDS_MAX);
        assert!(limit.allows("b@h", at(9)), "another person is free");
        assert!(!limit.allows("a@h", at(59)));
        assert!(limit.allows("a@h", at(60)));
    }

    #[test]
    fn a_crowd_cannot_make_it_grow() {
        let (mut limit, start) = (RateLimit::default(), Instant::now());
        let crowd = (0..1_000).filter(|n| limit.allows(&n.to_string(), start)).count();
        assert_eq!((crowd, limit.0.len()), (PEOPLE_MAX, PEOPLE_MAX));
        assert!(limit.allows("late", start + SPAN));
        assert_eq!(limit.0.len(), 1);
    }
}

//! What a broker answers by hanging up.
//!
//! Some brokers have no way to refuse a topic: nats-server before 2.10 closes
//! the connection at one with a dot. What was under way when a connection was
//! lost is therefore sent alone the next time, and what is alone under way at
//! three losses is not sent to this broker again.

use std::collections::{BTreeSet, HashMap};

/// Losses that are put down to one topic.
const LOSSES_MAX: u8 = 3;
/// Topics that are known to be the cause; one more and they are forgotten.
const REFUSED_MAX: usize = 1024;
/// Characters that brokers are known to stumble over: not only the topic is
/// then avoided, but every one that holds the character.
const STUMBLES: [char; 2] = ['.', ' '];

#[derive(Debug, Default)]
pub(super) struct Suspects {
    losses: HashMap<Box<str>, u8>,
    refused: BTreeSet<Box<str>>,
    characters: BTreeSet<char>,
}

impl Suspects {
    /// The connection was lost with these under way. Gives the topic that is
    /// now held to be the cause.
    pub(super) fn lost<'a>(&mut self, under_way: &[&'a str]) -> Option<&'a str> {
        let [alone] = under_way else {
            for topic in under_way {
                self.losses.entry((*topic).into()).or_default();
            }
            return None;
        };
        let losses = self.losses.entry((*alone).into()).or_default();
        *losses += 1;
        if *losses < LOSSES_MAX {
            return None;
        }
        self.losses.remove(*alone);
        let found = STUMBLES.into_iter().filter(|c| alone.contains(*c));
        let before = self.characters.len();
        self.characters.extend(found);
        if self.characters.len() == before {
            if self.refused.len() == REFUSED_MAX {
                self.refused.clear();
            }
            self.refused.insert((*alone).into());
        }
        Some(alone)
    }

    /// The broker has taken it.
    pub(super) fn cleared(&mut self, topic: &str) {
        self.losses.remove(topic);
    }

    /// To be sent alone.
    pub(super) fn is_one(&self, topic: &str) -> bool {
        self.losses.contains_key(topic)
    }

    /// Not to be sent to this broker.
    pub(super) fn refuses(&self, topic: &str) -> bool {
        self.refused.contains(topic) || self.characters.iter().any(|c| topic.contains(*c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_alone_three_times_is_the_cause() {
        let mut suspects = Suspects::default();
        for _ in 0..5 {
            assert_eq!(suspects.lost(&["a", "b"]), None);
        }
        assert!(suspects.is_one("a") && suspects.is_one("b") && !suspects.is_one("c"));
        suspects.cleared("a");
        assert!(!suspects.is_one("a"));
        assert_eq!(suspects.lost(&["b"]), None);
        assert_eq!(suspects.lost(&[]), None);
        assert_eq!(suspects.lost(&["b"]), None);
        assert!(!suspects.refuses("b"));
        assert_eq!(suspects.lost(&["b"]), Some("b"));
        assert!(suspects.refuses("b") && !suspects.refuses("a"));
    }

    #[test]
    fn a_broker_that_stumbles_over_a_dot_is_spared_all_dots() {
        let mut suspects = Suspects::default();
        let lost = (0..3).filter_map(|_| suspects.lost(&["mesh/snapshots/a.b"])).count();
        assert_eq!(lost, 1);
        assert!(suspects.refuses("mesh/app/1.2") && !suspects.refuses("mesh/app/1 2"));
    }
}

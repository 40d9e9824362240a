//! What the hub has sent and the broker will bring back to it.
//!
//! An echo is known by topic and payload, which holds in every version of MQTT.
//! Whoever publishes the very same takes the place of the echo, and it makes no
//! difference which of the two is dropped.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

/// Echoes awaited at one time; of a broker that does not send them, because the
/// hub may not read what it may write, the oldest are forgotten.
const AWAITED_MAX: usize = 8192;

#[derive(Debug, Default)]
pub(super) struct Echoes {
    state: RandomState,
    awaited: HashMap<u64, u32>,
    order: VecDeque<u64>,
}

impl Echoes {
    /// This will come back.
    pub(super) fn expect(&mut self, topic: &str, payload: &[u8]) {
        let hash = self.state.hash_one((topic, payload));
        *self.awaited.entry(hash).or_default() += 1;
        self.order.push_back(hash);
        if self.order.len() > AWAITED_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.forget(oldest);
        }
    }

    /// True if this is an awaited echo, which it then is no longer.
    pub(super) fn take(&mut self, topic: &str, payload: &[u8]) -> bool {
        let hash = self.state.hash_one((topic, payload));
        if !self.forget(hash) {
            return false;
        }
        // Echoes come in order: it is found near the front.
        if let Some(at) = self.order.iter().position(|other| *other == hash) {
            self.order.remove(at);
        }
        true
    }

    /// The connection is lost, and with it all echoes.
    pub(super) fn clear(&mut self) {
        self.awaited.clear();
        self.order.clear();
    }

    fn forget(&mut self, hash: u64) -> bool {
        let Some(count) = self.awaited.get_mut(&hash) else { return false };
        *count -= 1;
        if *count == 0 {
            self.awaited.remove(&hash);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_echo_is_known_once() {
        let mut echoes = Echoes::default();
        echoes.expect("t", b"1");
        echoes.expect("t", b"1");
        echoes.expect("t", b"2");
        assert!(!echoes.take("t", b"3") && !echoes.take("u", b"1"));
        assert!(echoes.take("t", b"2") && echoes.take("t", b"1") && echoes.take("t", b"1"));
        assert!(!echoes.take("t", b"1"));
        assert!(echoes.order.is_empty() && echoes.awaited.is_empty());
    }

    #[test]
    fn echoes_that_never_come_are_bounded() {
        let mut echoes = Echoes::default();
        for n in 0..AWAITED_MAX + 10 {
            echoes.expect("t", &n.to_be_bytes());
        }
        assert_eq!((echoes.order.len(), echoes.awaited.len()), (AWAITED_MAX, AWAITED_MAX));
        assert!(!echoes.take("t", &0_usize.to_be_bytes()));
        assert!(echoes.take("t", &10_usize.to_be_bytes()));
    }
}

//! How long to wait before trying again. Pure: the random part is passed in.

use std::time::Duration;

/// Doubles from `min` to `max`, with jitter, until it is reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The pause before the next try: half to all of the step, by `random` in `0..1`, so that
    /// many who lost the same server do not come back in step.
    pub(super) fn pause(&mut self, random: f64) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// All went well for long enough.
    pub(super) const fn reset(&mut self) {
        self.next = self.min;
    }

    /// Trying soon is pointless: only a person can mend it.
    pub(super) const fn give_up_for_long(&mut self) {
        self.next = self.max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_the_cap_and_start_again_after_health() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        let pauses: Vec<u64> = (0..11).map(|_| backoff.pause(1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.pause(0.0), Duration::from_millis(500));
        backoff.give_up_for_long();
        assert_eq!(backoff.pause(0.5), Duration::from_secs(225));
    }
}

//! How fast a client may publish: who is over the rate is read from later.

use std::time::Duration;

use tokio::time::Instant;

use crate::settings::Limits;

/// What a client sent over its rate, as the moment at which it is even again.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    even_at: Option<Instant>,
}

impl Pace {
    /// Takes account of what was read. A second's worth may come at once.
    pub(crate) fn spend(&mut self, limits: &Limits, messages: usize, bytes: usize) {
        let seconds = |amount: usize, rate: u32| match rate {
            0 => 0.0,
            rate => amount as f64 / f64::from(rate),
        };
        let cost = seconds(messages, limits.publish_rate_max)
            .max(seconds(bytes, limits.publish_bytes_rate_max));
        if cost > 0.0 {
            let now = Instant::now();
            let from = self.even_at.map_or(now, |at| at.max(now));
            self.even_at = Some(from + Duration::from_secs_f64(cost));
        }
    }

    /// Until when the client is not read from.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let until = self.even_at?.checked_sub(Duration::from_secs(1))?;
        (until > Instant::now()).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_at_once_and_then_at_the_rate() {
        let limits =
            Limits { publish_rate_max: 10, publish_bytes_rate_max: 1000, ..Limits::default() };
        let mut pace = Pace::default();
        pace.spend(&limits, 10, 100);
        assert_eq!(pace.held_until(), None);
        pace.spend(&limits, 5, 100);
        assert_eq!(pace.held_until(), Some(Instant::now() + Duration::from_millis(500)));
        pace.spend(&limits, 1, 2000);
        assert_eq!(pace.held_until(), Some(Instant::now() + Duration::from_millis(2500)));
        tokio::time::sleep(Duration::from_secs(9)).await;
        pace.spend(&limits, 10, 10);
        assert_eq!(pace.held_until(), None);
        let mut free = Pace::default();
        free.spend(&Limits::default(), 1_000_000, 1 << 30);
        assert_eq!(free.held_until(), None);
    }
}

//! A log that hostile clients cannot fill.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in each stretch of time; more are counted.
const LINES_MAX: u32 = 20;
const STRETCH: Duration = Duration::from_secs(1);

/// Lets so many lines through in each second.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    said: u32,
    held_back: u64,
}

impl Quiet {
    /// How many lines were held back before this one; `None`: this one is held back too.
    pub(super) fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= STRETCH) {
            (state.since, state.said) = (Some(now), 0);
        }
        if state.said >= LINES_MAX {
            state.held_back += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_the_next_one_tells_how_many_were_held_back() {
        let (quiet, began) = (Quiet::default(), Instant::now());
        let said = (0..100).filter(|_| quiet.turn_at(began).is_some()).count();
        assert_eq!(said, 20);
        assert_eq!(quiet.turn_at(began + STRETCH), Some(80));
        assert_eq!(quiet.turn_at(began + STRETCH), Some(0));
    }
}

//! Time: the wall clock for people, a steady one for deadlines.

use std::time::{Duration, Instant};

/// A moment, read once and handed to pure code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What a clock on the wall says; it may jump.
    pub wall: jiff::Timestamp,
    /// Time since the clock was made; it never goes back.
    pub steady: Duration,
}

/// Where rooms with I/O read the time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// Starts the steady clock.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now { wall: to_millis(jiff::Timestamp::now()), steady: self.0.elapsed() }
    }
}

/// Cut to milliseconds, as names of snapshots are: so a snapshot that begins
/// after a request never seems, by its name, to be older.
#[must_use]
pub fn to_millis(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// Times on the wire, always with three digits of a second, so that they also
/// sort as text: `#[serde(with = "crate::clock::millis")]`.
pub mod millis {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes RFC 3339 with milliseconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{at:.3}"))
    }

    /// Reads any RFC 3339.
    ///
    /// # Errors
    /// The text is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(from)
    }

    /// The same for a time that may be absent.
    pub mod option {
        use super::{Deserialize, Deserializer, Serializer, Timestamp};

        /// Writes null for none.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            at: &Option<Timestamp>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => super::serialize(at, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads null as none.
        ///
        /// # Errors
        /// The text is no time.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            Option::<Timestamp>::deserialize(from)
        }
    }
}

/// A clock that stands still until told to move.
#[cfg(any(test, feature = "fakes"))]
#[derive(Debug)]
pub struct FakeClock(std::sync::Mutex<Now>);

#[cfg(any(test, feature = "fakes"))]
impl FakeClock {
    /// Stands at a wall time, steady time zero.
    #[must_use]
    pub fn at(wall: jiff::Timestamp) -> Self {
        Self(std::sync::Mutex::new(Now { wall, steady: Duration::ZERO }))
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        now.steady += by;
        now.wall += jiff::SignedDuration::try_from(by).unwrap_or_default();
    }
}

#[cfg(any(test, feature = "fakes"))]
impl Clock for FakeClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

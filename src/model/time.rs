//! Wall time as the readings carry it, and where it comes from.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z. Negative never occurs on a working clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// Milliseconds from `earlier` to `self`; zero if the clock was set back between.
    pub fn millis_since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// Where wall time comes from. The simulation gives a clock that follows tokio's paused
/// time; everything else reads the system's.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    /// Wall time was `base` when tokio's clock showed `origin`.
    Simulated {
        base: Timestamp,
        origin: tokio::time::Instant,
    },
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since =
                    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Clock::Simulated { base, origin } => {
                Timestamp(base.0 + i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX))
            }
        }
    }
}

/// No reading taken before this moment can be true: the first commit of the project.
/// A clock that shows less has not been set since the machine booted.
pub const CLOCK_PLAUSIBLE_FROM: Timestamp = Timestamp(1_793_491_200_000);

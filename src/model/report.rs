//! When a reading is worth sending.

use std::time::Duration;

/// Report by exception, per point. The default reports every reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub when: When,
    /// At most one reading per this time; an earlier change waits for the next poll after it.
    pub silence_min: Option<Duration>,
    /// At least one reading per this time, changed or not.
    pub silence_max: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Always,
    /// Value or quality differs from what was last reported.
    Change,
    /// Differs by more than this, in the point's unit; or quality changed.
    DeadbandAbsolute(f64),
    /// Differs by more than this share (0.01 = 1 %) of the last reported value.
    DeadbandPercent(f64),
}

impl Default for Report {
    fn default() -> Self {
        Report { when: When::Always, silence_min: None, silence_max: None }
    }
}

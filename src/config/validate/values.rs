//! Values with a default and bounds.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::errors::{Place, Report};
use crate::config::text::{Size, Span};

pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// Reads the values of one table.
pub struct Reader<'a> {
    pub place: &'a Place,
    pub report: &'a mut Report,
}

impl Reader<'_> {
    pub fn span(
        &mut self,
        key: &str,
        value: Option<Span>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(Span(value)) = value else { return default };
        self.inside(key, value, default, &bounds, |d| humantime::format_duration(d).to_string())
    }

    /// Zero stands for "no limit".
    pub fn span_or_none(
        &mut self,
        key: &str,
        value: Option<Span>,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = value.filter(|v| !v.0.is_zero())?;
        Some(self.span(key, Some(value), value.0, bounds))
    }

    pub fn size(&mut self, key: &str, value: Option<Size>, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some(Size(value)) = value else { return default };
        self.inside(key, value, default, &bounds, |n| bytesize::ByteSize(n).display().iec().to_string())
    }

    pub fn number<T: Copy + PartialOrd + Display>(
        &mut self,
        key: &str,
        value: Option<T>,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T {
        let Some(value) = value else { return default };
        self.inside(key, value, default, &bounds, |n| n.to_string())
    }

    /// `min` and `max` of a backoff, the right way round.
    pub fn backoff(
        &mut self,
        keys: [&str; 2],
        values: [Option<Span>; 2],
        defaults: [Duration; 2],
    ) -> [Duration; 2] {
        let least = Duration::from_millis(10);
        let min = self.span(keys[0], values[0], defaults[0], least..=DAY);
        let max = self.span(keys[1], values[1], defaults[1].max(min), least..=DAY);
        if min > max {
            let message = format!("is shorter than {} ({})", keys[0], humantime::format_duration(min));
            self.report.error(self.place, keys[1], message, format!("{} is at least {}", keys[1], keys[0]));
        }
        [min, max]
    }

    /// Keys that have no meaning here.
    pub fn refuse(&mut self, why: &str, help: &str, keys: &[(&str, bool)]) {
        for (key, is_set) in keys {
            if *is_set {
                self.report.error(self.place, key, why, help);
            }
        }
    }

    fn inside<T: Copy + PartialOrd>(
        &mut self,
        key: &str,
        value: T,
        default: T,
        bounds: &RangeInclusive<T>,
        show: impl Fn(T) -> String,
    ) -> T {
        if bounds.contains(&value) {
            return value;
        }
        let help = format!("from {} to {}", show(*bounds.start()), show(*bounds.end()));
        self.report.error(self.place, key, format!("{} is out of bounds", show(value)), help);
        default
    }
}

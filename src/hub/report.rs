//! PURE: report by exception. Which reading is worth a row.
//!
//! Compared is always with what was last *reported*, so that a slow drift adds up until it
//! passes the deadband. A change of quality always counts. A clock set back makes the last
//! report lie in the future; it is then as if there were none.

use crate::model::reading::Measured;
use crate::model::report::{Report, When};
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// What was last reported of one point.
#[derive(Clone, Debug, Default)]
pub struct Last(Option<(Timestamp, Measured)>);

impl Last {
    /// Whether `new` is to be reported; if so it becomes the last report.
    pub fn take(&mut self, report: &Report, at: Timestamp, new: &Measured) -> bool {
        if report.when == When::Always && report.silence_min.is_none() {
            return true;
        }
        let due = match &self.0 {
            None => true,
            Some((then, _)) if at < *then => true,
            Some((then, old)) => {
                let silent = u128::from(at.millis_since(*then));
                let long = report.silence_max.is_some_and(|max| silent >= max.as_millis());
                let short = report.silence_min.is_some_and(|min| silent < min.as_millis());
                long || (!short && differs(report.when, old, new))
            }
        };
        if due {
            self.0 = Some((at, new.clone()));
        }
        due
    }
}

fn differs(when: When, old: &Measured, new: &Measured) -> bool {
    if old.quality() != new.quality() {
        return true;
    }
    let (Some(a), Some(b)) = (old.value(), new.value()) else {
        // Both bad for the same cause: nothing new, unless everything is wanted.
        return when == When::Always;
    };
    match when {
        When::Always => true,
        When::Change => a != b,
        When::DeadbandAbsolute(band) => beyond(a, b, |_| band),
        When::DeadbandPercent(share) => beyond(a, b, |old| old.abs() * share),
    }
}

fn beyond(old: &Value, new: &Value, band: impl Fn(f64) -> f64) -> bool {
    match (old.as_f64(), new.as_f64()) {
        (Some(a), Some(b)) => (b - a).abs() > band(a),
        // Text has no distance: any change is one.
        _ => old != new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::value::Cause;
    use std::time::Duration;

    /// Feeds (ms, value) and collects the moments that were reported; NaN means a bad reading.
    fn check(when: When, min_ms: u64, max_ms: u64, feed: &[(i64, f64)], expected: &[i64]) {
        let some = |ms| (ms > 0).then(|| Duration::from_millis(ms));
        let report = Report { when, silence_min: some(min_ms), silence_max: some(max_ms) };
        let mut last = Last::default();
        let reported: Vec<i64> = feed
            .iter()
            .filter(|(at, x)| {
                let measured =
                    if x.is_nan() { Measured::Bad(Cause::Timeout) } else { Measured::Good(Value::Float(*x)) };
                last.take(&report, Timestamp(*at), &measured)
            })
            .map(|(at, _)| *at)
            .collect();
        assert_eq!(reported, expected, "{when:?}");
    }

    #[test]
    fn each_rule_reports_what_it_says() {
        let bad = f64::NAN;
        check(When::Always, 0, 0, &[(0, 1.0), (1, 1.0), (2, bad), (3, bad)], &[0, 1, 2, 3]);
        check(
            When::Change,
            0,
            0,
            &[(0, 1.0), (1, 1.0), (2, 1.1), (3, bad), (4, bad), (5, 1.1)],
            &[0, 2, 3, 5],
        );
        check(When::DeadbandAbsolute(0.5), 0, 0, &[(0, 1.0), (1, 1.3), (2, 1.5), (3, 1.6)], &[0, 3]);
        check(When::DeadbandPercent(0.1), 0, 0, &[(0, 100.0), (1, 109.0), (2, 111.0), (3, 121.0)], &[0, 2]);
    }

    #[test]
    fn a_slow_drift_adds_up_to_a_report() {
        check(When::DeadbandAbsolute(1.0), 0, 0, &[(0, 0.0), (1, 0.6), (2, 1.2), (3, 1.8)], &[0, 2]);
    }

    #[test]
    fn silences_bound_both_ends() {
        check(When::Change, 0, 10, &[(0, 1.0), (5, 1.0), (10, 1.0), (15, 1.0), (20, 1.0)], &[0, 10, 20]);
        check(When::Change, 10, 0, &[(0, 1.0), (5, 2.0), (10, 3.0), (12, 4.0)], &[0, 10]);
        check(When::Always, 10, 0, &[(0, 1.0), (5, 1.0), (11, 1.0)], &[0, 11]);
    }

    #[test]
    fn a_clock_set_back_silences_nothing() {
        check(When::Change, 1000, 0, &[(5000, 1.0), (10, 1.0)], &[5000, 10]);
    }
}

//! When a certificate is replaced. PURE.
//!
//! Constraints: a gateway may be offline for months, so renewal starts long before the end;
//! a thousand things made in one minute must not renew in one minute, so each is early by its
//! own share; and a clock that is not set decides nothing, because a renewal by a wrong date
//! makes a certificate with a wrong date.

use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

/// What to do with a certificate now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Renew,
    /// Nothing before that moment.
    Wait(Timestamp),
    /// It has ended: a broker will refuse it, a new one is needed more than ever.
    Expired,
    /// The clock shows a time that cannot be.
    ClockUntrusted,
}

/// A thing is early by up to this share of the lifetime.
const JITTER: f64 = 0.05;

const DAY_MS: i64 = 86_400_000;

/// Days before the end at which the operator is told.
const WARNINGS: [i64; 5] = [1, 3, 7, 14, 30];

/// `share` of the lifetime, 0.1 to 0.9, after which a certificate is replaced; the jitter
/// comes from the thing's name, so that it is the same after a restart.
pub fn due(not_before: Timestamp, not_after: Timestamp, now: Timestamp, share: f64, thing: &str) -> Due {
    // A certificate of the future says as much about the clock as the calendar does.
    if now < CLOCK_PLAUSIBLE_FROM || now < not_before {
        return Due::ClockUntrusted;
    }
    if now >= not_after {
        return Due::Expired;
    }
    let lifetime = not_after.0.saturating_sub(not_before.0) as f64;
    let early = JITTER * spread(thing);
    let after = lifetime * (share - early).clamp(0.0, 1.0);
    let at = Timestamp(not_before.0.saturating_add(after as i64).min(not_after.0));
    if now >= at { Due::Renew } else { Due::Wait(at) }
}

/// The threshold that has been passed, in days, if the operator should know. A certificate
/// that is not due yet is nothing to warn of, however short its life is.
pub fn warning(not_before: Timestamp, not_after: Timestamp, now: Timestamp, share: f64) -> Option<i64> {
    if now < CLOCK_PLAUSIBLE_FROM || now < not_before {
        return None;
    }
    let left = not_after.0.saturating_sub(now.0);
    let spare = not_after.0.saturating_sub(not_before.0) as f64 * (1.0 - share);
    if left as f64 > spare {
        return None;
    }
    WARNINGS.into_iter().find(|days| left <= days * DAY_MS)
}

/// 0 to 1 from a name: FNV-1a, which is the same on every machine and in every version.
fn spread(name: &str) -> f64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The low bits of a short name differ most; mix them upwards.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// A seed of the thing's own.
pub fn seed(name: &str) -> u64 {
    (spread(name) * 1e18) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: i64 = CLOCK_PLAUSIBLE_FROM.0;

    #[test]
    fn a_certificate_of_a_year() {
        let (begin, end) = (Timestamp(T), Timestamp(T + 365 * DAY_MS));
        let at = |day: i64| due(begin, end, Timestamp(T + day * DAY_MS), 2.0 / 3.0, "meter-1");
        assert!(matches!(at(0), Due::Wait(_)));
        assert!(matches!(at(220), Due::Wait(_)));
        assert_eq!(at(244), Due::Renew);
        assert_eq!(at(364), Due::Renew);
        assert_eq!(at(365), Due::Expired);
        assert_eq!(at(-1), Due::ClockUntrusted);
        assert_eq!(due(Timestamp(0), end, Timestamp(1), 0.5, "m"), Due::ClockUntrusted);
    }

    #[test]
    fn the_operator_is_told_by_days() {
        let (begin, end) = (Timestamp(T), Timestamp(T + 365 * DAY_MS));
        let check = |left: i64, expected: Option<i64>| {
            assert_eq!(warning(begin, end, Timestamp(end.0 - left * DAY_MS), 0.66), expected, "{left}");
        };
        for (left, expected) in [
            (200, None),
            (31, None),
            (30, Some(30)),
            (15, Some(30)),
            (14, Some(14)),
            (2, Some(3)),
            (1, Some(1)),
        ] {
            check(left, expected);
        }
        check(-5, Some(1));
        // A week's certificate is nothing to talk about before it is due.
        let week = Timestamp(T + 7 * DAY_MS);
        assert_eq!(warning(begin, week, Timestamp(T + DAY_MS), 0.66), None);
        assert_eq!(warning(begin, week, Timestamp(T + 6 * DAY_MS), 0.66), Some(1));
    }

    #[test]
    fn things_of_one_minute_do_not_renew_in_one_minute() {
        let (begin, end) = (Timestamp(T), Timestamp(T + 365 * DAY_MS));
        let days: std::collections::BTreeSet<i64> = (0..500)
            .map(|n| match due(begin, end, begin, 0.66, &format!("meter-{n}")) {
                Due::Wait(at) => (at.0 - T) / DAY_MS,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(days.len() >= 15, "all renew within {} days", days.len());
    }

    proptest! {
        #[test]
        fn the_decision_is_sound(
            begin in -1_000_000_000_000_i64..4_000_000_000_000,
            lifetime in 0_i64..1_000_000_000_000,
            now in -1_000_000_000_000_i64..6_000_000_000_000,
            share in 0.1_f64..0.9,
            thing in "[a-z]{1,12}",
        ) {
            let (begin, end, now) = (Timestamp(begin), Timestamp(begin + lifetime), Timestamp(now));
            match due(begin, end, now, share, &thing) {
                Due::ClockUntrusted => prop_assert!(now < CLOCK_PLAUSIBLE_FROM || now < begin),
                Due::Expired => prop_assert!(now >= end),
                Due::Renew => prop_assert!(begin <= now && now < end),
                Due::Wait(at) => {
                    prop_assert!(now < at && at <= end);
                    // What it waits for comes: then it renews, or there was no time for it.
                    let then = due(begin, end, at, share, &thing);
                    prop_assert!(matches!(then, Due::Renew | Due::Expired), "{then:?}");
                    let early = at.0 - begin.0;
                    prop_assert!(early as f64 <= lifetime as f64 * share + 1.0);
                }
            }
            // Time does not take a decision back.
            if due(begin, end, now, share, &thing) == Due::Renew {
                prop_assert!(matches!(
                    due(begin, end, Timestamp(now.0 + 1), share, &thing), Due::Renew | Due::Expired));
            }
        }
    }
}

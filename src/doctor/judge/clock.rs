//! The clock: certificates have dates and readings have times. PURE.

use super::span;
use crate::doctor::finding::Finding;
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

pub const CLOCK: &str = "clock";
pub const TIME_SYNC: &str = "time-sync";

/// No gateway of this program runs longer: a clock beyond it was set wrong.
const CLOCK_PLAUSIBLE_TO: Timestamp = Timestamp(CLOCK_PLAUSIBLE_FROM.0 + 20 * 365 * 86_400_000);

/// A daemon that asks a server corrects the clock within this; seconds.
const SYNC_AGE_MAX: u64 = 2 * 86_400;

/// What is known of synchronisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// systemd-timesyncd wrote down when.
    Timesyncd(Timestamp),
    /// chrony's own word for its leap status, `Normal` or `Not synchronised`.
    Chrony(String),
    /// It runs and cannot be asked.
    Runs(String),
    /// None of the daemons we know runs.
    Nobody,
}

pub fn clock(now: Timestamp) -> Finding {
    if now < CLOCK_PLAUSIBLE_FROM {
        let advice = "set it (`date -s`), or give the gateway a network with NTP and wait for it";
        return Finding::failed(
            CLOCK,
            "",
            format!("it shows {now}, so it was not set since the start"),
            advice,
        );
    }
    if now > CLOCK_PLAUSIBLE_TO {
        let advice = "set it (`date -s`): no certificate holds that long";
        return Finding::failed(CLOCK, "", format!("it shows {now}, far in the future"), advice);
    }
    Finding::ok(CLOCK, "", format!("it shows {now}"))
}

pub fn sync(sync: &Sync, now: Timestamp) -> Finding {
    let advice = "look at `systemctl status systemd-timesyncd` and whether UDP port 123 is open";
    match sync {
        Sync::Timesyncd(at) => {
            let ago = now.millis_since(*at) / 1000;
            let found = format!("systemd-timesyncd set the clock {} ago", span(ago));
            match ago > SYNC_AGE_MAX {
                true => Finding::warning(TIME_SYNC, "", found, advice),
                false => Finding::ok(TIME_SYNC, "", found),
            }
        }
        Sync::Chrony(leap) if leap.eq_ignore_ascii_case("not synchronised") => {
            let advice = "look at `chronyc sources` and whether UDP port 123 is open";
            Finding::warning(TIME_SYNC, "", "chrony runs and is not synchronised", advice)
        }
        Sync::Chrony(_) => Finding::ok(TIME_SYNC, "", "chrony is synchronised"),
        Sync::Runs(daemon) if daemon == "systemd-timesyncd" => {
            Finding::warning(TIME_SYNC, "", "systemd-timesyncd runs and has not reached a server yet", advice)
        }
        Sync::Runs(daemon) => Finding::ok(TIME_SYNC, "", format!("{daemon} keeps the clock")),
        Sync::Nobody => {
            let advice = "`systemctl enable --now systemd-timesyncd`, unless something else sets the clock";
            Finding::warning(TIME_SYNC, "", "nothing keeps the clock right", advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome;

    const NOW: Timestamp = Timestamp(1_793_600_000_000);

    #[test]
    fn a_clock_that_cannot_be_right_is_told() {
        let check = |now, expected| assert_eq!(clock(now).result, expected, "{now}");
        check(NOW, Outcome::Ok);
        check(Timestamp(0), Outcome::Failed);
        check(Timestamp(1_700_000_000_000), Outcome::Failed);
        check(Timestamp(4_000_000_000_000), Outcome::Failed);
    }

    #[test]
    fn who_keeps_it_right_is_told() {
        let check = |given: Sync, expected, words: &str| {
            let found = sync(&given, NOW);
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(Sync::Timesyncd(Timestamp(NOW.0 - 300_000)), Outcome::Ok, "5 min ago");
        check(Sync::Timesyncd(Timestamp(NOW.0 - 3 * 86_400_000)), Outcome::Warning, "3 days ago");
        check(Sync::Chrony("Normal".into()), Outcome::Ok, "chrony");
        check(Sync::Chrony("Not synchronised".into()), Outcome::Warning, "not synchronised");
        check(Sync::Runs("systemd-timesyncd".into()), Outcome::Warning, "no");
        check(Sync::Runs("ntpd".into()), Outcome::Ok, "ntpd");
        check(Sync::Nobody, Outcome::Warning, "nothing");
    }
}

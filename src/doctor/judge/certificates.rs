//! Our own certificates: they fit their keys, and they hold. PURE.

use super::count;
use crate::doctor::finding::Finding;
use crate::model::time::Timestamp;

pub const OWN: &str = "certificate";
pub const THINGS: &str = "thing-certificates";

/// Somebody has to make a new one by hand, so he is told a month before. Days.
const DAYS_LEFT_BY_HAND: i64 = 30;

/// The agent renews these itself at two thirds of their life: so close to the end it has
/// failed to for a long time. Days.
const DAYS_LEFT_BY_AGENT: i64 = 7;

/// More than these things are summed up.
const THINGS_SHOWN_MAX: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    pub subject: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Dates {
    /// Whole days; negative when it is over.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        (self.not_after.0 - now.0).div_euclid(86_400_000)
    }
}

/// The gateway's. The error is in words: unreadable, or not of this key.
pub fn own(place: &str, found: Result<&Dates, &str>, now: Timestamp) -> Finding {
    match found {
        Err(why) => {
            let advice = "put certificate and key of one pair there, PEM, and restart the agent";
            Finding::failed(OWN, place, why, advice)
        }
        Ok(dates) => dated(OWN, place, dates, now, DAYS_LEFT_BY_HAND, "get a new one from whoever issued it"),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub name: String,
    /// `None`: it has no certificate yet.
    pub dates: Result<Option<Dates>, String>,
    /// There is a new one that no broker has accepted yet.
    pub candidate: bool,
}

/// One finding for each thing with trouble, one for the others. `by_agent`: it renews them.
pub fn things(all: &[Thing], by_agent: bool, now: Timestamp) -> Vec<Finding> {
    if all.is_empty() {
        return Vec::new();
    }
    let (least, advice) = match by_agent {
        true => (DAYS_LEFT_BY_AGENT, "`fieldgate identity show THING` says why it was not renewed"),
        false => (DAYS_LEFT_BY_HAND, "get a new one and give it to the agent"),
    };
    let (mut bad, mut good, mut first) = (Vec::new(), 0u64, i64::MAX);
    for thing in all {
        let finding = match &thing.dates {
            Err(why) => Finding::failed(THINGS, &thing.name, why.as_str(), "see `fieldgate identity list`"),
            Ok(None) if thing.candidate => {
                let advice = "`fieldgate identity show THING` says why; of a CA of your own the broker has to know \
                     what `fieldgate identity ca` prints";
                Finding::warning(THINGS, &thing.name, "no broker has accepted its certificate yet", advice)
            }
            Ok(None) => {
                let advice = "start the agent; `fieldgate identity list` says what it waits for";
                Finding::warning(THINGS, &thing.name, "it has no certificate yet", advice)
            }
            Ok(Some(dates)) => dated(THINGS, &thing.name, dates, now, least, advice),
        };
        match (&finding.advice, &thing.dates) {
            (None, Ok(Some(dates))) => {
                good += 1;
                first = first.min(dates.days_left(now));
            }
            _ => bad.push(finding),
        }
    }
    let more = bad.len().saturating_sub(THINGS_SHOWN_MAX);
    bad.truncate(THINGS_SHOWN_MAX);
    if more > 0 {
        let advice = "`fieldgate identity list` names them";
        bad.push(Finding::warning(THINGS, "", format!("{more} more have trouble"), advice));
    }
    if good > 0 {
        let found = format!("{} good; the first ends in {}", count(good, "certificate"), days(first));
        bad.insert(0, Finding::ok(THINGS, "", found));
    }
    bad
}

fn dated(
    name: &'static str,
    subject: &str,
    dates: &Dates,
    now: Timestamp,
    least: i64,
    advice: &str,
) -> Finding {
    let left = dates.days_left(now);
    let who = &dates.subject;
    if now < dates.not_before {
        let found = format!("{who} is not valid before {}", dates.not_before);
        return Finding::failed(
            name,
            subject,
            found,
            "set the clock, or get a certificate that is valid today",
        );
    }
    if left < 0 {
        return Finding::failed(name, subject, format!("{who} has expired on {}", dates.not_after), advice);
    }
    let found = format!("{who} is valid for {} more", days(left));
    match left < least {
        true => Finding::warning(name, subject, found, advice),
        false => Finding::ok(name, subject, format!("{found} and fits its key")),
    }
}

fn days(n: i64) -> String {
    count(u64::try_from(n).unwrap_or(0), "day")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Outcome::{self, Failed, Ok as Fine, Warning};

    const NOW: Timestamp = Timestamp(1_793_600_000_000);

    fn dates(from_days: i64, to_days: i64) -> Dates {
        let at = |days: i64| Timestamp(NOW.0 + days * 86_400_000 + 1000);
        Dates { subject: "CN=gw-1".into(), not_before: at(from_days), not_after: at(to_days) }
    }

    #[test]
    fn the_days_that_are_left_decide() {
        let check = |from, to, expected: Outcome, words: &str| {
            let found = own("gw.pem", Ok(&dates(from, to)), NOW);
            assert_eq!(found.result, expected, "{found:?}");
            assert!(found.found.contains(words), "{found:?}");
        };
        check(-10, 355, Fine, "valid for 355 days more and fits its key");
        check(-10, 1, Warning, "1 day more");
        check(-10, -1, Failed, "has expired on 2026");
        check(1, 355, Failed, "not valid before");
        let found = own("gw.pem", Err("certificate and key do not fit together"), NOW);
        assert_eq!(found.result, Failed);
    }

    #[test]
    fn things_are_summed_up_and_those_with_trouble_are_named() {
        let thing = |name: &str, dates| Thing { name: name.into(), dates, candidate: false };
        let all = [
            thing("meter-1", Ok(Some(dates(-1, 100)))),
            thing("meter-2", Ok(Some(dates(-1, 90)))),
            thing("meter-3", Ok(Some(dates(-1, -1)))),
            thing("meter-4", Ok(None)),
            thing("meter-5", Err("the key is damaged".into())),
        ];
        let found = things(&all, true, NOW);
        assert_eq!(found[0].found, "2 certificates good; the first ends in 90 days");
        let rest: Vec<_> = found[1..].iter().map(|f| (f.subject.as_str(), f.result)).collect();
        assert_eq!(rest, [("meter-3", Failed), ("meter-4", Warning), ("meter-5", Failed)]);
        let refused = Thing { candidate: true, ..thing("m", Ok(None)) };
        let told = things(&[refused], true, NOW).remove(0);
        assert!(told.found.contains("no broker has accepted") && told.result == Warning, "{told:?}");
        // Those that the agent renews may come nearer to their end.
        let near = [thing("m", Ok(Some(dates(-1, 20))))];
        assert_eq!(things(&near, true, NOW)[0].result, Fine);
        assert_eq!(things(&near, false, NOW)[0].result, Warning);
        let many: Vec<Thing> = (0..30).map(|n| thing(&n.to_string(), Ok(None))).collect();
        let found = things(&many, true, NOW);
        assert_eq!(found.len(), 21);
        assert_eq!(found[20].found, "10 more have trouble");
    }
}

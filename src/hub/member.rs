//! PURE: one desired member on its way to the device.
//!
//! Constraints: desired is a level, not an event, so a member is looked at after each event
//! and on a slow tick, and is written again until what is read equals what is wanted, word
//! for word. Repeats are spaced, because devices keep such registers in EEPROM. A value that
//! cannot fit is refused once; a device that clamps or refuses is asked again slowly. Nothing
//! is written later than it may be: not after its expiry, unless the configuration says so.
//!
//! The way: pending → sent → verified (read back equal), or accepted (taken, but something
//! else is read, or nothing can be read), or rejected, or expired.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};
use crate::model::write::{WriteOutcome, WriteRules};

/// Both times: the one that never jumps, since the start, and the one on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Duration,
    pub wall: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub wanted: Json,
    /// When it was desired, seconds since 1970, as the shadow's metadata has it.
    pub asked_s: i64,
    /// Who asked, and by which way.
    pub by: String,
    pub state: State,
    /// Since when, milliseconds since 1970.
    pub since: i64,
    /// Writes since it was desired.
    pub tries: u32,
    /// Not before this; of this start only.
    #[serde(skip)]
    next: Duration,
    /// The request that is under way.
    #[serde(skip)]
    inflight: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// With what it waits for, if that is not its turn.
    Pending(Option<String>),
    Sent,
    /// The device took it; what it shows instead, if it shows something.
    Accepted(Option<Json>),
    /// Read back, and equal.
    Verified,
    /// By the device with an exception code; without one the value does not fit the point.
    Rejected {
        code: Option<u8>,
        text: String,
    },
    Expired,
}

/// What the world says about a member.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub rules: &'a WriteRules,
    /// What is read equals what is wanted; `None`: nothing was read yet.
    pub satisfied: Option<bool>,
    /// Why it cannot be written now.
    pub hindrance: Option<&'a str>,
    /// An expiry that the request brought; else the rules'.
    pub expires: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Until something happens.
    Rest,
    /// Until something happens, or this moment.
    Until(Duration),
    Write,
}

impl Member {
    pub fn new(wanted: Json, asked_s: i64, by: &str, now: Now) -> Member {
        Member {
            wanted,
            asked_s,
            by: by.to_owned(),
            state: State::Pending(None),
            since: now.wall.0,
            tries: 0,
            next: Duration::ZERO,
            inflight: None,
        }
    }

    /// What to do next. The only place that decides whether something is written.
    pub fn step(&mut self, seen: &Seen, now: Now) -> Step {
        if self.inflight.is_some() {
            return Step::Rest;
        }
        if seen.satisfied == Some(true) {
            self.become_(State::Verified, now);
            return Step::Rest;
        }
        match &self.state {
            State::Rejected { code: None, .. } | State::Expired => return Step::Rest,
            // It cannot be read: the device's word is all there is.
            State::Accepted(_) if !seen.rules.readable => return Step::Rest,
            _ => {}
        }
        let deadline = self.deadline(seen);
        // A clock that is not set knows of no deadline; nothing is written by it either.
        let clock_set = now.wall >= CLOCK_PLAUSIBLE_FROM;
        if clock_set && deadline.is_some_and(|deadline| now.wall >= deadline) {
            self.become_(State::Expired, now);
            return Step::Rest;
        }
        let left = deadline.map(|d| now.mono + Duration::from_millis(d.millis_since(now.wall)));
        let hindrance = match (deadline, clock_set) {
            (Some(_), false) => Some("the clock is not set"),
            _ if seen.rules.readable && seen.satisfied.is_none() => {
                seen.hindrance.or(Some("it was not read yet"))
            }
            _ => seen.hindrance,
        };
        if let Some(why) = hindrance {
            // What it was before tells more than that it cannot be repeated now.
            if matches!(self.state, State::Pending(_) | State::Sent | State::Verified) {
                self.become_(State::Pending(Some(why.to_owned())), now);
            }
            return match (left, clock_set) {
                (Some(left), true) => Step::Until(left),
                _ => Step::Rest,
            };
        }
        if now.mono < self.next {
            return Step::Until(left.map_or(self.next, |left| self.next.min(left)));
        }
        Step::Write
    }

    /// The wish before this one had its writes, and the device has to rest from them.
    pub fn after(&mut self, old: &Member) {
        self.next = old.next;
        self.inflight = None;
    }

    fn deadline(&self, seen: &Seen) -> Option<Timestamp> {
        let own = || {
            seen.rules
                .expiry
                .map(|d| Timestamp(self.asked_s.saturating_mul(1000) + 999 + d.as_millis() as i64))
        };
        seen.expires.or_else(own)
    }

    pub fn sent(&mut self, id: u64, rules: &WriteRules, now: Now) {
        self.inflight = Some(id);
        self.tries = self.tries.saturating_add(1);
        self.next = now.mono + self.pause(rules);
        self.become_(State::Sent, now);
    }

    /// The line had no room for the request: nothing was sent.
    pub fn not_sent(&mut self, now: Now) {
        self.inflight = None;
        self.tries = self.tries.saturating_sub(1);
        self.next = now.mono + LINE_BUSY_PAUSE;
        self.become_(State::Pending(Some("the line is busy".into())), now);
    }

    pub fn is_inflight(&self, id: u64) -> bool {
        self.inflight == Some(id)
    }

    pub fn refused(&mut self, text: String, now: Now) {
        self.become_(State::Rejected { code: None, text }, now);
    }

    pub fn done(&mut self, outcome: &WriteOutcome, rules: &WriteRules, text: &str, now: Now) {
        self.inflight = None;
        match outcome {
            WriteOutcome::Verified => {
                self.next = now.mono + rules.interval;
                self.become_(State::Verified, now);
            }
            WriteOutcome::Accepted => self.become_(State::Accepted(None), now),
            WriteOutcome::NotTaken { read } => {
                self.next = now.mono + rules.retry_max;
                self.become_(State::Accepted(Some(read.value().map_or(Json::Null, |v| v.to_json()))), now);
            }
            WriteOutcome::Rejected { code } => {
                self.next = now.mono + rules.retry_max;
                self.become_(State::Rejected { code: Some(*code), text: text.to_owned() }, now);
            }
            WriteOutcome::Failed(cause) => self.become_(State::Pending(Some(cause.to_string())), now),
        }
    }

    /// Exponential from `retry_min` to `retry_max`, never below the point's `write_interval`.
    fn pause(&self, rules: &WriteRules) -> Duration {
        let doubled = rules.retry_min.saturating_mul(1 << self.tries.saturating_sub(1).min(16));
        doubled.min(rules.retry_max).max(rules.interval)
    }

    fn become_(&mut self, state: State, now: Now) {
        if self.state != state {
            (self.state, self.since) = (state, now.wall.0);
        }
    }

    /// As the shadow `fieldgate` shows it.
    pub fn shown(&self) -> Json {
        let mut shown = json!({ "state": self.state.word(), "value": self.wanted, "t": self.since });
        let Some(members) = shown.as_object_mut() else { return shown };
        match &self.state {
            State::Pending(Some(why)) => drop(members.insert("why".into(), why.as_str().into())),
            State::Accepted(Some(read)) => {
                members.insert("why".into(), "write-not-taken".into());
                if !read.is_null() {
                    members.insert("read".into(), read.clone());
                }
            }
            State::Rejected { code, text } => {
                if let Some(code) = code {
                    members.insert("code".into(), (*code).into());
                }
                members.insert("why".into(), text.as_str().into());
            }
            _ => {}
        }
        shown
    }
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            State::Pending(_) => "pending",
            State::Sent => "sent",
            State::Accepted(_) => "accepted",
            State::Verified => "verified",
            State::Rejected { .. } => "rejected",
            State::Expired => "expired",
        }
    }
}

/// Before a line that had no room is asked again.
const LINE_BUSY_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::reading::Measured;
    use crate::model::value::{Cause, Value};

    const START: i64 = CLOCK_PLAUSIBLE_FROM.0 + 1_000_000_000;

    fn rules() -> WriteRules {
        WriteRules {
            readable: true,
            min: None,
            max: None,
            step: None,
            interval: Duration::from_secs(1),
            expiry: Some(Duration::from_secs(300)),
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(600),
            verify_within: Duration::from_secs(2),
        }
    }

    fn at(s: u64) -> Now {
        Now { mono: Duration::from_secs(s), wall: Timestamp(START + s as i64 * 1000) }
    }

    fn member() -> Member {
        Member::new(json!(5), START / 1000, "test", at(0))
    }

    fn seen(rules: &WriteRules, satisfied: Option<bool>) -> Seen<'_> {
        Seen { rules, satisfied, hindrance: None, expires: None }
    }

    fn write(m: &mut Member, outcome: WriteOutcome, s: u64) {
        let r = rules();
        assert_eq!(m.step(&seen(&r, Some(false)), at(s)), Step::Write, "at {s}: {m:?}");
        m.sent(7, &r, at(s));
        assert_eq!(m.step(&seen(&r, Some(false)), at(s)), Step::Rest);
        assert!(m.is_inflight(7));
        m.done(&outcome, &r, "a text", at(s));
    }

    #[test]
    fn what_is_true_already_is_never_written() {
        let (mut m, r) = (member(), rules());
        assert!(matches!(m.step(&seen(&r, None), at(1)), Step::Until(_)));
        assert_eq!(m.state, State::Pending(Some("it was not read yet".into())));
        assert_eq!(m.step(&seen(&r, Some(true)), at(2)), Step::Rest);
        assert_eq!((m.state.clone(), m.tries), (State::Verified, 0));
    }

    #[test]
    fn a_write_that_fails_is_repeated_ever_more_slowly() {
        let (mut m, r) = (member(), rules());
        for (s, next) in [(0, 5), (5, 15), (15, 35), (35, 75)] {
            write(&mut m, WriteOutcome::Failed(Cause::Timeout), s);
            assert_eq!(m.step(&seen(&r, Some(false)), at(s)), Step::Until(Duration::from_secs(next)));
        }
        write(&mut m, WriteOutcome::Verified, 75);
        assert_eq!(m.state, State::Verified);
    }

    #[test]
    fn a_device_that_clamps_or_refuses_is_asked_again_slowly() {
        let never = WriteRules { expiry: None, ..rules() };
        for outcome in [
            WriteOutcome::NotTaken { read: Measured::Good(Value::Int(4)) },
            WriteOutcome::Rejected { code: 3 },
        ] {
            let mut m = member();
            write(&mut m, outcome.clone(), 0);
            assert_eq!(m.step(&seen(&never, Some(false)), at(1)), Step::Until(Duration::from_secs(600)));
            assert_eq!(m.step(&seen(&never, Some(false)), at(600)), Step::Write);
            let shown = m.shown();
            match outcome {
                WriteOutcome::Rejected { .. } => {
                    assert_eq!(
                        shown,
                        json!({"state": "rejected", "value": 5, "t": START, "code": 3, "why": "a text"})
                    )
                }
                _ => assert_eq!(
                    shown,
                    json!({"state": "accepted", "value": 5, "t": START, "why": "write-not-taken", "read": 4})
                ),
            }
        }
    }

    #[test]
    fn nothing_is_written_late() {
        let r = rules();
        // The device was away for an hour.
        let mut m = member();
        let away = Seen { hindrance: Some("the device is silent"), ..seen(&r, Some(false)) };
        assert_eq!(m.step(&away, at(10)), Step::Until(Duration::from_secs(300) + Duration::from_millis(999)));
        assert_eq!(m.state, State::Pending(Some("the device is silent".into())));
        assert_eq!(m.step(&seen(&r, Some(false)), at(3600)), Step::Rest);
        assert_eq!(m.state, State::Expired);
        // A verified value that drifts later is not written again either, unless it never expires.
        let mut m = member();
        write(&mut m, WriteOutcome::Verified, 1);
        assert_eq!(m.step(&seen(&r, Some(false)), at(3600)), Step::Rest);
        assert_eq!(m.state, State::Expired);
        let never = WriteRules { expiry: None, ..rules() };
        let mut m = member();
        write(&mut m, WriteOutcome::Verified, 1);
        assert_eq!(m.step(&seen(&never, Some(false)), at(3600)), Step::Write);
        // The request's own expiry counts before that of the point.
        let own = Seen { expires: Some(at(2).wall), ..seen(&never, Some(false)) };
        let mut m = member();
        assert_eq!(m.step(&own, at(1)), Step::Write);
        assert_eq!(m.step(&own, at(2)), Step::Rest);
        assert_eq!(m.state, State::Expired);
    }

    #[test]
    fn a_clock_that_is_not_set_writes_nothing_that_can_expire() {
        let (mut m, r) = (member(), rules());
        let unset = Now { mono: Duration::from_secs(1), wall: Timestamp(5_000) };
        assert_eq!(m.step(&seen(&r, Some(false)), unset), Step::Rest);
        assert_eq!(m.state, State::Pending(Some("the clock is not set".into())));
        let never = WriteRules { expiry: None, ..rules() };
        assert_eq!(m.step(&seen(&never, Some(false)), unset), Step::Write);
    }

    #[test]
    fn a_refused_value_rests_and_a_point_that_cannot_be_read_is_written_once() {
        let (mut m, r) = (member(), rules());
        m.refused("too large".into(), at(0));
        assert_eq!(m.step(&seen(&r, Some(false)), at(1)), Step::Rest);
        let blind = WriteRules { readable: false, ..rules() };
        let mut m = member();
        assert_eq!(m.step(&seen(&blind, None), at(1)), Step::Write);
        m.sent(1, &blind, at(1));
        m.done(&WriteOutcome::Accepted, &blind, "", at(1));
        assert_eq!(m.step(&seen(&blind, None), at(99)), Step::Rest);
        assert_eq!(m.state, State::Accepted(None));
    }

    #[test]
    fn a_member_outlives_a_restart_without_its_request() {
        let mut m = member();
        m.sent(3, &rules(), at(0));
        let text = serde_json::to_string(&m).unwrap();
        let mut back: Member = serde_json::from_str(&text).unwrap();
        assert_eq!((back.state.clone(), back.is_inflight(3)), (State::Sent, false));
        assert_eq!(back.step(&seen(&rules(), Some(false)), at(1)), Step::Write);
    }
}

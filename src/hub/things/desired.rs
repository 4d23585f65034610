//! PURE: desired members on their way to the device.
//!
//! Looked at after each event and on a slow tick: for each point that may be written, what is
//! desired, what was read last, and what became of the writes so far. A desired value that
//! fits no point of the device is left alone: applications keep their own members there.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::super::member::{Member, Now, Seen, Step};
use super::{Thing, Things};
use crate::channel::WriteRequest;
use crate::modbus::command::exception_text;
use crate::modbus::write::{holds, plan};
use crate::model::device::{Device, Point, Protocol, Source};
use crate::model::ids::PointIndex;
use crate::model::time::Timestamp;
use crate::model::write::{WriteOutcome, Wrote};
use crate::shadow::{Section, Shadow};

impl Things {
    /// `by` is who changed the shadow just now, if somebody did.
    pub(super) fn desire(&mut self, at: usize, by: Option<&str>, now: Now) {
        let carrying = self.carrying.clone();
        let thing = &self.things[at];
        let Some((_, device)) = &thing.device else { return };
        let (points, none) = (device.points.clone(), Shadow::absent());
        let shadow = thing.shadows.get(&carrying).unwrap_or(&none).clone();
        if thing.members.is_empty() && shadow.desired().is_none() {
            return;
        }
        self.things[at].wake_at(now.mono + TICK);
        for (index, point) in points.iter().enumerate() {
            let (Some(rules), Some(member), Ok(i)) = (&point.write, &point.shadow, u16::try_from(index))
            else {
                continue;
            };
            let (index, path) = (PointIndex(i), member.path.join("."));
            match shadow.get_path(Section::Desired, &path) {
                None | Some(Json::Null) => {
                    if self.things[at].members.remove(&index).is_some() {
                        self.things[at].dirty_members.insert(index);
                    }
                }
                Some(wanted) => {
                    let asked_s = shadow.desired_time(&path).unwrap_or(now.wall.0 / 1000);
                    let before = self.note(at, index, wanted, asked_s, by, now);
                    let expires = expires(&shadow, &path);
                    let step = {
                        let thing = &mut self.things[at];
                        let seen = Seen {
                            rules,
                            satisfied: satisfied(thing, point, index, wanted),
                            hindrance: hindrance(&thing.silent, thing.fingerprint.is_quarantined()),
                            expires,
                        };
                        let Some(member) = thing.members.get_mut(&index) else { continue };
                        member.step(&seen, now)
                    };
                    self.follow(at, index, step, now);
                    if self.things[at].members.get(&index) != before.as_ref() {
                        self.things[at].dirty_members.insert(index);
                    }
                }
            }
        }
    }

    /// The member as it was; a new wish begins anew.
    fn note(
        &mut self,
        at: usize,
        index: PointIndex,
        wanted: &Json,
        asked_s: i64,
        by: Option<&str>,
        now: Now,
    ) -> Option<Member> {
        let members = &mut self.things[at].members;
        let before = members.get(&index).cloned();
        let same = |m: &Member| m.wanted == *wanted && m.asked_s == asked_s;
        if !before.as_ref().is_some_and(same) {
            let by = by.unwrap_or("shadow");
            let mut member = Member::new(wanted.clone(), asked_s, by, now);
            if let Some(old) = &before {
                member.after(old);
            }
            members.insert(index, member);
        }
        before
    }

    fn follow(&mut self, at: usize, index: PointIndex, step: Step, now: Now) {
        match step {
            Step::Rest => {}
            Step::Until(when) => self.things[at].wake_at(when),
            Step::Write => self.write(at, index, now),
        }
    }

    fn write(&mut self, at: usize, index: PointIndex, now: Now) {
        let thing = &mut self.things[at];
        let Some((device_index, device)) = &thing.device else { return };
        let (Some(point), Some(member)) = (device.points.get(index.at()), thing.members.get_mut(&index))
        else {
            return;
        };
        let (Some(rules), Protocol::Modbus(modbus)) = (&point.write, &device.protocol) else { return };
        let old = thing.reported.latest(index).map(|v| v.to_json());
        let entry = |outcome: &str, why: Option<String>| {
            json!({
                "t": now.wall.to_string(), "what": "write", "thing": thing.name.as_str(),
                "point": point.name.as_str(), "by": member.by, "way": "desired", "old": old,
                "new": member.wanted, "outcome": outcome, "why": why,
            })
        };
        let entry = match plan(modbus, point, &member.wanted) {
            Err(refusal) => {
                let entry = entry("refused", Some(refusal.to_string()));
                member.refused(refusal.to_string(), now);
                entry
            }
            Ok(plan) => {
                let entry = entry("sent", None);
                let id = self.next_write;
                self.next_write += 1;
                member.sent(id, rules, now);
                self.out.writes.push(WriteRequest { id, device: *device_index, point: index, plan });
                entry
            }
        };
        self.audit(entry);
    }

    /// The line had no room for it.
    pub fn not_written(&mut self, request: &WriteRequest, now: Now) {
        if self.running.contains_key(&request.id) {
            return self.command_not_sent(request.id, now);
        }
        let Some(&at) = self.of_device.get(request.device.at()).filter(|at| **at < self.things.len()) else {
            return;
        };
        let thing = &mut self.things[at];
        if let Some(member) = thing.members.get_mut(&request.point).filter(|m| m.is_inflight(request.id)) {
            member.not_sent(now);
            thing.dirty_members.insert(request.point);
            thing.wake_at(now.mono + Duration::from_secs(1));
        }
    }

    pub(super) fn wrote(&mut self, at: usize, wrote: &Wrote, now: Now) {
        if let Some(running) = self.running.remove(&wrote.id) {
            return self.command_done(running, &wrote.outcome, now);
        }
        let thing = &mut self.things[at];
        let Some(rules) = thing.device.as_ref().and_then(|(_, d)| rules(d, wrote.point)) else { return };
        let Some(member) = thing.members.get_mut(&wrote.point).filter(|m| m.is_inflight(wrote.id)) else {
            // Something else is wanted by now, and the next look sees to that.
            return;
        };
        let (outcome, why) = words(&wrote.outcome);
        member.done(&wrote.outcome, &rules, why.as_deref().unwrap_or_default(), now);
        let entry = json!({
            "t": now.wall.to_string(), "what": "write", "thing": thing.name.as_str(),
            "point": thing.point_name(wrote.point), "by": thing.members.get(&wrote.point).map(|m| m.by.clone()),
            "way": "desired", "new": thing.members.get(&wrote.point).map(|m| m.wanted.clone()),
            "outcome": outcome, "why": why,
        });
        thing.dirty_members.insert(wrote.point);
        self.audit(entry);
    }
}

fn rules(device: &Device, point: PointIndex) -> Option<crate::model::write::WriteRules> {
    device.points.get(point.at())?.write.clone()
}

/// Equal words after encoding, not equal floats.
fn satisfied(thing: &Thing, point: &Point, index: PointIndex, wanted: &Json) -> Option<bool> {
    let (Some(value), Source::Register(register)) = (thing.reported.latest(index), &point.source) else {
        return None;
    };
    Some(holds(register, wanted, value))
}

fn hindrance(silent: &Option<String>, quarantined: bool) -> Option<&'static str> {
    match (quarantined, silent) {
        (true, _) => Some("the device is quarantined: its fingerprint changed"),
        (false, Some(_)) => Some("the device is silent"),
        (false, None) => None,
    }
}

/// `desired._expires`: seconds since 1970, for all members or for each path.
fn expires(shadow: &Shadow, path: &str) -> Option<Timestamp> {
    let seconds = match shadow.desired()?.get(EXPIRES)? {
        Json::Object(each) => each.get(path)?.as_i64()?,
        all => all.as_i64()?,
    };
    Some(Timestamp(seconds.saturating_mul(1000)))
}

/// The outcome in the words of the states, and why.
pub(super) fn words(outcome: &WriteOutcome) -> (&'static str, Option<String>) {
    match outcome {
        WriteOutcome::Verified => ("verified", None),
        WriteOutcome::Accepted => ("accepted", None),
        WriteOutcome::NotTaken { read } => {
            let read = read.value().map_or_else(|| "nothing".to_owned(), |v| v.to_string());
            ("accepted", Some(format!("write-not-taken: {read} is read")))
        }
        WriteOutcome::Rejected { code } => {
            ("rejected", Some(format!("exception {code}, {}", exception_text(*code))))
        }
        WriteOutcome::Failed(cause) => ("failed", Some(cause.to_string())),
    }
}

/// A member of `desired` that says until when the others are wanted.
pub(super) const EXPIRES: &str = "_expires";
/// The slow tick while something is desired.
const TICK: Duration = Duration::from_secs(30);

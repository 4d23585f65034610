//! PURE: readings become `reported`: on change, and not too often.
//!
//! A value waits here until its point's `shadow_interval` and the thing's `shadow.interval`
//! are over; only the newest of a point waits. What is equal to what stands in the shadow is
//! not told again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::super::member::Now;
use super::Things;
use crate::modbus::write::holds;
use crate::model::device::{Point, Source};
use crate::model::ids::PointIndex;
use crate::model::reading::{Measured, Reading};
use crate::model::time::Timestamp;
use crate::model::value::{Quality, Value};
use crate::shadow::Section;
use crate::shadow::request::{Request, Update};
use crate::shadow::tree::{self, Tree};

pub(super) struct Reported {
    /// The newest value of each point that may be written.
    latest: Vec<Option<Value>>,
    /// The quality that was told last.
    told: Vec<Option<Quality>>,
    staged: BTreeMap<PointIndex, Staged>,
    /// When each point was last told.
    told_at: Vec<Option<Duration>>,
    flushed_at: Option<Duration>,
    /// The shadow takes no more; said once.
    full: bool,
}

struct Staged {
    value: Option<Json>,
    quality: Quality,
    at: Timestamp,
}

impl Reported {
    pub fn new(points: usize) -> Reported {
        Reported {
            latest: vec![None; points],
            told: vec![None; points],
            staged: BTreeMap::new(),
            told_at: vec![None; points],
            flushed_at: None,
            full: false,
        }
    }

    pub fn latest(&self, point: PointIndex) -> Option<&Value> {
        self.latest.get(point.at())?.as_ref()
    }

    /// The device was away: what it holds now has to be read.
    pub fn forget(&mut self) {
        self.latest.iter_mut().for_each(|value| *value = None);
    }

    /// What was staged is of a device that may be another one.
    pub fn discard(&mut self) {
        self.staged.clear();
    }
}

impl Things {
    pub(super) fn read(&mut self, at: usize, taken: Timestamp, readings: &[Reading], now: Now) {
        for reading in readings {
            self.stage(at, taken, reading);
        }
        self.flush_reported(at, now);
    }

    fn stage(&mut self, at: usize, taken: Timestamp, reading: &Reading) {
        let quality_counts = self.config.quality;
        let thing = &mut self.things[at];
        let Some((_, device)) = &thing.device else { return };
        let Some(point) = device.points.get(reading.point.at()) else { return };
        let value = reading.measured.value();
        if point.write.is_some() {
            // A value in doubt is no proof that a write was taken.
            thing.reported.latest[reading.point.at()] = match &reading.measured {
                Measured::Good(value) => Some(value.clone()),
                _ => None,
            };
        }
        let Some(member) = point.shadow.as_ref().filter(|_| self.config.reported) else { return };
        if thing.fingerprint.is_quarantined() {
            return;
        }
        let wanted = thing.members.get(&reading.point).map(|m| &m.wanted);
        let value = value.map(|value| spelled(point, value, wanted));
        let path = member.path.join(".");
        let shadow = thing.shadows.get(&self.carrying);
        let old = shadow.and_then(|s| s.get_path(Section::Reported, &path));
        let quality = reading.measured.quality();
        let changed = match (&value, old) {
            (Some(value), Some(old)) => !tree::same(value, old),
            (Some(_), None) => true,
            (None, _) => false,
        };
        let told = thing.reported.told[reading.point.at()].as_ref();
        if changed || (quality_counts && told != Some(&quality)) {
            thing.reported.staged.insert(reading.point, Staged { value, quality, at: taken });
        } else {
            // It went and came back before anybody was told.
            thing.reported.staged.remove(&reading.point);
        }
    }

    /// Tells what is due, in one update.
    pub(super) fn flush_reported(&mut self, at: usize, now: Now) {
        let interval = self.config.interval;
        let thing = &mut self.things[at];
        if thing.reported.staged.is_empty() {
            return;
        }
        let Some((_, device)) = &thing.device else { return };
        let whole = thing.reported.flushed_at.map_or(now.mono, |then| then + interval);
        let due = |point: &PointIndex| {
            let pause = device.points.get(point.at()).and_then(|p| p.shadow.as_ref()).map(|m| m.interval);
            let own =
                thing.reported.told_at[point.at()].map_or(now.mono, |then| then + pause.unwrap_or_default());
            own.max(whole)
        };
        let times: Vec<(PointIndex, Duration)> = thing.reported.staged.keys().map(|p| (*p, due(p))).collect();
        let ready: Vec<PointIndex> = times.iter().filter(|(_, t)| *t <= now.mono).map(|(p, _)| *p).collect();
        if let Some(next) = times.iter().map(|(_, t)| *t).filter(|t| *t > now.mono).min() {
            thing.wake_at(next);
        }
        if ready.is_empty() {
            return;
        }
        let update = self.update_of(at, &ready, now);
        let name = self.carrying.clone();
        let request = Request::Update(Update::reported(update));
        let told = self.change(at, &name, &request, "device", now);
        let thing = &mut self.things[at];
        if let (Err(rejected), false) = (&told, thing.reported.full) {
            let device = thing.device.as_ref().map(|(_, device)| tracing::field::display(&device.name));
            tracing::warn!(
                thing = %thing.name, device, why = %rejected,
                "readings do not fit into the shadow; they are still delivered"
            );
        }
        thing.reported.full = told.is_err();
    }

    fn update_of(&mut self, at: usize, ready: &[PointIndex], now: Now) -> Tree {
        let with_quality = self.config.quality;
        let thing = &mut self.things[at];
        let (mut update, mut qualities) = (Tree::new(), Tree::new());
        thing.reported.flushed_at = Some(now.mono);
        for point in ready {
            let Some(staged) = thing.reported.staged.remove(point) else { continue };
            let member = thing.device.as_ref().and_then(|(_, d)| d.points.get(point.at())?.shadow.as_ref());
            let Some(member) = member else { continue };
            if let Some(value) = staged.value {
                put(&mut update, &member.path, value);
            }
            if with_quality {
                put(&mut qualities, &member.path, shown(&staged.quality, staged.at));
            }
            thing.reported.told[point.at()] = Some(staged.quality);
            thing.reported.told_at[point.at()] = Some(now.mono);
        }
        if !qualities.is_empty() {
            update.insert(QUALITY.into(), qualities.into());
        }
        update
    }
}

/// The value as JSON. Where the registers hold what is desired, it is spelled as it was
/// desired, so that 0.1 is not told as 0.10000000149 and the delta is empty.
fn spelled(point: &Point, value: &Value, wanted: Option<&Json>) -> Json {
    match (&point.source, wanted) {
        (Source::Register(register), Some(wanted)) if holds(register, wanted, value) => wanted.clone(),
        _ => value.to_json(),
    }
}

fn shown(quality: &Quality, at: Timestamp) -> Json {
    match quality {
        // The cause that is over must not stay beside it.
        Quality::Good => json!({ "quality": "good", "cause": null, "t": at.0 }),
        Quality::Uncertain(cause) => json!({ "quality": "uncertain", "cause": cause.to_string(), "t": at.0 }),
        Quality::Bad(cause) => json!({ "quality": "bad", "cause": cause.to_string(), "t": at.0 }),
    }
}

/// Puts a value at a path of member names.
pub(super) fn put(tree: &mut Tree, path: &[String], value: Json) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut here = tree;
    for name in parents {
        let slot = here.entry(name.clone()).or_insert_with(|| Json::Object(Tree::new()));
        if !slot.is_object() {
            *slot = Json::Object(Tree::new());
        }
        let Json::Object(next) = slot else { return };
        here = next;
    }
    here.insert(last.clone(), value);
}

/// The member that holds quality and time of the others.
pub(super) const QUALITY: &str = "_quality";

//! PURE: what the hub knows of things, and what follows from each event.
//!
//! Constraints: every change of a shadow, of a desired member, of a command and of the audit
//! log is collected in [`Out`] and becomes one transaction together with the readings that
//! caused it; nothing is sent to a device before its commit. What is wanted is a level: the
//! members are looked at again after each event and on a slow tick, so an event that was lost
//! costs time and nothing else.
//!
//! The way of a reading: `readings` → `reported` (on change, not too often) → the shadow →
//! news of it. The way of a desired change: `ask` → the shadow → `desired` (checked, spaced)
//! → a write → the bus → `wrote` → the state of the member, and the reading that proves it.

mod commands;
mod desired;
mod fingerprint;
mod mirrors;
mod reconfigure;
mod reported;
mod requests;
mod states;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use self::commands::Asked as AskedCommand;
use self::commands::Running;
use self::mirrors::Mirrored;
use self::reported::Reported;
use self::states::States;
use super::member::{Member, Now};
use crate::channel::{Answer, WriteRequest};
use crate::config;
use crate::model::device::Device;
use crate::model::ids::{DeviceIndex, PointIndex};
use crate::model::kept::{Kept, Letter, LetterClass, MemberRow, MirrorRow, ShadowRow};
use crate::model::observation::{Observation, Seen};
use crate::model::row::Route;
use crate::model::thing::{STATES, ShadowName, ThingName};
use crate::model::time::Timestamp;
use crate::shadow::document::{Shadow, TOMBSTONE_S};
use crate::shadow::pacer::Pacer;
use crate::shadow::request::Limits;
use crate::wire::shadow_topics::Topics;

/// What follows from the events since the last call of [`Things::take`].
#[derive(Debug, Default)]
pub struct Out {
    pub kept: Kept,
    pub letters: Vec<Letter>,
    /// For after the commit.
    pub writes: Vec<WriteRequest>,
    /// Requests of these connections that were not sent yet are worth nothing any more.
    pub offline: Vec<Route>,
}

impl Out {
    /// Nothing for the disk.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.letters.is_empty() && self.offline.is_empty()
    }
}

pub struct Things {
    config: config::Shadow,
    /// The shadow that carries readings and desired members.
    carrying: ShadowName,
    /// The one that tells how they fare.
    telling: ShadowName,
    limits: Limits,
    topics: Topics,
    things: Vec<Thing>,
    by_name: HashMap<ThingName, usize>,
    /// The thing of each device, by `DeviceIndex`; `usize::MAX`: none.
    of_device: Vec<usize>,
    next_write: u64,
    running: HashMap<u64, Running>,
    pacers: HashMap<Route, Pacer<(usize, ShadowName)>>,
    /// Connections that have their CONNACK.
    online: BTreeSet<Route>,
    /// The gateway, and this start of it, in the tokens of requests to the cloud.
    origin: String,
    run: u32,
    out: Out,
}

/// A device, or the gateway itself.
struct Thing {
    name: ThingName,
    route: Route,
    /// `None`: the gateway.
    device: Option<(DeviceIndex, Device)>,
    shadows: BTreeMap<ShadowName, Shadow>,
    mirrors: BTreeMap<ShadowName, Mirrored>,
    dirty: BTreeSet<ShadowName>,
    reported: Reported,
    members: BTreeMap<PointIndex, Member>,
    dirty_members: BTreeSet<PointIndex>,
    states: States,
    fingerprint: fingerprint::Known,
    /// Why the device does not answer.
    silent: Option<String>,
    /// When something has to be looked at without an event.
    wake: Option<Duration>,
}

/// A thing of the configuration.
pub struct NewThing {
    pub name: ThingName,
    pub route: Route,
    pub device: Option<(DeviceIndex, Device)>,
}

impl Things {
    /// `kept` is what the store holds.
    pub fn new(
        config: config::Shadow,
        origin: &str,
        run: u32,
        things: Vec<NewThing>,
        kept: Kept,
        now: Now,
    ) -> Things {
        let mut all = Things {
            carrying: ShadowName::parse(&config.name).unwrap_or_else(|_| ShadowName::classic()),
            telling: ShadowName::parse(STATES).unwrap_or_else(|_| ShadowName::classic()),
            limits: Limits { depth: config.depth, size: config.size },
            topics: Topics::new(&config.prefix, &config.command_topic),
            things: Vec::with_capacity(things.len()),
            by_name: HashMap::new(),
            of_device: Vec::new(),
            next_write: 1,
            running: HashMap::new(),
            pacers: HashMap::new(),
            online: BTreeSet::new(),
            origin: origin.to_owned(),
            run,
            out: Out::default(),
            config,
        };
        for new in things {
            all.push(Thing::new(new, now));
        }
        all.restore(kept, now);
        for at in 0..all.things.len() {
            all.states_of_last_time(at);
        }
        all
    }

    fn push(&mut self, thing: Thing) {
        let at = self.things.len();
        self.by_name.insert(thing.name.clone(), at);
        if let Some((index, _)) = &thing.device {
            if self.of_device.len() <= index.at() {
                self.of_device.resize(index.at() + 1, usize::MAX);
            }
            self.of_device[index.at()] = at;
        }
        self.things.push(thing);
    }

    /// For a hub whose devices are no things.
    pub fn none() -> Things {
        let start = Now { mono: Duration::ZERO, wall: Timestamp(0) };
        Things::new(config::Shadow::default(), "", 0, Vec::new(), Kept::default(), start)
    }

    fn restore(&mut self, kept: Kept, now: Now) {
        for row in kept.shadows {
            let Some((at, name)) = self.find(&row.thing, &row.name) else { continue };
            match Shadow::restore(&row.state, &row.metadata, row.version, row.deleted, row.updated_s) {
                Ok(shadow) => drop(self.things[at].shadows.insert(name, shadow)),
                Err(e) => {
                    tracing::error!(thing = %row.thing, shadow = %row.name, why = %e, "a shadow cannot be read; it begins anew")
                }
            }
        }
        for row in kept.fingerprints {
            if let Some(at) = self.at(&row.thing) {
                self.things[at].fingerprint = fingerprint::Known { approved: row.approved, found: row.found };
            }
        }
        for row in kept.members {
            let Some(at) = self.at(&row.thing) else { continue };
            let member = row.state.as_deref().and_then(|text| serde_json::from_str(text).ok());
            if let (Some(point), Some(member)) = (self.things[at].point(&row.point), member) {
                self.things[at].members.insert(point, member);
            }
        }
        self.restore_mirrors(kept.mirrors);
        self.commands_of_last_time(kept.commands, now);
    }

    /// What one device said.
    pub fn observe(&mut self, seen: &Observation, now: Now) {
        let Some(&at) = self.of_device.get(seen.device.at()).filter(|at| **at < self.things.len()) else {
            return;
        };
        match &seen.seen {
            Seen::Readings(readings) => {
                self.read(at, seen.at, readings, now);
                if self.config.reported && readings.iter().any(|r| r.measured.value().is_some()) {
                    self.things[at].states.first_answer(seen.at);
                }
                if self.things[at].members.is_empty() && !self.things[at].states.has_news() {
                    return;
                }
            }
            Seen::Silent(cause) => self.silent(at, Some(cause.to_string()), seen.at),
            Seen::Back => self.silent(at, None, seen.at),
            Seen::Wrote(wrote) => self.wrote(at, wrote, now),
            Seen::Fingerprint(found) => self.fingerprint(at, found, now),
        }
        self.desire(at, None, now);
        self.tell_states(at, now);
    }

    fn silent(&mut self, at: usize, cause: Option<String>, since: Timestamp) {
        let thing = &mut self.things[at];
        thing.states.device(cause.as_deref(), since);
        thing.reported.forget();
        thing.silent = cause;
    }

    /// Looks at whatever is due.
    pub fn tick(&mut self, now: Now) {
        for at in 0..self.things.len() {
            if self.things[at].wake.is_some_and(|wake| wake <= now.mono) {
                self.things[at].wake = None;
                self.flush_reported(at, now);
                self.desire(at, None, now);
                self.tell_states(at, now);
                self.tick_mirrors(at, now);
            }
        }
        self.pace(now);
        self.forget_tombstones(now);
    }

    /// When [`Things::tick`] has something to do at the latest.
    pub fn next_wake(&self) -> Option<Duration> {
        let things = self.things.iter().filter_map(|t| t.wake);
        things.chain(self.pacers_wake()).min()
    }

    /// Something waits for the next commit.
    pub fn has_news(&self) -> bool {
        let dirty = |t: &Thing| !t.dirty.is_empty() || !t.dirty_members.is_empty();
        !self.out.is_empty() || self.is_urgent() || self.things.iter().any(dirty)
    }

    /// A device waits for it.
    pub fn is_urgent(&self) -> bool {
        !self.out.writes.is_empty()
    }

    /// All that has to be committed, and what follows the commit.
    pub fn take(&mut self) -> Out {
        for at in 0..self.things.len() {
            if !self.things[at].dirty.is_empty() || !self.things[at].dirty_members.is_empty() {
                self.rows(at);
            }
        }
        std::mem::take(&mut self.out)
    }

    fn rows(&mut self, at: usize) {
        let thing = &mut self.things[at];
        let name = thing.name.as_str().to_owned();
        for shadow in std::mem::take(&mut thing.dirty) {
            if let Some(mirrored) = thing.mirrors.get_mut(&shadow).filter(|m| m.dirty) {
                mirrored.dirty = false;
                let base = Some(mirrored.mirror.base().to_json());
                self.out.kept.mirrors.push(MirrorRow {
                    thing: name.clone(),
                    name: shadow.as_str().into(),
                    base,
                });
            }
            let row = |s: &Shadow, forget| ShadowRow {
                thing: name.clone(),
                name: shadow.as_str().to_owned(),
                state: s.state_json(),
                metadata: s.metadata_json(),
                version: s.version(),
                deleted: s.is_deleted(),
                updated_s: s.updated(),
                forget,
            };
            match thing.shadows.get(&shadow) {
                Some(s) => self.out.kept.shadows.push(row(s, false)),
                None => self.out.kept.shadows.push(row(&Shadow::absent(), true)),
            }
        }
        for point in std::mem::take(&mut thing.dirty_members) {
            let Some(point_name) = thing.point_name(point) else { continue };
            let state = thing.members.get(&point).map(|m| serde_json::to_string(m).unwrap_or_default());
            self.out.kept.members.push(MemberRow { thing: name.clone(), point: point_name, state });
        }
    }

    fn at(&self, thing: &str) -> Option<usize> {
        self.by_name.get(&ThingName::parse(thing).ok()?).copied()
    }

    fn find(&self, thing: &str, shadow: &str) -> Option<(usize, ShadowName)> {
        Some((self.at(thing)?, ShadowName::parse(shadow).ok()?))
    }

    /// A tombstone older than the cloud remembers one keeps nothing from coming back.
    fn forget_tombstones(&mut self, now: Now) {
        let now_s = now.wall.0 / 1000;
        for thing in &mut self.things {
            let old = |s: &Shadow| s.is_deleted() && now_s.saturating_sub(s.updated()) > TOMBSTONE_S;
            let gone: Vec<ShadowName> = thing
                .shadows
                .iter()
                .filter(|(n, s)| old(s) && !thing.mirrors.contains_key(*n))
                .map(|(n, _)| n.clone())
                .collect();
            for name in gone {
                thing.shadows.remove(&name);
                thing.dirty.insert(name);
            }
        }
    }

    fn letter(&mut self, at: usize, class: LetterClass, topic: String, payload: Vec<u8>, now: Now) {
        let route = self.things[at].route;
        self.out.letters.push(Letter { route, class, topic, payload, at: now.wall });
    }

    fn audit(&mut self, entry: serde_json::Value) {
        self.out.kept.audit.push(entry.to_string());
    }
}

impl Thing {
    fn new(new: NewThing, now: Now) -> Thing {
        let points = new.device.as_ref().map_or(0, |(_, device)| device.points.len());
        Thing {
            reported: Reported::new(points),
            name: new.name,
            route: new.route,
            device: new.device,
            shadows: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            dirty: BTreeSet::new(),
            members: BTreeMap::new(),
            dirty_members: BTreeSet::new(),
            states: States::default(),
            fingerprint: fingerprint::Known::default(),
            silent: None,
            wake: Some(now.mono),
        }
    }

    fn point(&self, name: &str) -> Option<PointIndex> {
        let (_, device) = self.device.as_ref()?;
        let at = device.points.iter().position(|p| p.name.as_str() == name)?;
        u16::try_from(at).ok().map(PointIndex)
    }

    fn point_name(&self, point: PointIndex) -> Option<String> {
        let (_, device) = self.device.as_ref()?;
        device.points.get(point.at()).map(|p| p.name.as_str().to_owned())
    }

    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

fn refused(code: u16, message: impl Into<String>) -> Answer {
    Answer::Refused { code, message: message.into() }
}

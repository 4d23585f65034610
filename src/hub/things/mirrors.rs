//! PURE: the shadows of a cloud that has a shadow service of its own.
//!
//! Each mirrored shadow has its state machine in [`crate::shadow::mirror`]; here they meet
//! the events, the turns of their connection (`Pacer`) and the mail.
//!
//! A shadow is mirrored when a rule of `shadow.mirror` fits it: those that are here, the
//! classic one of each thing, and whatever the cloud tells us of.

use std::time::Duration;

use super::super::member::Now;
use super::Things;
use super::requests::CLOUD;
use crate::config::{Dialect, raw};
use crate::model::kept::{LetterClass, MirrorRow};
use crate::model::row::Route;
use crate::model::thing::ShadowName;
use crate::shadow::base::{Base, Note};
use crate::shadow::mirror::{Event, Mirror, Moment, Settings};
use crate::shadow::sync::{Direction, Owner, Rules};
use crate::shadow::{Kind, Shadow};

pub(super) struct Mirrored {
    pub mirror: Mirror,
    /// Its base has to be written.
    pub dirty: bool,
}

impl Things {
    pub(super) fn restore_mirrors(&mut self, rows: Vec<MirrorRow>) {
        for row in rows {
            let Some((at, name)) = self.find(&row.thing, &row.name) else { continue };
            let base = row.base.as_deref().map(Base::from_json);
            let base = match base {
                Some(Ok(base)) => base,
                Some(Err(why)) => {
                    tracing::error!(
                        thing = %row.thing, shadow = %row.name, %why,
                        "what was agreed with the cloud cannot be read"
                    );
                    continue;
                }
                None => continue,
            };
            self.mirror(at, &name, Some(base));
        }
    }

    /// Begins to mirror the shadow, if a rule wants it and it is not mirrored yet.
    fn mirror(&mut self, at: usize, name: &ShadowName, base: Option<Base>) -> bool {
        if self.config.dialect != Dialect::Aws {
            return false;
        }
        let thing = &mut self.things[at];
        if thing.mirrors.contains_key(name) {
            return true;
        }
        let rule = self.config.mirror.iter().find(|rule| rule.fits(thing.name.as_str(), name.as_str()));
        let Some(rule) = rule.filter(|_| thing.mirrors.len() < self.config.per_thing) else { return false };
        let owner = |side| match side {
            raw::Side::Cloud => Owner::Cloud,
            raw::Side::Device => Owner::Device,
        };
        let settings = Settings {
            rules: Rules { desired: owner(rule.desired), reported: owner(rule.reported) },
            direction: match rule.direction {
                // What fieldgate says of its own work nobody else has a say in: a half that the
                // cloud still holds must not come back as news.
                _ if *name == self.telling => Direction::ToCloud,
                raw::Direction::Both => Direction::Both,
                raw::Direction::ToCloud => Direction::ToCloud,
                raw::Direction::ToDevice => Direction::ToDevice,
            },
            limits: self.limits,
            ..Settings::default()
        };
        let mirror = Mirror::new(name.clone(), base.unwrap_or_default(), settings, &self.origin, self.run);
        thing.mirrors.insert(name.clone(), Mirrored { mirror, dirty: false });
        true
    }

    pub(super) fn online(&mut self, route: Route, now: Now) {
        if !self.online.insert(route) {
            self.offline(route, now);
            self.online.insert(route);
        }
        for at in self.of_route(route) {
            self.online_thing(at, now);
        }
        self.pace(now);
    }

    pub(super) fn online_thing(&mut self, at: usize, now: Now) {
        let mut names: Vec<ShadowName> = self.things[at].shadows.keys().cloned().collect();
        names.extend(self.things[at].mirrors.keys().cloned());
        names.extend([ShadowName::classic(), self.carrying.clone()]);
        names.sort();
        names.dedup();
        for name in names {
            if self.mirror(at, &name, None) {
                self.step(at, &name, Event::Online, now);
            }
        }
    }

    pub(super) fn offline(&mut self, route: Route, now: Now) {
        self.online.remove(&route);
        for at in self.of_route(route) {
            let names: Vec<ShadowName> = self.things[at].mirrors.keys().cloned().collect();
            for name in names {
                self.step(at, &name, Event::Offline, now);
            }
        }
        if let Some(pacer) = self.pacers.get_mut(&route) {
            pacer.clear();
        }
        // Letters that were written for this connection and not committed yet go with it, too.
        self.out.letters.retain(|l| l.class != LetterClass::Request || l.route != route);
        self.out.offline.push(route);
    }

    fn of_route(&self, route: Route) -> Vec<usize> {
        (0..self.things.len()).filter(|at| self.things[*at].route == route).collect()
    }

    pub(super) fn cloud_said(&mut self, at: usize, shadow: &str, rest: &str, payload: &[u8], now: Now) {
        let (Ok(name), Some(kind)) = (ShadowName::parse(shadow), Kind::parse(rest)) else { return };
        let is_new = !self.things[at].mirrors.contains_key(&name);
        if !self.mirror(at, &name, None) {
            return;
        }
        if is_new {
            self.step(at, &name, Event::Online, now);
        }
        self.step(at, &name, Event::Cloud { kind, payload }, now);
        self.pace(now);
    }

    /// Somebody here changed the shadow.
    pub(super) fn local_change(&mut self, at: usize, name: &ShadowName, now: Now) {
        let is_new = !self.things[at].mirrors.contains_key(name);
        if !self.mirror(at, name, None) {
            return;
        }
        if is_new && self.online.contains(&self.things[at].route) {
            self.step(at, name, Event::Online, now);
        }
        self.step(at, name, Event::LocalChanged, now);
        self.pace(now);
    }

    pub(super) fn tick_mirrors(&mut self, at: usize, now: Now) {
        let thing = &self.things[at];
        let absent = Shadow::absent();
        let moment = moment(now);
        let due = |name: &ShadowName, m: &Mirrored| {
            m.mirror.wake_at(thing.shadows.get(name).unwrap_or(&absent)).is_some_and(|ms| ms <= moment.ms)
        };
        let names: Vec<ShadowName> =
            thing.mirrors.iter().filter(|(name, m)| due(name, m)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.step(at, &name, Event::Tick, now);
        }
        self.wake_for_mirrors(at);
    }

    fn wake_for_mirrors(&mut self, at: usize) {
        let thing = &mut self.things[at];
        let absent = Shadow::absent();
        let wake = thing
            .mirrors
            .iter()
            .filter_map(|(name, m)| m.mirror.wake_at(thing.shadows.get(name).unwrap_or(&absent)));
        if let Some(ms) = wake.min() {
            thing.wake_at(Duration::from_millis(ms));
        }
    }

    /// Gives turns to whoever waits for one.
    pub(super) fn pace(&mut self, now: Now) {
        let routes: Vec<Route> = self.pacers.keys().copied().collect();
        for route in routes {
            while let Some((at, name)) = self.pacers.get_mut(&route).and_then(|p| p.next(moment(now).ms)) {
                self.step(at, &name, Event::Go, now);
            }
        }
    }

    pub(super) fn pacers_wake(&self) -> impl Iterator<Item = Duration> {
        self.pacers.values().filter_map(|p| p.wake_at()).map(Duration::from_millis)
    }

    fn step(&mut self, at: usize, name: &ShadowName, event: Event, now: Now) {
        let thing = &mut self.things[at];
        let Some(mirrored) = thing.mirrors.get_mut(name) else { return };
        let absent = Shadow::absent();
        let step = mirrored.mirror.step(event, thing.shadows.get(name).unwrap_or(&absent), moment(now));
        if step.base.is_some() {
            mirrored.dirty = true;
            thing.dirty.insert(name.clone());
        }
        for note in &step.notes {
            match note {
                // What the rules decided is what they are for; it has to be findable all the same.
                Note::Conflict(_) => tracing::info!(thing = %thing.name, shadow = %name, "{note}"),
                _ => tracing::warn!(thing = %thing.name, shadow = %name, "{note}"),
            }
        }
        let (route, thing_name) = (thing.route, thing.name.as_str().to_owned());
        let pacer = self.pacers.entry(route).or_default();
        if step.released {
            pacer.done(&(at, name.clone()));
        }
        if step.wants {
            pacer.want((at, name.clone()));
        }
        let next = step.local.and_then(|local| local.answer.next);
        if let Some(next) = next {
            thing.shadows.insert(name.clone(), next);
            thing.dirty.insert(name.clone());
            self.changed(at, name, CLOUD, now);
        }
        if let Some(request) = step.request {
            let topic = self.topics.of_shadow(&thing_name, name.as_str(), request.operation.suffix());
            self.letter(at, LetterClass::Request, topic, request.payload, now);
        }
        self.wake_for_mirrors(at);
    }
}

fn moment(now: Now) -> Moment {
    Moment { ms: u64::try_from(now.mono.as_millis()).unwrap_or(u64::MAX), s: now.wall.0 / 1000 }
}

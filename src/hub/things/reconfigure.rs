//! PURE: another configuration while the hub lives.
//!
//! A thing whose device is the same keeps everything, also what was not told yet. All others
//! begin as after a start, from what the store holds: whatever was decided about them was
//! committed before.

use std::collections::{BTreeSet, HashMap};

use super::super::member::Now;
use super::{NewThing, Thing, Things};
use crate::model::ids::DeviceIndex;
use crate::model::kept::Kept;
use crate::model::thing::ThingName;

impl Things {
    /// `kept` is what the store holds now; `reopened` are devices whose line was closed
    /// meanwhile, so that what was on its way to them got lost.
    pub fn reconfigure(
        &mut self,
        things: Vec<NewThing>,
        reopened: &BTreeSet<DeviceIndex>,
        kept: Kept,
        now: Now,
    ) {
        let old = std::mem::take(&mut self.things).into_iter().enumerate();
        let mut old: HashMap<ThingName, (usize, Thing)> =
            old.map(|(at, t)| (t.name.clone(), (at, t))).collect();
        (self.by_name, self.of_device) = (HashMap::new(), Vec::new());
        let (mut moved, mut fresh) = (HashMap::new(), BTreeSet::new());
        for new in things {
            let at = self.things.len();
            match old.remove(&new.name) {
                Some((was, thing)) if thing.is_same(&new, reopened) => {
                    moved.insert(was, at);
                    self.push(Thing { device: new.device, ..thing });
                }
                _ => {
                    fresh.insert(new.name.as_str().to_owned());
                    self.push(Thing::new(new, now));
                }
            }
        }
        self.running.retain(|_, running| match moved.get(&running.at) {
            Some(at) => {
                running.at = *at;
                true
            }
            None => false,
        });
        for pacer in self.pacers.values_mut() {
            pacer.rename(|(at, name)| Some((*moved.get(at)?, name.clone())));
        }
        self.restore(only(kept, &fresh), now);
        let places: Vec<usize> = fresh.iter().filter_map(|thing| self.at(thing)).collect();
        for at in places {
            self.states_of_last_time(at);
            if self.online.contains(&self.things[at].route) {
                self.online_thing(at, now);
            }
        }
        self.pace(now);
    }
}

impl Thing {
    fn is_same(&self, new: &NewThing, reopened: &BTreeSet<DeviceIndex>) -> bool {
        let device = match (&self.device, &new.device) {
            (None, None) => true,
            (Some((_, old)), Some((index, new))) => old == new && !reopened.contains(index),
            _ => false,
        };
        device && self.route == new.route
    }
}

fn only(kept: Kept, fresh: &BTreeSet<String>) -> Kept {
    let is_fresh = |thing: &String| fresh.contains(thing);
    Kept {
        shadows: kept.shadows.into_iter().filter(|row| is_fresh(&row.thing)).collect(),
        mirrors: kept.mirrors.into_iter().filter(|row| is_fresh(&row.thing)).collect(),
        members: kept.members.into_iter().filter(|row| is_fresh(&row.thing)).collect(),
        commands: kept.commands.into_iter().filter(|row| is_fresh(&row.thing)).collect(),
        fingerprints: kept.fingerprints.into_iter().filter(|row| is_fresh(&row.thing)).collect(),
        audit: Vec::new(),
    }
}

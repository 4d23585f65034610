//! PURE: the named shadow in which a thing tells how it fares: its device, its desired
//! members, its identity.
//!
//! `{ "device": {state, cause?, since}, "writes": {PATH: {state, value, t, ...}}, "identity":
//! {state, ...} }`, all of it reported, none of it ever desired.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::member::Now;
use super::Things;
use crate::model::ids::PointIndex;
use crate::model::time::Timestamp;
use crate::shadow::Section;
use crate::shadow::request::{Request, Update};
use crate::shadow::tree::Tree;

#[derive(Default)]
pub(super) struct States {
    /// What changed since it was last told.
    news: Tree,
    /// What was last told of each member.
    told: BTreeMap<PointIndex, Json>,
    /// Whether the device answers was told by this start or the one before.
    is_told: bool,
}

impl States {
    pub fn device(&mut self, cause: Option<&str>, since: Timestamp) {
        let state = match cause {
            Some(cause) => json!({ "state": "silent", "cause": cause, "since": since.0 }),
            None => json!({ "state": "good", "cause": null, "since": since.0 }),
        };
        self.news.insert("device".into(), state);
        self.is_told = true;
    }

    /// It answers, and nothing was ever said of it.
    pub fn first_answer(&mut self, since: Timestamp) {
        if !self.is_told {
            self.device(None, since);
        }
    }

    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub fn identity(&mut self, state: Json) {
        self.news.insert("identity".into(), state);
    }
}

impl Things {
    /// What the shadow says already need not be said again after a restart.
    pub(super) fn states_of_last_time(&mut self, at: usize) {
        let thing = &mut self.things[at];
        let Some((_, device)) = &thing.device else { return };
        let Some(shadow) = thing.shadows.get(&self.telling) else { return };
        let device_state = shadow.get_path(Section::Reported, "device.state");
        thing.states.is_told = device_state.is_some_and(|state| state == "good");
        let Some(Json::Object(writes)) = shadow.get_path(Section::Reported, "writes") else { return };
        for (point, told) in writes {
            let index = device.points.iter().position(|p| p.name.as_str() == point);
            if let Some(index) = index.and_then(|i| u16::try_from(i).ok()) {
                thing.states.told.insert(PointIndex(index), told.clone());
            }
        }
    }

    pub(super) fn tell_states(&mut self, at: usize, now: Now) {
        let thing = &mut self.things[at];
        let mut news = std::mem::take(&mut thing.states.news);
        let mut writes = Tree::new();
        let name = |thing: &super::Thing, point| thing.point_name(point).unwrap_or_default();
        let shown: BTreeMap<PointIndex, Json> = thing.members.iter().map(|(p, m)| (*p, m.shown())).collect();
        for (point, state) in &shown {
            let told = thing.states.told.get(point);
            if told != Some(state) {
                writes.insert(name(thing, *point), replaced(told, state));
            }
        }
        for point in thing.states.told.keys().filter(|p| !shown.contains_key(p)) {
            writes.insert(name(thing, *point), Json::Null);
        }
        thing.states.told = shown;
        if !writes.is_empty() {
            news.insert("writes".into(), writes.into());
        }
        if news.is_empty() {
            return;
        }
        let shadow = self.telling.clone();
        if let Err(rejected) =
            self.change(at, &shadow, &Request::Update(Update::reported(news)), "gateway", now)
        {
            tracing::warn!(thing = %self.things[at].name, why = %rejected, "the states do not fit into their shadow");
        }
    }
}

/// A patch that leaves nothing of the old state behind.
fn replaced(old: Option<&Json>, new: &Json) -> Json {
    let (Some(Json::Object(old)), Json::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = new.clone();
    for gone in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(gone.clone(), Json::Null);
    }
    Json::Object(patch)
}

//! PURE: whether the device behind a thing is still the same one.
//!
//! The first fingerprint is taken for the right one. When another is read, somebody swapped
//! the device: its readings are still delivered, but they do not become `reported`, and
//! nothing is written to it, until a person says that it is right.

use serde_json::json;

use super::super::member::Now;
use super::{Things, refused};
use crate::channel::{Answer, Serials};
use crate::model::kept::FingerprintRow;

#[derive(Default)]
pub(super) struct Known {
    pub approved: Option<String>,
    /// The one that was read last.
    pub found: Option<String>,
}

impl Known {
    pub fn is_quarantined(&self) -> bool {
        matches!((&self.approved, &self.found), (Some(approved), Some(found)) if approved != found)
    }
}

impl Things {
    /// What certificates may say of the devices: of those that are the right ones.
    pub fn serials(&self) -> Serials {
        let known = |t: &super::Thing| Some((t.name.as_str().to_owned(), t.fingerprint.approved.clone()?));
        Serials::new(self.things.iter().filter_map(known).collect())
    }

    pub(super) fn fingerprint(&mut self, at: usize, found: &str, now: Now) {
        let known = &mut self.things[at].fingerprint;
        if known.found.as_deref() == Some(found) {
            return;
        }
        let (was, old) = (known.is_quarantined(), known.approved.clone());
        known.found = Some(found.to_owned());
        known.approved.get_or_insert_with(|| found.to_owned());
        let is = known.is_quarantined();
        self.fingerprint_changed(at, now);
        let thing = &mut self.things[at];
        let device = thing.device.as_ref().map(|(_, device)| tracing::field::display(&device.name));
        if is {
            thing.reported.discard();
            tracing::error!(
                thing = %thing.name, device, approved = thing.fingerprint.approved, found,
                "another device answers; its shadow is quarantined until `fieldgate identity approve {}`", thing.name
            );
        } else if was {
            tracing::info!(thing = %thing.name, device, found, "the right device is back");
        }
        let what = match (is, was) {
            (true, _) => "quarantined",
            (false, true) => "back",
            (false, false) => "first seen",
        };
        let entry = json!({
            "t": now.wall.to_string(), "what": "fingerprint", "thing": self.things[at].name.as_str(),
            "by": "device", "old": old, "new": found, "outcome": what,
        });
        self.audit(entry);
    }

    pub(super) fn approve(&mut self, at: usize, by: &str, now: Now) -> Answer {
        let thing = &mut self.things[at];
        let known = &mut thing.fingerprint;
        if !known.is_quarantined() {
            return refused(409, format!("{} is not quarantined", thing.name));
        }
        let old = std::mem::replace(&mut known.approved, known.found.clone());
        let entry = json!({
            "t": now.wall.to_string(), "what": "fingerprint", "thing": thing.name.as_str(), "by": by,
            "old": old, "new": thing.fingerprint.approved, "outcome": "approved",
        });
        self.audit(entry);
        self.fingerprint_changed(at, now);
        self.desire(at, None, now);
        self.tell_states(at, now);
        Answer::Done
    }

    fn fingerprint_changed(&mut self, at: usize, now: Now) {
        let thing = &mut self.things[at];
        let known = &thing.fingerprint;
        let state = match known.is_quarantined() {
            true => {
                json!({ "state": "quarantined", "approved": known.approved, "found": known.found, "since": now.wall.0 })
            }
            false => {
                json!({ "state": "approved", "approved": known.approved, "found": null, "since": now.wall.0 })
            }
        };
        let row = FingerprintRow {
            thing: thing.name.as_str().to_owned(),
            approved: known.approved.clone(),
            found: known.found.clone(),
            found_at: Some(now.wall),
        };
        thing.states.identity(state);
        self.out.kept.fingerprints.push(row);
    }
}

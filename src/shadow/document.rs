//! PURE: what is kept of one shadow.
//!
//! Two sections, each absent or with at least one member; a tree of times of the same
//! shape; a version. A deleted shadow keeps its version and the time of its deletion and
//! nothing else: a shadow made anew within 48 hours goes on with the numbering, so that
//! nobody takes a new document for an old one.
//!
//! State and metadata are stored apart, as two texts; the size that is limited is that of
//! the state's text.

use serde_json::Value;

use super::merge::{self, When};
use super::request::{Patch, Update};
use super::tree::{self, Tree};

/// How long the version of a deleted shadow is remembered, in seconds.
pub const TOMBSTONE_S: i64 = 48 * 3600;

/// One half of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    Desired,
    Reported,
}

impl Section {
    pub const ALL: [Section; 2] = [Section::Desired, Section::Reported];

    pub fn name(self) -> &'static str {
        match self {
            Section::Desired => "desired",
            Section::Reported => "reported",
        }
    }
}

/// Both halves, of the state or of its times. An empty section is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections {
    pub desired: Option<Tree>,
    pub reported: Option<Tree>,
}

/// Why stored texts are no shadow; the caller sets them aside and goes on without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored {part} of a shadow is damaged: {problem}")]
pub struct Damaged {
    pub part: &'static str,
    pub problem: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    state: Sections,
    /// Epoch seconds where the state has leaves.
    times: Sections,
    version: u64,
    deleted: bool,
    updated: i64,
}

impl Sections {
    pub fn get(&self, section: Section) -> Option<&Tree> {
        match section {
            Section::Desired => self.desired.as_ref(),
            Section::Reported => self.reported.as_ref(),
        }
    }

    pub fn get_mut(&mut self, section: Section) -> &mut Option<Tree> {
        match section {
            Section::Desired => &mut self.desired,
            Section::Reported => &mut self.reported,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.desired.is_none() && self.reported.is_none()
    }

    /// `{"desired": …, "reported": …}` without what is absent.
    pub fn to_tree(&self) -> Tree {
        let parts = Section::ALL.into_iter().filter_map(|s| Some((s, self.get(s)?)));
        parts.map(|(s, tree)| (s.name().to_owned(), Value::Object(tree.clone()))).collect()
    }

    pub fn to_json(&self) -> String {
        Value::Object(self.to_tree()).to_string()
    }

    /// Reads what [`Sections::to_json`] wrote; members beside the two are ignored, an empty
    /// section is none.
    pub fn from_tree(mut tree: Tree) -> Result<Self, String> {
        let mut sections = Sections::default();
        for section in Section::ALL {
            match tree.remove(section.name()) {
                None | Some(Value::Null) => {}
                Some(Value::Object(tree)) => *sections.get_mut(section) = (!tree.is_empty()).then_some(tree),
                Some(_) => return Err(format!("{} is not an object", section.name())),
            }
        }
        Ok(sections)
    }

    pub fn from_json(text: &str) -> Result<Self, String> {
        let tree: Tree = serde_json::from_str(text).map_err(|e| e.to_string())?;
        Self::from_tree(tree)
    }

    /// Merges a patch without keeping times, as a mirror does with a document it only saw.
    pub fn apply(&mut self, section: Section, patch: &Patch) {
        let slot = self.get_mut(section);
        match patch {
            Patch::Keep => {}
            Patch::Clear => *slot = None,
            Patch::Merge(patch) => merge::state_only(slot, patch),
        }
    }
}

impl Shadow {
    /// A shadow that never was, or of which nobody remembers.
    pub fn absent() -> Self {
        Self { state: Sections::default(), times: Sections::default(), version: 0, deleted: true, updated: 0 }
    }

    /// Reads what [`Shadow::state_json`] and [`Shadow::metadata_json`] wrote.
    pub fn restore(
        state_json: &str,
        metadata_json: &str,
        version: u64,
        deleted: bool,
        updated: i64,
    ) -> Result<Self, Damaged> {
        if deleted {
            return Ok(Self { version, updated, ..Self::absent() });
        }
        let damaged = |part| move |problem| Damaged { part, problem };
        let state = Sections::from_json(state_json).map_err(damaged("state"))?;
        let times = Sections::from_json(metadata_json).map_err(damaged("metadata"))?;
        for section in Section::ALL {
            let fits = match (state.get(section), times.get(section)) {
                (None, None) => true,
                (Some(state), Some(times)) => merge::mirrors_tree(state, times),
                _ => false,
            };
            if !fits {
                let problem = format!("it does not fit the state in {}", section.name());
                return Err(Damaged { part: "metadata", problem });
            }
        }
        Ok(Self { state, times, version, deleted, updated })
    }

    /// The state as compact JSON; its bytes are what the size limit counts.
    pub fn state_json(&self) -> String {
        self.state.to_json()
    }

    /// The times as compact JSON, each leaf a number of epoch seconds.
    pub fn metadata_json(&self) -> String {
        self.times.to_json()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Also true for a shadow that never was.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    pub fn exists(&self) -> bool {
        !self.deleted
    }

    /// Epoch seconds of the last accepted update or deletion.
    pub fn updated(&self) -> i64 {
        self.updated
    }

    pub fn state(&self) -> &Sections {
        &self.state
    }

    /// Epoch seconds in the shape of the state.
    pub fn times(&self) -> &Sections {
        &self.times
    }

    pub fn desired(&self) -> Option<&Tree> {
        self.state.desired.as_ref()
    }

    pub fn reported(&self) -> Option<&Tree> {
        self.state.reported.as_ref()
    }

    /// What is desired and not reported; `None` when nothing is.
    pub fn delta(&self) -> Option<Tree> {
        tree::difference(self.desired()?, self.reported())
    }

    /// The value at a path such as `climate.zones[2]` (see [`tree::at`]).
    pub fn get_path(&self, section: Section, path: &str) -> Option<&Value> {
        tree::at(self.state.get(section)?, path)
    }

    /// When the value at a path was last desired, in epoch seconds; of an object or an array
    /// the latest of its leaves. `None` where there is no leaf.
    pub fn desired_time(&self, path: &str) -> Option<i64> {
        merge::latest(tree::at(self.times.desired.as_ref()?, path)?)
    }

    /// The shadow after an update that was found good. Every accepted update counts, also
    /// one that changes nothing.
    pub(super) fn updated_by(&self, update: &Update, now_s: i64) -> Self {
        let mut next = if self.exists() { self.clone() } else { Self::absent() };
        next.version = self.next_version(now_s);
        next.deleted = false;
        next.updated = now_s;
        for section in Section::ALL {
            let (state, times) = (next.state.get_mut(section), next.times.get_mut(section));
            match update.patch(section) {
                Patch::Keep => {}
                Patch::Clear => (*state, *times) = (None, None),
                Patch::Merge(patch) => {
                    let given = update.times(section);
                    merge::section(state, times, patch, When { now_s, given });
                }
            }
        }
        next
    }

    /// Deleting takes a version of its own, as in the cloud: a document that comes after is
    /// never taken for the one before.
    pub(super) fn deleted_at(&self, now_s: i64) -> Self {
        Self { version: self.next_version(now_s), updated: now_s, ..Self::absent() }
    }

    /// A clock that went back forgets nothing.
    fn next_version(&self, now_s: i64) -> u64 {
        let forgotten = self.deleted && now_s.saturating_sub(self.updated) > TOMBSTONE_S;
        if forgotten { 1 } else { self.version.saturating_add(1) }
    }
}

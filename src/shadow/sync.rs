//! PURE: the three-way merge of a local shadow with the cloud's.
//!
//! Local and cloud are compared with the base, the document both agreed on last. Where only
//! one side changed, that side counts, also when it removed; where both changed to different
//! values, the owner of the section decides, and the path is written down: no update is lost
//! without a rule that is named. Objects are merged member by member, also where the base
//! has no object there, so that two sides that made the same subtree keep both their
//! members; arrays and scalars count whole. An object without leaves counts as missing. A
//! deleted document is one that has lost every member.
//!
//! No clock takes part: the gateway's may be years off.

use std::fmt;

use serde_json::Value;

use super::document::{Section, Sections};
use super::request::Patch;
use super::tree::{self, Tree};

/// Whose value counts where both sides changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Cloud,
    Device,
}

/// Who owns which section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub desired: Owner,
    pub reported: Owner,
}

impl Default for Rules {
    fn default() -> Self {
        Self { desired: Owner::Cloud, reported: Owner::Device }
    }
}

impl Rules {
    pub fn owner(&self, section: Section) -> Owner {
        match section {
            Section::Desired => self.desired,
            Section::Reported => self.reported,
        }
    }
}

/// Which way changes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Both,
    /// The local shadow is right; what the cloud changes is overwritten.
    ToCloud,
    /// The cloud is right; what is changed here stays here until the cloud's next change.
    ToDevice,
}

/// A member that both sides changed, and whose value was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub section: Section,
    /// Member names from the section down.
    pub path: Vec<String>,
    pub kept: Owner,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = match self.kept {
            Owner::Cloud => "cloud",
            Owner::Device => "device",
        };
        f.write_str(self.section.name())?;
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))?;
        write!(f, " was changed on both sides; the value of the {kept} was kept")
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    pub state: Sections,
    pub conflicts: Vec<Conflict>,
}

/// Merges both sides against the last common document.
pub fn merge(local: &Sections, cloud: &Sections, base: &Sections, rules: Rules) -> Merged {
    let mut merged = Merged::default();
    for section in Section::ALL {
        let mut way = Way { section, owner: rules.owner(section), path: Vec::new(), conflicts: Vec::new() };
        let tree = way.members(local.get(section), cloud.get(section), base.get(section));
        *merged.state.get_mut(section) = (!tree.is_empty()).then_some(tree);
        merged.conflicts.append(&mut way.conflicts);
    }
    merged
}

struct Way {
    section: Section,
    owner: Owner,
    path: Vec<String>,
    conflicts: Vec<Conflict>,
}

impl Way {
    fn members(&mut self, local: Option<&Tree>, cloud: Option<&Tree>, base: Option<&Tree>) -> Tree {
        let mut merged = Tree::new();
        let new =
            cloud.into_iter().flatten().filter(|(name, _)| local.is_none_or(|l| !l.contains_key(*name)));
        for (name, _) in local.into_iter().flatten().chain(new) {
            self.path.push(name.clone());
            if let Some(value) = self.member(get(local, name), get(cloud, name), get(base, name)) {
                merged.insert(name.clone(), value);
            }
            self.path.pop();
        }
        merged
    }

    fn member(
        &mut self,
        local: Option<&Value>,
        cloud: Option<&Value>,
        base: Option<&Value>,
    ) -> Option<Value> {
        let (local, cloud, base) = (present(local), present(cloud), present(base));
        if alike(local, cloud) {
            return local.cloned();
        }
        let both = object_of(local).is_some() && object_of(cloud).is_some();
        if both || [local, cloud, base].into_iter().flatten().all(Value::is_object) {
            let tree = self.members(object_of(local), object_of(cloud), object_of(base));
            return (!tree.is_empty()).then_some(Value::Object(tree));
        }
        if alike(local, base) {
            return cloud.cloned();
        }
        if !alike(cloud, base) {
            self.note();
            if self.owner == Owner::Cloud {
                return cloud.cloned();
            }
        }
        local.cloned()
    }

    fn lost(&mut self, loser: Option<&Tree>, winner: Option<&Tree>, base: Option<&Tree>) {
        let gone = winner.into_iter().flatten().filter(|(name, _)| get(loser, name).is_none());
        for (name, _) in loser.into_iter().flatten().chain(gone) {
            let (loser, winner, base) = (get(loser, name), get(winner, name), get(base, name));
            self.path.push(name.clone());
            if [loser, winner].into_iter().flatten().all(Value::is_object) {
                self.lost(object_of(loser), object_of(winner), object_of(base));
            } else if !alike(loser, winner) && !alike(loser, base) {
                self.note();
            }
            self.path.pop();
        }
    }

    fn note(&mut self) {
        self.conflicts.push(Conflict { section: self.section, path: self.path.clone(), kept: self.owner });
    }
}

fn get<'a>(tree: Option<&'a Tree>, name: &str) -> Option<&'a Value> {
    tree.and_then(|tree| tree.get(name))
}

fn object_of(value: Option<&Value>) -> Option<&Tree> {
    value.and_then(Value::as_object)
}

/// Without leaves a value says nothing.
fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !hollow(value))
}

fn hollow(value: &Value) -> bool {
    value.as_object().is_some_and(|tree| tree.values().all(hollow))
}

/// Equal by value, objects without leaves being missing.
fn alike(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (present(a), present(b)) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => alike_trees(Some(a), Some(b)),
        (Some(a), Some(b)) => tree::same(a, b),
        _ => false,
    }
}

fn alike_trees(a: Option<&Tree>, b: Option<&Tree>) -> bool {
    let covers = |a: Option<&Tree>, b: Option<&Tree>| {
        a.into_iter().flatten().all(|(name, value)| alike(Some(value), b.and_then(|b| b.get(name))))
    };
    covers(a, b) && covers(b, a)
}

/// Whether two documents say the same.
pub fn agree(a: &Sections, b: &Sections) -> bool {
    Section::ALL.into_iter().all(|section| alike_trees(a.get(section), b.get(section)))
}

/// Whether a document says nothing.
pub fn is_hollow(state: &Sections) -> bool {
    agree(state, &Sections::default())
}

/// The patch of one section that makes `to` out of `from`.
pub fn patch(from: &Sections, to: &Sections, section: Section) -> Patch {
    let (from, to) = (from.get(section), to.get(section));
    if alike_trees(from, to) {
        return Patch::Keep;
    }
    match to {
        Some(to) if to.values().any(|value| !hollow(value)) => {
            Patch::Merge(patch_members(from.unwrap_or(&Tree::new()), to))
        }
        _ => Patch::Clear,
    }
}

fn patch_members(from: &Tree, to: &Tree) -> Tree {
    let mut patch = Tree::new();
    for (name, old) in from {
        if present(Some(old)).is_some() && present(to.get(name)).is_none() {
            patch.insert(name.clone(), Value::Null);
        }
    }
    for (name, new) in to {
        let old = from.get(name);
        match (new, old) {
            _ if hollow(new) || alike(Some(new), old) => {}
            (Value::Object(new), Some(Value::Object(old))) => {
                patch.insert(name.clone(), Value::Object(patch_members(old, new)));
            }
            _ => drop(patch.insert(name.clone(), new.clone())),
        }
    }
    patch
}

/// What `loser` changed since `base` and `winner` does not have: what a direction that lets
/// one side win will overwrite.
pub fn overwritten(loser: &Sections, winner: &Sections, base: &Sections, kept: Owner) -> Vec<Conflict> {
    let mut lost = Vec::new();
    for section in Section::ALL {
        let mut way = Way { section, owner: kept, path: Vec::new(), conflicts: Vec::new() };
        way.lost(loser.get(section), winner.get(section), base.get(section));
        lost.append(&mut way.conflicts);
    }
    lost
}

//! PURE: what a mirror remembers between two starts, and what it may say.
//!
//! The base is the cloud's document as it was last seen, after everything new in it had
//! been merged into the local shadow. Both are committed together, so at any moment the
//! difference between local shadow and base is exactly what has not reached the cloud yet:
//! that difference is the mirror's queue, and it survives a restart because both do.

use std::fmt;

use serde_json::Value;

use super::document::Sections;
use super::error::Rejected;
use super::message::{Kind, Operation};
use super::sync::Conflict;
use super::tree::Tree;

/// The cloud's document as it was last seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base {
    pub state: Sections,
    /// Whether the cloud had the document; the opposite of a tombstone.
    pub cloud_exists: bool,
    pub cloud_version: u64,
    /// The local shadow's version that holds everything of this base; 0 before the first.
    pub local_version: u64,
}

impl Base {
    /// Compact JSON for the store.
    pub fn to_json(&self) -> String {
        let mut tree = Tree::new();
        tree.insert("state".to_owned(), Value::Object(self.state.to_tree()));
        tree.insert("cloud_exists".to_owned(), self.cloud_exists.into());
        tree.insert("cloud_version".to_owned(), self.cloud_version.into());
        tree.insert("local_version".to_owned(), self.local_version.into());
        Value::Object(tree).to_string()
    }

    /// Reads what [`Base::to_json`] wrote. A base that cannot be read is replaced by the
    /// default: then both sides count as new, and the owners decide where they differ.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let mut tree: Tree = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let state = match tree.remove("state") {
            Some(Value::Object(state)) => Sections::from_tree(state)?,
            _ => return Err("it has no state".to_owned()),
        };
        let number = |name: &str| tree.get(name).and_then(Value::as_u64).ok_or(format!("it has no {name}"));
        Ok(Self {
            state,
            cloud_exists: tree
                .get("cloud_exists")
                .and_then(Value::as_bool)
                .ok_or("it has no cloud_exists")?,
            cloud_version: number("cloud_version")?,
            local_version: number("local_version")?,
        })
    }
}

/// What a person should know about a mirror's work; for the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Both sides changed a member; a rule chose.
    Conflict(Conflict),
    /// One side deleted what the other had updated. What the update changed lives on, what
    /// it left alone is gone.
    DeleteMetUpdate,
    /// A deletion went up and took a version with it that had not been seen here.
    DeleteOverrode { version: u64 },
    /// The cloud refused a request.
    Refused { operation: Operation, rejected: Rejected },
    /// The cloud's document cannot be kept here.
    NotTaken(Rejected),
    /// No answer came in time.
    NoAnswer(Operation),
    /// A message of the cloud makes no sense.
    Unreadable { kind: Kind, problem: &'static str },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Conflict(conflict) => conflict.fmt(f),
            Note::DeleteMetUpdate => f.write_str(
                "one side deleted the shadow while the other updated it; the update's members live on",
            ),
            Note::DeleteOverrode { version } => {
                write!(f, "the deletion took version {version} with it, which had not been seen here")
            }
            Note::Refused { operation, rejected } => {
                write!(f, "the cloud refused the {}: {rejected}", operation.suffix())
            }
            Note::NotTaken(rejected) => write!(f, "the cloud's document cannot be kept here: {rejected}"),
            Note::NoAnswer(operation) => write!(f, "the cloud did not answer the {}", operation.suffix()),
            Note::Unreadable { kind, problem } => {
                write!(f, "a message on {} was ignored: {problem}", kind.suffix())
            }
        }
    }
}

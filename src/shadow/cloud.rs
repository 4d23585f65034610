//! PURE: the cloud's messages about a shadow, read.
//!
//! They come from outside and may be anything: what is not as documented is named and
//! ignored, and the mirror's deadline leads to a fresh get.

use serde_json::Value;

use super::document::{Section, Sections};
use super::error::Rejected;
use super::merge;
use super::request::Patch;
use super::tree::Tree;

/// A document of the cloud.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub state: Sections,
    /// Epoch seconds by the cloud's clock, as far as it told.
    pub times: Sections,
    pub version: u64,
}

/// A payload with its token.
pub(super) struct Read {
    tree: Tree,
}

type Problem = &'static str;

impl Read {
    pub fn new(payload: &[u8]) -> Result<Self, Problem> {
        match serde_json::from_slice(payload) {
            Ok(Value::Object(tree)) => Ok(Self { tree }),
            _ => Err("it is not a JSON object"),
        }
    }

    pub fn token(&self) -> Option<&str> {
        self.tree.get("clientToken").and_then(Value::as_str)
    }

    pub fn version(&self) -> Result<u64, Problem> {
        version(&self.tree)
    }

    /// The document of an accepted get.
    pub fn document(&self) -> Result<Seen, Problem> {
        document(&self.tree)
    }

    /// The document after the update, of the news about both.
    pub fn current(&self) -> Result<Seen, Problem> {
        self.tree.get("current").and_then(Value::as_object).ok_or("it has no current").and_then(document)
    }

    /// What an accepted update did to each section.
    pub fn patches(&self) -> Result<[(Section, Patch); 2], Problem> {
        let state = match self.tree.get("state") {
            Some(Value::Null) => return Ok(Section::ALL.map(|section| (section, Patch::Clear))),
            Some(Value::Object(state)) => state,
            _ => return Err("it has no state"),
        };
        let mut patches = Section::ALL.map(|section| (section, Patch::Keep));
        for (section, patch) in &mut patches {
            *patch = match state.get(section.name()) {
                None => Patch::Keep,
                Some(Value::Null) => Patch::Clear,
                Some(Value::Object(tree)) => Patch::Merge(tree.clone()),
                Some(_) => return Err("a section is not an object"),
            };
        }
        Ok(patches)
    }

    pub fn times(&self) -> Sections {
        times(&self.tree)
    }

    pub fn rejected(&self) -> Rejected {
        let code = self.tree.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let text = self.tree.get("message").and_then(Value::as_str).unwrap_or("no reason given");
        // The text goes to the log; a stranger's is kept short.
        Rejected::new(code.unwrap_or(500), text.chars().take(200).collect::<String>())
    }
}

fn version(tree: &Tree) -> Result<u64, Problem> {
    tree.get("version").and_then(Value::as_u64).ok_or("it has no version")
}

fn document(tree: &Tree) -> Result<Seen, Problem> {
    let state = match tree.get("state") {
        Some(Value::Object(state)) => {
            Sections::from_tree(state.clone()).map_err(|_| "a section is not an object")?
        }
        None | Some(Value::Null) => Sections::default(),
        Some(_) => return Err("its state is not an object"),
    };
    Ok(Seen { state, times: times(tree), version: version(tree)? })
}

/// Metadata is a courtesy: without it a leaf has the time at which it arrived.
fn times(tree: &Tree) -> Sections {
    let metadata = tree.get("metadata").map(merge::read);
    metadata
        .and_then(|m| m.as_object().cloned())
        .and_then(|m| Sections::from_tree(m).ok())
        .unwrap_or_default()
}

//! PURE: requests, from bytes to values that can only be good or refused for the document.
//!
//! Checked here, in this order: encoding, JSON, `state`, `desired`, `reported`, `version`,
//! `clientToken`. What needs the document (depth and nodes of the patch, the version it
//! meets, the size after the merge) is checked by [`super::service`]. The token is looked
//! for first, so that also a refusal finds its way back.
//!
//! JSON deeper than the parser's 128 levels is no valid JSON here; of members given twice
//! the last counts; an integer beyond 64 bits becomes the nearest float.

use serde_json::Value;

use super::document::{Section, Sections};
use super::error::Rejected;
use super::message::Operation;
use super::tree::Tree;

/// The longest client token, in bytes of UTF-8; a limit of AWS IoT.
pub const TOKEN_BYTES_MAX: usize = 64;

/// What a document may be. A document that is good here and refused by the cloud can never
/// be mirrored, so the defaults are the strictest that the cloud is known to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Levels of objects and arrays in a section; the section is the first.
    pub depth: usize,
    /// Bytes of the compact state after the merge.
    pub size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 6, size: 8192 }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Get { token: Option<String> },
    Update(Update),
    Delete { token: Option<String> },
}

/// What an update does to one section.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Patch {
    /// Not named.
    #[default]
    Keep,
    /// `null`.
    Clear,
    Merge(Tree),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    desired: Patch,
    reported: Patch,
    /// `"state": null`, which is echoed as it came.
    null_state: bool,
    version: Option<u64>,
    token: Option<String>,
    /// Epoch seconds in the shape of the patches.
    times: Option<Box<(Value, Value)>>,
}

impl Request {
    /// Parses the payload of a request topic or of an HTTP call.
    pub fn parse(operation: Operation, payload: &[u8]) -> Result<Self, Rejected> {
        match operation {
            Operation::Get => Ok(Request::Get { token: Self::parse_token(payload)? }),
            Operation::Update => Ok(Request::Update(Self::parse_update(payload)?)),
            Operation::Delete => Ok(Request::Delete { token: Self::parse_token(payload)? }),
        }
    }

    pub fn get(token: Option<&str>) -> Self {
        Request::Get { token: token.map(str::to_owned) }
    }

    pub fn delete(token: Option<&str>) -> Self {
        Request::Delete { token: token.map(str::to_owned) }
    }

    /// The payload of a get or a delete is ignored but for its token.
    fn parse_token(payload: &[u8]) -> Result<Option<String>, Rejected> {
        match serde_json::from_slice::<Value>(payload) {
            Ok(Value::Object(tree)) => token(&tree),
            _ => Ok(None),
        }
    }

    pub fn parse_update(payload: &[u8]) -> Result<Update, Rejected> {
        let text = std::str::from_utf8(payload).map_err(|_| Rejected::not_utf8())?;
        let Ok(Value::Object(mut tree)) = serde_json::from_str::<Value>(text) else {
            return Err(Rejected::invalid_json());
        };
        let token = token(&tree);
        let echo = token.as_ref().ok().cloned().flatten();
        parse_members(&mut tree)
            .and_then(|update| Ok(Update { token: token?, ..update }))
            .map_err(|rejected| rejected.with_token(echo.as_deref()))
    }

    pub fn operation(&self) -> Operation {
        match self {
            Request::Get { .. } => Operation::Get,
            Request::Update(_) => Operation::Update,
            Request::Delete { .. } => Operation::Delete,
        }
    }

    pub fn token(&self) -> Option<&str> {
        match self {
            Request::Get { token } | Request::Delete { token } => token.as_deref(),
            Request::Update(update) => update.token.as_deref(),
        }
    }

    pub fn with_token(self, token: &str) -> Self {
        let owned = Some(token.to_owned());
        match self {
            Request::Get { .. } => Request::Get { token: owned },
            Request::Update(update) => Request::Update(update.with_token(token)),
            Request::Delete { .. } => Request::Delete { token: owned },
        }
    }

    /// The payload that says this request, as compact JSON.
    pub fn to_payload(&self) -> Vec<u8> {
        let mut tree = Tree::new();
        if let Request::Update(update) = self {
            tree.insert("state".to_owned(), update.echo());
            if let Some(version) = update.version {
                tree.insert("version".to_owned(), version.into());
            }
        }
        if let Some(token) = self.token() {
            tree.insert("clientToken".to_owned(), token.into());
        }
        Value::Object(tree).to_string().into_bytes()
    }
}

fn token(tree: &Tree) -> Result<Option<String>, Rejected> {
    match tree.get("clientToken") {
        None => Ok(None),
        Some(Value::String(token)) if token.len() <= TOKEN_BYTES_MAX => Ok(Some(token.clone())),
        Some(_) => Err(Rejected::invalid_token()),
    }
}

fn parse_members(tree: &mut Tree) -> Result<Update, Rejected> {
    let mut update = Update::default();
    match tree.remove("state") {
        None => return Err(Rejected::no_state()),
        Some(Value::Null) => {
            update = Update { desired: Patch::Clear, reported: Patch::Clear, null_state: true, ..update };
        }
        Some(Value::Object(mut state)) => {
            update.desired = parse_section(&mut state, Section::Desired)?;
            update.reported = parse_section(&mut state, Section::Reported)?;
            // A client may send back the document it got, with its delta.
            state.remove("delta");
            let nothing = update.desired == Patch::Keep && update.reported == Patch::Keep;
            if nothing && !state.is_empty() {
                return Err(Rejected::invalid_node());
            }
        }
        Some(_) => return Err(Rejected::state_not_object()),
    }
    if let Some(version) = tree.get("version") {
        update.version = Some(version.as_u64().ok_or_else(Rejected::invalid_version)?);
    }
    Ok(update)
}

fn parse_section(state: &mut Tree, section: Section) -> Result<Patch, Rejected> {
    match (state.remove(section.name()), section) {
        (None, _) => Ok(Patch::Keep),
        (Some(Value::Null), _) => Ok(Patch::Clear),
        (Some(Value::Object(tree)), _) => Ok(Patch::Merge(tree)),
        (Some(_), Section::Desired) => Err(Rejected::desired_not_object()),
        (Some(_), Section::Reported) => Err(Rejected::reported_not_object()),
    }
}

impl Update {
    /// What the gateway itself reports.
    pub fn reported(tree: Tree) -> Self {
        Self { reported: Patch::Merge(tree), ..Self::default() }
    }

    pub fn desired(tree: Tree) -> Self {
        Self { desired: Patch::Merge(tree), ..Self::default() }
    }

    pub fn new(desired: Patch, reported: Patch) -> Self {
        Self { desired, reported, ..Self::default() }
    }

    /// The version the document must have.
    pub fn with_version(self, version: u64) -> Self {
        Self { version: Some(version), ..self }
    }

    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// Epoch seconds for the leaves of the patches, instead of the time of the update.
    pub fn with_times(self, times: &Sections) -> Self {
        let value = |section| times.get(section).cloned().map_or(Value::Null, Value::Object);
        Self { times: Some(Box::new((value(Section::Desired), value(Section::Reported)))), ..self }
    }

    pub fn patch(&self, section: Section) -> &Patch {
        match section {
            Section::Desired => &self.desired,
            Section::Reported => &self.reported,
        }
    }

    pub fn version(&self) -> Option<u64> {
        self.version
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(super) fn times(&self, section: Section) -> Option<&Value> {
        let times = self.times.as_deref()?;
        Some(match section {
            Section::Desired => &times.0,
            Section::Reported => &times.1,
        })
    }

    /// The `state` of the request, with its nulls and without what is not stored.
    pub(super) fn echo(&self) -> Value {
        if self.null_state {
            return Value::Null;
        }
        let mut state = Tree::new();
        for section in Section::ALL {
            let value = match self.patch(section) {
                Patch::Keep => continue,
                Patch::Clear => Value::Null,
                Patch::Merge(tree) => Value::Object(tree.clone()),
            };
            state.insert(section.name().to_owned(), value);
        }
        Value::Object(state)
    }
}

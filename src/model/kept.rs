//! What the hub keeps of things beside their readings, as it lies on the disk.
//!
//! Each row is plain text where its content has an owner of its own (the shadow room, the
//! mirror, the member states): the store does not look inside.

use super::row::Route;
use super::time::Timestamp;

/// All that one commit writes about things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub shadows: Vec<ShadowRow>,
    pub mirrors: Vec<MirrorRow>,
    pub members: Vec<MemberRow>,
    pub commands: Vec<CommandRow>,
    pub fingerprints: Vec<FingerprintRow>,
    /// Entries of the audit log, JSON, in their order.
    pub audit: Vec<String>,
}

impl Kept {
    pub fn is_empty(&self) -> bool {
        *self == Kept::default()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ShadowRow {
    pub thing: String,
    /// Empty: the classic one.
    pub name: String,
    /// JSON: `{desired?, reported?}`.
    pub state: String,
    /// JSON: the same tree with seconds since 1970 as leaves.
    pub metadata: String,
    pub version: u64,
    /// A tombstone, which keeps the numbering.
    pub deleted: bool,
    pub updated_s: i64,
    /// Nothing refers to the tombstone any more: the row goes.
    pub forget: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MirrorRow {
    pub thing: String,
    pub name: String,
    /// JSON; `None`: nothing was agreed upon.
    pub base: Option<String>,
}

/// Where a desired member stands; `None`: nothing is desired any more.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberRow {
    pub thing: String,
    pub point: String,
    pub state: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CommandRow {
    pub thing: String,
    /// The asker's request id.
    pub id: String,
    pub name: String,
    pub at: Timestamp,
    pub expires: Timestamp,
    /// JSON; `None`: begun, and the outcome is not known.
    pub answer: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct FingerprintRow {
    pub thing: String,
    pub approved: Option<String>,
    pub found: Option<String>,
    pub found_at: Option<Timestamp>,
}

/// A message that is no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub route: Route,
    pub class: LetterClass,
    pub topic: String,
    pub payload: Vec<u8>,
    pub at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterClass {
    /// Of a request: each one counts.
    Answer,
    /// Of a state: the newest of a topic counts.
    News,
    /// To the cloud, worth nothing once the connection is gone.
    Request,
}

//! PURE: the messages of the shadow service and how their topics end.
//!
//! A topic is `<prefix>/things/T/shadow[/name/N]/<suffix>`; only the suffix is known here.
//! Every payload is built here, with the members in the order the documents show them.

use serde_json::Value;

use super::tree::Tree;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Get,
    Update,
    Delete,
}

/// What the service says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    GetAccepted,
    GetRejected,
    UpdateAccepted,
    UpdateRejected,
    /// Desired differs from reported after an update.
    Delta,
    /// The document before and after an update.
    Documents,
    DeleteAccepted,
    DeleteRejected,
}

/// One message about a shadow, for everyone who may see its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// Compact JSON.
    pub payload: Vec<u8>,
}

impl Operation {
    pub const ALL: [Operation; 3] = [Operation::Get, Operation::Update, Operation::Delete];

    pub fn suffix(self) -> &'static str {
        match self {
            Operation::Get => "get",
            Operation::Update => "update",
            Operation::Delete => "delete",
        }
    }

    pub fn parse(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.suffix() == suffix)
    }

    pub fn accepted(self) -> Kind {
        match self {
            Operation::Get => Kind::GetAccepted,
            Operation::Update => Kind::UpdateAccepted,
            Operation::Delete => Kind::DeleteAccepted,
        }
    }

    pub fn rejected(self) -> Kind {
        match self {
            Operation::Get => Kind::GetRejected,
            Operation::Update => Kind::UpdateRejected,
            Operation::Delete => Kind::DeleteRejected,
        }
    }
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::GetAccepted,
        Kind::GetRejected,
        Kind::UpdateAccepted,
        Kind::UpdateRejected,
        Kind::Delta,
        Kind::Documents,
        Kind::DeleteAccepted,
        Kind::DeleteRejected,
    ];

    pub fn suffix(self) -> &'static str {
        match self {
            Kind::GetAccepted => "get/accepted",
            Kind::GetRejected => "get/rejected",
            Kind::UpdateAccepted => "update/accepted",
            Kind::UpdateRejected => "update/rejected",
            Kind::Delta => "update/delta",
            Kind::Documents => "update/documents",
            Kind::DeleteAccepted => "delete/accepted",
            Kind::DeleteRejected => "delete/rejected",
        }
    }

    pub fn parse(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.suffix() == suffix)
    }

    /// An answer to one request. What is not one is news for everybody, of which the latest
    /// is enough for whoever was away.
    pub fn is_reply(self) -> bool {
        !matches!(self, Kind::Delta | Kind::Documents)
    }
}

/// A payload, member by member.
#[derive(Debug, Default)]
pub(super) struct Payload(Tree);

impl Payload {
    pub fn put(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Epoch seconds, and the token of the request that led to this message.
    pub fn close(self, kind: Kind, now_s: i64, token: Option<&str>) -> Message {
        let mut tree = self.put("timestamp", now_s).0;
        if let Some(token) = token {
            tree.insert("clientToken".to_owned(), token.into());
        }
        Message { kind, payload: Value::Object(tree).to_string().into_bytes() }
    }
}

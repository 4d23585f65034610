//! PURE: why a request is refused, with the numbers and texts of AWS IoT.
//!
//! Clients test the number; people read the text. A refusal carries the request's token,
//! because whoever asked waits for it.

use crate::model::thing::ShadowName;

/// A refused request as the answer says it, over MQTT, HTTP or the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Rejected {
    /// An HTTP status: 400, 401, 403, 404, 409, 413, 415, 429 or 500.
    pub code: u16,
    pub message: String,
    pub token: Option<String>,
}

impl Rejected {
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), token: None }
    }

    pub fn with_token(self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self }
    }

    pub fn invalid_json() -> Self {
        Self::new(400, "Invalid JSON")
    }

    pub fn no_state() -> Self {
        Self::new(400, "Missing required node: state")
    }

    pub fn state_not_object() -> Self {
        Self::new(400, "State node must be an object")
    }

    pub fn desired_not_object() -> Self {
        Self::new(400, "Desired node must be an object")
    }

    pub fn reported_not_object() -> Self {
        Self::new(400, "Reported node must be an object")
    }

    pub fn invalid_version() -> Self {
        Self::new(400, "Invalid version")
    }

    pub fn invalid_token() -> Self {
        Self::new(400, "Invalid clientToken")
    }

    pub fn too_deep(most: usize) -> Self {
        Self::new(400, format!("JSON contains too many levels of nesting; maximum is {most}"))
    }

    pub fn invalid_node() -> Self {
        Self::new(400, "State contains an invalid node")
    }

    /// For the callers, who know whom they talk to.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized")
    }

    pub fn forbidden() -> Self {
        Self::new(403, "Forbidden")
    }

    pub fn no_thing() -> Self {
        Self::new(404, "Thing not found")
    }

    pub fn no_shadow(name: &ShadowName) -> Self {
        let name = if name.is_classic() { "Unnamed Shadow" } else { name.as_str() };
        Self::new(404, format!("No shadow exists with name: {name}"))
    }

    pub fn conflict() -> Self {
        Self::new(409, "Version conflict")
    }

    pub fn too_large() -> Self {
        Self::new(413, "The payload exceeds the maximum size allowed")
    }

    pub fn not_utf8() -> Self {
        Self::new(415, "Unsupported documented encoding; supported encoding is UTF-8")
    }

    pub fn too_many() -> Self {
        Self::new(429, "Device Shadow service: too many in-flight requests on one connection (more than 10)")
    }

    pub fn internal() -> Self {
        Self::new(500, "Internal service failure")
    }
}

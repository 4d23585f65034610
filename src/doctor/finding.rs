//! What a check found, in the words of a technician. PURE.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work, or will not for long.
    Failed,
    /// It could not be looked at, or does not apply here.
    Skipped,
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One line of the answer. The names never change: programs match on them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub name: &'static str,
    /// Which port, file, thing or host; empty where there is only one.
    pub subject: String,
    pub result: Outcome,
    /// One sentence.
    pub found: String,
    /// One sentence; only where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub fn ok(name: &'static str, subject: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding { name, subject: subject.into(), result: Outcome::Ok, found: found.into(), advice: None }
    }

    pub fn warning(
        name: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        let advice = Some(advice.into());
        Finding { result: Outcome::Warning, advice, ..Finding::ok(name, subject, found) }
    }

    pub fn failed(
        name: &'static str,
        subject: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        let advice = Some(advice.into());
        Finding { result: Outcome::Failed, advice, ..Finding::ok(name, subject, found) }
    }

    /// Nothing to do about it, unless [`Finding::advised`] says more.
    pub fn skipped(name: &'static str, subject: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { result: Outcome::Skipped, ..Finding::ok(name, subject, why) }
    }

    pub fn advised(self, advice: impl Into<String>) -> Finding {
        Finding { advice: Some(advice.into()), ..self }
    }
}

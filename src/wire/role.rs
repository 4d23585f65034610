//! PURE: temporary keys of a role, as the credentials provider of AWS IoT hands them out, and
//! when to ask for the next.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::sigv4::Keys;
use crate::model::time::Timestamp;

/// Keys are asked for anew when this part of their life is left, in percent, and ...
const LEFT_PERCENT: i64 = 20;
/// ... at the latest this long before they end, in milliseconds.
const LEFT_MIN: i64 = 5 * 60_000;
/// Spread over so much of the life, so that many gateways do not ask at once, in percent.
const SPREAD_PERCENT: i64 = 10;

/// Keys and until when they hold.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
    /// `None`: they do not end.
    pub expires: Option<Timestamp>,
}

impl AwsKeys {
    pub fn as_signing(&self) -> Keys<'_> {
        Keys {
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: self.session_token.as_ref().map(|token| token.as_str()),
        }
    }

    pub fn holds(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKeys")
            .field("access_key_id", &self.access_key_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The path of the request; the alias is checked by the configuration.
pub fn path(role_alias: &str) -> String {
    format!("/role-aliases/{role_alias}/credentials")
}

/// 1 to 128 of `[a-zA-Z0-9_=,@-]`.
pub fn is_alias(text: &str) -> bool {
    super::authorizer::is_name(text)
}

#[derive(Deserialize)]
struct Answer {
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

/// The keys in the answer, or what is wrong with it; never a part of a secret.
pub fn parse(body: &[u8]) -> Result<AwsKeys, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|e| {
        format!("the credentials provider's answer cannot be read: line {}, column {}", e.line(), e.column())
    })?;
    let Credentials { access_key_id, secret_access_key, session_token, expiration } = answer.credentials;
    let (secret_access_key, session_token) =
        (Zeroizing::new(secret_access_key), Zeroizing::new(session_token));
    let ends: jiff::Timestamp = expiration
        .parse()
        .map_err(|_| "the credentials provider's answer has no time in \"expiration\"".to_owned())?;
    if access_key_id.is_empty() || secret_access_key.is_empty() || session_token.is_empty() {
        return Err("the credentials provider's answer has an empty key".into());
    }
    Ok(AwsKeys {
        access_key_id,
        secret_access_key,
        session_token: Some(session_token),
        expires: Some(Timestamp(ends.as_millisecond())),
    })
}

/// When to ask again for keys that were fetched at `now` and hold until `expires`. `dice` is
/// any number; it spreads many gateways.
pub fn refresh_at(now: Timestamp, expires: Timestamp, dice: u32) -> Timestamp {
    let life = (expires.0 - now.0).max(0);
    let left = (life / 100 * LEFT_PERCENT).max(LEFT_MIN);
    let spread = life / 100 * SPREAD_PERCENT;
    let jitter = spread * i64::from(dice) / i64::from(u32::MAX);
    Timestamp((expires.0 - left - jitter).max(now.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"credentials":{"accessKeyId":"ASIA1","secretAccessKey":"s3cret",
        "sessionToken":"t0ken","expiration":"2026-11-25T12:00:00Z"}}"#;

    #[test]
    fn an_answer_is_read_and_nothing_secret_is_shown() {
        let keys = parse(ANSWER.as_bytes()).unwrap();
        assert_eq!((keys.access_key_id.as_str(), keys.secret_access_key.as_str()), ("ASIA1", "s3cret"));
        assert_eq!(keys.session_token.as_ref().map(|t| t.as_str()), Some("t0ken"));
        let end = Timestamp(1_795_608_000_000);
        assert_eq!(keys.expires, Some(end));
        assert!(keys.holds(Timestamp(end.0 - 1)) && !keys.holds(end));
        let shown = format!("{keys:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
    }

    #[test]
    fn a_wrong_answer_is_named_without_its_secrets() {
        let check = |from: &str, to: &str, expected: &str| {
            let found = parse(ANSWER.replace(from, to).as_bytes()).unwrap_err();
            assert!(found.contains(expected) && !found.contains("s3cret"), "{found}");
        };
        check("credentials", "other", "cannot be read");
        check("\"s3cret\"", "[\"s3cret\"]", "cannot be read");
        check("2026-11-25T12:00:00Z", "soon", "no time");
        check("t0ken", "", "empty key");
        assert!(parse(b"").is_err());
    }

    #[test]
    fn keys_are_renewed_before_they_end() {
        let check = |life: i64, dice: u32, expected: i64| {
            assert_eq!(refresh_at(Timestamp(0), Timestamp(life), dice), Timestamp(expected), "{life} {dice}");
        };
        check(3_600_000, 0, 2_880_000);
        check(3_600_000, u32::MAX, 2_520_000);
        check(900_000, 0, 600_000);
        // Too short a life, or a clock that ran ahead: with each connection.
        check(60_000, 0, 0);
        check(-5, 7, 0);
    }

    #[test]
    fn the_path_names_the_role_alias() {
        assert_eq!(path("plant-role"), "/role-aliases/plant-role/credentials");
    }
}

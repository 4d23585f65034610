//! PURE: the URL of an MQTT connection over WebSocket, signed with Signature Version 4.
//!
//! Constraints (AWS IoT developer guide, "Protocols"): the request is `GET /mqtt` with an
//! empty payload and only `host` signed; the port belongs to the host unless it is 443; the
//! session token is appended after signing and is no part of what is signed. The signature
//! holds the time, so whoever has no clock cannot sign.
//!
//! The way: keys, host and time → canonical request → text to sign → key of the day, region
//! and service → signature → URL. It opens a connection for whoever holds it: it is a secret.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SERVICE: &str = "iotdevicegateway";
const PATH: &str = "/mqtt";
/// A port that clients leave out of the Host header of HTTPS.
const DEFAULT_PORT: u16 = 443;

/// All but the characters that RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What is signed with.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    /// Temporary keys have one.
    pub session_token: Option<&'a str>,
}

/// What is signed for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub host: &'a str,
    pub port: u16,
    /// For instance `eu-central-1`.
    pub region: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Wait for the clock.
    #[error("cannot sign: the clock shows {0}, it has not been set yet")]
    Clock(Timestamp),
}

/// `wss://host[:port]/mqtt?X-Amz-...`, good for some minutes.
pub fn presigned(target: Target<'_>, keys: Keys<'_>, now: Timestamp) -> Result<Zeroizing<String>, SignError> {
    let (stamp, day) = dates(now)?;
    let scope = format!("{day}/{}/{SERVICE}/aws4_request", target.region);
    let credential = format!("{}/{scope}", keys.access_key_id);
    let host = host_header(target.host, target.port);
    // In the order of their names, as the canonical request wants them.
    let query = format!(
        "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={stamp}&X-Amz-SignedHeaders=host",
        encoded(&credential)
    );
    let canonical = format!("GET\n{PATH}\n{query}\nhost:{host}\n\nhost\n{}", sha256(b""));
    let text = format!("{ALGORITHM}\n{stamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let signature = hex(mac(&signing_key(keys.secret_access_key, &day, target.region), &text).as_ref());
    let mut url = Zeroizing::new(format!("wss://{host}{PATH}?{query}&X-Amz-Signature={signature}"));
    if let Some(token) = keys.session_token {
        url.push_str("&X-Amz-Security-Token=");
        url.push_str(&encoded(token));
    }
    Ok(url)
}

/// `ws[s]://host[:port]/mqtt` for those who prove themselves by other means.
pub fn unsigned(tls: bool, host: &str, port: u16) -> Zeroizing<String> {
    let (scheme, default) = if tls { ("wss", DEFAULT_PORT) } else { ("ws", 80) };
    let host = host_header(host, if port == default { DEFAULT_PORT } else { port });
    Zeroizing::new(format!("{scheme}://{host}{PATH}"))
}

/// Whether the clock may be believed.
pub fn is_signable(now: Timestamp) -> Result<(), SignError> {
    dates(now).map(drop)
}

/// The Host header; an IPv6 address stands in brackets.
fn host_header(host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_ascii_lowercase() };
    if port == DEFAULT_PORT { host } else { format!("{host}:{port}") }
}

/// `20261125T164755Z` and `20261125`.
fn dates(now: Timestamp) -> Result<(String, String), SignError> {
    if now < CLOCK_PLAUSIBLE_FROM {
        return Err(SignError::Clock(now));
    }
    // Only a clock beyond the year 9999 has no date.
    let time = jiff::Timestamp::from_millisecond(now.0).map_err(|_| SignError::Clock(now))?;
    let stamp = time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = time.strftime("%Y%m%d").to_string();
    Ok((stamp, day))
}

/// The key of one day, region and service.
fn signing_key(secret: &str, day: &str, region: &str) -> hmac::Key {
    let secret = Zeroizing::new(format!("AWS4{secret}"));
    let first = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    [day, region, SERVICE, "aws4_request"]
        .iter()
        .fold(first, |key, part| hmac::Key::new(hmac::HMAC_SHA256, mac(&key, part).as_ref()))
}

fn mac(key: &hmac::Key, text: &str) -> hmac::Tag {
    hmac::sign(key, text.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// As one value of a query, upper-case escapes.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests;

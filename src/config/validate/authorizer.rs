//! `[uplink.authorizer]`: a token instead of a certificate.
//!
//! Whether the signature fits the token cannot be asked here: the key that could tell lies in
//! the cloud. So everything is checked that would make it fail for certain.

use std::path::Path;

use zeroize::Zeroizing;

use super::uplink::secret;
use crate::config::errors::{Place, Report};
use crate::config::{Tls, raw};
use crate::wire::authorizer::{ALPN, Authorizer, USERNAME_MAX, is_name, is_token_key, signature_fault};

pub fn authorizer(raw: &raw::Authorizer, directory: &Path, place: &Place, report: &mut Report) -> Authorizer {
    if raw.name.as_ref().is_some_and(|name| !is_name(name)) {
        report.error(place, "name", "is no name of an authorizer", "1 to 128 of a-z A-Z 0-9 _ = , @ -");
    }
    if raw.token_key.as_ref().is_some_and(|key| !is_token_key(key)) {
        let help = "the tokenKeyName of the authorizer, 1 to 128 of a-z A-Z 0-9 _ -";
        report.error(place, "token_key", "cannot name a token", help);
    }
    let username = raw.username.clone().unwrap_or_default();
    if username.contains(['?', '\0']) {
        report.error(place, "username", "holds a ?, behind which the token stands", "choose another name");
    }
    let token = secret(&raw.token, &raw.token_file, "token", directory, place, report);
    let signature = secret(&raw.signature, &raw.signature_file, "signature", directory, place, report);
    // The usual tools break long lines.
    let signature = signature.map(|s| Zeroizing::new(s.split_ascii_whitespace().collect::<String>()));
    if let Some(fault) = signature.as_deref().and_then(|s| signature_fault(s)) {
        let key = if raw.signature.is_some() { "signature" } else { "signature_file" };
        let help = "base64 of the RSA signature (PKCS #1 v1.5, SHA-256) of the token, as it is";
        report.error(place, key, fault, help);
    }
    together(raw, place, report);
    let token = token.map(|token| (raw.token_key.clone().unwrap_or_default(), Zeroizing::new(token)));
    let authorizer = Authorizer { name: raw.name.clone(), username, signature, token };
    let bytes = authorizer.login().len();
    if bytes > USERNAME_MAX {
        let message = format!("needs a user name of {bytes} bytes, and MQTT takes {USERNAME_MAX}");
        report.error(place, "", message, "use a shorter token");
    }
    authorizer
}

/// What is missing beside what is given.
fn together(raw: &raw::Authorizer, place: &Place, report: &mut Report) {
    let token = raw.token.is_some() || raw.token_file.is_some();
    let signature = raw.signature.is_some() || raw.signature_file.is_some();
    let mut missing = |key: &str, message: &str, help: &str| report.error(place, key, message, help);
    match (token, raw.token_key.is_some()) {
        (true, false) => {
            missing("token_key", "a token without its key", "write the tokenKeyName of the authorizer")
        }
        (false, true) => missing("token_file", "a token_key without a token", "write token_file = \"FILE\""),
        _ => {}
    }
    if signature && !token {
        missing("token_file", "a signature without its token", "write token_file = \"FILE\"");
    }
    if raw.name.is_none() && raw.username.is_none() && !token && !signature {
        missing("", "says nothing", "write at least name = \"AUTHORIZER\"");
    }
}

/// On port 443 the cloud tells the ways to log in apart by the protocol of the TLS handshake.
pub fn alpn(raw: &raw::Uplink, tls: &mut Tls, place: &Place, report: &mut Report) {
    match raw.alpn.as_deref() {
        None | Some([]) => tls.alpn = vec![ALPN.to_owned()],
        Some(given) if !given.iter().any(|a| a == ALPN) => {
            let message = "a custom authorizer on port 443 needs \"mqtt\", unless its domain says otherwise";
            report.warn(place, "alpn", message);
        }
        Some(_) => {}
    }
}

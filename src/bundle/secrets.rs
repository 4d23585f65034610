//! Every secret that this configuration knows, so that none of them leaves the machine.
//!
//! Gathered from the layers and not from the valid configuration: a box whose configuration
//! is wrong needs help too, and its passwords are as secret. Files are read as far as whoever
//! asks may read them; what he may not read, he cannot have put into the archive either.

use std::path::{Path, PathBuf};

use regex::Regex;
use zeroize::Zeroizing;

use crate::config::load::Layered;
use crate::config::{Config, KeySource, credential};
use crate::doctor::judge::files::Kind;
use crate::doctor::look;

/// Bytes of one file with a secret.
const FILE_MAX: u64 = 256 << 10;

/// Variables of the environment that configure us, or the cloud's tools.
const VARIABLES: &[&str] = &["PASSWORD", "TOKEN", "SIGNATURE", "SECRET", "PIN"];

type Secret = Zeroizing<String>;

pub fn all(path: &Path, layered: Option<&Layered>, config: Option<&Config>) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    if let Some(layered) = layered {
        of_layers(layered, &mut found);
    }
    if let Some(config) = config {
        of_config(config, &mut found);
    }
    for (name, value) in std::env::vars() {
        if VARIABLES.iter().any(|word| name.to_ascii_uppercase().contains(word)) && is_ours(&name) {
            found.push(value.into());
        }
    }
    // A text that is not TOML has no layers, and may hold a password.
    let extra = path.parent().map(|folder| folder.join("conf.d"));
    let extra = extra.and_then(|folder| std::fs::read_dir(folder).ok());
    let extra = extra.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for file in std::iter::once(path.to_owned()).chain(extra) {
        if let Some(text) = look::text(&file) {
            of_text(&text, &mut found);
        }
    }
    found
}

fn is_ours(name: &str) -> bool {
    name.starts_with("FIELDGATE_") || name.starts_with("AWS_")
}

fn of_layers(layered: &Layered, found: &mut Vec<Secret>) {
    let uplink = &layered.uplink.raw;
    let mut add = |value: Option<&String>| found.extend(value.map(|v| Secret::new(v.clone())));
    add(uplink.password.as_ref());
    let names = [uplink.username.as_ref(), uplink.authorizer.as_ref().and_then(|a| a.username.as_ref())];
    for name in names.into_iter().flatten() {
        add(name.split_once('?').map(|(_, token)| token.to_owned()).as_ref());
    }
    if let Some(authorizer) = &uplink.authorizer {
        add(authorizer.token.as_ref());
        add(authorizer.signature.as_ref());
    }
    let claim = layered.identity.raw.claim.as_ref();
    for url in [uplink.url.as_ref(), claim.and_then(|c| c.url.as_ref())].into_iter().flatten() {
        of_url(url, found);
    }
    for (path, kind) in look::files::named(layered) {
        if kind != Kind::Secret {
            continue;
        }
        let text = path.to_string_lossy();
        if text.starts_with("pkcs11:") {
            of_token(&text, &layered.directory, found);
        } else if let Ok(place) = credential::place(&path) {
            of_file(&layered.directory.join(place), found);
        }
    }
}

/// The PIN in the URI, or in the file that it names.
fn of_token(uri: &str, directory: &Path, found: &mut Vec<Secret>) {
    for part in uri.split([';', '?', '&']) {
        if let Some(pin) = part.strip_prefix("pin-value=") {
            found.push(pin.to_owned().into());
        }
        if let Some(file) = part.strip_prefix("pin-source=") {
            of_file(&directory.join(file.trim_start_matches("file:")), found);
        }
    }
}

fn of_file(path: &PathBuf, found: &mut Vec<Secret>) {
    let is_small = std::fs::metadata(path).is_ok_and(|f| f.is_file() && f.len() <= FILE_MAX);
    if let (true, Some(text)) = (is_small, look::text(path)) {
        found.push(without_certificates(&text).into());
    }
}

/// A key may lie in one file with its chain, which everybody may see.
fn without_certificates(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        out.push_str(&rest[..start]);
        rest = rest[start..].find(END).map_or("", |end| &rest[start + end + END.len()..]);
    }
    out + rest
}

fn of_url(url: &str, found: &mut Vec<Secret>) {
    let Some((login, _)) = url.rsplit_once('@') else { return };
    let login = login.split_once("://").map_or(login, |(_, login)| login);
    let password = login.split_once(':').map_or(login, |(_, password)| password);
    found.extend([login, password].map(|s| Secret::new(s.to_owned())));
}

/// As validated: with what was read from files, and joined into a login.
fn of_config(config: &Config, found: &mut Vec<Secret>) {
    if let Some(login) = &config.uplink.login {
        found.push(login.password.clone().into());
        if let Some((_, token)) = login.username.split_once('?') {
            found.push(token.to_owned().into());
        }
    }
    let sigv4 = config.uplink.websocket.as_ref().and_then(|w| w.sigv4.as_ref());
    if let Some(KeySource::Static { secret_access_key, .. }) = sigv4.map(|s| &s.source) {
        found.push(secret_access_key.clone());
    }
}

/// `password = "..."` and its like, wherever they stand. Comments are the sample's examples.
fn of_text(text: &str, found: &mut Vec<Secret>) {
    let Ok(pattern) = Regex::new(
        r#"(?m)(?:^|[^:\w])(?:password|token|signature|pin-value|secret_access_key)\s*=\s*(?:"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'|([^\s"',;&}]+))"#,
    ) else {
        return;
    };
    let text: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    for capture in pattern.captures_iter(&text.join("\n")) {
        let value = [1, 2, 3].into_iter().find_map(|group| capture.get(group));
        found.extend(value.map(|v| Secret::new(v.as_str().to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_configuration_still_gives_its_secrets() {
        let check = |text: &str, expected: &[&str]| {
            let mut found = Vec::new();
            of_text(text, &mut found);
            let found: Vec<&str> = found.iter().map(|s| s.as_str()).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("password = \"a b\"\n[broken", &["a b"]);
        check("uplink.password='x'", &["x"]);
        check("authorizer = { token_key = \"k\", token = \"t\", signature = \"s\" }", &["t", "s"]);
        check("key = \"pkcs11:token=t?pin-value=12\"", &["12"]);
        check("password_file = \"/f\"", &[]);
        check("# password = \"secret\"   # example", &[]);
        let pem = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\nkey";
        assert_eq!(without_certificates(pem), "\nkey");
        let mut found = Vec::new();
        of_url("mqtts://bob:pw@host", &mut found);
        assert_eq!(found.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["bob:pw", "pw"]);
    }
}

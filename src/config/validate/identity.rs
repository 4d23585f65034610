//! `[identity]`: none unless an enroller is named; each enroller has keys of its own.

use std::path::{Path, PathBuf};

use super::uplink::parse_url;
use super::values::{DAY, HOUR, Reader};
use crate::config::errors::{Place, Report};
use crate::config::load::{Layered, Placed};
use crate::config::{Claim, EnrollerKind, Identity, KeyType, Uplink, credential, raw};

/// Names of a provisioning template and its parameters, and how many of these there may be.
const NAME_MAX: usize = 128;
const PARAMETERS_MAX: usize = 64;

const PLACEHOLDERS: [&str; 5] = ["{thing}", "{serial}", "{gateway}", "{bus}", "{unit_id}"];

pub fn identity(layered: &Layered, uplink: Option<&Uplink>, report: &mut Report) -> Identity {
    let Placed { place, raw } = &layered.identity;
    let directory = layered.directory.as_path();
    let enroller = match raw.enroller.unwrap_or(raw::Enroller::None) {
        raw::Enroller::None => EnrollerKind::None,
        raw::Enroller::LocalCa => EnrollerKind::LocalCa,
        raw::Enroller::Claim => EnrollerKind::Claim,
        raw::Enroller::Files => EnrollerKind::Files,
        raw::Enroller::Csr => EnrollerKind::Csr,
    };
    let key_type = match raw.key_type.unwrap_or(raw::KeyType::EcP256) {
        raw::KeyType::EcP256 => KeyType::EcP256,
        raw::KeyType::Rsa2048 => KeyType::Rsa2048,
    };
    if key_type == KeyType::Rsa2048 && !cfg!(feature = "rsa") {
        let help = "use \"ec-p256\", give the keys by file, or build with the feature `rsa`";
        report.error(place, "key_type", "this program cannot make RSA keys", help);
    }
    let mut reader = Reader { place, report };
    let lifetime = reader.span("lifetime", raw.lifetime, DAY * 365, HOUR..=DAY * 3650);
    let renew_at = reader.number("renew_at", raw.renew_at, 0.66, 0.1..=0.9);
    other_enrollers(raw, enroller, &mut reader);
    let own = raw.directory.clone().unwrap_or_else(|| "/var/lib/fieldgate/identity".into());
    if own.as_os_str().is_empty() {
        report.error(place, "directory", "is empty", "name a folder that only fieldgate uses");
    }
    Identity {
        enroller,
        directory: directory.join(own),
        key_type,
        lifetime,
        renew_at,
        certificate: pattern(raw.certificate.as_deref(), "certificate", enroller, layered, report),
        key: pattern(raw.key.as_deref(), "key", enroller, layered, report),
        ca_key: ca_key(raw, place, report),
        claim: claim(layered, enroller, uplink, report),
    }
}

/// A key that only another enroller reads is a misunderstanding.
fn other_enrollers(raw: &raw::Identity, enroller: EnrollerKind, reader: &mut Reader<'_>) {
    let mut only = |of: EnrollerKind, word: &str, keys: &[(&str, bool)]| {
        if enroller != of {
            let why = format!("belongs to the enroller \"{word}\"");
            reader.refuse(&why, &format!("remove it, or write enroller = \"{word}\""), keys);
        }
    };
    only(EnrollerKind::LocalCa, "local-ca", &[("ca_key", raw.ca_key.is_some())]);
    only(
        EnrollerKind::Files,
        "files",
        &[("certificate", raw.certificate.is_some()), ("key", raw.key.is_some())],
    );
    only(EnrollerKind::Claim, "claim", &[("claim", raw.claim.is_some())]);
}

/// A pattern of the operator's files.
fn pattern(
    value: Option<&Path>,
    key: &str,
    enroller: EnrollerKind,
    layered: &Layered,
    report: &mut Report,
) -> Option<PathBuf> {
    let place = &layered.identity.place;
    if enroller != EnrollerKind::Files {
        return None;
    }
    let help = format!("for instance {key} = \"/etc/fieldgate/things/{{thing}}.{}\"", &key[..3]);
    let Some(path) = value else {
        report.error(place, key, "the enroller \"files\" needs it", help);
        return None;
    };
    if !path.to_string_lossy().contains("{thing}") {
        report.error(place, key, format!("{} names no {{thing}}", path.display()), help);
    }
    Some(secret_place(path, key, &layered.directory, place, report))
}

fn ca_key(raw: &raw::Identity, place: &Place, report: &mut Report) -> Option<String> {
    let uri = raw.ca_key.clone()?;
    if !uri.starts_with("pkcs11:") {
        let help = "leave it out to keep the key in a file, or write \"pkcs11:token=...;object=...\"";
        report.error(place, "ca_key", format!("\"{uri}\" is no PKCS#11 URI"), help);
    } else if !cfg!(feature = "pkcs11") {
        let help = "build with the feature `pkcs11`, or leave it out to keep the key in a file";
        report.error(place, "ca_key", "this program was built without PKCS#11", help);
    }
    Some(uri)
}

fn claim(
    layered: &Layered,
    enroller: EnrollerKind,
    uplink: Option<&Uplink>,
    report: &mut Report,
) -> Option<Claim> {
    let Placed { place, raw } = &layered.identity;
    if enroller != EnrollerKind::Claim {
        return None;
    }
    let Some(raw) = &raw.claim else {
        let help = "write [identity.claim] with certificate, key and template";
        report.error(place, "claim", "the enroller \"claim\" has no claim", help);
        return None;
    };
    let mut file = |value: Option<&Path>, key: &str| match value {
        Some(path) => secret_place(path, &format!("claim.{key}"), &layered.directory, place, report),
        None => {
            let help = "a PEM file, or \"credential:NAME\"";
            report.error(place, &format!("claim.{key}"), format!("the claim has no {key}"), help);
            PathBuf::new()
        }
    };
    let certificate = file(raw.certificate.as_deref(), "certificate");
    let key = file(raw.key.as_deref(), "key");
    let template = raw.template.clone().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if template.is_empty() || template.len() > NAME_MAX || !template.chars().all(plain) {
        let help = "the name of the provisioning template: letters, digits, _ -";
        report.error(place, "claim.template", format!("\"{template}\" is no template"), help);
    }
    let (csr, cloud_keys) = (raw.csr.unwrap_or(true), raw.cloud_keys.unwrap_or(false));
    if !csr && !cloud_keys {
        let help = "csr = true: the gateway makes the key; cloud_keys = true: the cloud may";
        report.error(place, "claim.csr", "nobody would make the key", help);
    }
    let parameters = parameters(raw, place, report);
    let (host, port) = endpoint(raw, uplink, place, report)?;
    Some(Claim { host, port, certificate, key, template, parameters, csr, cloud_keys })
}

/// The claim's own broker, or the uplink's.
fn endpoint(
    raw: &raw::Claim,
    uplink: Option<&Uplink>,
    place: &Place,
    report: &mut Report,
) -> Option<(String, u16)> {
    let why = "the claim is shown by MQTT without WebSocket";
    let Some(url) = &raw.url else {
        let uplink = uplink?;
        if uplink.websocket.is_some() {
            report.error(place, "claim.url", why, "write claim.url = \"mqtts://HOST\"");
        }
        return Some((uplink.host.clone(), uplink.port));
    };
    match parse_url(url) {
        Ok(address) if address.websocket => {
            report.error(place, "claim.url", why, "write mqtts://");
            None
        }
        Ok(address) if address.tls => Some((address.host, address.port)),
        Ok(_) => {
            report.error(place, "claim.url", "a claim is a certificate, which needs TLS", "write mqtts://");
            None
        }
        Err((message, help)) => {
            report.error(place, "claim.url", message, help);
            None
        }
    }
}

/// `NAME=VALUE`: names of a template tell upper from lower case, keys of a table do not.
fn parameters(raw: &raw::Claim, place: &Place, report: &mut Report) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let default = || vec!["ThingName={thing}".to_owned(), "SerialNumber={serial}".to_owned()];
    for text in raw.parameters.clone().unwrap_or_else(default) {
        let help = format!(
            "write \"NAME=VALUE\"; in the value {} stand for the thing's own",
            PLACEHOLDERS.join(" ")
        );
        let Some((name, value)) =
            text.split_once('=').filter(|(name, _)| (1..=NAME_MAX).contains(&name.len()))
        else {
            report.error(place, "claim.parameters", format!("\"{text}\" is no parameter"), help);
            continue;
        };
        let bare = PLACEHOLDERS.iter().fold(value.to_owned(), |t, p| t.replace(p, ""));
        if bare.contains(['{', '}']) {
            report.error(place, "claim.parameters", format!("\"{text}\" has an unknown placeholder"), help);
        }
        found.push((name.to_owned(), value.to_owned()));
    }
    if found.len() > PARAMETERS_MAX {
        let help = format!("at most {PARAMETERS_MAX}");
        report.error(place, "claim.parameters", format!("there are {}", found.len()), help);
    }
    found
}

/// A path that starts at the configuration's directory, or a credential's name.
fn secret_place(path: &Path, key: &str, directory: &Path, place: &Place, report: &mut Report) -> PathBuf {
    match credential::name(path) {
        Some(name) => {
            if !credential::is_name(&name.replace("{thing}", "x")) {
                let help = "credential:NAME, of letters, digits, . _ -";
                report.error(place, key, format!("{} is no credential", path.display()), help);
            }
            path.to_owned()
        }
        None => directory.join(path),
    }
}

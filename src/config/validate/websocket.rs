//! MQTT over WebSocket, and the keys that sign its URL.
//!
//! Whether the keys are right only the cloud can tell; here is asked whether there are any,
//! and whether they fit the rest of `[uplink]`.

use std::path::Path;

use zeroize::Zeroizing;

use super::uplink::{Address, secret};
use super::values::Reader;
use crate::config::errors::{Place, Report};
use crate::config::{CredentialsProvider, KeySource, SigV4, Tls, WebSocket, raw};
use crate::model::thing::ThingName;
use crate::wire::role;

const REGION_HELP: &str = "for instance region = \"eu-central-1\"";

/// Where the checks of `[uplink]` stand.
pub struct Spot<'a> {
    pub raw: &'a raw::Uplink,
    pub address: Option<&'a Address>,
    pub directory: &'a Path,
    pub place: &'a Place,
}

/// `None`: MQTT goes without one.
pub fn websocket(spot: &Spot<'_>, tls: &Tls, report: &mut Report) -> Option<WebSocket> {
    let Spot { raw, place, .. } = *spot;
    let on = spot.address.is_some_and(|a| a.websocket);
    if on && !cfg!(feature = "websocket") {
        let help = "build it with `--features websocket`, or write mqtts://";
        report.error(place, "url", "this fieldgate has no WebSocket", help);
    }
    let sigv4 = raw.sigv4.as_ref().and_then(|sigv4| {
        if spot.address.is_some_and(|a| !a.websocket || !a.tls) {
            let help = "write url = \"wss://HOST\"";
            report.error(place, "sigv4", "a signed URL needs WebSocket and TLS", help);
        }
        if raw.authorizer.is_some() {
            report.error(place, "authorizer", "is given beside sigv4", "keep one of the two");
        }
        sigv4_of(spot, sigv4, tls, report)
    });
    on.then_some(WebSocket { sigv4 })
}

fn sigv4_of(spot: &Spot<'_>, raw: &raw::SigV4, tls: &Tls, report: &mut Report) -> Option<SigV4> {
    let place = spot.place;
    let of_host = spot.address.and_then(|a| region_of(&a.host));
    let region = raw.region.as_deref().or(of_host).unwrap_or_default().to_owned();
    let is_region = region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if region.is_empty() || !is_region {
        let key = if raw.region.is_some() { "sigv4.region" } else { "sigv4" };
        let message = match region.is_empty() {
            true => "there is no region, and the host name tells none".to_owned(),
            false => format!("\"{region}\" is no region"),
        };
        report.error(place, key, message, REGION_HELP);
    }
    let of_static = [
        ("sigv4.access_key_id", raw.access_key_id.is_some()),
        ("sigv4.secret_access_key_file", raw.secret_access_key_file.is_some()),
    ];
    let of_provider = [
        ("sigv4.endpoint", raw.endpoint.is_some()),
        ("sigv4.role_alias", raw.role_alias.is_some()),
        ("sigv4.thing", raw.thing.is_some()),
    ];
    let mut refuse = |keys: &[(&str, bool)]| {
        let (why, help) = ("has no meaning with this source", "remove it, or change sigv4.source");
        Reader { place, report: &mut *report }.refuse(why, help, keys);
    };
    let source = match raw.source {
        None => {
            let help = "one of \"static\", \"environment\", \"credentials-provider\"";
            report.error(place, "sigv4", "the source of the keys is missing", format!("source: {help}"));
            return None;
        }
        Some(raw::KeySource::Static) => {
            refuse(&of_provider);
            static_keys(spot, raw, report)?
        }
        Some(raw::KeySource::Environment) => {
            refuse(&of_static);
            refuse(&of_provider);
            KeySource::Environment
        }
        Some(raw::KeySource::CredentialsProvider) => {
            refuse(&of_static);
            KeySource::Provider(provider(spot, raw, tls, report)?)
        }
    };
    Some(SigV4 { region, source })
}

fn static_keys(spot: &Spot<'_>, raw: &raw::SigV4, report: &mut Report) -> Option<KeySource> {
    let access_key_id = raw.access_key_id.clone().filter(|id| !id.is_empty());
    if access_key_id.is_none() {
        let help = "write access_key_id = \"AKIA...\"";
        report.error(spot.place, "sigv4", "there is no access_key_id", help);
    }
    let file = &raw.secret_access_key_file;
    if file.as_ref().is_none_or(|file| file.as_os_str().is_empty()) {
        let help = "write secret_access_key_file = \"FILE\"";
        report.error(spot.place, "sigv4", "there is no secret_access_key_file", help);
    }
    let inside = spot.place.inside("sigv4");
    let key = secret(&None, file, "secret_access_key", spot.directory, &inside, report)?;
    Some(KeySource::Static { access_key_id: access_key_id?, secret_access_key: Zeroizing::new(key) })
}

fn provider(
    spot: &Spot<'_>,
    raw: &raw::SigV4,
    tls: &Tls,
    report: &mut Report,
) -> Option<CredentialsProvider> {
    let place = spot.place;
    let help = "write endpoint = \"PREFIX.credentials.iot.REGION.amazonaws.com\"";
    let endpoint = match raw.endpoint.as_deref() {
        None => {
            report.error(place, "sigv4", "there is no endpoint of the credentials provider", help);
            None
        }
        Some(text) => {
            let parsed = endpoint(text);
            if parsed.is_none() {
                report.error(place, "sigv4.endpoint", format!("\"{text}\" is not host and port"), help);
            }
            parsed
        }
    };
    let alias = raw.role_alias.clone().unwrap_or_default();
    if !role::is_alias(&alias) {
        let key = if raw.role_alias.is_some() { "sigv4.role_alias" } else { "sigv4" };
        let help = "role_alias: 1 to 128 of the characters a-z A-Z 0-9 _ = , @ -";
        report.error(place, key, format!("\"{alias}\" is no role alias"), help);
    }
    let thing = raw.thing.as_deref().and_then(|text| match ThingName::parse(text) {
        Ok(thing) => Some(thing),
        Err(e) => {
            report.error(place, "sigv4.thing", e.to_string(), "the thing of the uplink's certificate");
            None
        }
    });
    if spot.raw.certificate.is_none() || spot.raw.key.is_none() {
        let help = "write uplink.certificate and uplink.key";
        report.error(place, "certificate", "the credentials provider asks for a certificate", help);
    }
    let (host, port) = endpoint?;
    let tls = Tls { server_name: host.clone(), alpn: Vec::new(), ..tls.clone() };
    Some(CredentialsProvider { host, port, role_alias: alias, thing, tls })
}

/// `[https://]HOST[:PORT]`.
fn endpoint(text: &str) -> Option<(String, u16)> {
    let rest = text.strip_prefix("https://").unwrap_or(text);
    let (host, port) = match rest.strip_suffix('/').unwrap_or(rest).split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|p| *p > 0)?),
        None => (rest.strip_suffix('/').unwrap_or(rest), 443),
    };
    rustls_pki_types::ServerName::try_from(host).is_ok().then(|| (host.to_owned(), port))
}

/// `PREFIX.iot.REGION.amazonaws.com`.
fn region_of(host: &str) -> Option<&str> {
    let (region, rest) = host.split_once(".iot.")?.1.split_once('.')?;
    rest.starts_with("amazonaws.com").then_some(region)
}

//! `[uplink]`: TLS unless the configuration says otherwise twice (`mqtt://` and `insecure`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::authorizer;
use super::values::{DAY, HOUR, Reader, SECOND};
use super::websocket::{self, Spot};
use crate::config::errors::{Place, Report};
use crate::config::load::{Layered, Placed};
use crate::config::{Login, MqttVersion, Security, Tls, Uplink, credential, raw, text};
use crate::model::ids::GatewayName;

pub fn uplink(layered: &Layered, gateway: &GatewayName, report: &mut Report) -> Option<Uplink> {
    let Placed { place, raw } = &layered.uplink;
    let address = address(raw.url.as_deref(), place, report);
    let host = address.as_ref().map_or("", |a| a.host.as_str());
    let is_tls = address.as_ref().is_none_or(|a| a.tls);
    if let Some(address) = &address {
        plain_or_tls(raw, address, place, report);
    }
    let mut tls = tls(raw, host, &layered.directory, place, report);
    // Inside a WebSocket the handshake says nothing of MQTT.
    if raw.authorizer.is_some() && address.as_ref().is_some_and(|a| a.tls && !a.websocket && a.port == 443) {
        authorizer::alpn(raw, &mut tls, place, report);
    }
    let spot = Spot { raw, address: address.as_ref(), directory: &layered.directory, place };
    let websocket = websocket::websocket(&spot, &tls, report);
    let security = if is_tls { Security::Tls(tls) } else { Security::Plain };
    let login = login(raw, &layered.directory, place, report);
    let topic = template(
        raw.topic.as_deref(),
        "topic",
        "dt/{gateway}/{device}/telemetry",
        &["{gateway}", "{device}"],
        place,
        report,
    );
    let status_topic = template(
        raw.status_topic.as_deref(),
        "status_topic",
        "dt/{gateway}/status",
        &["{gateway}"],
        place,
        report,
    );
    let client_id = client_id(raw, gateway, place, report);
    let mut reader = Reader { place, report };
    let [reconnect_min, reconnect_max] = reader.backoff(
        ["reconnect_min", "reconnect_max"],
        [raw.reconnect_min, raw.reconnect_max],
        [SECOND, SECOND * 120],
    );
    let keep_alive = reader.span("keep_alive", raw.keep_alive, SECOND * 30, SECOND * 5..=SECOND * 65_535);
    let connect_timeout =
        reader.span("connect_timeout", raw.connect_timeout, SECOND * 10, Duration::from_millis(100)..=HOUR);
    let status_interval = reader.span("status_interval", raw.status_interval, SECOND * 60, SECOND..=DAY);
    let window = reader.number("window", raw.window, 100, 1..=65_535);
    let session_expiry = reader.span("session_expiry", raw.session_expiry, HOUR, SECOND..=DAY * 7);
    let connects = reader.number("connects_per_second", raw.connects_per_second, 10, 1..=1000);
    let payload_max = reader.size("payload_max", raw.payload_max, 128 << 10, 1 << 10..=16 << 20);
    let messages = raw.messages_per_second.filter(|n| *n > 0);
    let bytes = raw.bytes_per_second.map(|s| s.0).filter(|n| *n > 0);
    if bytes.is_some_and(|n| n < payload_max) {
        let message = "is less than one payload of payload_max";
        let help = "raise bytes_per_second or lower payload_max; 0B: no limit";
        reader.report.error(place, "bytes_per_second", message, help);
    }
    let backlog = raw.backlog_messages_per_second.filter(|n| *n > 0);
    let address = address?;
    Some(Uplink {
        host: address.host,
        port: address.port,
        protocol: match raw.protocol.unwrap_or(raw::Protocol::V5) {
            raw::Protocol::V5 => MqttVersion::V5,
            raw::Protocol::V3 => MqttVersion::V3_1_1,
        },
        client_id,
        security,
        login,
        websocket,
        keep_alive,
        connect_timeout,
        window,
        topic,
        status_topic,
        status_interval,
        payload_max: usize::try_from(payload_max).unwrap_or(usize::MAX),
        messages_per_second: messages,
        bytes_per_second: bytes,
        backlog_messages_per_second: backlog,
        reconnect_min,
        reconnect_max,
        session_expiry,
        connects_per_second: connects,
    })
}

/// The client id with the gateway's name in it.
fn client_id(raw: &raw::Uplink, gateway: &GatewayName, place: &Place, report: &mut Report) -> String {
    let client_id = raw.client_id.as_deref().unwrap_or("{gateway}").replace("{gateway}", gateway.as_str());
    if client_id.is_empty() || client_id.contains(['{', '}']) || client_id.len() > 256 {
        let help = "1 to 256 characters; {gateway} stands for the gateway's name";
        report.error(place, "client_id", format!("\"{client_id}\" is not a client id"), help);
    }
    client_id
}

pub struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    pub websocket: bool,
}

impl Address {
    /// The schemes with and without TLS.
    fn schemes(&self) -> [&'static str; 2] {
        if self.websocket { ["wss://", "ws://"] } else { ["mqtts://", "mqtt://"] }
    }
}

/// The only path that brokers serve MQTT under.
const WEBSOCKET_PATH: &str = "/mqtt";
const URL_HELP: &str = "write \"mqtts://HOST\" or \"mqtts://HOST:PORT\"";

fn address(url: Option<&str>, place: &Place, report: &mut Report) -> Option<Address> {
    let Some(url) = url else {
        report.error(place, "url", "the uplink has no url", URL_HELP);
        return None;
    };
    match parse_url(url) {
        Ok(address) => Some(address),
        Err((message, help)) => {
            report.error(place, "url", message, help);
            None
        }
    }
}

pub fn parse_url(url: &str) -> Result<Address, (String, String)> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err((format!("\"{url}\" is not a URL"), URL_HELP.into()));
    };
    let (tls, websocket, default_port) = match scheme {
        "mqtts" => (true, false, 8883),
        "mqtt" => (false, false, 1883),
        "wss" => (true, true, 443),
        "ws" => (false, true, 80),
        other => {
            let help = format!("{}; {URL_HELP}", text::suggest(other, ["mqtts", "mqtt", "wss", "ws"]));
            return Err((format!("the scheme \"{other}\" is not served"), help));
        }
    };
    if rest.contains('@') {
        return Err((
            "a URL with a login would end up in logs".into(),
            "use username and password_file".into(),
        ));
    }
    let rest = rest.strip_suffix(WEBSOCKET_PATH).filter(|_| websocket).unwrap_or(rest);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(['/', '?', '#', ' ']) || port.is_some_and(|p| p.contains('/')) {
        return Err((format!("\"{url}\" is not host and port"), URL_HELP.into()));
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return Err((format!("\"{port}\" is not a port"), "1 to 65535".into())),
        },
    };
    Ok(Address { host: host.to_owned(), port, tls, websocket })
}

fn plain_or_tls(raw: &raw::Uplink, address: &Address, place: &Place, report: &mut Report) {
    let [secure, plain] = address.schemes();
    match (address.tls, raw.insecure.unwrap_or(false)) {
        (true, true) => {
            let help = format!("remove insecure, or write {plain} if the broker has no TLS");
            report.error(place, "insecure", format!("contradicts {secure}"), help);
        }
        (false, false) => {
            let help =
                format!("write {secure}, or insecure = true to send readings and password in the clear");
            report.error(place, "url", format!("{plain} is not encrypted"), help);
        }
        (false, true) => {
            let why = "has no meaning without TLS";
            let keys = [
                ("ca", raw.ca.is_some()),
                ("certificate", raw.certificate.is_some()),
                ("key", raw.key.is_some()),
                ("server_name", raw.server_name.is_some()),
                ("authorizer", raw.authorizer.is_some()),
                ("alpn", raw.alpn.as_ref().is_some_and(|a| !a.is_empty())),
            ];
            Reader { place, report }.refuse(why, &format!("remove it, or write {secure}"), &keys);
            report.warn(place, "insecure", "readings and password are sent in the clear");
        }
        (true, false) => {}
    }
}

fn tls(raw: &raw::Uplink, host: &str, directory: &Path, place: &Place, report: &mut Report) -> Tls {
    let ca = existing(raw.ca.as_deref(), "ca", directory, place, report);
    let certificate = existing(raw.certificate.as_deref(), "certificate", directory, place, report);
    let key = existing(raw.key.as_deref(), "key", directory, place, report);
    if let Some(key) = &key {
        warn_if_readable(key, "key", place, report);
    }
    match (&raw.certificate, &raw.key) {
        (Some(_), None) => {
            report.error(place, "key", "a certificate without its key", "name the PEM file of the key")
        }
        (None, Some(_)) => report.error(
            place,
            "certificate",
            "a key without its certificate",
            "name the PEM file of the certificate",
        ),
        _ => {}
    }
    let alpn = raw.alpn.clone().unwrap_or_default();
    if alpn.iter().any(|a| a.is_empty() || a.len() > 255) {
        report.error(
            place,
            "alpn",
            "an entry is empty or longer than 255",
            "for instance [\"x-amzn-mqtt-ca\"]",
        );
    }
    let server_name = raw.server_name.clone().unwrap_or_else(|| host.to_owned());
    let known = rustls_pki_types::ServerName::try_from(server_name.clone()).is_ok();
    if !known && !server_name.is_empty() {
        let key = if raw.server_name.is_some() { "server_name" } else { "url" };
        report.error(
            place,
            key,
            format!("\"{server_name}\" is not a host name"),
            "a DNS name or an IP address",
        );
    } else if raw.server_name.as_deref() == Some("") {
        report.error(place, "server_name", "is empty", "leave it out to use the URL's host");
    }
    Tls { ca, certificate, key, server_name, alpn }
}

/// The file's place, after asking whether it is there.
fn existing(
    path: Option<&Path>,
    key: &str,
    directory: &Path,
    place: &Place,
    report: &mut Report,
) -> Option<PathBuf> {
    let path = path?;
    if let Some(name) = credential::name(path) {
        if !credential::is_name(name) {
            let help = "credential:NAME, of letters, digits, . _ -";
            report.error(place, key, format!("{} is no credential", path.display()), help);
        }
        return Some(path.to_owned());
    }
    if let Some(token) = path.to_str().filter(|p| key == "key" && p.starts_with("pkcs11:")) {
        if !cfg!(feature = "pkcs11") {
            let help = "build with the feature `pkcs11`, or name a PEM file";
            report.error(place, key, "this program was built without PKCS#11", help);
        }
        return Some(token.into());
    }
    let path = directory.join(path);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => report.error(place, key, format!("{} is not a file", path.display()), "name a PEM file"),
        Err(e) => {
            let message = format!("{} cannot be found: {e}", path.display());
            report.unreadable(
                place,
                key,
                message,
                "name a file that exists; relative paths start at the configuration's directory",
            );
        }
    }
    Some(path)
}

/// A secret that others on the gateway can read is worth a word.
fn warn_if_readable(path: &Path, key: &str, place: &Place, report: &mut Report) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(found) = std::fs::metadata(path) else { return };
    if found.permissions().mode() & 0o077 != 0 {
        let path = path.display();
        report.warn(place, key, format!("{path} can be read by other users; run `chmod 0600 {path}`"));
    }
}

fn login(raw: &raw::Uplink, directory: &Path, place: &Place, report: &mut Report) -> Option<Login> {
    let username = raw.username.clone().filter(|u| !u.is_empty());
    let password = secret(&raw.password, &raw.password_file, "password", directory, place, report);
    if let Some(own) = &raw.authorizer {
        let inside = place.inside("authorizer");
        let authorizer = authorizer::authorizer(own, directory, &inside, report);
        if username.is_some() {
            let help = "move it to uplink.authorizer.username";
            report.error(place, "username", "is given beside an authorizer, which has one", help);
        }
        let username = authorizer.login().to_string();
        return Some(Login { username, password: password.unwrap_or_default() });
    }
    match (username, password) {
        (Some(username), password) => Some(Login { username, password: password.unwrap_or_default() }),
        (None, Some(_)) => {
            let key = if raw.password.is_some() { "password" } else { "password_file" };
            report.error(place, key, "a password without a username", "write username = \"...\"");
            None
        }
        (None, None) => None,
    }
}

/// `key`, or the text of the file in `key_file` without its line break.
pub fn secret(
    given: &Option<String>,
    file: &Option<PathBuf>,
    key: &str,
    directory: &Path,
    place: &Place,
    report: &mut Report,
) -> Option<String> {
    let key_file = format!("{key}_file");
    let given = given.clone().filter(|p| !p.is_empty());
    let Some(file) = file.as_deref().filter(|p| !p.as_os_str().is_empty()) else { return given };
    if given.is_some() {
        report.error(place, key, format!("is given beside {key_file}"), "keep one of the two");
    }
    let file = match credential::name(file) {
        None => directory.join(file),
        Some(name) => match credential::place(file) {
            Ok(place) => place,
            Err(why) if !credential::is_name(name) => {
                report.error(place, &key_file, why, "credential:NAME, of letters, digits, . _ -");
                return None;
            }
            // Beside the service, as in `check`, it cannot be seen.
            Err(why) => {
                report.warn(place, &key_file, why);
                return Some(String::new());
            }
        },
    };
    warn_if_readable(&file, &key_file, place, report);
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(e) => {
            let message = format!("{} cannot be read: {e}", file.display());
            let help = format!("name a text file that holds nothing but the {key}");
            report.unreadable(place, &key_file, message, help);
            None
        }
    }
}

/// A topic template: its placeholders are known, and no subscriber's wildcard is in it.
pub fn template(
    value: Option<&str>,
    key: &str,
    default: &str,
    placeholders: &[&str],
    place: &Place,
    report: &mut Report,
) -> String {
    let text = value.unwrap_or(default);
    let bare = placeholders.iter().fold(text.to_owned(), |t, p| t.replace(p, "x"));
    let known = placeholders.join(" and ");
    if bare.is_empty() || bare.contains(['+', '#', '\0']) {
        report.error(
            place,
            key,
            format!("\"{text}\" is not a topic"),
            format!("text without + and #, for instance \"{default}\""),
        );
    } else if bare.contains(['{', '}']) {
        report.error(place, key, format!("\"{text}\" has an unknown placeholder"), format!("known: {known}"));
    } else if bare.len() > 1024 {
        report.error(place, key, "is longer than 1024 bytes", "shorten it");
    }
    text.to_owned()
}

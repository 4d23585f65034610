//! The validated configuration. Whoever holds a [`Config`] need not check anything again.
//!
//! `raw` mirrors the TOML text, `load` finds and layers the files, `models` lays devices over
//! their models, `validate` turns the one into the other and reports every mistake at once.

pub mod credential;
pub mod errors;
pub mod load;
pub mod merged;
pub mod models;
pub mod raw;
pub mod text;
pub mod validate;

use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::model::device::{Bus, Device};
use crate::model::ids::GatewayName;
use crate::model::thing::ThingName;

#[derive(Clone, Debug)]
pub struct Config {
    pub gateway: Gateway,
    pub uplink: Uplink,
    pub thing: Thing,
    pub store: Store,
    pub shadow: Shadow,
    pub identity: Identity,
    pub log: Log,
    pub buses: Vec<Bus>,
    /// In the order of the configuration; a `DeviceIndex` is a place in here.
    pub devices: Vec<Device>,
    /// What is allowed but likely not meant; `check` shows them, the log gets them at start.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub name: GatewayName,
    /// Where `fieldgate status` asks; 0660, peer credentials checked. `None`: no socket.
    pub status_socket: Option<PathBuf>,
    /// How long an orderly stop may take.
    pub stop_grace: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Uplink {
    pub host: String,
    pub port: u16,
    pub protocol: MqttVersion,
    pub client_id: String,
    pub security: Security,
    pub login: Option<Login>,
    /// MQTT travels inside a WebSocket, path `/mqtt`; the URL began with `wss://` or `ws://`.
    pub websocket: Option<WebSocket>,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    /// Publishes without their PUBACK at one time.
    pub window: u16,
    /// Placeholders `{gateway}` and `{device}`.
    pub topic: String,
    /// Retained; also the last will. Placeholder `{gateway}`.
    pub status_topic: String,
    pub status_interval: Duration,
    /// Largest payload in bytes; larger rows are split before they are stored.
    pub payload_max: usize,
    /// Token buckets over everything; `None`: no limit.
    pub messages_per_second: Option<u32>,
    pub bytes_per_second: Option<u64>,
    /// The backlog's own share; `None`: whatever the live readings leave.
    pub backlog_messages_per_second: Option<u32>,
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// How long the broker keeps subscriptions and what arrives while we are away. Only MQTT 5
    /// tells it; with 3.1.1 the broker decides. Whole seconds.
    pub session_expiry: Duration,
    /// Of all connections of the agent together.
    pub connects_per_second: u32,
}

impl Uplink {
    /// The same for the connections of things.
    pub fn of_things(&self, thing: &Thing) -> Uplink {
        Uplink {
            window: thing.window,
            topic: thing.topic.clone(),
            status_topic: thing.status_topic.clone(),
            ..self.clone()
        }
    }
}

/// `[thing]`: things that have a connection of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// Placeholders `{gateway}`, `{device}` and `{thing}`.
    pub topic: String,
    /// Retained; also the last will. Placeholders `{gateway}` and `{thing}`; empty: neither.
    pub status_topic: String,
    /// Publishes of one thing without their PUBACK at one time.
    pub window: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    V3_1_1,
    V5,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Security {
    /// Only when the configuration says `insecure = true` and the URL `mqtt://`.
    Plain,
    Tls(Tls),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// PEM file; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// PEM chain and key, both or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Checked against the certificate and sent as SNI; default is the URL's host.
    pub server_name: String,
    pub alpn: Vec<String>,
}

#[derive(Clone, PartialEq)]
pub struct Login {
    /// That of a custom authorizer holds a token behind the first `?`.
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = match self.username.split_once('?') {
            Some((user, _)) => format!("{user}?<redacted>"),
            None => self.username.clone(),
        };
        f.debug_struct("Login").field("username", &shown).field("password", &"<redacted>").finish()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct WebSocket {
    /// The URL is signed; `None`: a user name or a certificate has to do.
    pub sigv4: Option<SigV4>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SigV4 {
    /// For instance `eu-central-1`.
    pub region: String,
    pub source: KeySource,
}

/// Where the keys come from that sign.
#[derive(Clone, PartialEq)]
pub enum KeySource {
    Static {
        access_key_id: String,
        secret_access_key: Zeroizing<String>,
    },
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if they are temporary,
    /// `AWS_SESSION_TOKEN`.
    Environment,
    Provider(CredentialsProvider),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::Static { access_key_id, .. } => {
                f.debug_struct("Static").field("access_key_id", access_key_id).finish_non_exhaustive()
            }
            KeySource::Environment => f.write_str("Environment"),
            KeySource::Provider(provider) => provider.fmt(f),
        }
    }
}

/// Trades the uplink's certificate for temporary keys of a role.
#[derive(Clone, Debug, PartialEq)]
pub struct CredentialsProvider {
    pub host: String,
    pub port: u16,
    /// 1 to 128 of `[a-zA-Z0-9_=,@-]`.
    pub role_alias: String,
    /// Sent as `x-amzn-iot-thingname`, for policies with thing variables.
    pub thing: Option<ThingName>,
    /// The uplink's CA, certificate and key; the name is the provider's own.
    pub tls: Tls,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub path: PathBuf,
    pub durability: Durability,
    /// The outbox never takes more than this on disk.
    pub bytes_max: u64,
    /// Readings older than this are dropped into the ledger.
    pub age_max: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Committed and flushed before anything is published; `batch_window` is how long the
    /// first reading of a commit waits for company.
    Commit { batch_window: Duration },
    /// One commit each `interval`: a power cut costs at most that much.
    Interval { interval: Duration },
}

/// `[shadow]`: what things say of themselves, and who may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    pub dialect: Dialect,
    /// First levels of the reserved topics, `$aws` at AWS IoT.
    pub prefix: String,
    /// Readings become `reported`.
    pub reported: bool,
    /// With the values stand their quality and the time of their answer.
    pub quality: bool,
    /// Shortest time between two reported updates of one thing.
    pub interval: Duration,
    /// The shadow that carries the readings; empty: the classic one.
    pub name: String,
    /// Levels of nesting below `desired` and `reported`.
    pub depth: usize,
    /// Bytes of the compact state.
    pub size: usize,
    /// Shadows of one thing, its tombstones among them.
    pub per_thing: usize,
    /// Placeholders `{thing}` and `{name}`.
    pub command_topic: String,
    /// The first that fits counts; none: not mirrored.
    pub mirror: Vec<MirrorRule>,
}

impl Default for Shadow {
    /// What a configuration without `[shadow]` means.
    fn default() -> Shadow {
        Shadow {
            dialect: Dialect::None,
            prefix: "$aws".into(),
            reported: false,
            quality: false,
            interval: Duration::from_secs(5),
            name: String::new(),
            depth: 6,
            size: 8 << 10,
            per_thing: 25,
            command_topic: "cmd/{thing}/{name}".into(),
            mirror: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Shadows are seen on this machine only.
    None,
    /// fieldgate is the shadow service of its things, for whoever uses the broker.
    Plain,
    /// The cloud has its own shadow service, which is mirrored.
    Aws,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRule {
    /// `*` stands for any run of characters.
    pub thing: String,
    /// The same; a `*` alone also fits the classic shadow, which else is the empty text.
    pub shadow: String,
    pub direction: raw::Direction,
    /// Whose value counts when both sides changed it.
    pub desired: raw::Side,
    pub reported: raw::Side,
}

impl MirrorRule {
    pub fn fits(&self, thing: &str, shadow: &str) -> bool {
        glob(&self.thing, thing) && glob(&self.shadow, shadow)
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Where the identities of the things come from and where they live.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub enroller: EnrollerKind,
    pub directory: PathBuf,
    pub key_type: KeyType,
    /// Of a certificate of the gateway's own CA.
    pub lifetime: Duration,
    /// Share of a certificate's lifetime after which it is replaced, 0.1 to 0.9.
    pub renew_at: f64,
    /// Enroller `files`: patterns with `{thing}`; both or neither.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Enroller `local-ca`: the CA's key on a token, `pkcs11:…`; `None`: in a file.
    pub ca_key: Option<String>,
    /// Enroller `claim`.
    pub claim: Option<Claim>,
}

impl Default for Identity {
    /// Nobody gets one.
    fn default() -> Identity {
        Identity {
            enroller: EnrollerKind::None,
            directory: PathBuf::from("/var/lib/fieldgate/identity"),
            key_type: KeyType::EcP256,
            lifetime: Duration::from_secs(365 * 86_400),
            renew_at: 0.66,
            certificate: None,
            key: None,
            ca_key: None,
            claim: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrollerKind {
    None,
    LocalCa,
    Claim,
    Files,
    Csr,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    #[default]
    EcP256,
    Rsa2048,
}

/// Fleet provisioning: a claim is shown once, and an identity comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub host: String,
    pub port: u16,
    /// PEM files or `credential:NAME`.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub template: String,
    /// Placeholders `{thing}`, `{serial}`, `{gateway}`, `{bus}`, `{unit_id}`.
    pub parameters: Vec<(String, String)>,
    /// Ask with a request first; with `cloud_keys` the cloud may make the key if it must.
    pub csr: bool,
    pub cloud_keys: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// An `EnvFilter` text, for instance `info` or `fieldgate=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal when systemd reads our output, else text.
    Auto,
    Text,
    Journal,
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let check =
            |pattern, text, expected| assert_eq!(super::glob(pattern, text), expected, "{pattern} {text}");
        check("*", "", true);
        check("*", "meter-1", true);
        check("", "", true);
        check("", "x", false);
        check("meter-*", "meter-", true);
        check("meter-*", "scale-1", false);
        check("*-1", "meter-1", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("ab*b", "ab", false);
    }
}

//! The validated configuration. Whoever holds a [`Config`] need not check anything again.
//!
//! `raw` mirrors the TOML text, `load` finds and layers the files, `models` lays devices over
//! their models, `validate` turns the one into the other and reports every mistake at once.

pub mod errors;
pub mod load;
pub mod models;
pub mod raw;
pub mod text;
pub mod validate;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::device::{Bus, Device};
use crate::model::ids::GatewayName;

#[derive(Clone, Debug)]
pub struct Config {
    pub gateway: Gateway,
    pub uplink: Uplink,
    pub store: Store,
    pub log: Log,
    pub buses: Vec<Bus>,
    /// In the order of the configuration; a `DeviceIndex` is a place in here.
    pub devices: Vec<Device>,
    /// What is allowed but likely not meant; `check` shows them, the log gets them at start.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Gateway {
    pub name: GatewayName,
    /// Where `fieldgate status` asks; 0660, peer credentials checked. `None`: no socket.
    pub status_socket: Option<PathBuf>,
    /// How long an orderly stop may take.
    pub stop_grace: Duration,
}

#[derive(Clone, Debug)]
pub struct Uplink {
    pub host: String,
    pub port: u16,
    pub protocol: MqttVersion,
    pub client_id: String,
    pub security: Security,
    pub login: Option<Login>,
    pub keep_alive: Duration,
    pub connect_timeout: Duration,
    /// Publishes without their PUBACK at one time.
    pub window: u16,
    /// How long the broker keeps what arrives for us while we are away. Whole seconds.
    pub session_expiry: Duration,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttVersion {
    V3_1_1,
    V5,
}

#[derive(Clone, Debug)]
pub enum Security {
    /// Only when the configuration says `insecure = true` and the URL `mqtt://`.
    Plain,
    Tls(Tls),
}

#[derive(Clone, Debug)]
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

#[derive(Clone)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).field("password", &"<redacted>").finish()
    }
}

#[derive(Clone, Debug)]
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

#[derive(Clone, Debug)]
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

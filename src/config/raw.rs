//! The configuration as it is written: a mirror of the TOML text, nothing checked yet.
//!
//! Every key is optional here, so that files, device models and overrides can be laid over
//! one another (`over`); what is missing gets its default, or a mistake, in `validate`.
//! Unknown keys are refused. `keys` lists the keys of a table, for suggestions and for the
//! proof that the sample documents every one of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::text::{NumberOrText, Scalar, Size, Span};

/// What every table of the configuration can do.
pub trait Table: DeserializeOwned + Default {
    /// Its keys as they are written.
    fn keys() -> impl Iterator<Item = &'static str> + Clone;
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$ty>,)*
        }

        impl Table for $name {
            fn keys() -> impl Iterator<Item = &'static str> + Clone {
                const KEYS: &[&str] = &[$(stringify!($field)),*];
                KEYS.iter().map(|k| k.trim_start_matches("r#"))
            }
        }

        impl $name {
            /// These values, and `base`'s where nothing is said here.
            pub fn over(self, base: Self) -> Self {
                Self { $($field: self.$field.or(base.$field)),* }
            }
        }
    };
}

table!(
    /// `[gateway]`
    Gateway { name: String, status_socket: PathBuf, stop_grace: Span }
);

table!(
    /// `[uplink]`
    Uplink {
        url: String,
        insecure: bool,
        protocol: Protocol,
        client_id: String,
        ca: PathBuf,
        certificate: PathBuf,
        key: PathBuf,
        server_name: String,
        alpn: Vec<String>,
        username: String,
        password: String,
        password_file: PathBuf,
        authorizer: Authorizer,
        sigv4: SigV4,
        keep_alive: Span,
        connect_timeout: Span,
        window: u16,
        topic: String,
        status_topic: String,
        status_interval: Span,
        payload_max: Size,
        messages_per_second: u32,
        bytes_per_second: Size,
        backlog_messages_per_second: u32,
        reconnect_min: Span,
        reconnect_max: Span,
        session_expiry: Span,
        connects_per_second: u32,
    }
);

table!(
    /// `authorizer = { ... }` of `[uplink]`
    Authorizer {
        name: String,
        username: String,
        token_key: String,
        token: String,
        token_file: PathBuf,
        signature: String,
        signature_file: PathBuf,
    }
);

table!(
    /// `sigv4 = { ... }` of `[uplink]`
    SigV4 {
        region: String,
        source: KeySource,
        access_key_id: String,
        secret_access_key_file: PathBuf,
        endpoint: String,
        role_alias: String,
        thing: String,
    }
);

table!(
    /// `[thing]`
    Thing { topic: String, status_topic: String, window: u16 }
);

table!(
    /// `[store]`
    Store {
        path: PathBuf,
        durability: Durability,
        batch_window: Span,
        interval: Span,
        max_size: Size,
        max_age: Span,
    }
);

table!(
    /// `[shadow]`
    Shadow {
        dialect: Dialect,
        prefix: String,
        reported: bool,
        quality: bool,
        interval: Span,
        name: String,
        depth: u8,
        size: Size,
        per_thing: u16,
        command_topic: String,
        mirror: Vec<Mirror>,
    }
);

table!(
    /// `mirror = [ { ... } ]` of `[shadow]`
    Mirror { thing: String, shadow: String, direction: Direction, desired: Side, reported: Side }
);

table!(
    /// `[identity]`
    Identity {
        enroller: Enroller,
        directory: PathBuf,
        key_type: KeyType,
        lifetime: Span,
        renew_at: f64,
        certificate: PathBuf,
        key: PathBuf,
        ca_key: String,
        claim: Claim,
    }
);

table!(
    /// `[identity.claim]`
    Claim {
        url: String,
        certificate: PathBuf,
        key: PathBuf,
        template: String,
        parameters: Vec<String>,
        csr: bool,
        cloud_keys: bool,
    }
);

table!(
    /// `[log]`
    Log { level: String, format: LogFormat }
);

table!(
    /// `[[bus]]`
    Bus {
        name: String,
        transport: Transport,
        path: PathBuf,
        baud: u32,
        data_bits: u8,
        parity: Parity,
        stop_bits: u8,
        local_echo: bool,
        rs485: Rs485,
        host: String,
        port: u16,
        connect_timeout: Span,
        pause_after_connect: Span,
        pause_between_requests: Span,
        silence: String,
        close_after_poll: bool,
        reconnect_min: Span,
        reconnect_max: Span,
    }
);

table!(
    /// `rs485 = { ... }` of a bus
    Rs485 {
        rts_on_send: bool,
        rts_after_send: bool,
        rx_during_tx: bool,
        delay_before_send: Span,
        delay_after_send: Span,
    }
);

table!(
    /// `[[device]]`; its points, commands and forbidden ranges stand beside it (see `load`).
    Device {
        name: String,
        bus: String,
        protocol: DeviceProtocol,
        model: String,
        unit_id: u8,
        interval: Span,
        byte_order: String,
        address_base: u8,
        max_registers: u16,
        max_bits: u16,
        max_gap: u16,
        max_gap_bits: u16,
        one_request_per_point: bool,
        forbidden: Vec<Forbidden>,
        response_timeout: Span,
        late_window: Span,
        retries: u8,
        busy_retries: u8,
        busy_pause: Span,
        pause_after_write: Span,
        silent_after: NumberOrText,
        backoff_min: Span,
        backoff_max: Span,
        hole_retry: Span,
        write_function: WriteFunction,
        verify_within: Span,
        thing: String,
        fingerprint: Fingerprint,
        uplink: DeviceUplink,
        format: LineFormat,
        pattern: String,
        delimiter: String,
        line_max: Size,
        matching: String,
        separator: String,
        columns: Vec<String>,
        separators: String,
        assign: String,
    }
);

table!(
    /// `forbidden = [ { ... } ]` of a device
    Forbidden { table: PointTable, first: u16, last: u16 }
);

table!(
    /// `[[device.point]]`
    Point {
        name: String,
        disabled: bool,
        table: PointTable,
        address: i64,
        r#type: String,
        bit: u8,
        start: u8,
        length: u8,
        half: String,
        registers: u16,
        bytes: String,
        padding: String,
        order: String,
        field: String,
        decimal_comma: bool,
        unit: String,
        scale: f64,
        offset: f64,
        decimals: u8,
        min: f64,
        max: f64,
        clamp: bool,
        invalid: Vec<NumberOrText>,
        scale_factor: i64,
        r#enum: BTreeMap<String, String>,
        flags: BTreeMap<String, String>,
        interval: Span,
        report: ReportWhen,
        deadband: NumberOrText,
        silence_min: Span,
        silence_max: Span,
        access: Access,
        write_min: f64,
        write_max: f64,
        write_step: f64,
        write_interval: Span,
        write_expiry: String,
        write_retry_min: Span,
        write_retry_max: Span,
        verify_within: Span,
        fingerprint: bool,
        shadow: String,
        shadow_interval: Span,
    }
);

table!(
    /// `[[device.command]]`
    Command { name: String, disabled: bool, point: String, value: Scalar, expiry: Span }
);

table!(
    /// `[model]` of a device model's file
    Model { name: String, manufacturer: String, source: String, note: String }
);

/// A closed set of words. Read by hand, so that a wrong word is answered with the right
/// ones by every source alike.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        pub enum $name {
            $(#[serde(rename = $word)] $variant,)*
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                match word.as_str() {
                    $($word => Ok(Self::$variant),)*
                    other => Err(serde::de::Error::unknown_variant(other, &[$($word),*])),
                }
            }
        }
    };
}

words!(Protocol { V5 = "5", V3 = "3.1.1" });
words!(KeySource {
    Static = "static",
    Environment = "environment",
    CredentialsProvider = "credentials-provider",
});
words!(Durability { Commit = "commit", Interval = "interval" });
words!(Dialect { None = "none", Plain = "plain", Aws = "aws" });
words!(Direction { Both = "both", ToCloud = "to-cloud", ToDevice = "to-device" });
words!(Side { Cloud = "cloud", Device = "device" });
words!(Enroller { None = "none", LocalCa = "local-ca", Claim = "claim", Files = "files", Csr = "csr" });
words!(KeyType { EcP256 = "ec-p256", Rsa2048 = "rsa-2048" });
words!(LogFormat { Auto = "auto", Text = "text", Journal = "journal" });
words!(Transport { Serial = "serial", Tcp = "tcp", RtuOverTcp = "rtu-over-tcp" });
words!(Parity { None = "none", Even = "even", Odd = "odd" });
words!(DeviceProtocol { Modbus = "modbus", Line = "line" });
words!(WriteFunction { Auto = "auto", Single = "single", Multiple = "multiple" });
words!(LineFormat { Json = "json", Csv = "csv", KeyValue = "key-value", Regex = "regex" });
words!(PointTable { Coil = "coil", Discrete = "discrete", Holding = "holding", Input = "input" });
words!(Access { Read = "read", ReadWrite = "read-write", Write = "write" });
words!(Fingerprint { None = "none", ServerId = "server-id", DeviceId = "device-id" });
words!(DeviceUplink { Own = "own", Gateway = "gateway" });
words!(ReportWhen { Always = "always", Change = "change", Deadband = "deadband" });

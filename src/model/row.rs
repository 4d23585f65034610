//! Rows of the outbox: what waits on the disk for its PUBACK, and what was given up.

use std::sync::Arc;

use super::ids::{DeviceName, PointName};
use super::time::Timestamp;

/// A row's place in the outbox. Grows for ever, is never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub i64);

/// By which connection something leaves: that of the gateway, or a thing's own. A number is
/// given to a thing once and never to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(pub i64);

impl Route {
    /// The gateway's own connection.
    pub const GATEWAY: Route = Route(0);
}

/// Identifies a list of point names that rows refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayoutId(pub i64);

/// What a row needs to be read without the configuration that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub device: DeviceName,
    pub points: Vec<(PointName, Option<String>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Packed readings ([`crate::packed`]).
    Telemetry,
    /// JSON, ready to send.
    Fault,
    Gap,
}

/// Which start of the process took a reading: the file's own random number and the count of
/// starts on it, so that (boot, device, seq) names one reading for ever, also when the file
/// was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    pub store_id: u32,
    pub count: i64,
}

impl std::fmt::Display for Boot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}-{}", self.store_id, self.count)
    }
}

/// A row to append.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRow {
    pub kind: Kind,
    pub route: Route,
    pub layout: LayoutId,
    pub seq: u64,
    pub readings: u32,
    pub first: Timestamp,
    pub last: Timestamp,
    pub payload: Vec<u8>,
}

/// A row to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub id: OutboxId,
    pub kind: Kind,
    pub layout: Arc<Layout>,
    pub boot: Boot,
    pub seq: u64,
    pub readings: u32,
    pub first: Timestamp,
    pub payload: Vec<u8>,
}

/// What a trim took away, per device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub device: DeviceName,
    pub reason: Reason,
    pub readings: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// Why readings left the outbox without a PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Older than `store.max_age`.
    Expired,
    /// The oldest had to make room.
    StoreFull,
    /// The broker refused the message, or hung up on it twice.
    DeadLetter,
    /// A damaged file was set aside, and these could not be read from it.
    Corrupt,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::StoreFull => "store-full",
            Reason::DeadLetter => "dead-letter",
            Reason::Corrupt => "corrupt",
        }
    }
}

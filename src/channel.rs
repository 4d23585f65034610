//! The messages and capacities that two tasks share.
//!
//! Tasks never import one another, so what one sends and another receives is spelled here,
//! a floor below both. `app` makes the channels and hands each task its end.
//!
//! The way of what somebody outside wants: a connection, the status socket → [`Ask`] → the
//! hub, which decides and commits → the `answer` → the asker, who acknowledges only now.
//!
//! The way of a write: the hub → [`WriteRequest`], never waited for → the bus between two
//! calls: the frame once, then the point read back → an observation → the hub.
//!
//! The way of an interactive read: `fieldgate read` → control socket → [`ReadRequest`]
//! → the bus between two calls → the `answer` of the request → the socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::modbus::write::WritePlan;
use crate::model::ids::{DeviceIndex, PointIndex};
use crate::model::reading::Measured;
use crate::model::register::RegisterPoint;
use crate::model::row::Route;

/// What runs now. A reload makes another one; whoever shows or watches the plant holds a
/// receiver of it.
#[derive(Debug)]
pub struct Plant {
    pub config: Arc<Config>,
    /// In the order of the configuration.
    pub metrics: Arc<Metrics>,
    /// The devices as the tasks name them, in the order of the configuration. A device keeps
    /// its index for as long as it is configured.
    pub indices: Vec<DeviceIndex>,
    /// One per bus, in the order of the configuration.
    pub reads: Vec<mpsc::Sender<ReadRequest>>,
    /// Absent where no identity is kept.
    pub keeper: Option<mpsc::Sender<IdentityAsk>>,
}

/// Reloads that may wait: they are asked for by hand.
pub const RELOADS_MAX: usize = 4;

/// "Read the configuration again". The answer is what changed, or why nothing did; for people.
pub type Reload = oneshot::Sender<Result<String, String>>;

/// Readings that may wait between a bus and the hub. Small on purpose: when the hub cannot
/// keep up, pressure belongs at the register (a skipped poll is counted), not in memory.
pub const OBSERVATIONS_MAX: usize = 256;

/// Interactive reads that may wait for a line.
pub const READS_MAX: usize = 4;

/// "Read this now", from the technician's `fieldgate read` through the running agent.
#[derive(Debug)]
pub struct ReadRequest {
    pub what: What,
    pub answer: oneshot::Sender<Result<Measured, String>>,
}

#[derive(Debug)]
pub enum What {
    /// One register point of a device on this bus, with the device's own timing.
    Point(DeviceIndex, RegisterPoint),
    /// An address of a unit that no device of the configuration needs to describe.
    Unit(u8, RegisterPoint),
}

/// What may wait for the keeper of identities: it is asked by hand.
pub const IDENTITY_ASKS_MAX: usize = 8;

/// What devices said of themselves, by their things; of those that are the right ones. The
/// hub tells, and certificates say it.
pub type Serials = Arc<BTreeMap<String, String>>;

/// What the status socket wants of the keeper of identities.
#[derive(Debug)]
pub struct IdentityAsk {
    pub what: IdentityWanted,
    /// What was done, or why nothing was; for people.
    pub answer: oneshot::Sender<Result<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityWanted {
    /// A new key and certificate before it is due.
    Renew { thing: String },
    /// Somebody changed the files.
    Reload,
    /// What the broker and the enroller had against it; an empty answer: nothing.
    Trouble { thing: String },
}

/// Writes that may wait for a line. Whoever finds it full asks again later: what is wanted
/// stays wanted.
pub const WRITES_MAX: usize = 32;

/// "Write this now", from the hub, which checked it. The answer is the observation
/// `Seen::Wrote` with the same `id`, exactly one for each request, but for those that still
/// wait in the channel when the bus ends: they were not executed.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRequest {
    pub id: u64,
    pub device: DeviceIndex,
    pub point: PointIndex,
    pub plan: WritePlan,
}

/// What may wait for the hub from all connections and from the status socket together. Who
/// finds it full waits with its own acknowledgement in hand.
pub const ASKS_MAX: usize = 64;

/// What somebody outside wants of the hub. The hub never waits for the asker.
#[derive(Debug)]
pub struct Ask {
    pub from: Origin,
    pub what: Wanted,
    /// Comes after the commit. A hub that goes down drops it: nothing was done.
    pub answer: oneshot::Sender<Answer>,
}

/// Who asks and by which way, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A message from the broker of this connection.
    Uplink(Route),
    /// A process of this machine at the status socket, by its user id.
    Socket { uid: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A message that arrived. Whatever must be said to it goes into the mail.
    Arrived {
        topic: String,
        payload: Vec<u8>,
    },
    /// The connection has its CONNACK and its subscriptions.
    Online(Route),
    Offline(Route),
    /// A shadow operation of this machine: `get`, `update`, `delete`, `list`.
    Shadow {
        thing: String,
        shadow: String,
        operation: String,
        payload: Vec<u8>,
    },
    /// A device whose fingerprint changed is the right one.
    Approve {
        thing: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is on the disk.
    Done,
    /// It is on the disk, and this is the answer, JSON.
    Said(Vec<u8>),
    /// Nothing was changed. `code` is that of the Device Shadow REST API.
    Refused { code: u16, message: String },
}

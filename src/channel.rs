//! The messages and capacities that two tasks share.
//!
//! Tasks never import one another, so what one sends and another receives is spelled here,
//! a floor below both. `app` makes the channels and hands each task its end.
//!
//! The way of an interactive read: `fieldgate read` → control socket → [`ReadRequest`]
//! → the bus between two calls → the `answer` of the request → the socket.

use tokio::sync::oneshot;

use crate::model::ids::DeviceIndex;
use crate::model::reading::Measured;
use crate::model::register::RegisterPoint;

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

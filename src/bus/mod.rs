//! One task per line or endpoint, the one owner of its transport.

pub mod schedule;

use tokio::sync::{mpsc, oneshot};

use crate::model::device::Bus;
use crate::model::ids::DeviceIndex;
use crate::model::observation::Observation;
use crate::model::reading::Measured;
use crate::model::register::RegisterPoint;
use crate::model::time::Clock;

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

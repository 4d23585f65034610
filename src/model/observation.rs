//! What a bus tells the hub. Nothing about a device enters the house in another way.

use super::ids::DeviceIndex;
use super::reading::Reading;
use super::time::Timestamp;
use super::value::Cause;
use super::write::Wrote;

#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub device: DeviceIndex,
    /// When the answer that carries the readings had arrived in full, or when the fault
    /// was noticed.
    pub at: Timestamp,
    pub seen: Seen,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// In the order of the points; never empty.
    Readings(Vec<Reading>),
    /// The device stopped answering. Said once, until `Back`.
    Silent(Cause),
    /// The device answers again. Said once after `Silent`.
    Back,
    /// What became of a write. What was read back went before it, as readings.
    Wrote(Wrote),
    /// Who the device says it is: at its first answer, whenever it comes back, and whenever
    /// it changes. Never empty; the same device says the same.
    Fingerprint(String),
}

//! Who may write a point, within which bounds, and what became of a write.

use std::time::Duration;

use super::ids::PointIndex;
use super::reading::Measured;
use super::value::Cause;

/// The rules of a point that may be written. Bounds are in the point's unit.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteRules {
    /// `false`: the register can only be written (`access = "write"`), so it is never
    /// polled, and what became of a write is not known beyond the device's own word.
    pub readable: bool,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// The value lies on a multiple of this, counted from `min`, or from 0 without one.
    pub step: Option<f64>,
    /// Shortest time between two writes.
    pub interval: Duration,
    /// How old a wanted value may be when it is first written; `None`: as old as it likes.
    pub expiry: Option<Duration>,
    /// Backoff of the repeats while the device does not show what is wanted.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// How long after a write the device may take to show it.
    pub verify_within: Duration,
}

/// What became of one write.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrote {
    /// The number that came with the request.
    pub id: u64,
    pub point: PointIndex,
    pub outcome: WriteOutcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum WriteOutcome {
    /// Read back, and it is what was wanted.
    Verified,
    /// The device took it, and the point cannot be read.
    Accepted,
    /// Read back within `verify_within`, and it is something else: clamped, ignored, or the
    /// write never arrived.
    NotTaken { read: Measured },
    /// The device refused the write with this exception code.
    Rejected { code: u8 },
    /// It is not known whether the device took it.
    Failed(Cause),
}

/// Where a point stands in the shadow's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowMember {
    /// Names from the outermost object inwards; never empty.
    pub path: Vec<String>,
    /// Shortest time between two updates of it.
    pub interval: Duration,
}

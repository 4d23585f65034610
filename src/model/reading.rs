//! A reading: one point, at one moment, with its quality.

use super::ids::PointIndex;
use super::value::{Cause, Quality, Value};

/// The time and the device stand in the [`super::observation::Observation`] around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    pub point: PointIndex,
    pub measured: Measured,
}

/// Value and quality in one, so that a bad reading cannot carry a value and a good one
/// cannot lack it.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    Good(Value),
    Uncertain(Value, Cause),
    Bad(Cause),
}

impl Measured {
    pub fn value(&self) -> Option<&Value> {
        match self {
            Measured::Good(v) | Measured::Uncertain(v, _) => Some(v),
            Measured::Bad(_) => None,
        }
    }

    pub fn quality(&self) -> Quality {
        match self {
            Measured::Good(_) => Quality::Good,
            Measured::Uncertain(_, c) => Quality::Uncertain(c.clone()),
            Measured::Bad(c) => Quality::Bad(c.clone()),
        }
    }
}

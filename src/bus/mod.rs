//! One task per line or endpoint, the one owner of its transport.

pub mod schedule;

pub use crate::channel::{OBSERVATIONS_MAX, READS_MAX, ReadRequest, What};

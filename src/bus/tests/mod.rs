//! The bus over a line in memory, with a scripted device at its other end and a paused
//! clock: a test reads what the hub would have been told.

mod identify;
mod lines;
mod polls;
mod ports;
pub(crate) mod rig;
mod trouble;
mod writes;

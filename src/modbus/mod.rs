//! Modbus: what the words mean, which requests fetch them, and one call on the wire.

pub mod client;
pub mod codec;
pub mod command;
pub mod guess;
pub mod kind;
pub mod load;
pub mod order;
pub mod plan;
pub mod write;

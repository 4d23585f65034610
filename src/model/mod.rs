//! The nouns of the house. No tokio, no I/O, no clock of their own.
//!
//! Everything that two rooms talk about is spelled here once: what a point is, what a
//! reading says, what can go wrong with a device. The rooms above parse into these types
//! at their border and carry them inside.

pub mod decimal;
pub mod device;
pub mod ids;
pub mod kept;
pub mod line;
pub mod observation;
pub mod reading;
pub mod register;
pub mod report;
pub mod row;
pub mod thing;
pub mod time;
pub mod transform;
pub mod value;
pub mod write;

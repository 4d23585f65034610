//! Serial lines: the port itself, and devices that speak lines of text.

pub mod frame;
pub mod parse;
pub mod pause;
pub mod port;

//! PURE: the device shadow with the semantics of AWS IoT.
//!
//! Constraints: the local service must answer as the cloud's does, to the number and the
//! text, or a client written for one breaks on the other; what it is given is hostile; it
//! has no clock, no store and no network, so that MQTT, HTTP and the command line share one
//! door and every case can be tested as plain values.
//!
//! The way of a request: bytes → [`request`] parses or refuses → [`service::answer`] looks
//! at the kept [`document::Shadow`], checks depth and version, merges ([`merge`]), checks
//! the size → the next shadow and the messages about it. The caller commits the shadow and
//! only then publishes the messages. Where the cloud has a service of its own,
//! [`mirror`] keeps both sides equal through the same door, by the three-way merge of
//! [`sync`].
//!
//! The delta is computed from the document and never stored.

pub mod base;
mod cloud;
pub mod document;
pub mod error;
pub mod merge;
pub mod message;
pub mod mirror;
pub mod pacer;
pub mod request;
pub mod service;
pub mod sync;
pub mod tree;

pub use document::{Section, Sections, Shadow};
pub use error::Rejected;
pub use message::{Kind, Message, Operation};
pub use request::{Limits, Patch, Request, Update};
pub use service::{Answer, answer, list_named, refuse};
pub use tree::Tree;

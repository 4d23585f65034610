//! The local MQTT broker: 3.1.1 and 5, TLS with client certificates.
//!
//! Constraints: `packet`, `topic`, `decode`, `encode`, `tree`, `session` and `core` are
//! pure: packets and time go in, packets come out, nothing sleeps, spawns or awaits. Only
//! `listener`, `connection` and `bus` know the runtime.

pub mod decode;
pub mod encode;
pub mod packet;
pub mod topic;

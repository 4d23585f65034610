//! The local MQTT broker: 3.1.1 and 5, TLS with client certificates.
//!
//! Constraints: `packet`, `topic`, `decode`, `encode`, `tree`, `session`, `retained`,
//! `state` and `core` are pure: packets and time go in, packets come out, nothing sleeps,
//! spawns or awaits. Only `listener`, `connection` and `bus` know the runtime. QoS 2 and
//! shared subscriptions are refused for now, with their reasons.

pub mod packet;
pub mod topic;

pub mod decode;
pub mod encode;

pub mod core;
pub mod retained;
pub mod session;
pub mod state;
pub mod tree;

pub mod bus;
pub mod connection;
pub mod listener;

//! Edge agent for Linux gateways: reads Modbus and serial devices, keeps every reading in
//! SQLite, and delivers it over TLS MQTT.

#![warn(clippy::unwrap_used)]

pub mod manual;

pub mod model;

pub mod backoff;
pub mod broker;
pub mod channel;
pub mod modbus;
pub mod packed;
pub mod serial;
pub mod shadow;
pub mod wire;

pub mod config;
pub mod identity;
pub mod metrics;
pub mod notify;
pub mod store;

pub mod bus;
pub mod control;
pub mod hub;
pub mod uplink;

pub mod app;
pub mod bundle;
pub mod cli;
pub mod doctor;
pub mod supervise;

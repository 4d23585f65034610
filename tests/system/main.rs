//! The package in a real Debian with systemd: installed, started, killed, upgraded, purged.
//!
//! A bed is a systemd-nspawn machine on an overlay of one cached root file system
//! (`tests/system/rootfs`); it boots in under a second and leaves nothing behind, also after
//! a panic. Outside of it stand the parts of `tests/e2e`: mosquitto with mutual TLS, pymodbus
//! on TCP and on a pty that the bed sees as a serial port, and the account of every value.
//! Asserted is what an operator sees: `systemctl`, `journalctl`, `dpkg`, and what the broker got.
//!
//! Needs root, so every test is ignored by default: `tests/system/run` runs them. README.md
//! beside this file says how, and what such a machine does not prove.
#![allow(clippy::unwrap_used, dead_code)] // Fixtures are shared with tests/e2e, each uses its part.

#[path = "../e2e/account.rs"]
mod account;
#[path = "../e2e/certs.rs"]
mod certs;
#[path = "../e2e/foreign.rs"]
mod foreign;
#[path = "../e2e/mosquitto.rs"]
mod mosquitto;
#[path = "../e2e/subscriber.rs"]
mod subscriber;
#[path = "../e2e/wait.rs"]
mod wait;

mod bed;
mod deb;
mod plant;

mod gateway;
mod sandbox;
mod service;
mod upgrade;

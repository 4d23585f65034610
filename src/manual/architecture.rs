//! # Architecture
//!
//! One process, one thread for everything but the disk. A task per line or endpoint reads
//! devices; one task, the hub, writes SQLite; one task, the uplink, empties it to the broker.
//! Hub and uplink never call each other: each waits only for the disk. Kill the process at
//! any arrow, and the last transaction tells the rest.
//!
//! ```text
//! register ─words─▶ modbus::codec ─Value─▶ bus ─Observation─▶ [bounded queue] ─▶ hub
//!  ─▶ ONE transaction { rows of the outbox } ─notify─▶ uplink ─Publish─▶ broker
//!  ─PUBACK─▶ window ─▶ row deleted
//! ```
//!
//! The way of a desired change, down and home again as an ordinary reading:
//!
//! ```text
//! broker ─arrives─▶ uplink ─Ask─▶ hub::things ─▶ ONE transaction { shadow, mail, audit } ─▶
//!  answer ─▶ PUBACK;  hub ─WriteRequest, never waited for─▶ bus ─Modbus write, read back─▶
//!  Observation ─▶ the way up
//! ```
//!
//! Shadows, desired members, commands and mirrors are one pure core ([`crate::hub::things`])
//! on top of the pure [`crate::shadow`]; the hub around it only waits and commits.
//!
//! An identity is one file with key and chain. The keeper enrols and renews; a wallet tells a
//! connection what to present, and learns from its CONNACK whether it was right.
//!
//! Pressure ends at the register (a poll is skipped and counted) or at the store's limit
//! (what is dropped is written into the ledger, and the ledger's record is itself delivered).
//!
//! ## Floors
//!
//! An arrow may only point down; rooms on one floor do not know each other.
//!
//! ```text
//! 5  main, cli, bundle
//! 4  app, supervise, doctor
//! 3  bus  hub  uplink  broker  control  identity::keeper        tasks
//! 2  modbus::client  serial::port  store  config  identity  notify   resources
//! 1  shadow  wire  backoff  packed  modbus::{plan,codec}  serial::{frame,parse}
//!    bus::schedule  hub::things                                 pure: no tokio, no clock
//!    channel  metrics                                           what tasks share
//! 0  model                                                      nouns
//! ```
//!
//! [`crate::channel`] holds the messages that one task sends and another takes, because the
//! two may not know each other. [`crate::app`] makes every channel and hands out the ends.
//!
//! ## Stop
//!
//! From the source: the buses finish their frames and drop their senders; the hub drains,
//! commits and returns by itself; the uplink gets what is left of the grace to empty its
//! window; the services go last. [`crate::supervise`] holds that order, for an orderly stop
//! and for the first task that fails.
//!
//! ## Errors
//!
//! Faults of devices are data, not errors: a plant with one dead sensor is a healthy plant.
//! Expected trouble (a port unplugged, a broker away, a certificate refused) is handled inside
//! the task that meets it. What is left ends the process, and systemd starts it again.

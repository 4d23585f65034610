//! End to end: the built agent between parts that we did not write.
//!
//! mosquitto with mutual TLS is the cloud, pymodbus and a line writer on a pty are the
//! devices, socat is the cable; between agent and broker lies a relay of ours that cuts,
//! freezes or swallows. Slaves that must misbehave on purpose are ours too (`slave.rs`).
//!
//! The way of one value: a device hands it out and notes it (`account::Sample`; counters
//! make each one unique) → agent → relay → mosquitto → `subscriber` → `account::settle`
//! compares both sides: whatever was handed out has arrived or stands in a gap record, and
//! nothing arrives that was not handed out.
//!
//! Nothing here sleeps and hopes: every wait has a condition and a deadline, and an outage
//! lasts until the devices have answered a number of polls. `FIELDGATE_E2E_LONG=1` makes the
//! outages a minute long. Needs mosquitto, socat and pymodbus: `tests/run` installs them.

mod account;
mod agent;
mod certs;
mod foreign;
mod mosquitto;
mod relay;
mod reload;
mod slave;
mod subscriber;
mod wait;
mod world;

mod bad_servers;
mod claim;
mod devices;
mod fixtures;
mod mirror;
mod outages;
mod own;
mod receiving;
mod shadow_sdk;
mod things;
mod tls;
mod writes;

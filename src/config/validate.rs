//! From what is written to what is meant: every rule of the configuration.
//!
//! Constraints: all mistakes at once, so no check stops another; a check that fails names
//! the mistake and goes on with the default. Nothing is opened: whether a certificate
//! exists is asked, whether it is right is the uplink's business. Only the password file is
//! read, because its content is configuration.
//!
//! The way of a device: raw table (model laid under it) → names and bus → timing and limits
//! → its points one by one → `Device`; the buses get their devices last.

pub mod authorizer;
pub mod bus;
pub mod device;
pub mod identity;
pub mod names;
pub mod point;
pub mod register;
pub mod shadow;
pub mod thing;
pub mod things;
pub mod transform;
pub mod uplink;
pub mod values;
pub mod websocket;
pub mod write;

use std::collections::HashMap;
use std::time::Duration;

use super::errors::{Place, Report};
use super::load::{Layered, Placed};
use super::raw;
use super::{Config, Durability, Gateway, Log, LogFormat, Store};
use crate::model::device::{Bus, Device, Protocol};
use crate::model::ids::{DEVICES_MAX, DeviceIndex, DeviceName, GatewayName};
use values::{HOUR, Reader, SECOND};

/// The least that the outbox may be bounded to: below it every page would be overhead.
const STORE_SIZE_MIN: u64 = 1 << 20;

/// The configuration, if everything that it cannot do without was right. Mistakes are in
/// `report`; the result is worth nothing unless that is clean.
pub fn validate(layered: Layered, report: &mut Report) -> Option<Config> {
    let gateway = gateway(&layered, report);
    let name = gateway.as_ref().map_or(GatewayName::new("gateway"), |g| g.name.clone());
    let uplink = uplink::uplink(&layered, &name, report);
    let thing = things::things(&layered.thing, report);
    let store = store(&layered, report);
    let shadow = shadow::shadow(&layered.shadow, report);
    let identity = identity::identity(&layered, uplink.as_ref(), report);
    let log = log(&layered.log, report);
    let (buses, devices) = plant(&layered, report);
    let client_id = uplink.as_ref().map_or("", |u| u.client_id.as_str());
    let is_signed = layered.uplink.raw.sigv4.is_some();
    thing::own(&layered.devices, &identity, client_id, is_signed, report);
    if !report.is_clean() {
        return None;
    }
    Some(Config {
        gateway: gateway?,
        uplink: uplink?,
        thing,
        store,
        shadow,
        identity,
        log,
        buses,
        devices,
        warnings: Vec::new(),
    })
}

fn gateway(layered: &Layered, report: &mut Report) -> Option<Gateway> {
    let Placed { place, raw } = &layered.gateway;
    let name = names::required(raw.name.as_deref(), "the gateway", place, report);
    let mut reader = Reader { place, report };
    let stop_grace = reader.span("stop_grace", raw.stop_grace, SECOND * 10, SECOND..=HOUR);
    let socket = raw.status_socket.clone().unwrap_or_else(|| "/run/fieldgate/status.sock".into());
    let status_socket =
        Some(socket).filter(|s| !s.as_os_str().is_empty()).map(|socket| layered.directory.join(socket));
    Some(Gateway { name: GatewayName::new(&name?), status_socket, stop_grace })
}

fn store(layered: &Layered, report: &mut Report) -> Store {
    let Placed { place, raw } = &layered.store;
    let durability = raw.durability.unwrap_or(raw::Durability::Commit);
    let mut reader = Reader { place, report };
    let batch_window =
        reader.span("batch_window", raw.batch_window, Duration::from_millis(2), Duration::ZERO..=SECOND);
    let interval = reader.span("interval", raw.interval, SECOND * 10, Duration::from_millis(100)..=HOUR);
    let bytes_max = reader.size("max_size", raw.max_size, 512 << 20, STORE_SIZE_MIN..=1 << 40);
    let age_max = reader.span_or_none("max_age", raw.max_age, SECOND..=HOUR * 24 * 3650);
    let durability = match durability {
        raw::Durability::Commit => Durability::Commit { batch_window },
        raw::Durability::Interval => Durability::Interval { interval },
    };
    let unused = match durability {
        Durability::Commit { .. } => ("interval", raw.interval.is_some()),
        Durability::Interval { .. } => ("batch_window", raw.batch_window.is_some()),
    };
    if let (key, true) = unused {
        report.warn(place, key, "has no effect with this durability");
    }
    let path = raw.path.clone().unwrap_or_else(|| "/var/lib/fieldgate/fieldgate.db".into());
    if path.as_os_str().is_empty() {
        report.error(
            place,
            "path",
            "is empty",
            "name the database file, for instance \"/var/lib/fieldgate/fieldgate.db\"",
        );
    }
    Store { path: layered.directory.join(path), durability, bytes_max, age_max }
}

fn log(placed: &Placed<raw::Log>, report: &mut Report) -> Log {
    let Placed { place, raw } = placed;
    let level = raw.level.clone().unwrap_or_else(|| "info".into());
    if let Err(e) = level.parse::<tracing_subscriber::EnvFilter>() {
        let help = "write error, warn, info, debug, trace, or a filter such as \"info,fieldgate::bus=debug\"";
        report.error(place, "level", format!("\"{level}\" is not a log level: {e}"), help);
    } else if !level.contains(['=', ',']) && level.parse::<tracing::level_filters::LevelFilter>().is_err() {
        // A bare word is a target to the filter, and would silence everything.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let help = super::text::suggest(&level, levels);
        report.error(place, "level", format!("\"{level}\" is not a log level"), help);
    }
    let format = match raw.format.unwrap_or(raw::LogFormat::Auto) {
        raw::LogFormat::Auto => LogFormat::Auto,
        raw::LogFormat::Text => LogFormat::Text,
        raw::LogFormat::Journal => LogFormat::Journal,
    };
    Log { level, format }
}

/// Buses and devices, tied together.
fn plant(layered: &Layered, report: &mut Report) -> (Vec<Bus>, Vec<Device>) {
    let places = layered.buses.iter().map(|b| (b.raw.name.as_deref(), &b.place));
    names::unique(places, "bus", report);
    let places = layered.devices.iter().map(|d| (d.raw.name.as_deref(), &d.place));
    names::unique(places, "device", report);
    let mut buses: Vec<Bus> = layered.buses.iter().filter_map(|b| bus::bus(b, report)).collect();
    if layered.devices.len() > DEVICES_MAX {
        let message = format!("there are {} devices", layered.devices.len());
        report.error(&layered.devices[DEVICES_MAX].place, "", message, format!("at most {DEVICES_MAX}"));
    }
    let mut devices = Vec::with_capacity(layered.devices.len());
    let mut units: HashMap<(usize, u8), DeviceName> = HashMap::new();
    for entry in &layered.devices {
        let at = bus_of(entry.raw.bus.as_deref(), &entry.place, layered, &buses, report);
        let transport = at.map(|at| &buses[at].transport);
        let Some(device) = device::device(entry, transport, report) else { continue };
        if let (Some(at), Protocol::Modbus(modbus)) = (at, &device.protocol)
            && let Some(first) = units.insert((at, modbus.unit_id), device.name.clone())
        {
            let message = format!("unit id {} of this bus is already used by {first}", modbus.unit_id);
            report.warn(&entry.place, "unit_id", message);
        }
        if let Some(at) = at {
            let index = u32::try_from(devices.len()).unwrap_or(u32::MAX);
            buses[at].devices.push(DeviceIndex(index));
        }
        devices.push(device);
    }
    thing::unique(&devices, &layered.devices, report);
    for placed in &layered.buses {
        let idle = |b: &&Bus| Some(b.name.as_str()) == placed.raw.name.as_deref() && b.devices.is_empty();
        if buses.iter().any(|b| idle(&b)) {
            report.warn(&placed.place, "", "no device is on this bus");
        }
    }
    (buses, devices)
}

/// The place of the device's bus among the good ones. A bus that exists but is wrong has
/// been blamed already.
fn bus_of(
    name: Option<&str>,
    place: &Place,
    layered: &Layered,
    buses: &[Bus],
    report: &mut Report,
) -> Option<usize> {
    let known = layered.buses.iter().filter_map(|b| b.raw.name.as_deref());
    match name {
        None => report.error(place, "bus", "the device names no bus", "write bus = \"NAME\" of a [[bus]]"),
        Some(name) if !known.clone().any(|k| k == name) => {
            let help = super::text::suggest(name, known);
            report.error(place, "bus", format!("there is no bus \"{name}\""), help);
        }
        Some(name) => return buses.iter().position(|b| b.name.as_str() == name),
    }
    None
}

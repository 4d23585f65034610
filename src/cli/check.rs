//! `fieldgate check`: every mistake of the configuration, or what it describes.
//!
//! Nothing is opened: no port, no connection, no database. Exit 0 if the agent would start
//! with this configuration, 64 if not.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::config::load::load;
use crate::config::{Config, Security};
use crate::model::device::{Host, Protocol, TcpEndpoint, Transport};

/// The command line or the configuration was wrong (`EX_USAGE`).
pub const EXIT_CONFIGURATION: u8 = 64;

pub fn run(path: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    match load(path) {
        Ok(config) if json => {
            print(&format!("{}\n", summary_json(&config)))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(config) => {
            print(&summary(&config))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            if json {
                print(&format!("{}\n", json!({ "ok": false, "errors": errors.0 })))?;
            } else {
                eprintln!("{errors}");
            }
            Ok(ExitCode::from(EXIT_CONFIGURATION))
        }
    }
}

/// What the configuration describes, for people.
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    let uplink = &config.uplink;
    let security = match &uplink.security {
        Security::Plain => "not encrypted",
        Security::Tls(tls) if tls.certificate.is_some() => "TLS with client certificate",
        Security::Tls(_) => "TLS",
    };
    let points: usize = config.devices.iter().map(|d| d.points.len()).sum();
    let mut line = |args: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{args}");
    };
    line(format_args!("gateway {}", config.gateway.name));
    line(format_args!("uplink  {}:{} as {}, {security}", uplink.host, uplink.port, uplink.client_id));
    line(format_args!("store   {}", config.store.path.display()));
    for bus in &config.buses {
        line(format_args!("bus     {}: {}", bus.name, transport(&bus.transport)));
        for device in bus.devices.iter().map(|index| &config.devices[index.at()]) {
            let protocol = match &device.protocol {
                Protocol::Modbus(modbus) => format!("unit {}", modbus.unit_id),
                Protocol::Line(_) => "lines of text".into(),
            };
            line(format_args!("  {}: {protocol}, {}", device.name, count(device.points.len(), "point")));
        }
    }
    for warning in &config.warnings {
        line(format_args!("warning: {warning}"));
    }
    let (buses, devices) = (count_es(config.buses.len()), count(config.devices.len(), "device"));
    let warnings = count(config.warnings.len(), "warning");
    line(format_args!("ok: {buses}, {devices}, {}, {warnings}", count(points, "point")));
    text
}

fn summary_json(config: &Config) -> serde_json::Value {
    let buses = config.buses.iter().map(|bus| {
        let devices = bus.devices.iter().map(|index| &config.devices[index.at()]);
        let devices = devices.map(|d| json!({ "device": d.name.as_str(), "points": d.points.len() }));
        json!({
            "bus": bus.name.as_str(),
            "transport": transport(&bus.transport),
            "devices": devices.collect::<Vec<_>>(),
        })
    });
    json!({
        "ok": true,
        "gateway": config.gateway.name.as_str(),
        "buses": buses.collect::<Vec<_>>(),
        "warnings": config.warnings,
    })
}

fn transport(transport: &Transport) -> String {
    let endpoint = |e: &TcpEndpoint| match &e.host {
        Host::Address(address) => std::net::SocketAddr::new(*address, e.port).to_string(),
        Host::Name(name) => format!("{name}:{}", e.port),
    };
    match transport {
        Transport::Serial(port) => format!("serial {}, {} baud", port.path.display(), port.baud),
        Transport::Tcp(e) => format!("tcp {}", endpoint(e)),
        Transport::RtuOverTcp(e) => format!("rtu over tcp {}", endpoint(e)),
    }
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn count_es(n: usize) -> String {
    if n == 1 { "1 bus".into() } else { format!("{n} buses") }
}

//! `fieldgate plan`: what will go over the wire, before anything does.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::print;
use crate::config::Config;
use crate::modbus::load::{BusLoad, CONVERTER_BAUD, PlannedRequest, ROUND_TRIP, of_bus};
use crate::model::device::{Bus, Device, Host, Parity, TcpEndpoint, Transport};

/// Prints the plan of every bus. Warnings are part of the answer, not a failure.
pub fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&format!("{}\n", as_json(&config.buses, &config.devices)))?;
    } else {
        print(&format!("{}\n", as_text(&config.buses, &config.devices)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(buses: &[Bus], devices: &[Device]) -> serde_json::Value {
    let request = |r: &PlannedRequest| {
        serde_json::json!({
            "unit_id": r.unit_id,
            "fc": r.table.read_function(),
            "address": r.address,
            "count": r.count,
            "interval_ms": u64::try_from(r.interval.as_millis()).unwrap_or(u64::MAX),
            "points": r.points.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
            "device": r.device.as_str(),
            "bytes": r.bytes,
            "wire_ms": rounded(r.time * 1000.0),
        })
    };
    let one = |bus: &Bus| {
        let load = of_bus(bus, devices);
        let device = |d: &crate::modbus::load::DeviceLoad| {
            serde_json::json!({
                "device": d.device.as_str(),
                "cycle_ms": rounded(d.cycle * 1000.0),
                "load_percent": rounded(d.load * 100.0),
            })
        };
        serde_json::json!({
            "bus": load.bus.as_str(),
            "cycle_ms": rounded(load.cycle * 1000.0),
            "load_percent": rounded(load.load * 100.0),
            "requests": load.requests.iter().map(request).collect::<Vec<_>>(),
            "devices": load.devices.iter().map(device).collect::<Vec<_>>(),
            "assumes": assumption(bus),
            "warnings": load.warnings,
        })
    };
    serde_json::json!({ "buses": buses.iter().map(one).collect::<Vec<_>>() })
}

fn as_text(buses: &[Bus], devices: &[Device]) -> String {
    let one = |bus: &Bus| bus_text(bus, &of_bus(bus, devices));
    buses.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn bus_text(bus: &Bus, load: &BusLoad) -> String {
    let mut out = format!("{}  {}", load.bus, transport(&bus.transport));
    if load.requests.is_empty() {
        out.push_str("\n  nothing to ask: its devices speak by themselves");
        return out;
    }
    let bytes: u32 = load.requests.iter().map(|r| r.bytes).sum();
    let _ = write!(
        out,
        "\n  {} request{}, {bytes} bytes, a full cycle {:.1} ms, load {:.1} %",
        load.requests.len(),
        if load.requests.len() == 1 { "" } else { "s" },
        load.cycle * 1000.0,
        load.load * 100.0,
    );
    let _ = write!(out, "\n  {}", assumption(bus));
    for warning in &load.warnings {
        let _ = write!(out, "\n  ! {warning}");
    }
    let _ = write!(
        out,
        "\n  {:<16} {:>4} {:>3} {:>8} {:>5} {:>9} {:>6} {:>9}  points",
        "device", "unit", "fc", "address", "count", "every", "bytes", "wire"
    );
    for r in &load.requests {
        let points: Vec<&str> = r.points.iter().map(|name| name.as_str()).collect();
        let _ = write!(
            out,
            "\n  {:<16} {:>4} {:>3} {:>8} {:>5} {:>9} {:>6} {:>6.1} ms  {}",
            r.device.as_str(),
            r.unit_id,
            r.table.read_function(),
            r.address,
            r.count,
            every(r.interval),
            r.bytes,
            r.time * 1000.0,
            points.join(" "),
        );
    }
    if load.devices.len() > 1 {
        let mut by_cost: Vec<_> = load.devices.iter().collect();
        by_cost.sort_by(|a, b| b.load.total_cmp(&a.load));
        let shares: Vec<String> =
            by_cost.iter().take(5).map(|d| format!("{} {:.1} %", d.device, d.load * 100.0)).collect();
        let _ = write!(out, "\n  costs most: {}", shares.join(", "));
    }
    out
}

fn every(interval: Duration) -> String {
    if interval.is_zero() { "always".into() } else { humantime::format_duration(interval).to_string() }
}

fn transport(transport: &Transport) -> String {
    let endpoint = |e: &TcpEndpoint| match &e.host {
        Host::Address(address) => std::net::SocketAddr::new(*address, e.port).to_string(),
        Host::Name(name) => format!("{name}:{}", e.port),
    };
    match transport {
        Transport::Tcp(e) => format!("Modbus TCP {}", endpoint(e)),
        Transport::RtuOverTcp(e) => format!("RTU over TCP {}", endpoint(e)),
        Transport::Serial(port) => {
            let parity = match port.parity {
                Parity::None => 'N',
                Parity::Even => 'E',
                Parity::Odd => 'O',
            };
            format!("{} {} {}{parity}{}", port.path.display(), port.baud, port.data_bits, port.stop_bits)
        }
    }
}

fn assumption(bus: &Bus) -> String {
    let round_trip = ROUND_TRIP.as_millis();
    match &bus.transport {
        Transport::Serial(_) => {
            "times are what the wire takes; what a device needs to think comes on top".into()
        }
        Transport::Tcp(_) => format!("times assume a round trip of {round_trip} ms"),
        Transport::RtuOverTcp(_) => format!(
            "times assume {CONVERTER_BAUD} baud behind the converter and a round trip of {round_trip} ms"
        ),
    }
}

/// Three digits: more would promise too much.
fn rounded(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::load::tests::{bus, device, serial};

    #[test]
    fn json_for_programs() {
        let devices = [device("meter", &[("b", 1, 1000), ("a", 0, 1000), ("slow", 9, 2000)])];
        let mut seen = as_json(&[bus(serial(9600), 1)], &devices);
        let bus = seen["buses"][0].as_object_mut().unwrap();
        assert!(bus["assumes"].as_str().unwrap().starts_with("times are what the wire takes"));
        for more in ["assumes", "devices", "warnings"] {
            bus.shift_remove(more).unwrap();
        }
        for request in bus["requests"].as_array_mut().unwrap() {
            for more in ["device", "bytes", "wire_ms"] {
                request.as_object_mut().unwrap().shift_remove(more).unwrap();
            }
        }
        let expected = concat!(
            r#"{"buses":[{"bus":"line-1","cycle_ms":52.708,"load_percent":4.01,"requests":["#,
            r#"{"unit_id":1,"fc":4,"address":0,"count":2,"interval_ms":1000,"points":["a","b"]},"#,
            r#"{"unit_id":1,"fc":4,"address":9,"count":1,"interval_ms":2000,"points":["slow"]}]}]}"#,
        );
        assert_eq!(seen.to_string(), expected);
    }

    #[test]
    fn text_for_people() {
        let devices = [device("meter", &[("a", 0, 1000)]), device("other", &[("x", 0, 500)])];
        let seen = as_text(&[bus(serial(9600), 2), bus(serial(9600), 0)], &devices);
        let lines: Vec<&str> = seen.lines().map(str::trim).collect();
        assert_eq!(lines[0], "line-1  /dev/ttyUSB0 9600 8E1");
        assert_eq!(lines[1], "2 requests, 30 bytes, a full cycle 50.4 ms, load 7.6 %");
        assert_eq!(lines[4], "meter               1   4        0     1        1s     15   25.2 ms  a");
        assert_eq!(lines[6], "costs most: other 5.0 %, meter 2.5 %");
        assert_eq!(lines[9], "nothing to ask: its devices speak by themselves");
    }
}

//! `[[device]]`: who it is on its bus, how it wants to be asked, and its points.

use std::sync::Arc;
use std::time::Duration;

use super::names;
use super::point::{self, Owner};
use super::register;
use super::thing;
use super::values::{DAY, HOUR, Reader, SECOND};
use super::write;
use crate::config::errors::{Place, Report};
use crate::config::load::DeviceEntry;
use crate::config::raw;
use crate::config::text::{NumberOrText, explain, parse_span};
use crate::model::device::{
    AddressRange, Device, LineDevice, ModbusDevice, Protocol, RequestLimits, Transport, WriteFunction,
};
use crate::model::ids::{DeviceName, POINTS_PER_DEVICE_MAX};
use crate::model::line::{Framing, LineFormat};

/// The device; `None` after a mistake without which nothing can be said about its points.
pub fn device(entry: &DeviceEntry, transport: Option<&Transport>, report: &mut Report) -> Option<Device> {
    let DeviceEntry { place, raw, points, commands } = entry;
    let name = names::required(raw.name.as_deref(), "the device", place, report);
    let interval = Reader { place, report }.span("interval", raw.interval, SECOND, Duration::ZERO..=DAY * 31);
    let protocol = match raw.protocol.unwrap_or(raw::DeviceProtocol::Modbus) {
        raw::DeviceProtocol::Modbus => Protocol::Modbus(modbus(raw, place, transport, report)),
        raw::DeviceProtocol::Line => Protocol::Line(line(raw, place, transport, report)),
    };
    if points.len() > POINTS_PER_DEVICE_MAX {
        let message = format!("the device has {} points", points.len());
        report.error(place, "", message, format!("at most {POINTS_PER_DEVICE_MAX}"));
    }
    names::unique(points.iter().map(|p| (p.raw.name.as_deref(), &p.place)), "point", report);
    let owner = Owner { raw, place, protocol: &protocol, interval };
    let kept = points.iter().filter(|p| p.raw.disabled != Some(true));
    let points: Arc<[_]> = kept.filter_map(|p| point::point(p, &owner, report)).collect();
    if points.is_empty() && entry.points.iter().all(|p| p.raw.disabled == Some(true)) {
        report.warn(place, "", "the device has no points");
    }
    thing::together(raw, &entry.points, &points, report);
    let commands = write::commands(commands, &protocol, &points, report);
    let name = DeviceName::new(&name?);
    Some(Device {
        thing: thing::thing(raw, &name, place, report),
        name,
        protocol,
        points,
        commands: commands.into(),
        fingerprint: thing::fingerprint(raw),
        uplink: thing::uplink(raw),
    })
}

fn modbus(
    raw: &raw::Device,
    place: &Place,
    transport: Option<&Transport>,
    report: &mut Report,
) -> ModbusDevice {
    let keys = [
        ("format", raw.format.is_some()),
        ("pattern", raw.pattern.is_some()),
        ("delimiter", raw.delimiter.is_some()),
        ("line_max", raw.line_max.is_some()),
        ("matching", raw.matching.is_some()),
        ("separator", raw.separator.is_some()),
        ("columns", raw.columns.is_some()),
        ("separators", raw.separators.is_some()),
        ("assign", raw.assign.is_some()),
    ];
    let mut reader = Reader { place, report };
    reader.refuse("has no meaning for a Modbus device", "remove it, or write protocol = \"line\"", &keys);
    if let Some(Transport::Serial(port)) = transport
        && port.data_bits != 8
    {
        let message = format!("Modbus RTU needs 8 data bits; the bus has {}", port.data_bits);
        reader.report.error(place, "bus", message, "write data_bits = 8 on the bus");
    }
    let [backoff_min, backoff_max] = reader.backoff(
        ["backoff_min", "backoff_max"],
        [raw.backoff_min, raw.backoff_max],
        [SECOND, SECOND * 60],
    );
    let millis = Duration::from_millis;
    let response_timeout =
        reader.span("response_timeout", raw.response_timeout, SECOND, millis(5)..=SECOND * 60);
    let late_window = reader.span("late_window", raw.late_window, SECOND, Duration::ZERO..=SECOND * 60);
    let retries = reader.number("retries", raw.retries, 1, 0..=10);
    let busy_retries = reader.number("busy_retries", raw.busy_retries, 3, 0..=100);
    let busy_pause = reader.span("busy_pause", raw.busy_pause, millis(100), Duration::ZERO..=SECOND * 60);
    let pause_after_write =
        reader.span("pause_after_write", raw.pause_after_write, Duration::ZERO, Duration::ZERO..=SECOND * 60);
    let hole_retry = reader.span("hole_retry", raw.hole_retry, HOUR, SECOND..=DAY * 31);
    let silent_after = polls(raw, place, report);
    Reader { place, report }.span("verify_within", raw.verify_within, SECOND * 2, millis(1)..=SECOND * 60);
    ModbusDevice {
        // After a mistake any id will do: the points are still looked at.
        unit_id: unit_id(raw, place, transport, report).unwrap_or(1),
        limits: limits(raw, place, report),
        response_timeout,
        late_window,
        retries,
        busy_retries,
        busy_pause,
        pause_after_write,
        silent_after,
        backoff_min,
        backoff_max,
        hole_retry,
        write_function: match raw.write_function.unwrap_or(raw::WriteFunction::Auto) {
            raw::WriteFunction::Auto => WriteFunction::Auto,
            raw::WriteFunction::Single => WriteFunction::Single,
            raw::WriteFunction::Multiple => WriteFunction::Multiple,
        },
    }
}

fn unit_id(
    raw: &raw::Device,
    place: &Place,
    transport: Option<&Transport>,
    report: &mut Report,
) -> Option<u8> {
    let is_tcp = matches!(transport, Some(Transport::Tcp(_)));
    match raw.unit_id {
        None => {
            let help = "write unit_id = 1 to 247; on TCP also 0 and 255, which mean the endpoint itself";
            report.error(place, "unit_id", "the device has no unit id", help);
            None
        }
        Some(id @ 1..=247) => Some(id),
        Some(id) if is_tcp || transport.is_none() => Some(id),
        Some(id) => {
            report.error(place, "unit_id", format!("{id} is no unit id of a serial line"), "from 1 to 247");
            None
        }
    }
}

/// Failed polls in a row until the device is silent.
fn polls(raw: &raw::Device, place: &Place, report: &mut Report) -> u8 {
    match &raw.silent_after {
        None => 3,
        Some(NumberOrText::Whole(n @ 1..=255)) => u8::try_from(*n).unwrap_or(u8::MAX),
        Some(other) => {
            let help = "for a Modbus device: failed polls in a row, a whole number from 1 to 255";
            report.error(place, "silent_after", format!("{other} does not fit"), help);
            3
        }
    }
}

fn limits(raw: &raw::Device, place: &Place, report: &mut Report) -> RequestLimits {
    let base = address_base(raw, place, report);
    let defaults = RequestLimits::default();
    let mut reader = Reader { place, report };
    let max_registers = reader.number("max_registers", raw.max_registers, defaults.max_registers, 1..=125);
    let max_bits = reader.number("max_bits", raw.max_bits, defaults.max_bits, 1..=2000);
    let max_gap_registers = reader.number("max_gap", raw.max_gap, defaults.max_gap_registers, 0..=124);
    let max_gap_bits = reader.number("max_gap_bits", raw.max_gap_bits, defaults.max_gap_bits, 0..=1999);
    let forbidden = raw.forbidden.iter().flatten().enumerate();
    let forbidden = forbidden
        .filter_map(|(index, range)| {
            let key = format!("forbidden[{index}]");
            let help = "write { table = \"holding\", first = 10, last = 19 }, first at most last";
            let (Some(table), Some(first), Some(last)) = (range.table, range.first, range.last) else {
                report.error(place, &key, "lacks table, first or last", help);
                return None;
            };
            if first > last || first < base {
                report.error(place, &key, format!("{first} to {last} is no range of addresses"), help);
                return None;
            }
            Some(AddressRange { table: register::table(table), first: first - base, last: last - base })
        })
        .collect();
    RequestLimits {
        max_registers,
        max_bits,
        max_gap_registers,
        max_gap_bits,
        forbidden,
        one_request_per_point: raw.one_request_per_point.unwrap_or(false),
    }
}

/// 0 or 1; blamed once per device.
fn address_base(raw: &raw::Device, place: &Place, report: &mut Report) -> u16 {
    match raw.address_base {
        None | Some(0) => 0,
        Some(1) => 1,
        Some(n) => {
            let help = "0: addresses as on the wire; 1: the first register is called 1";
            report.error(place, "address_base", format!("{n} is no address base"), help);
            0
        }
    }
}

fn line(raw: &raw::Device, place: &Place, transport: Option<&Transport>, report: &mut Report) -> LineDevice {
    if matches!(transport, Some(Transport::Tcp(_))) {
        let help = "use a bus with transport = \"serial\" or \"rtu-over-tcp\"";
        report.error(place, "bus", "a Modbus TCP bus carries no lines of text", help);
    }
    let keys = [
        ("unit_id", raw.unit_id.is_some()),
        ("byte_order", raw.byte_order.is_some()),
        ("address_base", raw.address_base.is_some()),
        ("max_registers", raw.max_registers.is_some()),
        ("max_bits", raw.max_bits.is_some()),
        ("max_gap", raw.max_gap.is_some()),
        ("max_gap_bits", raw.max_gap_bits.is_some()),
        ("one_request_per_point", raw.one_request_per_point.is_some()),
        ("forbidden", raw.forbidden.is_some()),
        ("response_timeout", raw.response_timeout.is_some()),
        ("late_window", raw.late_window.is_some()),
        ("retries", raw.retries.is_some()),
        ("busy_retries", raw.busy_retries.is_some()),
        ("busy_pause", raw.busy_pause.is_some()),
        ("pause_after_write", raw.pause_after_write.is_some()),
        ("backoff_min", raw.backoff_min.is_some()),
        ("backoff_max", raw.backoff_max.is_some()),
        ("hole_retry", raw.hole_retry.is_some()),
        ("write_function", raw.write_function.is_some()),
        ("verify_within", raw.verify_within.is_some()),
        ("fingerprint", raw.fingerprint.is_some_and(|f| f != raw::Fingerprint::None)),
    ];
    let mut reader = Reader { place, report };
    reader.refuse("has no meaning for a device that speaks lines", "remove it", &keys);
    let line_max = reader.size("line_max", raw.line_max, 1 << 10, 16..=1 << 20);
    let silent_after = match &raw.silent_after {
        None => SECOND * 30,
        Some(NumberOrText::Text(text)) => match parse_span(text) {
            Ok(span) => {
                reader.span("silent_after", Some(crate::config::text::Span(span)), span, SECOND..=DAY * 31)
            }
            Err(e) => {
                let (message, help) = explain(&e);
                report.error(place, "silent_after", message, help);
                SECOND
            }
        },
        Some(number) => {
            let help = format!("for a device that speaks lines: a duration, \"{number}s\"");
            report.error(place, "silent_after", format!("the number {number} has no unit"), help);
            SECOND
        }
    };
    let delimiter = raw.delimiter.clone().unwrap_or_else(|| "\r\n".into()).into_bytes();
    if delimiter.is_empty() {
        report.error(place, "delimiter", "is empty", "what ends a line, for instance \"\\r\\n\"");
    }
    let framing = Framing { delimiter, line_max: usize::try_from(line_max).unwrap_or(usize::MAX) };
    let format = format(raw, place, report).unwrap_or(LineFormat::Json);
    LineDevice { framing, format, matching: raw.matching.clone().filter(|m| !m.is_empty()), silent_after }
}

fn format(raw: &raw::Device, place: &Place, report: &mut Report) -> Option<LineFormat> {
    let Some(format) = raw.format else {
        let help = "write format = \"json\", \"csv\", \"key-value\" or \"regex\"";
        report.error(place, "format", "the device has no format", help);
        return None;
    };
    let is = |wanted| format == wanted;
    let keys = [
        ("pattern", raw.pattern.is_some() && !is(raw::LineFormat::Regex)),
        ("separator", raw.separator.is_some() && !is(raw::LineFormat::Csv)),
        ("columns", raw.columns.is_some() && !is(raw::LineFormat::Csv)),
        ("separators", raw.separators.is_some() && !is(raw::LineFormat::KeyValue)),
        ("assign", raw.assign.is_some() && !is(raw::LineFormat::KeyValue)),
    ];
    Reader { place, report }.refuse("belongs to another format", "remove it, or change format", &keys);
    match format {
        raw::LineFormat::Json => Some(LineFormat::Json),
        raw::LineFormat::Csv => Some(LineFormat::Csv {
            separator: one_byte(raw.separator.as_deref(), ',', "separator", place, report),
            columns: raw.columns.clone().unwrap_or_default(),
        }),
        raw::LineFormat::KeyValue => {
            let separators = raw.separators.clone().unwrap_or_else(|| ";,".into());
            if separators.is_empty() || !separators.is_ascii() {
                let help = "the characters that part the pairs, for instance \";,\"";
                report.error(place, "separators", format!("\"{separators}\" does not fit"), help);
            }
            let assign = one_byte(raw.assign.as_deref(), '=', "assign", place, report);
            Some(LineFormat::KeyValue { separators: separators.into_bytes(), assign })
        }
        raw::LineFormat::Regex => {
            let Some(pattern) = raw.pattern.as_deref() else {
                let help = "write pattern = '(?P<weight>[-+]?\\d+\\.\\d+)'";
                report.error(place, "pattern", "the format regex needs a pattern", help);
                return None;
            };
            match regex::Regex::new(pattern) {
                Ok(regex) => Some(LineFormat::Regex(regex)),
                Err(e) => {
                    let text = e.to_string();
                    let last =
                        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                    let help = "a regular expression in single quotes, with a named group per point";
                    report.error(place, "pattern", format!("is no regular expression: {last}"), help);
                    None
                }
            }
        }
    }
}

fn one_byte(text: Option<&str>, default: char, key: &str, place: &Place, report: &mut Report) -> u8 {
    match text.map(str::as_bytes) {
        None => default as u8,
        Some([byte]) => *byte,
        Some(_) => {
            report.error(
                place,
                key,
                "is not one character",
                format!("one ASCII character, for instance \"{default}\""),
            );
            default as u8
        }
    }
}

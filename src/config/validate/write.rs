//! What may be written: the access of a point, and the commands of a device.
//!
//! Only what can be checked before the wire may be written, so a point whose value cannot be
//! turned back into registers for certain is refused here, with the reason.

use std::time::Duration;

use super::names;
use super::point::Owner;
use super::values::{DAY, HOUR, Reader, SECOND};
use crate::config::errors::{Place, Report};
use crate::config::load::Placed;
use crate::config::raw;
use crate::config::text::{Span, explain, parse_span, suggest};
use crate::modbus::write::{WRITE_REGISTERS_MAX, Why, plan};
use crate::model::device::{DeviceCommand, ModbusDevice, Point, Protocol, Source, WriteFunction};
use crate::model::ids::{CommandName, PointIndex};
use crate::model::register::{Kind, RegisterPoint, Table, TextBytes};
use crate::model::write::WriteRules;

const MILLI: Duration = Duration::from_millis(1);

/// The rules of a point that may be written.
pub fn rules(
    raw: &raw::Point,
    source: Option<&Source>,
    place: &Place,
    owner: &Owner,
    report: &mut Report,
) -> Option<WriteRules> {
    let access = raw.access.unwrap_or(raw::Access::Read);
    if access == raw::Access::Read {
        for (key, is_set) in keys(raw) {
            if is_set {
                report.warn(place, key, "has no effect on a point that is only read");
            }
        }
        return None;
    }
    match (source, owner.protocol) {
        (_, Protocol::Line(_)) => {
            let help = "remove it: such a device sends, and takes nothing";
            report.error(place, "access", "a device that speaks lines cannot be written", help);
            return None;
        }
        (Some(Source::Register(register)), Protocol::Modbus(modbus)) => {
            writable(register, modbus, place, report);
            numbers(raw, register, place, report);
        }
        // The point itself was blamed already.
        _ => {}
    }
    let is_number = match source {
        Some(Source::Register(register)) => is_number(register),
        _ => true,
    };
    let mut reader = Reader { place, report };
    let [retry_min, retry_max] = reader.backoff(
        ["write_retry_min", "write_retry_max"],
        [raw.write_retry_min, raw.write_retry_max],
        [SECOND * 5, SECOND * 600],
    );
    let interval = reader.span("write_interval", raw.write_interval, SECOND, Duration::ZERO..=DAY * 31);
    let verify_within = match raw.verify_within {
        Some(_) => reader.span("verify_within", raw.verify_within, SECOND * 2, MILLI..=SECOND * 60),
        None => owner.raw.verify_within.map_or(SECOND * 2, |Span(within)| within),
    };
    let bound = |own: Option<f64>, point: Option<f64>| own.or(point).filter(|x| is_number && x.is_finite());
    Some(WriteRules {
        readable: access == raw::Access::ReadWrite,
        min: bound(raw.write_min, raw.min),
        max: bound(raw.write_max, raw.max),
        step: raw.write_step.filter(|step| is_number && step.is_finite() && *step > 0.0),
        interval,
        expiry: expiry(raw, place, report),
        retry_min,
        retry_max,
        verify_within,
    })
}

fn keys(raw: &raw::Point) -> [(&'static str, bool); 8] {
    [
        ("write_min", raw.write_min.is_some()),
        ("write_max", raw.write_max.is_some()),
        ("write_step", raw.write_step.is_some()),
        ("write_interval", raw.write_interval.is_some()),
        ("write_expiry", raw.write_expiry.is_some()),
        ("write_retry_min", raw.write_retry_min.is_some()),
        ("write_retry_max", raw.write_retry_max.is_some()),
        ("verify_within", raw.verify_within.is_some()),
    ]
}

fn is_number(register: &RegisterPoint) -> bool {
    let kind = &register.encoding.kind;
    register.transform.names.is_none()
        && !matches!(kind, Kind::Bool | Kind::Bit(_) | Kind::Text { .. } | Kind::Bytes { .. })
}

/// Whether a value can become the point's registers, and only those.
fn writable(register: &RegisterPoint, modbus: &ModbusDevice, place: &Place, report: &mut Report) {
    match register.table {
        Table::Coil | Table::Holding => {}
        Table::Discrete | Table::Input => {
            let message = format!("the table \"{}\" cannot be written", register.table.as_str());
            let help = "write table = \"coil\" or \"holding\", or remove access";
            report.error(place, "access", message, help);
        }
    }
    if register.scale_factor.is_some() {
        let message = "the scale factor is in the device and may change between reading it and a write";
        report.error(
            place,
            "access",
            message,
            "write a fixed scale instead of scale_factor, or remove access",
        );
    }
    if let Kind::Text { bytes: TextBytes::Low | TextBytes::High, .. } = register.encoding.kind {
        let message = "the other bytes of these registers would be overwritten";
        report.error(place, "access", message, "only a text of both bytes can be written");
    }
    if modbus.unit_id == 0 {
        let message = "unit id 0 is the broadcast address, nobody would answer for a write";
        report.error(place, "access", message, "give the device its own unit_id, or remove access");
    }
    let count = register.count();
    if count > 1 && modbus.write_function == WriteFunction::Single {
        let message = format!("function 6 writes one register, the point covers {count}");
        report.error(place, "access", message, "write write_function = \"auto\" for the device");
    } else if count > WRITE_REGISTERS_MAX {
        let message = format!("the point covers {count} registers, one write at most {WRITE_REGISTERS_MAX}");
        report.error(place, "access", message, "shorten the point, or remove access");
    }
}

/// `write_min`, `write_max` and `write_step`.
fn numbers(raw: &raw::Point, register: &RegisterPoint, place: &Place, report: &mut Report) {
    let given = [("write_min", raw.write_min), ("write_max", raw.write_max), ("write_step", raw.write_step)];
    for (key, value) in given {
        match value {
            Some(_) if !is_number(register) => {
                report.error(place, key, "has no meaning for a point that is no number", "remove it");
            }
            Some(x) if !x.is_finite() => {
                report.error(place, key, "is not a finite number", "write a number such as 0.5");
            }
            _ => {}
        }
    }
    if raw.write_step.is_some_and(|step| step <= 0.0) {
        report.error(place, "write_step", "is not above 0", "write a number such as 0.5");
    }
    let (min, max) = (raw.write_min.or(raw.min), raw.write_max.or(raw.max));
    if let (Some(low), Some(high)) = (min, max)
        && low > high
    {
        let key = if raw.write_max.is_some() { "write_max" } else { "write_min" };
        let message = format!("nothing lies between {low} and {high}");
        report.error(place, key, message, "write_max is at least write_min");
    }
    if let (Some(own), Some(min)) = (raw.write_min, raw.min)
        && own < min
    {
        let message = format!("{own} is below min ({min}): what was written would read as bad");
        report.error(place, "write_min", message, "write_min is at least min");
    }
    if let (Some(own), Some(max)) = (raw.write_max, raw.max)
        && own > max
    {
        let message = format!("{own} is above max ({max}): what was written would read as bad");
        report.error(place, "write_max", message, "write_max is at most max");
    }
}

fn expiry(raw: &raw::Point, place: &Place, report: &mut Report) -> Option<Duration> {
    let default = SECOND * 300;
    match raw.write_expiry.as_deref() {
        None => Some(default),
        Some("never") => None,
        Some(text) => match parse_span(text) {
            Ok(span) => {
                let mut reader = Reader { place, report };
                Some(reader.span("write_expiry", Some(Span(span)), default, SECOND..=DAY * 31))
            }
            Err(e) => {
                let (message, _) = explain(&e);
                report.error(place, "write_expiry", message, "\"never\" or a duration such as \"5m\"");
                Some(default)
            }
        },
    }
}

/// The commands of a device whose points these are.
pub fn commands(
    placed: &[Placed<raw::Command>],
    protocol: &Protocol,
    points: &[Point],
    report: &mut Report,
) -> Vec<DeviceCommand> {
    names::unique(placed.iter().map(|c| (c.raw.name.as_deref(), &c.place)), "command", report);
    let kept = placed.iter().filter(|c| c.raw.disabled != Some(true));
    kept.filter_map(|c| command(c, protocol, points, report)).collect()
}

fn command(
    placed: &Placed<raw::Command>,
    protocol: &Protocol,
    points: &[Point],
    report: &mut Report,
) -> Option<DeviceCommand> {
    let Placed { place, raw } = placed;
    let name = names::required(raw.name.as_deref(), "the command", place, report);
    let expiry = Reader { place, report }.span("expiry", raw.expiry, SECOND * 60, SECOND..=HOUR * 24);
    let Some(wanted) = raw.point.as_deref() else {
        report.error(place, "point", "the command names no point", "write point = \"NAME\" of a point here");
        return None;
    };
    let Some(at) = points.iter().position(|p| p.name.as_str() == wanted) else {
        let help = suggest(wanted, points.iter().map(|p| p.name.as_str()));
        report.error(place, "point", format!("the device has no point \"{wanted}\""), help);
        return None;
    };
    let value = raw.value.as_ref().map(|value| value.to_json());
    if points[at].write.is_none() {
        let help = "write access = \"read-write\" or \"write\" for the point";
        report.error(place, "point", format!("the point \"{wanted}\" is only read"), help);
    } else if let (Protocol::Modbus(modbus), Some(value)) = (protocol, &value)
        && let Err(refusal) = plan(modbus, &points[at], value)
        // A point that cannot be written at all was blamed already.
        && !matches!(refusal.why, Why::ReadOnly | Why::Broadcast | Why::TooLong { .. })
    {
        report.error(place, "value", refusal.to_string(), "a value that the point takes");
    }
    let point = PointIndex(u16::try_from(at).unwrap_or(u16::MAX));
    Some(DeviceCommand { name: CommandName::new(&name?), point, value, expiry })
}

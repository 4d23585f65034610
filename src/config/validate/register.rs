//! Modbus points: table, address, type and byte order.

use super::point::Owner;
use super::transform::transform;
use super::values::Reader;
use crate::config::errors::{Place, Report};
use crate::config::raw;
use crate::config::text::suggest;
use crate::modbus::{kind, order};
use crate::model::device::ModbusDevice;
use crate::model::register::{Encoding, Half, Kind, Order, Padding, RegisterPoint, Table, TextBytes};

pub fn register(
    raw: &raw::Point,
    place: &Place,
    owner: &Owner,
    modbus: &ModbusDevice,
    report: &mut Report,
) -> Option<RegisterPoint> {
    let keys = [("field", raw.field.is_some()), ("decimal_comma", raw.decimal_comma.is_some())];
    Reader { place, report }.refuse("has no meaning for a Modbus point", "remove it", &keys);
    if raw.table.is_none() {
        let help = "write table = \"coil\", \"discrete\", \"holding\" or \"input\"";
        report.error(place, "table", "the point has no table", help);
    }
    let encoding = encoding(raw, place, owner, report);
    let transform = transform(raw, encoding.as_ref().map(|e| &e.kind), place, report);
    // After a mistake the plainest register will do: the address is still looked at.
    let table = raw.table.map_or(Table::Holding, table);
    let encoding = encoding.unwrap_or(Encoding { kind: Kind::Uint16, order: Order::big(2) });
    let count = if table.is_bits() { 1 } else { encoding.registers() };
    if table.is_bits() && encoding.kind != Kind::Bool && raw.r#type.is_some() {
        report.error(
            place,
            "type",
            format!("a {} is one bit", table.as_str()),
            "write type = \"bool\", or leave it out",
        );
    }
    let address = address(raw.address, "address", count, owner, place, report);
    let limit = if table.is_bits() { modbus.limits.max_bits } else { modbus.limits.max_registers };
    if count > limit {
        let message = format!("the point covers {count} registers, a request at most {limit}");
        report.error(place, "registers", message, "shorten the point or raise max_registers of the device");
    }
    let scale_factor = match raw.scale_factor {
        Some(_) if table.is_bits() => {
            report.error(place, "scale_factor", "a bit has no scale factor", "remove it");
            None
        }
        Some(at) => Some(address_or_zero(at, owner, place, report)),
        None => None,
    };
    let register = RegisterPoint { table, address: address?, encoding, transform, scale_factor };
    forbidden(&register, modbus, owner, place, report);
    Some(register)
}

/// The noun for the word.
pub fn table(word: raw::PointTable) -> Table {
    match word {
        raw::PointTable::Coil => Table::Coil,
        raw::PointTable::Discrete => Table::Discrete,
        raw::PointTable::Holding => Table::Holding,
        raw::PointTable::Input => Table::Input,
    }
}

/// The address on the wire.
fn address(
    at: Option<i64>,
    key: &str,
    count: u16,
    owner: &Owner,
    place: &Place,
    report: &mut Report,
) -> Option<u16> {
    let base = i64::from(owner.raw.address_base == Some(1));
    let Some(at) = at else {
        report.error(place, key, "the point has no address", "write address = N, as on the wire");
        return None;
    };
    let wire = at - base;
    match u16::try_from(wire) {
        Ok(address) if u32::from(address) + u32::from(count) <= 65_536 => Some(address),
        _ => {
            let highest = 65_536 - i64::from(count) + base;
            let help = match at {
                100_001..=465_536 => {
                    let (table, number) = (at / 100_000, at % 100_000);
                    let name = match table {
                        1 => "discrete",
                        3 => "input",
                        4 => "holding",
                        _ => "coil",
                    };
                    format!(
                        "{at} looks like the notation with a leading table digit: \
                         write table = \"{name}\" and address = {}",
                        number - 1 + base
                    )
                }
                0 if base == 1 => "with address_base = 1 the first address is 1".into(),
                _ => format!("from {base} to {highest}"),
            };
            let what = if count > 1 { format!(" for {count} registers") } else { String::new() };
            report.error(place, key, format!("{at} is no address{what}"), help);
            None
        }
    }
}

fn address_or_zero(at: i64, owner: &Owner, place: &Place, report: &mut Report) -> u16 {
    address(Some(at), "scale_factor", 1, owner, place, report).unwrap_or(0)
}

/// A point that may never be read cannot be meant.
fn forbidden(
    register: &RegisterPoint,
    modbus: &ModbusDevice,
    owner: &Owner,
    place: &Place,
    report: &mut Report,
) {
    let base = u32::from(owner.raw.address_base == Some(1));
    let mut hits = |key: &str, first: u16, count: u16| {
        let last = u32::from(first) + u32::from(count) - 1;
        let touched = modbus.limits.forbidden.iter().find(|range| {
            range.table == register.table && u32::from(range.first) <= last && first <= range.last
        });
        if let Some(range) = touched {
            let (from, to) = (u32::from(range.first) + base, u32::from(range.last) + base);
            let message = format!("lies in the forbidden range {from} to {to}");
            report.error(place, key, message, "drop the point (disabled = true) or shrink the range");
        }
    };
    hits("address", register.address, register.count());
    if let Some(factor) = register.scale_factor {
        hits("scale_factor", factor, 1);
    }
}

fn encoding(raw: &raw::Point, place: &Place, owner: &Owner, report: &mut Report) -> Option<Encoding> {
    let is_bits = raw.table.is_some_and(|t| table(t).is_bits());
    let Some(name) = raw.r#type.as_deref().or(is_bits.then_some("bool")) else {
        let help = format!("write type = \"uint16\", or one of {}", kind::NAMES);
        report.error(place, "type", "the point has no type", help);
        return None;
    };
    let details = details(raw, place, report);
    let kind = match kind::kind(name, &details) {
        Ok(kind) => kind,
        Err(e) => {
            let known = kind::NAMES.split(", ").map(str::trim);
            if known.clone().any(|k| k.eq_ignore_ascii_case(name)) {
                let (message, help) = e.split_once("; right would be ").unwrap_or((&e, ""));
                let key = ["bit", "registers", "length"].into_iter().find(|k| message.contains(k));
                report.error(place, key.filter(|k| wrote(raw, k)).unwrap_or("type"), message, help);
            } else {
                report.error(place, "type", format!("there is no type \"{name}\""), suggest(name, known));
            }
            return None;
        }
    };
    Some(Encoding { order: byte_order(raw, &kind, place, owner, report), kind })
}

fn wrote(raw: &raw::Point, key: &str) -> bool {
    match key {
        "bit" => raw.bit.is_some(),
        "registers" => raw.registers.is_some(),
        _ => raw.length.is_some(),
    }
}

fn details(raw: &raw::Point, place: &Place, report: &mut Report) -> kind::Details {
    let half = raw.half.as_deref().and_then(|half| match half {
        "low" => Some(Half::Low),
        "high" => Some(Half::High),
        other => {
            report.error(
                place,
                "half",
                format!("\"{other}\" is no half of a register"),
                "\"low\" or \"high\"",
            );
            None
        }
    });
    let text_bytes = match raw.bytes.as_deref().unwrap_or("both") {
        "both" => TextBytes::Both,
        "low" => TextBytes::Low,
        "high" => TextBytes::High,
        other => {
            report.error(
                place,
                "bytes",
                format!("\"{other}\" is not known here"),
                "\"both\", \"low\" or \"high\"",
            );
            TextBytes::Both
        }
    };
    let padding = match raw.padding.as_deref().unwrap_or("nul") {
        "nul" => Padding::Nul,
        "trailing" => Padding::Trailing,
        "keep" => Padding::Keep,
        other => {
            let help = "\"nul\", \"trailing\" or \"keep\"";
            report.error(place, "padding", format!("\"{other}\" is not known here"), help);
            Padding::Nul
        }
    };
    kind::Details {
        bit: raw.bit,
        start: raw.start,
        length: raw.length,
        half,
        registers: raw.registers,
        text_bytes,
        padding,
    }
}

/// The point's own order, else the device's, else the wire's.
fn byte_order(raw: &raw::Point, kind: &Kind, place: &Place, owner: &Owner, report: &mut Report) -> Order {
    let len = order::byte_len(kind);
    let (text, place, key) = match (&raw.order, &owner.raw.byte_order) {
        (Some(text), _) => (text, place, "order"),
        (None, Some(text)) => (text, owner.place, "byte_order"),
        (None, None) => return Order::big(len),
    };
    match order::parse(text, len) {
        Ok(order) => order,
        Err(e) => {
            let e = e.to_string();
            let (message, help) = e.split_once("; right would be ").unwrap_or((&e, ""));
            report.error(place, key, message, help);
            Order::big(len)
        }
    }
}

//! `[[device.point]]`: where a value lies, what it means, when it is worth sending.

use std::time::Duration;

use super::names;
use super::values::{DAY, Reader};
use crate::config::errors::{Place, Report};
use crate::config::load::Placed;
use crate::config::raw;
use crate::config::text::{NumberOrText, suggest};
use crate::modbus::{kind, order};
use crate::model::device::{ModbusDevice, Point, Protocol, Source};
use crate::model::ids::PointName;
use crate::model::line::{FieldKind, FieldPoint, LineFormat};
use crate::model::register::{
    Encoding, Half, Kind, Names, Order, Padding, Range, RegisterPoint, Table, TextBytes, Transform,
};
use crate::model::report::{Report as Reporting, When};

/// The device around a point.
pub struct Owner<'a> {
    pub raw: &'a raw::Device,
    pub place: &'a Place,
    pub protocol: &'a Protocol,
    pub interval: Duration,
}

pub fn point(placed: &Placed<raw::Point>, owner: &Owner, report: &mut Report) -> Option<Point> {
    let Placed { place, raw } = placed;
    let name = names::required(raw.name.as_deref(), "the point", place, report);
    let interval =
        Reader { place, report }.span("interval", raw.interval, owner.interval, Duration::ZERO..=DAY * 31);
    let source = match owner.protocol {
        Protocol::Modbus(modbus) => register(raw, place, owner, modbus, report).map(Source::Register),
        Protocol::Line(line) => field(raw, place, &line.format, report).map(Source::Field),
    };
    let is_text = match &source {
        Some(Source::Register(r)) => matches!(r.encoding.kind, Kind::Text { .. } | Kind::Bytes { .. }),
        Some(Source::Field(f)) => f.kind == FieldKind::Text,
        None => false,
    };
    let reporting = reporting(raw, is_text, place, report);
    let unit = raw.unit.clone().filter(|u| !u.is_empty());
    if unit.as_ref().is_some_and(|u| u.len() > 64) {
        report.error(place, "unit", "is longer than 64 bytes", "a short sign such as \"kWh\"");
    }
    Some(Point { name: PointName::new(&name?), unit, source: source?, interval, report: reporting })
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

fn register(
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
    let (table, encoding) = (table(raw.table?), encoding?);
    let count = if table.is_bits() { 1 } else { encoding.registers() };
    if table.is_bits() && encoding.kind != Kind::Bool {
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

fn address_or_zero(at: i64, owner: &Owner, place: &Place, report: &mut Report) -> u16 {
    address(Some(at), "scale_factor", 1, owner, place, report).unwrap_or(0)
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

fn field(raw: &raw::Point, place: &Place, format: &LineFormat, report: &mut Report) -> Option<FieldPoint> {
    let keys = [
        ("table", raw.table.is_some()),
        ("address", raw.address.is_some()),
        ("bit", raw.bit.is_some()),
        ("start", raw.start.is_some()),
        ("length", raw.length.is_some()),
        ("half", raw.half.is_some()),
        ("registers", raw.registers.is_some()),
        ("bytes", raw.bytes.is_some()),
        ("padding", raw.padding.is_some()),
        ("order", raw.order.is_some()),
        ("scale_factor", raw.scale_factor.is_some()),
        ("invalid", raw.invalid.is_some()),
    ];
    Reader { place, report }.refuse("has no meaning for a point of a line", "remove it", &keys);
    let kind = match raw.r#type.as_deref().unwrap_or("auto") {
        "auto" => FieldKind::Auto,
        "number" => FieldKind::Number,
        "text" => FieldKind::Text,
        "bool" => FieldKind::Bool,
        other => {
            let known = ["auto", "number", "text", "bool"];
            report.error(
                place,
                "type",
                format!("there is no type \"{other}\" for lines"),
                suggest(other, known),
            );
            FieldKind::Auto
        }
    };
    let transform = transform(raw, None, place, report);
    let field = raw.field.clone().filter(|f| !f.is_empty()).or_else(|| raw.name.clone())?;
    let key = if raw.field.is_some() { "field" } else { "name" };
    match format {
        LineFormat::Regex(regex) if !regex.capture_names().flatten().any(|n| n == field) => {
            let groups: Vec<&str> = regex.capture_names().flatten().collect();
            let message = format!("the pattern has no group \"{field}\"");
            report.error(place, key, message, suggest(&field, groups.iter().copied()));
        }
        LineFormat::Csv { columns, .. } if field.parse::<u16>().is_err() && !columns.contains(&field) => {
            let help = match columns.is_empty() {
                true => "write field = \"0\" for the first column, or name the columns of the device".into(),
                false => suggest(&field, columns.iter().map(String::as_str)),
            };
            report.error(place, key, format!("there is no column \"{field}\""), help);
        }
        _ => {}
    }
    Some(FieldPoint { field, kind, decimal_comma: raw.decimal_comma.unwrap_or(false), transform })
}

fn transform(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Transform {
    for (key, value) in [("scale", raw.scale), ("offset", raw.offset), ("min", raw.min), ("max", raw.max)] {
        if value.is_some_and(|x| !x.is_finite()) {
            report.error(place, key, "is not a finite number", "write a number such as 0.1");
        }
    }
    if raw.scale == Some(0.0) {
        report.error(place, "scale", "would make every value 0", "leave it out for no scaling");
    }
    Reader { place, report }.number("decimals", raw.decimals, 0, 0..=15);
    let is_text = matches!(kind, Some(Kind::Text { .. } | Kind::Bytes { .. }));
    if is_text {
        let keys = [
            ("scale", raw.scale.is_some()),
            ("offset", raw.offset.is_some()),
            ("decimals", raw.decimals.is_some()),
            ("min", raw.min.is_some()),
            ("max", raw.max.is_some()),
            ("enum", raw.r#enum.is_some()),
            ("flags", raw.flags.is_some()),
            ("scale_factor", raw.scale_factor.is_some()),
        ];
        Reader { place, report }.refuse("has no meaning for text", "remove it", &keys);
    }
    Transform {
        invalid: invalid(raw, kind, place, report),
        scale: raw.scale.filter(|s| *s != 1.0),
        offset: raw.offset.filter(|o| *o != 0.0),
        decimals: raw.decimals,
        range: range(raw, place, report),
        names: value_names(raw, kind, place, report),
    }
}

fn range(raw: &raw::Point, place: &Place, report: &mut Report) -> Option<Range> {
    let clamp = raw.clamp.unwrap_or(false);
    let (min, max) = (raw.min.unwrap_or(f64::NEG_INFINITY), raw.max.unwrap_or(f64::INFINITY));
    if raw.min.is_none() && raw.max.is_none() {
        if clamp {
            report.error(place, "clamp", "there is nothing to clamp to", "write min, max or both");
        }
        return None;
    }
    if min > max {
        report.error(place, "max", format!("{max} is less than min ({min})"), "max is at least min");
    }
    Some(Range { min, max, clamp })
}

/// Bit patterns that fit the width of the type.
fn invalid(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Vec<u64> {
    let bits = match kind {
        Some(Kind::Int8(_) | Kind::Uint8(_)) => 8,
        Some(Kind::Int24 | Kind::Uint24) => 24,
        Some(kind) => (u32::from(kind.registers()) * 16).min(64),
        None => 64,
    };
    let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let mut patterns = Vec::new();
    for (index, mark) in raw.invalid.iter().flatten().enumerate() {
        let pattern = match mark {
            NumberOrText::Whole(n) if *n >= 0 => u64::try_from(*n).ok().filter(|n| *n <= mask),
            NumberOrText::Whole(n) if bits == 64 || *n >= -(1 << (bits - 1)) => {
                Some(n.cast_unsigned() & mask)
            }
            NumberOrText::Whole(_) | NumberOrText::Real(_) => None,
            NumberOrText::Text(text) => bit_pattern(text).filter(|n| *n <= mask),
        };
        match pattern {
            Some(pattern) => patterns.push(pattern),
            None => {
                let help = format!("the raw bits as hex text of at most {} digits: \"0x8000\"", bits / 4);
                report.error(place, &format!("invalid[{index}]"), format!("{mark} is no bit pattern"), help);
            }
        }
    }
    patterns
}

fn bit_pattern(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn value_names(raw: &raw::Point, kind: Option<&Kind>, place: &Place, report: &mut Report) -> Option<Names> {
    let members = raw.r#enum.as_ref().filter(|e| !e.is_empty());
    let flags = raw.flags.as_ref().filter(|f| !f.is_empty());
    if members.is_some() && flags.is_some() {
        report.error(place, "flags", "is given beside enum", "a value has either names or flags");
    }
    let key = if members.is_some() { "enum" } else { "flags" };
    let written = members.or(flags)?;
    let is_float = matches!(kind, Some(Kind::Float16 | Kind::Float32 | Kind::Float64));
    if is_float || raw.scale.is_some_and(|s| s != 1.0) || raw.offset.is_some_and(|o| o != 0.0) {
        report.error(
            place,
            key,
            "names stand for raw whole numbers",
            "use a whole-number type without scale and offset",
        );
    }
    let mut numbers = Vec::with_capacity(written.len());
    for (number, name) in written {
        let highest = if key == "flags" { 63 } else { i64::MAX };
        match number.parse::<i64>() {
            Ok(n) if key == "enum" || (0..=highest).contains(&n) => numbers.push((n, name.clone())),
            _ => {
                let help =
                    if key == "enum" { "{ 0 = \"off\", 1 = \"on\" }" } else { "bit numbers from 0 to 63" };
                report.error(place, &format!("{key}.{number}"), format!("\"{number}\" does not fit"), help);
            }
        }
    }
    numbers.sort();
    Some(match key {
        "enum" => Names::Enum(numbers),
        _ => Names::Flags(numbers.into_iter().map(|(n, t)| (u8::try_from(n).unwrap_or(63), t)).collect()),
    })
}

fn reporting(raw: &raw::Point, is_text: bool, place: &Place, report: &mut Report) -> Reporting {
    let mut reader = Reader { place, report };
    let bounds = Duration::from_millis(1)..=DAY * 31;
    let silence_min = reader.span_or_none("silence_min", raw.silence_min, bounds.clone());
    let silence_max = reader.span_or_none("silence_max", raw.silence_max, bounds);
    if let (Some(min), Some(max)) = (silence_min, silence_max)
        && min > max
    {
        report.error(
            place,
            "silence_max",
            "is shorter than silence_min",
            "silence_max is at least silence_min",
        );
    }
    let when = match (raw.report, &raw.deadband) {
        (Some(raw::ReportWhen::Deadband) | None, Some(deadband)) => match width(deadband) {
            Some(_) if is_text => {
                report.error(place, "deadband", "has no meaning for text", "write report = \"change\"");
                When::Change
            }
            Some(when) => when,
            None => {
                let help = "in the point's unit (0.5) or as a share of the last value (\"1%\")";
                report.error(place, "deadband", format!("{deadband} is no deadband"), help);
                When::Change
            }
        },
        (Some(raw::ReportWhen::Deadband), None) => {
            report.error(
                place,
                "deadband",
                "the report by deadband needs its width",
                "write deadband = 0.5 or \"1%\"",
            );
            When::Change
        }
        (Some(_), Some(_)) => {
            report.error(place, "deadband", "belongs to report = \"deadband\"", "remove it or change report");
            When::Always
        }
        (Some(raw::ReportWhen::Change), None) => When::Change,
        (Some(raw::ReportWhen::Always) | None, None) => When::Always,
    };
    Reporting { when, silence_min, silence_max }
}

fn width(deadband: &NumberOrText) -> Option<When> {
    let good = |x: f64| Some(x).filter(|x| x.is_finite() && *x >= 0.0);
    match deadband {
        NumberOrText::Whole(n) => good(*n as f64).map(When::DeadbandAbsolute),
        NumberOrText::Real(x) => good(*x).map(When::DeadbandAbsolute),
        NumberOrText::Text(text) => match text.trim().strip_suffix('%') {
            Some(share) => good(share.trim().parse().ok()?).map(|x| When::DeadbandPercent(x / 100.0)),
            None => good(text.trim().parse().ok()?).map(When::DeadbandAbsolute),
        },
    }
}

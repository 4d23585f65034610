//! `[[device.point]]`: where a value comes from and when it is worth sending.

use std::time::Duration;

use super::names;
use super::register::register;
use super::thing;
use super::transform::transform;
use super::values::{DAY, Reader};
use super::write;
use crate::config::errors::{Place, Report};
use crate::config::load::Placed;
use crate::config::raw;
use crate::config::text::{NumberOrText, suggest};
use crate::model::device::{Point, Protocol, Source};
use crate::model::ids::PointName;
use crate::model::line::{FieldKind, FieldPoint, LineFormat};
use crate::model::register::Kind;
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
    let rules = write::rules(raw, source.as_ref(), place, owner, report);
    let shadow = thing::member(raw, name.as_deref().unwrap_or("x"), place, report);
    let fingerprint = raw.fingerprint == Some(true);
    if fingerprint && rules.as_ref().is_some_and(|rules| !rules.readable) {
        report.error(place, "fingerprint", "the point cannot be read", "write access = \"read\"");
    }
    Some(Point {
        name: PointName::new(&name?),
        unit,
        source: source?,
        interval,
        report: reporting,
        write: rules,
        shadow,
        fingerprint,
    })
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

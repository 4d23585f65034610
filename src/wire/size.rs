//! PURE: how large a telemetry payload will be, without rendering it.
//!
//! Constraints: the hub cuts rows so that no payload is larger than `uplink.payload_max`,
//! long before the uplink renders them; so this is never too little, and not much too much.
//! It walks the same way as [`super::payload::Telemetry`] and counts instead of writing.

use super::payload::Section;
use crate::model::ids::{DeviceName, GatewayName, PointName};
use crate::model::reading::{Measured, Reading};
use crate::model::value::Value;

#[derive(Debug)]
pub struct Size {
    head: usize,
    /// Of each point: its name as it is spelled, and its entry in `units`.
    points: Vec<PointSize>,
    bytes: usize,
    section: Option<Section>,
    last: Option<u16>,
    /// Counts the payloads, to know which units this one has already.
    payload: u32,
}

#[derive(Debug)]
struct PointSize {
    name: usize,
    unit: usize,
    used_in: u32,
}

impl Size {
    pub fn new(
        gateway: &GatewayName,
        device: &DeviceName,
        boot: &str,
        points: impl Iterator<Item = (PointName, Option<String>)>,
    ) -> Size {
        let head = HEAD + string(gateway.as_str()) + string(device.as_str()) + string(boot);
        let points = points.map(|(name, unit)| {
            let name = string(name.as_str());
            PointSize { name, unit: unit.map_or(0, |u| name + 2 + string(&u)), used_in: 0 }
        });
        Size { head, points: points.collect(), bytes: head, section: None, last: None, payload: 1 }
    }

    /// A new payload begins.
    pub fn begin(&mut self) {
        self.bytes = self.head;
        self.payload = self.payload.wrapping_add(1);
        self.group();
    }

    /// A new moment begins.
    pub fn group(&mut self) {
        (self.section, self.last) = (None, None);
    }

    /// What the payload would be with this reading.
    pub fn with(&self, reading: &Reading) -> usize {
        let Some(point) = self.points.get(reading.point.at()) else { return self.bytes };
        let this = Section::of(&reading.measured);
        let again = self.last.is_some_and(|last| reading.point.0 <= last);
        let opening = match self.section {
            Some(s) if !again && s == this => 0,
            Some(s) if !again && s < this => SECTION,
            _ => OBJECT + SECTION,
        };
        let unit = if point.used_in == self.payload { 0 } else { point.unit };
        // The colon and a comma.
        self.bytes + opening + point.name + 2 + measured(&reading.measured) + unit
    }

    pub fn add(&mut self, reading: &Reading) {
        self.bytes = self.with(reading);
        if let Some(point) = self.points.get_mut(reading.point.at()) {
            point.used_in = self.payload;
            (self.section, self.last) = (Some(Section::of(&reading.measured)), Some(reading.point.0));
        }
    }
}

fn measured(measured: &Measured) -> usize {
    match measured {
        Measured::Good(v) => value(v),
        Measured::Uncertain(v, _) => value(v) + CAUSE + r#"{"value":,"cause":}"#.len(),
        Measured::Bad(_) => CAUSE,
    }
}

fn value(value: &Value) -> usize {
    match value {
        Value::Bool(_) => 5,
        Value::Int(i) => 1 + digits(i.unsigned_abs()),
        Value::Uint(u) => digits(*u),
        Value::Float(x) => float(*x),
        Value::Text(t) => string(t),
        Value::Flags(names) => names.iter().map(|n| string(n) + 1).sum::<usize>() + 2,
    }
}

fn digits(n: u64) -> usize {
    n.checked_ilog10().map_or(1, |d| d as usize + 1)
}

/// Meters say 231.4; the longest of all is -2.2250738585072014e-308.
fn float(x: f64) -> usize {
    let short = x.abs() < 1e7 && (x * 1e3).round() / 1e3 == x;
    if short { "-1234567.125".len() } else { 24 }
}

/// With its quotes, and what serde_json escapes.
fn string(text: &str) -> usize {
    let escaped = |b: u8| match b {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    2 + text.bytes().map(escaped).sum::<usize>()
}

/// All of a payload without names and readings, with the longest sequence numbers.
const HEAD: usize =
    r#"{"v":1,"gateway":,"device":,"boot":,"seq":[,],"readings":[],"units":{}}"#.len() + 2 * 20;
/// `,{"t":` with its time and closing.
const OBJECT: usize = r#",{"t":}"#.len() + 20;
const SECTION: usize = r#","uncertain":{}"#.len();
/// The longest of them, quoted.
const CAUSE: usize = r#""exception 255""#.len();

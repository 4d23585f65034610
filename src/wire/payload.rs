//! PURE: what goes over the wire, as JSON. The schema is `config/payload.schema.json`.
//!
//! Telemetry is written by hand into one buffer, because it is the one place that touches
//! every reading on its way out; strings go through serde_json. Readings are numbered from
//! `seq[0]` on in the order in which they stand in the text.

use std::fmt::Write;

use crate::model::ids::{DeviceName, GatewayName, PointName};
use crate::model::reading::{Measured, Reading};
use crate::model::time::Timestamp;
use crate::model::value::{Cause, Value};

/// The version of the payload's shape; raised when a reader would have to change.
pub const VERSION: u32 = 1;

/// What stands at the head of a telemetry payload.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub gateway: &'a GatewayName,
    pub device: &'a DeviceName,
    pub boot: &'a str,
    /// Sequence numbers of the first and the last reading.
    pub seq: (u64, u64),
}

/// A telemetry payload under construction.
pub struct Telemetry<'a> {
    out: Vec<u8>,
    points: &'a [(PointName, Option<String>)],
    /// Points with a unit that occurred.
    used: Vec<bool>,
    groups: usize,
}

impl<'a> Telemetry<'a> {
    pub fn new(head: Head, points: &'a [(PointName, Option<String>)], size: usize) -> Telemetry<'a> {
        let mut out = Vec::with_capacity(size);
        write!(Text(&mut out), "{{\"v\":{VERSION},\"gateway\":").expect("memory takes text");
        string(&mut out, head.gateway.as_str());
        out.extend_from_slice(b",\"device\":");
        string(&mut out, head.device.as_str());
        out.extend_from_slice(b",\"boot\":");
        string(&mut out, head.boot);
        out.extend_from_slice(b",\"seq\":[");
        integer(&mut out, head.seq.0);
        out.push(b',');
        integer(&mut out, head.seq.1);
        out.extend_from_slice(b"],\"readings\":[");
        Telemetry { out, points, used: Vec::new(), groups: 0 }
    }

    /// One moment. Readings of one quality that follow each other share an object, so that
    /// the text keeps the order of the sequence numbers.
    pub fn group(&mut self, at: Timestamp, readings: impl Iterator<Item = Reading>) {
        let mut section = None;
        let mut last: Option<u16> = None;
        for reading in readings {
            let this = Section::of(&reading.measured);
            let Some((name, unit)) = self.points.get(reading.point.at()) else { continue };
            // Sections go good, uncertain, bad; a step back, or a point that was there
            // already, opens a new object of the same moment.
            let again = last.is_some_and(|last| reading.point.0 <= last);
            if section.is_none() || again || section.is_some_and(|s| s > this) {
                self.open(at, section.is_some());
                section = None;
            }
            last = Some(reading.point.0);
            match section {
                Some(s) if s == this => self.out.push(b','),
                before => {
                    if before.is_some() {
                        self.out.push(b'}');
                    }
                    self.out.extend_from_slice(this.opening());
                    section = Some(this);
                }
            }
            member(&mut self.out, name.as_str());
            measured(&mut self.out, &reading.measured);
            if unit.is_some() {
                self.used.resize(self.points.len(), false);
                self.used[reading.point.at()] = true;
            }
        }
        if section.is_some() {
            self.out.extend_from_slice(b"}}");
        }
    }

    fn open(&mut self, at: Timestamp, close: bool) {
        if close {
            self.out.extend_from_slice(b"}}");
        }
        if self.groups > 0 {
            self.out.push(b',');
        }
        self.groups += 1;
        write!(Text(&mut self.out), "{{\"t\":{}", at.0).expect("memory takes text");
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b']');
        let mut first = true;
        for ((name, unit), used) in self.points.iter().zip(&self.used) {
            let (Some(unit), true) = (unit, used) else { continue };
            self.out.extend_from_slice(if first { b",\"units\":{" } else { b"," });
            first = false;
            member(&mut self.out, name.as_str());
            string(&mut self.out, unit);
        }
        if !first {
            self.out.push(b'}');
        }
        self.out.push(b'}');
        self.out
    }
}

/// Where in the object of one moment a reading stands; in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    Values,
    Uncertain,
    Bad,
}

impl Section {
    pub(super) fn of(measured: &Measured) -> Section {
        match measured {
            Measured::Good(_) => Section::Values,
            Measured::Uncertain(..) => Section::Uncertain,
            Measured::Bad(_) => Section::Bad,
        }
    }

    fn opening(self) -> &'static [u8] {
        match self {
            Section::Values => b",\"values\":{",
            Section::Uncertain => b",\"uncertain\":{",
            Section::Bad => b",\"bad\":{",
        }
    }
}

/// What a device's silence or return looks like.
pub fn fault(
    gateway: &GatewayName,
    device: &DeviceName,
    boot: &str,
    at: Timestamp,
    silent: Option<&Cause>,
) -> Vec<u8> {
    let mut json = serde_json::json!({
        "v": VERSION, "gateway": gateway.as_str(), "device": device.as_str(), "boot": boot, "t": at.0,
        "fault": if silent.is_some() { "silent" } else { "back" },
    });
    if let Some(cause) = silent {
        json["cause"] = cause.to_string().into();
    }
    json.to_string().into_bytes()
}

/// A record of readings that will never come.
pub fn gap(
    gateway: &GatewayName,
    device: &DeviceName,
    boot: &str,
    reason: &str,
    readings: u64,
    (first, last): (Timestamp, Timestamp),
) -> Vec<u8> {
    serde_json::json!({
        "v": VERSION, "gateway": gateway.as_str(), "device": device.as_str(), "boot": boot,
        "reason": reason, "readings": readings, "first_t": first.0, "last_t": last.0,
    })
    .to_string()
    .into_bytes()
}

/// The retained status of the gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status<'a> {
    pub online: bool,
    pub boot: &'a str,
    pub readings_waiting: i64,
    pub oldest: Option<Timestamp>,
}

pub fn status(gateway: &GatewayName, status: Status) -> Vec<u8> {
    let mut json = serde_json::json!({
        "v": VERSION, "gateway": gateway.as_str(), "state": if status.online { "online" } else { "offline" },
        "version": env!("CARGO_PKG_VERSION"), "boot": status.boot,
    });
    // The last will is written before anybody knows the backlog at the moment it fires.
    if status.online {
        json["readings_waiting"] = status.readings_waiting.into();
        json["oldest_t"] = status.oldest.map(|t| t.0).into();
    }
    json.to_string().into_bytes()
}

fn member(out: &mut Vec<u8>, name: &str) {
    string(out, name);
    out.push(b':');
}

fn measured(out: &mut Vec<u8>, measured: &Measured) {
    match measured {
        Measured::Good(v) => value(out, v),
        Measured::Uncertain(v, cause) => {
            out.extend_from_slice(b"{\"value\":");
            value(out, v);
            write!(Text(out), ",\"cause\":\"{cause}\"}}").expect("memory takes text");
        }
        Measured::Bad(cause) => write!(Text(out), "\"{cause}\"").expect("memory takes text"),
    }
}

fn value(out: &mut Vec<u8>, v: &Value) {
    match v {
        Value::Uint(u) => integer(out, *u),
        Value::Text(t) => string(out, t),
        // serde_json spells floats by their shortest form and escapes what must be.
        other => serde_json::to_writer(out, &other.to_json()).expect("memory takes JSON"),
    }
}

/// Names are mostly plain; anything else goes through serde_json.
fn string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| (0x20..0x7F).contains(&b) && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("memory takes JSON");
    }
}

fn integer(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// `write!` into bytes.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::PointIndex;

    fn check(groups: &[(i64, &[(u16, Measured)])], expected: &str) {
        let points: Vec<(PointName, Option<String>)> =
            vec![("a".into(), None), ("b".into(), Some("V".into())), ("q\"".into(), None)];
        let (gateway, device) = ("gw".into(), "dev".into());
        let head = Head { gateway: &gateway, device: &device, boot: "0-1", seq: (7, 9) };
        let mut t = Telemetry::new(head, &points, 0);
        for (at, readings) in groups {
            let readings =
                readings.iter().map(|(p, m)| Reading { point: PointIndex(*p), measured: m.clone() });
            t.group(Timestamp(*at), readings);
        }
        let text = String::from_utf8(t.finish()).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).expect(&text);
        let expected = format!(
            "{{\"v\":1,\"gateway\":\"gw\",\"device\":\"dev\",\"boot\":\"0-1\",\"seq\":[7,9],{expected}}}"
        );
        assert_eq!(text, expected);
    }

    fn good(u: u64) -> Measured {
        Measured::Good(Value::Uint(u))
    }

    #[test]
    fn readings_stand_in_the_order_of_their_sequence_numbers() {
        check(
            &[(5, &[(0, good(1)), (1, good(2))])],
            r#""readings":[{"t":5,"values":{"a":1,"b":2}}],"units":{"b":"V"}"#,
        );
        check(
            &[(5, &[(0, good(1))]), (6, &[(0, good(2))])],
            r#""readings":[{"t":5,"values":{"a":1}},{"t":6,"values":{"a":2}}]"#,
        );
    }

    #[test]
    fn bad_and_uncertain_readings_say_why() {
        check(
            &[(5, &[(0, good(1)), (1, Measured::Bad(Cause::Exception(2)))])],
            r#""readings":[{"t":5,"values":{"a":1},"bad":{"b":"exception 2"}}],"units":{"b":"V"}"#,
        );
        check(
            &[(5, &[(0, Measured::Bad(Cause::Timeout)), (2, good(1))])],
            "\"readings\":[{\"t\":5,\"bad\":{\"a\":\"timeout\"}},{\"t\":5,\"values\":{\"q\\\"\":1}}]",
        );
        check(
            &[(5, &[(0, Measured::Uncertain(Value::Float(0.5), Cause::OutOfRange))])],
            r#""readings":[{"t":5,"uncertain":{"a":{"value":0.5,"cause":"out-of-range"}}}]"#,
        );
    }

    #[test]
    fn the_same_point_twice_in_a_moment_keeps_both() {
        check(
            &[(5, &[(0, good(1)), (0, good(2))])],
            r#""readings":[{"t":5,"values":{"a":1}},{"t":5,"values":{"a":2}}]"#,
        );
    }

    #[test]
    fn big_integers_stay_exact() {
        check(
            &[(5, &[(0, good(u64::MAX)), (1, Measured::Good(Value::Int(i64::MIN)))])],
            r#""readings":[{"t":5,"values":{"a":18446744073709551615,"b":-9223372036854775808}}],"units":{"b":"V"}"#,
        );
    }
}

//! Devices that speak lines of text when they like: from overheard bytes to readings.
//!
//! Constraints: several of them, and Modbus units, may share one port, so each has a framer
//! of its own over the same bytes and takes only lines that match it. A line in which a
//! device finds none of its fields is noise, not news. A device that was heard of once is
//! silent when no line of it came for `silent_after`; one that never spoke, after the same
//! time from the start.

use std::sync::Arc;
use std::time::Duration;

use super::identify::Serial;
use crate::model::device::{Device, LineDevice, Point, Source};
use crate::model::ids::{DeviceIndex, DeviceName, PointIndex};
use crate::model::line::FieldPoint;
use crate::model::reading::{Measured, Reading};
use crate::model::value::Cause;
use crate::serial::frame::Framer;
use crate::serial::parse;

pub struct Speaker {
    pub index: DeviceIndex,
    pub name: DeviceName,
    device: LineDevice,
    points: Arc<[Point]>,
    framer: Framer,
    heard_at: Duration,
    pub silent: bool,
    /// It spoke at least once.
    pub known: bool,
    pub serial: Serial,
}

/// What overheard bytes came to for one device.
#[derive(Debug, Default)]
pub struct Heard {
    /// One set of readings per line.
    pub lines: Vec<Vec<Reading>>,
    pub noise: u64,
}

impl Speaker {
    pub fn new(index: DeviceIndex, device: &Device, line: LineDevice) -> Speaker {
        Speaker {
            index,
            name: device.name.clone(),
            framer: Framer::new(line.framing.clone()),
            device: line,
            points: device.points.clone(),
            heard_at: Duration::ZERO,
            silent: false,
            known: false,
            serial: Serial::new(device),
        }
    }

    /// The port was opened anew.
    pub fn reset(&mut self) {
        self.framer.reset();
    }

    pub fn hear(&mut self, bytes: &[u8], now: Duration) -> Heard {
        let mut heard = Heard::default();
        let (device, points) = (&self.device, &self.points);
        let too_long = self.framer.push(bytes, |line| {
            let Ok(line) = std::str::from_utf8(line) else {
                heard.noise += 1;
                return;
            };
            if device.matching.as_ref().is_some_and(|mark| !line.contains(mark)) {
                // Somebody else's.
                return;
            }
            match readings(device, points, line) {
                Some(readings) => heard.lines.push(readings),
                None => heard.noise += u64::from(!line.trim().is_empty()),
            }
        });
        heard.noise += too_long;
        if !heard.lines.is_empty() {
            self.heard_at = now;
        }
        heard
    }

    /// When the device has to be called silent; `None`: it is already.
    pub fn silent_at(&self) -> Option<Duration> {
        (!self.silent).then(|| self.heard_at.saturating_add(self.device.silent_after))
    }

    /// All points bad, as a device that fell silent is told.
    pub fn all_bad(&self, cause: &Cause) -> Vec<Reading> {
        let point = |(n, _)| Reading { point: PointIndex(n as u16), measured: Measured::Bad(cause.clone()) };
        self.points.iter().enumerate().map(point).collect()
    }
}

/// `None`: noise.
fn readings(device: &LineDevice, points: &[Point], line: &str) -> Option<Vec<Reading>> {
    let fields = parse::fields(&device.format, line)?;
    let mut any = false;
    let readings = points
        .iter()
        .enumerate()
        .filter_map(|(n, point)| Some((n, field(point)?)))
        .map(|(n, point)| {
            let field = fields.find(&point.field);
            any |= field.is_some();
            Reading { point: PointIndex(n as u16), measured: parse::measure(point, field.as_ref()) }
        })
        .collect();
    any.then_some(readings)
}

fn field(point: &Point) -> Option<&FieldPoint> {
    match &point.source {
        Source::Field(field) => Some(field),
        Source::Register(_) => None,
    }
}

//! PURE: (State, Observation, now) → rows.
//!
//! Rows are packed per device: all that one device says between two commits becomes one row,
//! cut where its payload would grow too large for the wire.

use super::report::Last;
use crate::model::device::{Device, Point};
use crate::model::ids::{DeviceIndex, GatewayName};
use crate::model::observation::{Observation, Seen};
use crate::model::reading::{Measured, Reading};
use crate::model::row::{Kind, LayoutId, NewRow};
use crate::model::time::Timestamp;
use crate::model::value::{Cause, Value};
use crate::packed;
use crate::wire::payload;

/// Everything the hub remembers.
pub struct State {
    gateway: GatewayName,
    boot: String,
    payload_max: usize,
    devices: Vec<DeviceState>,
    /// Devices with an open row, in the order in which they began.
    open: Vec<DeviceIndex>,
    ready: Vec<NewRow>,
}

struct DeviceState {
    device: Device,
    layout: LayoutId,
    next_seq: u64,
    /// Empty when every point reports always: then nothing needs to be remembered.
    last: Vec<Last>,
    row: packed::Writer,
    /// How large the row's payload will be, at most. Bytes.
    payload_size: usize,
}

impl State {
    pub fn new(
        gateway: GatewayName,
        boot: String,
        payload_max: usize,
        devices: impl Iterator<Item = (Device, LayoutId)>,
    ) -> State {
        let devices = devices
            .map(|(device, layout)| {
                let plain = device.points.iter().all(|p| p.report == Default::default());
                DeviceState {
                    last: if plain { Vec::new() } else { vec![Last::default(); device.points.len()] },
                    device,
                    layout,
                    next_seq: 1,
                    row: packed::Writer::default(),
                    payload_size: 0,
                }
            })
            .collect();
        State { gateway, boot, payload_max, devices, open: Vec::new(), ready: Vec::new() }
    }

    /// Takes one observation in. Returns how many readings it added.
    pub fn apply(&mut self, seen: &Observation) -> usize {
        match &seen.seen {
            Seen::Readings(readings) => self.readings(seen.device, seen.at, readings),
            Seen::Silent(cause) => self.fault(seen.device, seen.at, Some(cause)),
            Seen::Back => self.fault(seen.device, seen.at, None),
        }
    }

    /// The rows since the last call, each device's in the order of its sequence numbers.
    pub fn seal(&mut self) -> Vec<NewRow> {
        for index in std::mem::take(&mut self.open) {
            self.close(index);
        }
        std::mem::take(&mut self.ready)
    }

    fn readings(&mut self, index: DeviceIndex, at: Timestamp, readings: &[Reading]) -> usize {
        let Some(state) = self.devices.get_mut(index.at()) else { return 0 };
        let kept: Vec<&Reading>;
        let kept: &mut dyn ExactSizeIterator<Item = &Reading> = if state.last.is_empty() {
            &mut readings.iter()
        } else {
            kept = readings.iter().filter(|r| state.take(at, r)).collect();
            &mut kept.into_iter()
        };
        let mut kept = kept.peekable();
        let mut added = 0;
        while kept.peek().is_some() {
            let state = &mut self.devices[index.at()];
            let mut part = Vec::with_capacity(kept.len());
            state.payload_size += GROUP_BYTES;
            while let Some(reading) = kept.peek() {
                let size = state.size(reading);
                let full = state.payload_size + size > self.payload_max;
                // One reading always goes, even if it alone is larger than the limit.
                if full && !(part.is_empty() && state.row.is_empty()) {
                    break;
                }
                state.payload_size += size;
                part.extend(kept.next());
            }
            if state.row.is_empty() && !part.is_empty() {
                self.open.push(index);
            }
            added += part.len();
            let state = &mut self.devices[index.at()];
            state.row.push(at, part.into_iter());
            if kept.peek().is_some() {
                self.open.retain(|i| *i != index);
                self.close(index);
            }
        }
        added
    }

    /// A fault goes behind what the device said before it.
    fn fault(&mut self, index: DeviceIndex, at: Timestamp, silent: Option<&Cause>) -> usize {
        if self.devices.get(index.at()).is_none() {
            return 0;
        }
        self.open.retain(|i| *i != index);
        self.close(index);
        let state = &self.devices[index.at()];
        self.ready.push(NewRow {
            kind: Kind::Fault,
            layout: state.layout,
            seq: state.next_seq,
            readings: 0,
            first: at,
            last: at,
            payload: payload::fault(&self.gateway, &state.device.name, &self.boot, at, silent),
        });
        0
    }

    fn close(&mut self, index: DeviceIndex) {
        let state = &mut self.devices[index.at()];
        let row = std::mem::take(&mut state.row);
        state.payload_size = 0;
        if row.is_empty() {
            return;
        }
        let readings = row.readings();
        let seq = state.next_seq;
        state.next_seq += u64::from(readings);
        self.ready.push(NewRow {
            kind: Kind::Telemetry,
            layout: state.layout,
            seq,
            readings,
            first: row.first(),
            last: row.last(),
            payload: row.into_bytes(),
        });
    }
}

impl DeviceState {
    fn take(&mut self, at: Timestamp, reading: &Reading) -> bool {
        let Some(point) = self.device.points.get(reading.point.at()) else { return false };
        self.last[reading.point.at()].take(&point.report, at, &reading.measured)
    }

    /// The most bytes this reading can add to the payload.
    fn size(&self, reading: &Reading) -> usize {
        let name = self.device.points.get(reading.point.at()).map_or(0, name_size);
        let value = match &reading.measured {
            Measured::Good(v) => value_size(v),
            Measured::Uncertain(v, _) => value_size(v) + 60,
            Measured::Bad(_) => 20,
        };
        name + value + 4
    }
}

/// Name and unit, each possibly escaped to six bytes a character when they are not plain.
fn name_size(point: &Point) -> usize {
    let unit = point.unit.as_deref().map_or(0, |u| u.len() * 6 + point.name.as_str().len() + 8);
    point.name.as_str().len() + 4 + unit
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Bool(_) => 5,
        Value::Int(_) | Value::Uint(_) => 20,
        Value::Float(_) => 26,
        Value::Text(t) => t.len() * 6 + 2,
        Value::Flags(names) => names.iter().map(|n| n.len() * 6 + 3).sum::<usize>() + 2,
    }
}

/// `{"t":1234567890123,"uncertain":{` and its closing, with some air.
const GROUP_BYTES: usize = 48;

/// The names and units a row of this device refers to.
pub fn layout(device: &Device) -> Vec<(crate::model::ids::PointName, Option<String>)> {
    device.points.iter().map(|p| (p.name.clone(), p.unit.clone())).collect()
}

//! PURE: (State, Observation, now) → rows.
//!
//! Rows are packed per device: all that one device says between two commits becomes one row,
//! cut where its payload would grow too large for the wire.

use super::report::Last;
use crate::model::device::Device;
use crate::model::ids::{DeviceIndex, GatewayName, PointName};
use crate::model::observation::{Observation, Seen};
use crate::model::reading::Reading;
use crate::model::row::{Kind, LayoutId, NewRow, Route};
use crate::model::time::Timestamp;
use crate::model::value::Cause;
use crate::packed;
use crate::wire::payload;
use crate::wire::size::Size;

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
    route: Route,
    next_seq: u64,
    /// Empty when every point reports always: then nothing needs to be remembered.
    last: Vec<Last>,
    row: packed::Writer,
    /// How large the row's payload will be.
    size: Size,
}

impl State {
    pub fn new(
        gateway: GatewayName,
        boot: String,
        payload_max: usize,
        devices: impl Iterator<Item = (Device, LayoutId, Route)>,
    ) -> State {
        let devices = devices
            .map(|(device, layout, route)| {
                let plain = device.points.iter().all(|p| p.report == Default::default());
                DeviceState {
                    size: Size::new(&gateway, &device.name, &boot, layout_of(&device)),
                    last: if plain { Vec::new() } else { vec![Last::default(); device.points.len()] },
                    device,
                    layout,
                    route,
                    next_seq: 1,
                    row: packed::Writer::default(),
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
            Seen::Wrote(_) | Seen::Fingerprint(_) => 0,
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
            state.size.group();
            while let Some(reading) = kept.peek() {
                let full = state.size.with(reading) > self.payload_max;
                // One reading always goes, even if it alone is larger than the limit.
                if full && !(part.is_empty() && state.row.is_empty()) {
                    break;
                }
                state.size.add(reading);
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
            route: state.route,
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
        state.size.begin();
        if row.is_empty() {
            return;
        }
        let readings = row.readings();
        let seq = state.next_seq;
        state.next_seq += u64::from(readings);
        self.ready.push(NewRow {
            kind: Kind::Telemetry,
            route: state.route,
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
}

/// The names and units a row of this device refers to.
pub fn layout(device: &Device) -> Vec<(PointName, Option<String>)> {
    layout_of(device).collect()
}

fn layout_of(device: &Device) -> impl Iterator<Item = (PointName, Option<String>)> {
    device.points.iter().map(|p| (p.name.clone(), p.unit.clone()))
}

//! PURE: (State, Observation, now) → rows.
//!
//! Rows are packed per device: all that one device says between two commits becomes one row,
//! cut where its payload would grow too large for the wire.

use std::collections::HashMap;

use super::report::Last;
use crate::model::device::Device;
use crate::model::ids::{DeviceIndex, DeviceName, GatewayName, PointName};
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
    /// By `DeviceIndex`; a place is empty when its device is not in the configuration any more.
    devices: Vec<Option<DeviceState>>,
    /// Devices with an open row, in the order in which they began.
    open: Vec<DeviceIndex>,
    ready: Vec<NewRow>,
    /// The next number of devices that left the configuration; one entry per name, for as
    /// long as the process lives.
    left: HashMap<DeviceName, u64>,
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
        let mut state = State {
            gateway,
            boot,
            payload_max,
            devices: Vec::new(),
            open: Vec::new(),
            ready: Vec::new(),
            left: HashMap::new(),
        };
        for (device, layout, route) in devices {
            let device = state.device(device, layout, route, 1);
            state.devices.push(Some(device));
        }
        state
    }

    fn device(&self, device: Device, layout: LayoutId, route: Route, next_seq: u64) -> DeviceState {
        let plain = device.points.iter().all(|p| p.report == Default::default());
        DeviceState {
            size: Size::new(&self.gateway, &device.name, &self.boot, layout_of(&device)),
            last: if plain { Vec::new() } else { vec![Last::default(); device.points.len()] },
            device,
            layout,
            route,
            next_seq,
            row: packed::Writer::default(),
        }
    }

    /// Another configuration; what was said under the old one was sealed. A device that is
    /// the same goes on as if nothing had happened; one that changed reports everything once,
    /// and its numbers go on.
    pub fn reconfigure(
        &mut self,
        payload_max: usize,
        devices: impl Iterator<Item = (DeviceIndex, Device, LayoutId, Route)>,
    ) {
        self.payload_max = payload_max;
        let mut old: HashMap<DeviceName, DeviceState> =
            self.devices.drain(..).flatten().map(|state| (state.device.name.clone(), state)).collect();
        for (index, device, layout, route) in devices {
            let new = match old.remove(&device.name) {
                Some(state) if state.device == device && state.route == route => state,
                other => {
                    let next_seq = other.map_or_else(|| self.left.remove(&device.name), |s| Some(s.next_seq));
                    self.device(device, layout, route, next_seq.unwrap_or(1))
                }
            };
            if self.devices.len() <= index.at() {
                self.devices.resize_with(index.at() + 1, || None);
            }
            self.devices[index.at()] = Some(new);
        }
        // A device may come back before the boot is over, and its numbers must not begin anew.
        let room = LEFT_MAX.saturating_sub(self.left.len());
        self.left.extend(old.into_iter().map(|(name, state)| (name, state.next_seq)).take(room));
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
        let Some(Some(state)) = self.devices.get_mut(index.at()) else { return 0 };
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
            let Some(Some(state)) = self.devices.get_mut(index.at()) else { break };
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
            if let Some(Some(state)) = self.devices.get_mut(index.at()) {
                state.row.push(at, part.into_iter());
            }
            if kept.peek().is_some() {
                self.open.retain(|i| *i != index);
                self.close(index);
            }
        }
        added
    }

    /// A fault goes behind what the device said before it.
    fn fault(&mut self, index: DeviceIndex, at: Timestamp, silent: Option<&Cause>) -> usize {
        self.open.retain(|i| *i != index);
        self.close(index);
        let Some(Some(state)) = self.devices.get(index.at()) else { return 0 };
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
        let Some(Some(state)) = self.devices.get_mut(index.at()) else { return };
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

/// Names of devices that left which are remembered; some 5 MB.
const LEFT_MAX: usize = 65_536;

/// The names and units a row of this device refers to.
pub fn layout(device: &Device) -> Vec<(PointName, Option<String>)> {
    layout_of(device).collect()
}

fn layout_of(device: &Device) -> impl Iterator<Item = (PointName, Option<String>)> {
    device.points.iter().map(|p| (p.name.clone(), p.unit.clone()))
}

//! How busy a line will be, before it is.
//!
//! The time of a request is what the wire takes, and so a floor: the characters of question
//! and answer at the line's speed, the silence before each of the two frames (MODBUS over
//! Serial Line V1.02, 2.5.1.1: 3.5 characters, 1.75 ms above 19200 baud), and the configured
//! pause between requests. What a device needs to think comes on top and stands in no
//! configuration. Over TCP there is no such clock: [`ROUND_TRIP`] is assumed; behind a
//! serial-to-TCP converter the speed of its line is not known and [`CONVERTER_BAUD`] assumed.
//!
//! The requests shown are those of each interval by itself. When several intervals of a device
//! fall due at once their points share requests, so the load is counted over a whole period
//! of all intervals: for each combination that falls due, its own plan, times how often it
//! comes. A cycle is the moment when everything on the line falls due at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::device::{Bus, Device, ModbusDevice, Point, Protocol, Source, Transport};
use crate::model::ids::{BusName, DeviceName, PointIndex, PointName};
use crate::model::register::Table;

use super::plan::{Item, Plan, Request, items, plan};

/// From question to answer over a local network.
pub const ROUND_TRIP: Duration = Duration::from_millis(5);
/// The line behind a converter, with 11 bits per character.
pub const CONVERTER_BAUD: u32 = 9600;

/// Polls within one period of all intervals of a device; with more, intervals are counted as
/// if they never met, which overstates the load.
const POLLS_COUNTED: u128 = 20_000;

/// What one bus has to do.
#[derive(Clone, Debug)]
pub struct BusLoad {
    pub bus: BusName,
    /// Everything due at once, in seconds.
    pub cycle: f64,
    /// Share of the time the line is busy; above 1, polls are skipped.
    pub load: f64,
    /// By device, interval, table and address.
    pub requests: Vec<PlannedRequest>,
    /// In the order of the bus.
    pub devices: Vec<DeviceLoad>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct PlannedRequest {
    pub device: DeviceName,
    pub unit_id: u8,
    pub table: Table,
    pub address: u16,
    pub count: u16,
    pub interval: Duration,
    pub points: Vec<PointName>,
    /// Question and answer together.
    pub bytes: u32,
    /// Seconds.
    pub time: f64,
}

#[derive(Clone, Debug)]
pub struct DeviceLoad {
    pub device: DeviceName,
    pub cycle: f64,
    pub load: f64,
}

/// The load of `bus`, whose devices are indices into `devices`. Devices that send lines of
/// their own accord cost nothing here.
pub fn of_bus(bus: &Bus, devices: &[Device]) -> BusLoad {
    let wire = Wire::new(bus);
    let mut all = BusLoad {
        bus: bus.name.clone(),
        cycle: 0.0,
        load: 0.0,
        requests: Vec::new(),
        devices: Vec::new(),
        warnings: Vec::new(),
    };
    // Points without an interval are read as fast as the line allows.
    let mut continuous = false;
    let mut shortest: Option<Duration> = None;
    for device in bus.devices.iter().filter_map(|index| devices.get(index.at())) {
        let Protocol::Modbus(modbus) = &device.protocol else { continue };
        let groups = Groups::new(modbus, &device.points);
        for group in &groups.groups {
            let plan = groups.plan(|g| g.interval == group.interval);
            all.warnings.extend(unreachable(device, &plan));
            let planned = plan.requests.iter().map(|r| planned(r, device, modbus, group.interval, &wire));
            all.requests.extend(planned);
            if group.interval.is_zero() {
                continuous = true;
            } else {
                shortest = Some(shortest.map_or(group.interval, |s| s.min(group.interval)));
            }
        }
        let cycle = wire.of_plan(&groups.plan(|_| true));
        let load = groups.load(&wire);
        all.cycle += cycle;
        all.load += load;
        all.devices.push(DeviceLoad { device: device.name.clone(), cycle, load });
    }
    all.warnings.extend(shortest.map(|s| late(&all, s)).unwrap_or_default());
    if continuous {
        // They take whatever time the others leave.
        all.load = all.load.max(1.0);
    }
    all
}

/// What a frame costs on this bus.
struct Wire {
    /// Seconds per character, seconds per frame for its silence; `None` over TCP.
    serial: Option<(f64, f64)>,
    /// Seconds per request that no character accounts for.
    fixed: f64,
}

impl Wire {
    fn new(bus: &Bus) -> Wire {
        let pause = bus.timing.pause_between_requests.as_secs_f64();
        let (baud, bits, fixed) = match &bus.transport {
            Transport::Tcp(_) => return Wire { serial: None, fixed: pause + ROUND_TRIP.as_secs_f64() },
            Transport::RtuOverTcp(_) => (CONVERTER_BAUD, 11, ROUND_TRIP.as_secs_f64()),
            Transport::Serial(port) => (port.baud, port.character_bits(), 0.0),
        };
        let character = f64::from(bits) / f64::from(baud.max(1));
        let silence = match bus.timing.silence {
            Some(silence) => silence.as_secs_f64(),
            None if baud > 19_200 => 0.001_75,
            None => 3.5 * character,
        };
        Wire { serial: Some((character, silence)), fixed: fixed + pause }
    }

    /// RTU: unit, function, address, count, CRC out; unit, function, length, data, CRC back.
    /// TCP has a header of seven bytes for unit and CRC.
    fn bytes(&self, request: &Request) -> u32 {
        let data = match request.table.is_bits() {
            true => u32::from(request.count).div_ceil(8),
            false => u32::from(request.count) * 2,
        };
        data + if self.serial.is_some() { 8 + 5 } else { 12 + 9 }
    }

    fn of_request(&self, request: &Request) -> f64 {
        let frames = self
            .serial
            .map_or(0.0, |(character, silence)| f64::from(self.bytes(request)) * character + 2.0 * silence);
        frames + self.fixed
    }

    fn of_plan(&self, plan: &Plan) -> f64 {
        plan.requests.iter().map(|request| self.of_request(request)).sum()
    }
}

/// The points of one device by interval, the shortest first.
struct Groups<'a> {
    modbus: &'a ModbusDevice,
    groups: Vec<Group>,
}

struct Group {
    interval: Duration,
    items: Vec<Item>,
}

impl<'a> Groups<'a> {
    fn new(modbus: &'a ModbusDevice, points: &[Point]) -> Groups<'a> {
        let mut by_interval: BTreeMap<Duration, Vec<Item>> = BTreeMap::new();
        for (index, point) in (0..).zip(points) {
            if let Source::Register(register) = &point.source
                && point.is_readable()
            {
                by_interval.entry(point.interval).or_default().extend(items(PointIndex(index), register));
            }
        }
        let groups = by_interval.into_iter().map(|(interval, items)| Group { interval, items }).collect();
        Groups { modbus, groups }
    }

    /// The plan of the chosen groups, joined.
    fn plan(&self, chosen: impl Fn(&Group) -> bool) -> Plan {
        let items: Vec<Item> =
            self.groups.iter().filter(|g| chosen(g)).flat_map(|g| g.items.iter().copied()).collect();
        plan(&items, &self.modbus.limits, &[])
    }

    /// The share of the time that this device keeps the line busy.
    fn load(&self, wire: &Wire) -> f64 {
        let intervals: Vec<u128> =
            self.groups.iter().map(|g| g.interval.as_micros()).filter(|i| *i > 0).collect();
        let continuous = self.groups.iter().any(|g| g.interval.is_zero());
        let meetings = meetings(&intervals);
        let share = meetings.iter().map(|meeting| {
            let due = |g: &Group| {
                meeting.due.contains(&g.interval.as_micros()) || (continuous && g.interval.is_zero())
            };
            wire.of_plan(&self.plan(due)) * meeting.per_second
        });
        share.sum()
    }
}

/// Intervals (in microseconds) that fall due together, and how often exactly these do.
struct Meeting {
    due: Vec<u128>,
    per_second: f64,
}

fn meetings(intervals: &[u128]) -> Vec<Meeting> {
    let each = |interval: &u128| Meeting { due: vec![*interval], per_second: 1e6 / *interval as f64 };
    let period = intervals.iter().try_fold(1u128, |all, i| (all / gcd(all, *i)).checked_mul(*i));
    let polls = |period: u128| intervals.iter().map(|i| period / i).sum::<u128>();
    let Some(period) = period.filter(|period| polls(*period) <= POLLS_COUNTED) else {
        return intervals.iter().map(each).collect();
    };
    let mut due_at: BTreeMap<u128, Vec<u128>> = BTreeMap::new();
    for interval in intervals {
        for n in 0..period / interval {
            due_at.entry(n * interval).or_default().push(*interval);
        }
    }
    let mut times: BTreeMap<Vec<u128>, u64> = BTreeMap::new();
    for due in due_at.into_values() {
        *times.entry(due).or_default() += 1;
    }
    let often = |times: u64| times as f64 * 1e6 / period as f64;
    times.into_iter().map(|(due, n)| Meeting { due, per_second: often(n) }).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn planned(
    request: &Request,
    device: &Device,
    modbus: &ModbusDevice,
    interval: Duration,
    wire: &Wire,
) -> PlannedRequest {
    let mut points: Vec<PointName> = Vec::new();
    for item in &request.items {
        let name = &device.points[item.point.at()].name;
        if !points.contains(name) {
            points.push(name.clone());
        }
    }
    PlannedRequest {
        device: device.name.clone(),
        unit_id: modbus.unit_id,
        table: request.table,
        address: request.address,
        count: request.count,
        interval,
        points,
        bytes: wire.bytes(request),
        time: wire.of_request(request),
    }
}

fn unreachable(device: &Device, plan: &Plan) -> Vec<String> {
    let one = |item: &Item| {
        let last = u32::from(item.address) + u32::from(item.count).max(1) - 1;
        format!(
            "{}: {} cannot be read: {} {} to {last} touches a forbidden range or is longer than a request may be",
            device.name,
            device.points[item.point.at()].name,
            item.table.as_str(),
            item.address,
        )
    };
    plan.unreachable.iter().map(one).collect()
}

/// What a technician should hear before going live.
fn late(all: &BusLoad, shortest: Duration) -> Vec<String> {
    let mut warnings = Vec::new();
    let percent = all.load * 100.0;
    if all.load > 1.0 {
        warnings.push(format!(
            "load is {percent:.0} %: polls will be skipped; longer intervals or a faster line are needed"
        ));
    } else if all.load > 0.8 {
        warnings.push(format!("load is {percent:.0} %: little is left for retries and slow devices"));
    }
    if all.cycle > shortest.as_secs_f64() {
        warnings.push(format!(
            "a cycle takes {:.0} ms, the shortest interval is {} ms: when everything falls due at once, polls come late",
            all.cycle * 1000.0,
            shortest.as_millis(),
        ));
    }
    if let Some(dearest) = all.devices.iter().max_by(|a, b| a.load.total_cmp(&b.load))
        && !warnings.is_empty()
        && all.devices.len() > 1
    {
        let share = dearest.load * 100.0;
        warnings.push(format!("{} costs most: {share:.0} % of the line's time", dearest.device));
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests;

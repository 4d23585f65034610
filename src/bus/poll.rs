//! One poll of one Modbus device: the planned requests, what they answered, and what that
//! says of its points.
//!
//! Constraints:
//! - Each answered request is one observation with its own time; a point that needs two
//!   (a value and its scale factor) is told with the later one.
//! - A device that does not answer costs one request: the rest of its poll is not tried, and
//!   all points that were due are told bad, with the cause. While it is silent nothing is
//!   repeated.
//! - Exceptions 2 and 3 cost only the points they belong to: the block is halved until the
//!   bad address is known. Each part is a request of its own, told with its own time.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::identify::Asking;
use super::line::Line;
use super::plans::{Planned, Plans, halve, register};
use crate::modbus::client::{Answer, Command, Error};
use crate::modbus::codec;
use crate::modbus::plan::{Item, Request};
use crate::model::device::{Device, ModbusDevice, Point};
use crate::model::ids::{BusName, DeviceIndex, DeviceName, PointIndex};
use crate::model::reading::{Measured, Reading};
use crate::model::register::{RegisterPoint, Table};
use crate::model::value::Cause;

/// A Modbus device of the bus.
pub struct Station {
    pub index: DeviceIndex,
    pub name: DeviceName,
    pub modbus: ModbusDevice,
    pub points: Arc<[Point]>,
    /// It answered, and did not fall silent since.
    pub good: bool,
    /// Why it is silent.
    pub silent: Option<Cause>,
    pub asking: Asking,
    plans: Plans,
    /// Requests that are refused or garbled now, so that each is logged once.
    failing: Vec<(Table, u16, Cause)>,
}

/// What a request of a poll came to.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of the points; may be empty.
    pub readings: Vec<Reading>,
    /// The device answered, with data or by refusing.
    pub answered: bool,
    /// Nothing more will come of this poll.
    pub last: bool,
    /// Why the device did not answer.
    pub cause: Option<Cause>,
}

/// A poll under way.
pub struct Poll {
    planned: Arc<Planned>,
    /// Of the planned requests.
    next: usize,
    /// What is left of the request at hand, once it was refused and halved.
    split: Option<Split>,
    /// What became of the request at hand.
    fetched: Fetched,
    pieces: Vec<Piece>,
    now: Duration,
    /// Retries are for devices that answer; a silent one is only knocked at.
    retries: u8,
}

/// A request that was refused as a whole.
#[derive(Default)]
struct Split {
    /// Parts not asked for yet, the next one last.
    open: Vec<Request>,
    good: Vec<Request>,
    bad: Vec<(Item, u8)>,
}

/// A run of addresses with its fate.
struct Piece {
    table: Table,
    address: u16,
    count: u16,
    fate: Result<Answer, Cause>,
}

/// The distinct intervals of the points that can be read, and which points have each.
pub fn groups(points: &[Point]) -> (Vec<Duration>, Vec<Vec<PointIndex>>) {
    let mut intervals: Vec<Duration> =
        points.iter().filter(|p| p.is_readable()).map(|p| p.interval).collect();
    intervals.sort_unstable();
    intervals.dedup();
    let mut groups = vec![Vec::new(); intervals.len()];
    for (n, point) in points.iter().enumerate().filter(|(_, p)| p.is_readable()) {
        if let Ok(group) = intervals.binary_search(&point.interval) {
            groups[group].push(PointIndex(n as u16));
        }
    }
    (intervals, groups)
}

impl Poll {
    /// No request will be made.
    pub fn is_empty(&self) -> bool {
        self.planned.requests.is_empty()
    }
}

impl Station {
    pub fn new(
        index: DeviceIndex,
        device: &Device,
        modbus: ModbusDevice,
        groups: &[Vec<PointIndex>],
    ) -> Station {
        let plans = Plans::new(&device.points, groups, modbus.limits.clone(), modbus.hole_retry);
        Station {
            index,
            name: device.name.clone(),
            modbus,
            points: device.points.clone(),
            good: false,
            silent: None,
            asking: Asking::new(device),
            plans,
            failing: Vec::new(),
        }
    }

    pub fn begin(&mut self, groups: &[u16], now: Duration, silent: bool) -> Poll {
        let retries = if silent { 0 } else { self.modbus.retries };
        Poll {
            planned: self.plans.planned(groups, now),
            next: 0,
            split: None,
            fetched: Fetched::default(),
            pieces: Vec::new(),
            now,
            retries,
        }
    }

    /// Makes the next request of the poll, or the next part of one that was refused.
    pub async fn step(
        &mut self,
        poll: &mut Poll,
        bus: &BusName,
        line: &mut Line,
        stop: &CancellationToken,
    ) -> Outcome {
        let planned = poll.planned.clone();
        let Some(request) = planned.requests.get(poll.next) else {
            // Nothing may be asked: only what is known to be refused can be told.
            let readings = refused(&planned).collect();
            return Outcome { readings, answered: false, last: true, cause: None };
        };
        let part = poll.split.as_mut().and_then(|s| s.open.pop());
        let part = part.map_or(Cow::Borrowed(request), Cow::Owned);
        let part = self.fetch(part, poll, line, stop).await;
        let gave_up = poll.fetched.gave_up.clone();
        let done = gave_up.is_some() || poll.split.as_ref().is_none_or(|s| s.open.is_empty());
        let last = done && (gave_up.is_some() || poll.next + 1 == planned.requests.len());
        let mut readings = Vec::with_capacity(planned.ready[poll.next].len() + planned.refused.len());
        let missing = gave_up.clone().unwrap_or(Cause::Timeout);
        let tell = |p: &PointIndex| Reading { point: *p, measured: self.measure(*p, &poll.pieces, &missing) };
        let ready = planned.ready[poll.next].iter();
        match &poll.split {
            None => readings.extend(ready.map(tell)),
            Some(split) => {
                let of = |request: &Request, p: &PointIndex| request.items.iter().any(|i| i.point == *p);
                let waits = |p: &PointIndex| split.open.iter().any(|r| of(r, p));
                let told = |p: &&PointIndex| match gave_up {
                    Some(_) => of(&part, p) || waits(p),
                    None => of(&part, p) && !waits(p),
                };
                readings.extend(ready.filter(told).map(tell));
            }
        }
        if last {
            readings.extend(planned.ready[poll.next + 1..].iter().flatten().map(tell));
            readings.extend(refused(&planned));
            readings.sort_by_key(|r| r.point);
        }
        let answered = poll.fetched.answered;
        let cause = gave_up.or(poll.fetched.garbled.clone());
        if done {
            self.finish(poll, bus, request);
        }
        Outcome { readings, answered, last, cause }
    }

    /// All parts of `request` are done.
    fn finish(&mut self, poll: &mut Poll, bus: &BusName, request: &Request) {
        let fetched = std::mem::take(&mut poll.fetched);
        self.note(bus, request, &fetched);
        let whole = fetched.gave_up.is_none() && fetched.garbled.is_none();
        if let Some(split) = poll.split.take().filter(|_| whole) {
            self.plans.learn(&poll.planned, request, split.good, &split.bad, poll.now);
        }
        poll.next += 1;
    }

    /// One register point, now, outside of any plan.
    pub async fn read_now(
        &self,
        point: &RegisterPoint,
        line: &mut Line,
        stop: &CancellationToken,
    ) -> Result<Measured, Error> {
        read_now(&self.modbus, point, self.modbus.retries, line, stop).await
    }

    /// Asks for `part`, and while the unit refuses its address, for the lower half of it.
    /// What it came down to.
    async fn fetch<'r>(
        &self,
        mut part: Cow<'r, Request>,
        poll: &mut Poll,
        line: &mut Line,
        stop: &CancellationToken,
    ) -> Cow<'r, Request> {
        let fate = loop {
            let command = Command::Read { table: part.table, address: part.address, count: part.count };
            let fate = line.transact(&self.modbus, &command, poll.retries, stop).await;
            match &fate {
                Err(Error::Exception(2 | 3)) if let Some((low, high)) = halve(&part) => {
                    // Not cut short by a stop: at most a few quick calls.
                    poll.fetched.answered = true;
                    poll.split.get_or_insert_default().open.push(high);
                    part = Cow::Owned(low);
                }
                _ => break fate,
            }
        };
        let fetched = &mut poll.fetched;
        match &fate {
            Ok(_) => {
                fetched.answered = true;
                if let Some(split) = &mut poll.split {
                    split.good.push(part.clone().into_owned());
                }
            }
            // The gateway speaks for a unit that does not.
            Err(e @ (Error::Timeout | Error::BusGone(_) | Error::Exception(10 | 11))) => {
                fetched.gave_up = Some(e.cause());
            }
            Err(Error::Garbled) => fetched.garbled = Some(Cause::Garbled),
            Err(Error::Exception(code)) => {
                fetched.answered = true;
                fetched.refused.push((part.table, part.address, *code));
                if let (2 | 3, Some(split)) = (code, &mut poll.split) {
                    split.bad.extend(part.items.iter().map(|i| (*i, *code)));
                }
            }
        }
        let fate = fate.map_err(|e| e.cause());
        poll.pieces.push(Piece { table: part.table, address: part.address, count: part.count, fate });
        part
    }

    /// What a point is, going by what was fetched; `missing` if it was not.
    fn measure(&self, point: PointIndex, pieces: &[Piece], missing: &Cause) -> Measured {
        let Some(register) = register(&self.points, point) else {
            return Measured::Bad(Cause::Missing);
        };
        measure(register, pieces, missing)
    }

    /// Says in the log what changed with this request.
    fn note(&mut self, bus: &BusName, request: &Request, fetched: &Fetched) {
        if fetched.gave_up.is_some() {
            // The device as a whole is told of by the task.
            return;
        }
        let end = u32::from(request.address) + u32::from(request.count);
        let within = |address: u16| address >= request.address && u32::from(address) < end;
        let mut seen: Vec<(Table, u16, Cause)> =
            fetched.refused.iter().map(|(t, a, code)| (*t, *a, Cause::Exception(*code))).collect();
        if fetched.garbled.is_some() {
            seen.push((request.table, request.address, Cause::Garbled));
        }
        for (table, address, cause) in seen.iter().filter(|s| !self.failing.contains(s)) {
            tracing::warn!(
                bus = %bus, device = %self.name, unit_id = self.modbus.unit_id,
                table = %table.as_str(), address, cause = %cause, "request fails"
            );
        }
        let (unit_id, name) = (self.modbus.unit_id, &self.name);
        self.failing.retain(|old| {
            let over = old.0 == request.table && within(old.1) && !seen.contains(old);
            if over {
                tracing::info!(
                    bus = %bus, device = %name, unit_id,
                    table = %old.0.as_str(), address = old.1, cause = %old.2, "request no longer fails"
                );
            }
            !over
        });
        seen.retain(|s| !self.failing.contains(s));
        self.failing.extend(seen);
    }
}

/// One register point, now, with the timing of `modbus`.
pub async fn read_now(
    modbus: &ModbusDevice,
    point: &RegisterPoint,
    retries: u8,
    line: &mut Line,
    stop: &CancellationToken,
) -> Result<Measured, Error> {
    let runs = [Some((point.address, point.count())), point.scale_factor.map(|address| (address, 1))];
    let mut pieces = Vec::new();
    for (address, count) in runs.into_iter().flatten() {
        let command = Command::Read { table: point.table, address, count };
        let answer = line.transact(modbus, &command, retries, stop).await?;
        pieces.push(Piece { table: point.table, address, count, fate: Ok(answer) });
    }
    Ok(measure(point, &pieces, &Cause::Missing))
}

#[derive(Default)]
struct Fetched {
    answered: bool,
    gave_up: Option<Cause>,
    garbled: Option<Cause>,
    refused: Vec<(Table, u16, u8)>,
}

fn refused(planned: &Planned) -> impl Iterator<Item = Reading> + '_ {
    planned
        .refused
        .iter()
        .map(|(point, cause)| Reading { point: *point, measured: Measured::Bad(cause.clone()) })
}

fn measure(register: &RegisterPoint, pieces: &[Piece], missing: &Cause) -> Measured {
    let value = find(pieces, register.table, register.address, register.count());
    let value = match value {
        None => return Measured::Bad(missing.clone()),
        Some(Err(cause)) => return Measured::Bad(cause.clone()),
        Some(Ok(found)) => found,
    };
    match value {
        Found::Bit(bit) => codec::decode_bit(register, bit),
        Found::Words(words) => {
            let factor = match register.scale_factor {
                None => None,
                Some(address) => match find(pieces, register.table, address, 1) {
                    Some(Ok(Found::Words([factor]))) => Some(*factor),
                    _ => return Measured::Bad(Cause::ScaleFactor),
                },
            };
            codec::decode(register, words, factor)
        }
    }
}

enum Found<'a> {
    Words(&'a [u16]),
    Bit(bool),
}

/// The addresses among the pieces; the newest piece is looked at first, for it is most often
/// the one.
fn find<'a>(
    pieces: &'a [Piece],
    table: Table,
    address: u16,
    count: u16,
) -> Option<Result<Found<'a>, &'a Cause>> {
    let piece = pieces.iter().rev().find(|p| {
        let end = u32::from(p.address) + u32::from(p.count);
        p.table == table && p.address <= address && u32::from(address) + u32::from(count) <= end
    })?;
    let at = usize::from(address - piece.address);
    match &piece.fate {
        Err(cause) => Some(Err(cause)),
        Ok(Answer::Words(words)) => words.get(at..at + usize::from(count)).map(|w| Ok(Found::Words(w))),
        Ok(Answer::Bits(bits)) => bits.get(at).map(|b| Ok(Found::Bit(*b))),
        Ok(Answer::Done | Answer::ServerId(_) | Answer::DeviceId { .. }) => None,
    }
}

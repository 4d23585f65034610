//! Plans of one device, kept by what is due, and what its exceptions taught. PURE.
//!
//! Constraints: planning costs more than polling, so a plan is made once per set of due
//! groups; exceptions 2 and 3 on a merged block must cost only the bad address, now and in
//! the polls to come; and what was learned is forgotten after `hole_retry`, because devices
//! are repaired and updated.
//!
//! The way of a plan: due groups → items → [`plan::plan`] around the learned holes →
//! requests, and for each request the points that are complete once it is answered.

use std::sync::Arc;
use std::time::Duration;

use crate::modbus::plan::{self, Item, Part, Request};
use crate::model::device::{AddressRange, Point, RequestLimits, Source};
use crate::model::ids::PointIndex;
use crate::model::register::{RegisterPoint, Table};
use crate::model::value::Cause;

/// The requests of one set of due points.
#[derive(Debug)]
pub struct Planned {
    groups: Vec<u16>,
    pub requests: Vec<Request>,
    /// For each request the points that are complete once it is answered, in their order.
    pub ready: Vec<Vec<PointIndex>>,
    /// Points that no request can fetch.
    pub refused: Vec<(PointIndex, Cause)>,
}

#[derive(Debug)]
pub struct Plans {
    limits: RequestLimits,
    hole_retry: Duration,
    /// By group.
    items: Vec<Vec<Item>>,
    cache: Vec<Arc<Planned>>,
    holes: Vec<(AddressRange, u8)>,
    forget_at: Option<Duration>,
}

/// Sets of groups that meet in practice are few; a configuration of strange intervals must
/// not fill the memory.
const CACHE_MAX: usize = 64;

impl Plans {
    /// `groups` are the points of each distinct interval.
    pub fn new(
        points: &[Point],
        groups: &[Vec<PointIndex>],
        limits: RequestLimits,
        hole_retry: Duration,
    ) -> Plans {
        let items_of = |group: &Vec<PointIndex>| {
            let registers = group.iter().filter_map(|p| register(points, *p).map(|r| (*p, r)));
            registers.flat_map(|(p, r)| plan::items(p, r)).collect()
        };
        Plans {
            limits,
            hole_retry,
            items: groups.iter().map(items_of).collect(),
            cache: Vec::new(),
            holes: Vec::new(),
            forget_at: None,
        }
    }

    pub fn planned(&mut self, groups: &[u16], now: Duration) -> Arc<Planned> {
        if self.forget_at.is_some_and(|at| at <= now) {
            self.forget_at = None;
            self.holes.clear();
            self.cache.clear();
        }
        if let Some(known) = self.cache.iter().find(|p| p.groups == groups) {
            return known.clone();
        }
        let items: Vec<Item> =
            groups.iter().flat_map(|g| self.items[usize::from(*g)].iter().copied()).collect();
        let holes: Vec<AddressRange> = self.holes.iter().map(|(range, _)| *range).collect();
        let plan = plan::plan(&items, &self.limits, &holes);
        let planned = self.assign(groups, plan.requests, &plan.unreachable);
        self.keep(planned)
    }

    /// A merged request was refused and split: `bad` items were refused alone too, with
    /// their code, and `good` requests were answered.
    pub fn learn(
        &mut self,
        planned: &Planned,
        refused: &Request,
        good: Vec<Request>,
        bad: &[(Item, u8)],
        now: Duration,
    ) {
        if good.is_empty() {
            // Nothing answered: the device is not ready, and no address is to blame.
            return;
        }
        self.forget_at.get_or_insert(now + self.hole_retry);
        self.cache.clear();
        for (item, code) in bad {
            let last = item.address + (item.count - 1);
            self.holes.push((AddressRange { table: item.table, first: item.address, last }, *code));
        }
        if bad.is_empty() {
            // Every item is good alone: a gap between them is bad, or the block too long.
            let mut requests: Vec<Request> =
                planned.requests.iter().filter(|r| *r != refused).cloned().chain(good).collect();
            requests.sort_by_key(|r| (r.table, r.address));
            let unreachable: Vec<Item> = planned
                .refused
                .iter()
                .flat_map(|(p, _)| self.items.iter().flatten().filter(|i| i.point == *p).copied())
                .collect();
            let cut = self.assign(&planned.groups, requests, &unreachable);
            self.keep(cut);
        }
    }

    fn keep(&mut self, planned: Planned) -> Arc<Planned> {
        if self.cache.len() >= CACHE_MAX {
            self.cache.clear();
        }
        let planned = Arc::new(planned);
        self.cache.push(planned.clone());
        planned
    }

    fn assign(&self, groups: &[u16], requests: Vec<Request>, unreachable: &[Item]) -> Planned {
        let mut refused: Vec<(PointIndex, Cause)> = Vec::new();
        for item in unreachable {
            let cause = match item.part {
                Part::Value => self.refusal(item),
                Part::ScaleFactor => Cause::ScaleFactor,
            };
            if !refused.iter().any(|(p, _)| *p == item.point) {
                refused.push((item.point, cause));
            }
        }
        refused.sort_by_key(|(p, _)| *p);
        let mut last_of: Vec<(PointIndex, usize)> = Vec::new();
        for (n, request) in requests.iter().enumerate() {
            last_of.extend(request.items.iter().map(|i| (i.point, n)));
        }
        // By point, its last request first.
        last_of.sort_by_key(|(p, n)| (*p, std::cmp::Reverse(*n)));
        last_of.dedup_by_key(|(p, _)| *p);
        let mut ready = vec![Vec::new(); requests.len()];
        for (point, n) in last_of {
            if refused.binary_search_by_key(&point, |(p, _)| *p).is_err() {
                ready[n].push(point);
            }
        }
        Planned { groups: groups.to_vec(), requests, ready, refused }
    }

    fn refusal(&self, item: &Item) -> Cause {
        let last = item.address.saturating_add(item.count.saturating_sub(1));
        let hole = self
            .holes
            .iter()
            .find(|(h, _)| h.table == item.table && h.first <= last && item.address <= h.last);
        // A forbidden address is refused by ourselves as the device would refuse it.
        Cause::Exception(hole.map_or(2, |(_, code)| *code))
    }
}

pub fn register(points: &[Point], point: PointIndex) -> Option<&RegisterPoint> {
    match &points.get(point.at())?.source {
        Source::Register(register) => Some(register),
        Source::Field(_) => None,
    }
}

/// Cuts a refused request near its middle, between two items that do not overlap; `None` if
/// it is as small as its items allow.
pub fn halve(request: &Request) -> Option<(Request, Request)> {
    let items = &request.items;
    let mut end = 0_u32;
    let cut = (1..items.len())
        .filter(|n| {
            let item = items[n - 1];
            end = end.max(u32::from(item.address) + u32::from(item.count));
            u32::from(items[*n].address) >= end
        })
        .min_by_key(|n| n.abs_diff(items.len() / 2))?;
    Some((spanning(request.table, &items[..cut]), spanning(request.table, &items[cut..])))
}

/// The request over exactly these items, which are by address and not empty.
fn spanning(table: Table, items: &[Item]) -> Request {
    let first = items.first().map_or(0, |i| i.address);
    let end = items.iter().map(|i| u32::from(i.address) + u32::from(i.count)).max().unwrap_or(0);
    let count = u16::try_from(end.saturating_sub(first.into())).unwrap_or(u16::MAX);
    Request { table, address: first, count, items: items.to_vec() }
}

//! Which requests fetch the points.
//!
//! The rule, in this order: fewest requests; then fewest addresses read; then earlier
//! requests as full as possible, which means: of two plans that tie, the one whose first
//! request (by address) covers more addresses, and if they tie there, the second, and so on.
//! Per table this leaves exactly one plan, so the plan does not depend on the order in which
//! the points are written down.
//!
//! Constraints: a request covers at most `max_registers` (`max_bits`) addresses and never
//! more than the protocol allows (125 and 2000: MODBUS Application Protocol V1.1b3, 6.1 to
//! 6.4); a run of addresses that nobody asked for is at most `max_gap` long; no request
//! touches a forbidden range or a learned hole; a value is never split. Ten thousand points
//! are planned in a few milliseconds, because a plan is made anew whenever another set of
//! intervals falls due for the first time and whenever a hole is learned.
//!
//! The way of one item: items that no request may serve leave first. An item inside another
//! one is served wherever that one is, so only the outermost items count; sorted by start
//! they are sorted by end too. Of such items every request of some optimal plan serves an
//! unbroken run: order the requests by start, give each item to the first request that holds
//! it, and the items fall into runs. So the plan is a cutting of the sorted items into runs,
//! and the cheapest one is found from the last item to the first, in time proportional to
//! their number: the run that begins at item `i` may end anywhere up to `reach(i)`, `reach`
//! only falls as `i` falls, and the best end in that sliding window is kept at hand.

use std::collections::VecDeque;

use crate::model::device::{AddressRange, RequestLimits};
use crate::model::ids::PointIndex;
use crate::model::register::{RegisterPoint, Table};

/// A run of addresses that must arrive in one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    pub table: Table,
    pub address: u16,
    pub count: u16,
    pub point: PointIndex,
    pub part: Part,
}

/// Which part of its point an item fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    Value,
    ScaleFactor,
}

/// One read on the wire. `items` are those it serves, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub table: Table,
    pub address: u16,
    pub count: u16,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By table, then address.
    pub requests: Vec<Request>,
    /// Items no request may serve: they touch a forbidden range or a learned hole, or are
    /// longer than the limits.
    pub unreachable: Vec<Item>,
}

/// What has to be read for one point.
pub fn items(point: PointIndex, register: &RegisterPoint) -> impl Iterator<Item = Item> {
    let value = Item {
        table: register.table,
        address: register.address,
        count: register.count(),
        point,
        part: Part::Value,
    };
    let factor = register.scale_factor.map(|address| Item {
        table: register.table,
        address,
        count: 1,
        point,
        part: Part::ScaleFactor,
    });
    std::iter::once(value).chain(factor)
}

/// The fewest requests that cover every item, among those the fewest addresses read, among
/// those earlier requests as full as possible. `holes` are addresses learned to be bad.
///
/// With `one_request_per_point` each distinct run of addresses gets a request of its own, and
/// only items with exactly the same addresses (bits of one register, say) share it.
pub fn plan(items: &[Item], limits: &RequestLimits, holes: &[AddressRange]) -> Plan {
    let mut sorted = items.to_vec();
    sorted.sort_unstable();
    let mut plan = Plan::default();
    for of_table in sorted.chunk_by(|a, b| a.table == b.table) {
        let rules = Rules::new(of_table[0].table, limits, holes);
        let (served, unreachable): (Vec<Item>, Vec<Item>) =
            of_table.iter().partition(|item| rules.allow(item));
        plan.requests.extend(if limits.one_request_per_point { each(&served) } else { cut(&served, &rules) });
        plan.unreachable.extend(unreachable);
    }
    plan
}

const REGISTERS_MAX: u16 = 125;
const BITS_MAX: u16 = 2000;

/// The limits for one table. Addresses are widened, so that the end of the last is a number.
struct Rules {
    max: u32,
    max_gap: u32,
    /// Merged and sorted, `first..end`.
    forbidden: Vec<(u32, u32)>,
}

impl Rules {
    fn new(table: Table, limits: &RequestLimits, holes: &[AddressRange]) -> Rules {
        let (max, max_gap) = if table.is_bits() {
            (limits.max_bits.min(BITS_MAX), limits.max_gap_bits)
        } else {
            (limits.max_registers.min(REGISTERS_MAX), limits.max_gap_registers)
        };
        let ranges = limits.forbidden.iter().chain(holes).filter(|range| range.table == table);
        let mut sorted: Vec<(u32, u32)> =
            ranges.map(|range| (u32::from(range.first), u32::from(range.last) + 1)).collect();
        sorted.sort_unstable();
        let mut forbidden: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
        for (first, end) in sorted.into_iter().filter(|(first, end)| first < end) {
            match forbidden.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => forbidden.push((first, end)),
            }
        }
        Rules { max: u32::from(max), max_gap: u32::from(max_gap), forbidden }
    }

    /// A request may cover the item, alone.
    fn allow(&self, item: &Item) -> bool {
        let (start, end) = span(item);
        start < end && end <= 0x1_0000 && end - start <= self.max && !self.touches(start, end)
    }

    /// One request may go on from addresses that end at `end` to others that begin at `start`.
    fn join(&self, end: u32, start: u32) -> bool {
        end >= start || (start - end <= self.max_gap && !self.touches(end, start))
    }

    fn touches(&self, start: u32, end: u32) -> bool {
        let after = self.forbidden.partition_point(|(_, last)| *last <= start);
        self.forbidden.get(after).is_some_and(|(first, _)| *first < end)
    }
}

fn span(item: &Item) -> (u32, u32) {
    let start = u32::from(item.address);
    (start, start + u32::from(item.count))
}

/// One request for each distinct run of addresses.
fn each(items: &[Item]) -> Vec<Request> {
    let runs = items.chunk_by(|a, b| span(a) == span(b));
    runs.map(|run| Request {
        table: run[0].table,
        address: run[0].address,
        count: run[0].count,
        items: run.to_vec(),
    })
    .collect()
}

/// The cheapest cutting of one table's items into requests.
fn cut(items: &[Item], rules: &Rules) -> Vec<Request> {
    let Some(first) = items.first() else { return Vec::new() };
    let outer = outermost(items);
    let ends = best_ends(&outer, rules);
    let mut requests = Vec::new();
    let mut at = 0;
    while let Some(&end) = ends.get(at) {
        let (address, last) = (outer[at].0, outer[end].1);
        // Both fit: `Rules::allow` looked at every item, `best_ends` at the length.
        let (address, count) = (address as u16, (last - address) as u16);
        requests.push(Request { table: first.table, address, count, items: Vec::new() });
        at = end + 1;
    }
    hand_out(items, &mut requests);
    requests
}

/// The spans that lie in no other span, by start and therefore by end.
fn outermost(items: &[Item]) -> Vec<(u32, u32)> {
    let mut spans: Vec<(u32, u32)> = items.iter().map(span).collect();
    spans.sort_unstable_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
    let mut covered = 0;
    spans.retain(|(_, end)| {
        let outside = *end > covered;
        covered = covered.max(*end);
        outside
    });
    spans
}

/// Requests first, addresses second: what one plan is better by.
type Cost = (u32, u64);

/// For each span, the last span of the run that begins with it in the best plan.
fn best_ends(spans: &[(u32, u32)], rules: &Rules) -> Vec<usize> {
    let count = spans.len();
    let mut ends = vec![0; count];
    // The cost of everything from a span on.
    let mut rest: Vec<Cost> = vec![(0, 0); count + 1];
    // Ends of the run that may still be best, from the far one to the near one, each cheaper
    // than all that are nearer; the front is the best. `cost` lacks the start of the run,
    // which is the same for all.
    let mut window: VecDeque<(usize, Cost)> = VecDeque::new();
    let mut reach = count.saturating_sub(1);
    // The last span that can be reached over gaps alone.
    let mut joined = reach;
    for at in (0..count).rev() {
        let (start, end) = spans[at];
        if spans.get(at + 1).is_some_and(|next| !rules.join(end, next.0)) {
            joined = at;
        }
        reach = reach.min(joined);
        while spans[reach].1 - start > rules.max {
            reach -= 1;
        }
        let cost = (rest[at + 1].0 + 1, rest[at + 1].1 + u64::from(end));
        // An equal cost that is farther stays in front: its request is fuller.
        while window.back().is_some_and(|(_, other)| *other > cost) {
            window.pop_back();
        }
        window.push_back((at, cost));
        while window.front().is_some_and(|(far, _)| *far > reach) {
            window.pop_front();
        }
        // The window holds `at` itself at least, and a span alone is within the limits.
        if let Some((far, cost)) = window.front() {
            ends[at] = *far;
            rest[at] = (cost.0, cost.1 - u64::from(start));
        }
    }
    ends
}

/// Gives each item to the first request that holds it wholly. The requests of a cutting are
/// sorted by start and by end, so that is the first that ends late enough: a later one holds
/// the item, and starts later still.
fn hand_out(items: &[Item], requests: &mut [Request]) {
    for item in items {
        let (_, end) = span(item);
        let at = requests.partition_point(|r| u32::from(r.address) + u32::from(r.count) < end);
        requests[at].items.push(*item);
    }
}

#[cfg(test)]
mod tests;

//! (to come)

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
pub fn plan(items: &[Item], limits: &RequestLimits, holes: &[AddressRange]) -> Plan {
    let _ = (items, limits, holes);
    Plan::default()
}

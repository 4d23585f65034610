//! The ledger: what was taken and will never be delivered, by device and reason.
//!
//! Bounded: one entry per device, reason and hour, and at most [`ENTRIES_MAX`] of them; the
//! oldest are folded into one entry per device and reason, so that the sum always holds.

use rusqlite::{Connection, Transaction, params};

use super::inspect::LedgerEntry;
use super::{Error, Store, lock};
use crate::model::row::Dropped;
use crate::model::time::Timestamp;

/// About a year of one device losing something each hour. Then the oldest are folded.
pub const ENTRIES_MAX: i64 = 10_000;

impl Store {
    pub fn ledger(&self) -> Result<Vec<LedgerEntry>, Error> {
        read(&lock(&self.reader))
    }
}

pub(super) fn read(db: &Connection) -> Result<Vec<LedgerEntry>, Error> {
    let mut st = db.prepare_cached(
        "SELECT device, reason, readings, first_ms, last_ms FROM ledger ORDER BY hour, device, reason",
    )?;
    let rows = st.query_map([], |r| {
        Ok(LedgerEntry {
            device: r.get(0)?,
            reason: r.get(1)?,
            count: r.get::<_, i64>(2)? as u64,
            first: Timestamp(r.get(3)?),
            last: Timestamp(r.get(4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn note(t: &Transaction, d: &Dropped, now: Timestamp) -> Result<(), Error> {
    let hour = (now.0 / 3_600_000).max(1);
    add(t, d.device.as_str(), d.reason.as_str(), hour, d.readings as i64, d.first.0, d.last.0)?;
    let entries: i64 = t.prepare_cached("SELECT count(*) FROM ledger")?.query_row([], |r| r.get(0))?;
    if entries > ENTRIES_MAX {
        fold(t)?;
    }
    Ok(())
}

pub(super) fn add(
    t: &Transaction,
    device: &str,
    reason: &str,
    hour: i64,
    readings: i64,
    first: i64,
    last: i64,
) -> Result<(), Error> {
    t.prepare_cached(
        "INSERT INTO ledger (device, reason, hour, readings, first_ms, last_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (device, reason, hour) DO UPDATE SET readings = readings + excluded.readings,
             first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms)",
    )?
    .execute(params![device, reason, hour, readings, first, last])?;
    Ok(())
}

/// Adds the older half of the entries to the entry of hour 0 of their device and reason.
fn fold(t: &Transaction) -> Result<(), Error> {
    let middle: i64 =
        t.query_row("SELECT hour FROM ledger ORDER BY hour LIMIT 1 OFFSET ?1", [ENTRIES_MAX / 2], |r| {
            r.get(0)
        })?;
    let old: Vec<(String, String, i64, i64, i64)> = t
        .prepare(
            "SELECT device, reason, sum(readings), min(first_ms), max(last_ms) FROM ledger
                  WHERE hour > 0 AND hour <= ?1 GROUP BY device, reason",
        )?
        .query_map([middle], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))?
        .collect::<Result<_, _>>()?;
    t.execute("DELETE FROM ledger WHERE hour > 0 AND hour <= ?1", [middle])?;
    for (device, reason, readings, first, last) in old {
        add(t, &device, &reason, 0, readings, first, last)?;
    }
    Ok(())
}

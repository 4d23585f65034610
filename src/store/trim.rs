//! The ways out of the outbox that are no PUBACK: expiry, want of room, dead letters.
//!
//! Constraints: whatever goes is counted in the transaction that deletes it; the cloud is told
//! by a gap record, which is a row like any other; a gap record that has to go itself hands
//! its count on to the next one, so that none is lost and they do not pile up.
//!
//! The way of a loss: `victims` → `drop_rows` (ledger, tally) → gap records at the end of the
//! outbox → the uplink.

use rusqlite::{Connection, Transaction, params};

use super::outbox::{insert, kind_number, layout_id, used};
use super::{Error, Store, Tally, ledger, lock};
use crate::model::ids::DeviceName;
use crate::model::row::{Dropped, Kind, NewRow, OutboxId, Reason};
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

/// Spells the gap record of a loss.
pub type Render<'a> = dyn Fn(&Dropped) -> Vec<u8> + 'a;

impl Store {
    /// Drops what is too old, and the oldest when the file is nearly at its quota. Each loss
    /// is entered in the ledger, and a gap record for the cloud is appended, in the same
    /// transaction. `render` spells the gap record.
    pub fn trim(&self, now: Timestamp, render: &Render) -> Result<Vec<Dropped>, Error> {
        self.announce(now, render)?;
        let mut victims = self.marked(self.victims(now))?;
        if !victims.is_empty() && self.acked_rows() > 0 {
            // Perhaps these are delivered already, and the room is there.
            self.flush_acks()?;
            victims = self.marked(self.victims(now))?;
        }
        self.give_up(victims, now, render)
    }

    /// What a salvage could not save is known before anybody is there who can spell it.
    fn announce(&self, now: Timestamp, render: &Render) -> Result<(), Error> {
        let mut lost = lock(&self.unannounced);
        if lost.is_empty() {
            return Ok(());
        }
        let boot = self.boot.count;
        let newest = self.change(|t, tally| {
            self.append_gaps(t, boot, &lost, now, tally, render)?;
            Ok(tally.last_id)
        })?;
        self.announce_rows(lost.iter().map(|d| self.route_of(&d.device)), OutboxId(newest));
        lost.clear();
        Ok(())
    }

    /// Drops the oldest rows although the file is not at its limit: a commit found it full.
    pub fn make_room(&self, now: Timestamp, render: &Render) -> Result<Vec<Dropped>, Error> {
        let victims = self.marked(oldest_share(&self.writer().db))?;
        self.give_up(victims.map(|id| (Reason::StoreFull, id)).into_iter().collect(), now, render)
    }

    fn give_up(
        &self,
        victims: Vec<(Reason, i64)>,
        now: Timestamp,
        render: &Render,
    ) -> Result<Vec<Dropped>, Error> {
        let mut all = Vec::new();
        for (reason, last) in victims {
            all.extend(self.drop_range((0, last), reason, now, render)?);
        }
        Ok(all)
    }

    fn drop_range(
        &self,
        (first, last): (i64, i64),
        reason: Reason,
        now: Timestamp,
        render: &Render,
    ) -> Result<Vec<Dropped>, Error> {
        let boot = self.boot.count;
        let (dropped, told, newest) = self.change(|t, tally| {
            let mut gaps = match reason {
                // A broker that refuses gap records is not asked again with the same one.
                Reason::DeadLetter => Vec::new(),
                _ => untold(t, first, last)?,
            };
            let dropped = drop_rows(t, first, last, reason, now, tally)?;
            dropped.iter().for_each(|d| join(&mut gaps, d.clone()));
            self.append_gaps(t, boot, &gaps, now, tally, render)?;
            Ok((dropped, gaps, tally.last_id))
        })?;
        self.announce_rows(told.iter().map(|d| self.route_of(&d.device)), OutboxId(newest));
        Ok(dropped)
    }

    fn append_gaps(
        &self,
        t: &Transaction,
        boot: i64,
        dropped: &[Dropped],
        now: Timestamp,
        tally: &mut Tally,
        render: &Render,
    ) -> Result<(), Error> {
        for d in dropped {
            let row = NewRow {
                kind: Kind::Gap,
                route: self.route_of(&d.device),
                layout: layout_id(t, &d.device, "[]")?,
                seq: 0,
                readings: 0,
                first: now,
                last: now,
                payload: render(d),
            };
            insert(t, boot, &[row], tally)?;
        }
        Ok(())
    }

    /// Up to which id rows have to go now, and why.
    fn victims(&self, now: Timestamp) -> Result<Vec<(Reason, i64)>, Error> {
        let db = &self.writer().db;
        let mut victims = Vec::new();
        // A clock that was never set must not throw away what it cannot date.
        if let Some(age) = self.age_max.filter(|_| now >= CLOCK_PLAUSIBLE_FROM) {
            let limit = now.0 - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            // Not row by row as each grows too old: that would be a gap record a second.
            let slack = i64::try_from(age.as_millis() / 64).unwrap_or(i64::MAX);
            if last_older(db, limit - slack, 1)?.is_some() {
                victims.extend(last_older(db, limit, TRIM_ROWS)?.map(|id| (Reason::Expired, id)));
            }
        }
        if used(db)? > self.bytes_max - self.bytes_max / 16 {
            victims.extend(oldest_share(db)?.map(|id| (Reason::StoreFull, id)));
        }
        Ok(victims)
    }

    /// Takes one row out of the way for good: the broker will not have it.
    pub fn dead_letter(
        &self,
        id: OutboxId,
        reason: Reason,
        now: Timestamp,
        render: &Render,
    ) -> Result<Vec<Dropped>, Error> {
        self.drop_range((id.0, id.0), reason, now, render)
    }
}

/// The last of the oldest rows that were all taken before `limit`, as far as a clock that was
/// set can tell.
fn last_older(db: &Connection, limit: i64, rows: i64) -> Result<Option<i64>, Error> {
    let mut st = db.prepare_cached("SELECT id, first_ms + span_ms FROM outbox ORDER BY id LIMIT ?1")?;
    let mut rows = st.query([rows])?;
    let mut last = None;
    while let Some(r) = rows.next()? {
        let taken: i64 = r.get(1)?;
        if taken >= limit || taken < CLOCK_PLAUSIBLE_FROM.0 {
            break;
        }
        last = Some(r.get(0)?);
    }
    Ok(last)
}

/// The last row of the oldest thirty-second of what waits: few gap records, little lost at a
/// time.
fn oldest_share(db: &Connection) -> Result<Option<i64>, Error> {
    let ends = "SELECT (SELECT min(id) FROM outbox), (SELECT max(id) FROM outbox)";
    let (first, last): (Option<i64>, Option<i64>) =
        db.prepare_cached(ends)?.query_row([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    let share = ((last - first) / 32).clamp(0, TRIM_ROWS);
    let mut st = db.prepare_cached("SELECT id FROM outbox ORDER BY id LIMIT 1 OFFSET ?1")?;
    let mut rows = st.query([share])?;
    Ok(Some(rows.next()?.map(|r| r.get(0)).transpose()?.unwrap_or(first)))
}

/// What the gap records among these rows were going to tell.
fn untold(t: &Transaction, first: i64, last: i64) -> Result<Vec<Dropped>, Error> {
    let mut gaps = Vec::new();
    let mut st = t.prepare_cached("SELECT payload FROM outbox WHERE kind = ?1 AND id BETWEEN ?2 AND ?3")?;
    let mut rows = st.query(params![kind_number(Kind::Gap), first, last])?;
    while let Some(r) = rows.next()? {
        let payload: Vec<u8> = r.get(0)?;
        if let Ok(gap) = serde_json::from_slice::<GapRecord>(&payload) {
            join(&mut gaps, gap.into());
        }
    }
    Ok(gaps)
}

/// The part of a gap record's payload that counts.
#[derive(serde::Deserialize)]
struct GapRecord {
    device: String,
    reason: String,
    readings: u64,
    first_t: i64,
    last_t: i64,
}

impl From<GapRecord> for Dropped {
    fn from(gap: GapRecord) -> Dropped {
        let all = [Reason::Expired, Reason::StoreFull, Reason::DeadLetter, Reason::Corrupt];
        Dropped {
            device: DeviceName::new(&gap.device),
            reason: all.into_iter().find(|r| r.as_str() == gap.reason).unwrap_or(Reason::StoreFull),
            readings: gap.readings,
            first: Timestamp(gap.first_t),
            last: Timestamp(gap.last_t),
        }
    }
}

/// One gap record per device and reason.
fn join(gaps: &mut Vec<Dropped>, more: Dropped) {
    match gaps.iter_mut().find(|g| g.device == more.device && g.reason == more.reason) {
        Some(gap) => {
            gap.readings += more.readings;
            gap.first = gap.first.min(more.first);
            gap.last = gap.last.max(more.last);
        }
        None => gaps.push(more),
    }
}

fn drop_rows(
    t: &Transaction,
    first: i64,
    last: i64,
    reason: Reason,
    now: Timestamp,
    tally: &mut Tally,
) -> Result<Vec<Dropped>, Error> {
    let mut dropped = Vec::new();
    let mut st = t.prepare_cached(
        "SELECT l.device, count(*), sum(o.readings), min(iif(o.readings > 0, o.first_ms, NULL)), max(iif(o.readings > 0, o.first_ms + o.span_ms, NULL))
         FROM outbox o JOIN layout l ON l.id = o.layout
         WHERE o.id BETWEEN ?1 AND ?2 GROUP BY l.device ORDER BY l.device",
    )?;
    let mut rows = st.query([first, last])?;
    while let Some(r) = rows.next()? {
        let readings: i64 = r.get(2)?;
        tally.rows_gone += r.get::<_, i64>(1)?;
        tally.dropped += readings;
        dropped.push(Dropped {
            device: DeviceName::new(&r.get::<_, String>(0)?),
            reason,
            readings: readings as u64,
            first: Timestamp(r.get::<_, Option<i64>>(3)?.unwrap_or_default()),
            last: Timestamp(r.get::<_, Option<i64>>(4)?.unwrap_or_default()),
        });
    }
    t.prepare_cached("DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2")?.execute([first, last])?;
    // Only readings are accounted. A dropped fault record says nothing the ledger could hold.
    dropped.retain(|d| d.readings > 0);
    dropped.iter().try_for_each(|d| ledger::note(t, d, now))?;
    Ok(dropped)
}

/// At most this many rows go in one trim, so that no commit behind it waits for long.
const TRIM_ROWS: i64 = 4096;

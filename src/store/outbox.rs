//! The outbox: append, peek, ack, trim.

use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};

use super::{Error, PAGE_BYTES, Store, Tally, ledger, lock};
use crate::model::ids::{DeviceName, PointName};
use crate::model::row::{Boot, Dropped, Kind, Layout, LayoutId, NewRow, OutboxId, Reason, Row};
use crate::model::time::{CLOCK_PLAUSIBLE_FROM, Timestamp};

/// Acknowledged and not yet deleted: few runs, because acks come nearly in order.
#[derive(Debug, Default)]
pub struct Acked {
    /// Disjoint, ascending, not adjacent.
    runs: Vec<(i64, i64)>,
    rows: usize,
}

impl Acked {
    pub fn add(&mut self, id: OutboxId) {
        let id = id.0;
        let at = self.runs.partition_point(|&(_, last)| last < id - 1);
        match self.runs.get_mut(at) {
            Some((first, last)) if *first <= id && id <= *last => return,
            Some((_, last)) if *last == id - 1 => {
                *last = id;
                if self.runs.get(at + 1).is_some_and(|&(next, _)| next == id + 1) {
                    let (_, last) = self.runs.remove(at + 1);
                    self.runs[at].1 = last;
                }
            }
            Some((first, _)) if *first == id + 1 => *first = id,
            _ => self.runs.insert(at, (id, id)),
        }
        self.rows += 1;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Store {
    /// The id of a list of points, the same for the same list for ever.
    pub fn layout(
        &self,
        device: &DeviceName,
        points: &[(PointName, Option<String>)],
    ) -> Result<LayoutId, Error> {
        let names: Vec<(&str, Option<&str>)> =
            points.iter().map(|(n, u)| (n.as_str(), u.as_deref())).collect();
        let text = serde_json::to_string(&names).map_err(|e| Error::Corrupt(e.to_string()))?;
        let w = self.writer();
        w.db.execute(
            "INSERT OR IGNORE INTO layout (device, points) VALUES (?1, ?2)",
            params![device.as_str(), text],
        )?;
        let id = w.db.query_row(
            "SELECT id FROM layout WHERE device = ?1 AND points = ?2",
            params![device.as_str(), text],
            |r| r.get(0),
        )?;
        Ok(LayoutId(id))
    }

    /// Appends the rows and removes what was acknowledged, in one transaction that is on the
    /// disk when this returns. On an error nothing has changed.
    pub fn commit(&self, rows: &[NewRow]) -> Result<OutboxId, Error> {
        let acked = std::mem::take(&mut *lock(&self.acked));
        let mut w = self.writer();
        let mut tally = w.tally;
        let boot = self.boot.count;
        let done = w.transaction(|t| {
            // Deleting first lets the new rows take the pages of the old ones: a quiet gateway
            // then writes two pages a commit instead of six.
            delete_acked(t, &acked, &mut tally)?;
            insert(t, boot, rows, &mut tally)?;
            write_tally(t, &tally)
        });
        match done {
            Ok(()) => w.tally = tally,
            Err(e) => {
                self.put_back(acked);
                return Err(e);
            }
        }
        drop(w);
        if !rows.is_empty() {
            self.committed.send_replace(OutboxId(tally.last_id));
        }
        Ok(OutboxId(tally.last_id))
    }

    /// Up to `n` rows of `after < id <= through`, in order; fewer when `bytes` are reached.
    pub fn peek(
        &self,
        after: OutboxId,
        through: OutboxId,
        n: usize,
        bytes: usize,
    ) -> Result<Vec<Row>, Error> {
        let db = lock(&self.reader);
        let mut st = db.prepare_cached(
            "SELECT id, kind, layout, boot, seq, readings, first_ms, payload FROM outbox
             WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        )?;
        let mut found = st.query(params![after.0, through.0, n as i64])?;
        let (mut rows, mut size) = (Vec::new(), 0);
        while let Some(r) = found.next()? {
            let payload: Vec<u8> = r.get(7)?;
            size += payload.len();
            let layout: i64 = r.get(2)?;
            rows.push(Row {
                id: OutboxId(r.get(0)?),
                kind: kind_from(r.get(1)?)?,
                layout: self.layout_of(&db, layout)?,
                boot: Boot { store_id: self.boot.store_id, count: r.get(3)? },
                seq: r.get::<_, i64>(4)? as u64,
                readings: r.get(5)?,
                first: Timestamp(r.get(6)?),
                payload,
            });
            if size >= bytes {
                break;
            }
        }
        Ok(rows)
    }

    fn layout_of(&self, db: &Connection, id: i64) -> Result<Arc<Layout>, Error> {
        if let Some(known) = lock(&self.layouts).get(&id) {
            return Ok(Arc::clone(known));
        }
        let layout = Arc::new(read_layout(db, id)?);
        let mut cache = lock(&self.layouts);
        if cache.len() >= LAYOUTS_CACHED_MAX {
            cache.clear();
        }
        cache.insert(id, Arc::clone(&layout));
        Ok(layout)
    }

    /// Notes that the far side has the row. It is deleted with the next commit or flush.
    pub fn ack(&self, id: OutboxId) {
        lock(&self.acked).add(id);
    }

    /// Acknowledged rows that still stand in the file.
    pub fn acked_rows(&self) -> usize {
        lock(&self.acked).rows()
    }

    /// Deletes what was acknowledged, if anything was.
    pub fn flush_acks(&self) -> Result<(), Error> {
        if self.acked_rows() > 0 {
            self.commit(&[])?;
        }
        Ok(())
    }

    fn put_back(&self, acked: Acked) {
        let mut now = lock(&self.acked);
        for (first, last) in acked.runs {
            (first..=last).for_each(|id| now.add(OutboxId(id)));
        }
    }

    /// When the oldest waiting row was taken.
    pub fn oldest(&self) -> Result<Option<Timestamp>, Error> {
        let db = lock(&self.reader);
        let mut st = db.prepare_cached("SELECT first_ms FROM outbox ORDER BY id LIMIT 1")?;
        let mut rows = st.query([])?;
        Ok(rows.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
    }

    /// Bytes of the file that hold something; freed pages do not count, they are used again.
    pub fn bytes_used(&self) -> Result<u64, Error> {
        let w = self.writer();
        used(&w.db)
    }

    /// Drops what is too old, and the oldest when the file is nearly at its quota. Each loss
    /// is entered in the ledger, and a gap record for the cloud is appended, in the same
    /// transaction. `render` spells the gap record.
    pub fn trim(&self, now: Timestamp, render: &dyn Fn(&Dropped) -> Vec<u8>) -> Result<Vec<Dropped>, Error> {
        let mut w = self.writer();
        let mut tally = w.tally;
        let mut all = Vec::new();
        for (reason, last) in self.victims(&w.db, now)? {
            let boot = self.boot.count;
            let dropped = w.transaction(|t| {
                let dropped = drop_rows(t, 0, last, reason, now, &mut tally)?;
                append_gaps(t, boot, &dropped, now, &mut tally, render)?;
                write_tally(t, &tally)?;
                Ok(dropped)
            })?;
            w.tally = tally;
            all.extend(dropped);
        }
        if !all.is_empty() {
            w.db.execute_batch("PRAGMA incremental_vacuum(256)")?;
            self.committed.send_replace(OutboxId(tally.last_id));
        }
        Ok(all)
    }

    /// Up to which id rows have to go now, and why.
    fn victims(&self, db: &Connection, now: Timestamp) -> Result<Vec<(Reason, i64)>, Error> {
        let mut victims = Vec::new();
        // A clock that was never set must not throw away what it cannot date.
        if let Some(age) = self.age_max.filter(|_| now >= CLOCK_PLAUSIBLE_FROM) {
            let limit = now.0 - i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let mut st =
                db.prepare_cached("SELECT id, first_ms + span_ms FROM outbox ORDER BY id LIMIT ?1")?;
            let mut rows = st.query([TRIM_ROWS])?;
            let mut last = None;
            while let Some(r) = rows.next()? {
                let taken: i64 = r.get(1)?;
                if taken >= limit || taken < CLOCK_PLAUSIBLE_FROM.0 {
                    break;
                }
                last = Some(r.get(0)?);
            }
            victims.extend(last.map(|id| (Reason::Expired, id)));
        }
        if used(db)? > self.bytes_max - self.bytes_max / 16 {
            // A thirty-second of what waits at one go: few gap records, little lost at a time.
            let mut st = db.prepare_cached("SELECT id FROM outbox ORDER BY id LIMIT 1 OFFSET ?1")?;
            let (first, last): (Option<i64>, Option<i64>) =
                db.query_row("SELECT (SELECT min(id) FROM outbox), (SELECT max(id) FROM outbox)", [], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })?;
            if let (Some(first), Some(last)) = (first, last) {
                let share = ((last - first) / 32).clamp(0, TRIM_ROWS);
                let mut rows = st.query([share])?;
                let id = rows.next()?.map(|r| r.get(0)).transpose()?.unwrap_or(first);
                victims.push((Reason::StoreFull, id));
            }
        }
        Ok(victims)
    }

    /// Takes one row out of the way for good: the broker will not have it.
    pub fn dead_letter(
        &self,
        id: OutboxId,
        reason: Reason,
        now: Timestamp,
        render: &dyn Fn(&Dropped) -> Vec<u8>,
    ) -> Result<Vec<Dropped>, Error> {
        let mut w = self.writer();
        let mut tally = w.tally;
        let boot = self.boot.count;
        let dropped = w.transaction(|t| {
            let dropped = drop_rows(t, id.0, id.0, reason, now, &mut tally)?;
            append_gaps(t, boot, &dropped, now, &mut tally, render)?;
            write_tally(t, &tally)?;
            Ok(dropped)
        })?;
        w.tally = tally;
        self.committed.send_replace(OutboxId(tally.last_id));
        Ok(dropped)
    }
}

impl super::Writer {
    fn transaction<T>(&mut self, work: impl FnOnce(&Transaction) -> Result<T, Error>) -> Result<T, Error> {
        let t = self.db.transaction()?;
        let done = work(&t)?;
        t.commit()?;
        Ok(done)
    }
}

/// Raises the count of starts; a new file gets its random number.
pub(super) fn begin_boot(db: &mut Connection) -> Result<Boot, Error> {
    let t = db.transaction()?;
    t.execute(
        "INSERT INTO tally (store_id, boots, last_id, rows_gone, taken, delivered, dropped)
         SELECT ?1, 0, 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM tally)",
        [i64::from(fastrand::u32(..))],
    )?;
    let boot = t.query_row("UPDATE tally SET boots = boots + 1 RETURNING store_id, boots", [], |r| {
        Ok(Boot { store_id: r.get::<_, i64>(0)? as u32, count: r.get(1)? })
    })?;
    t.commit()?;
    Ok(boot)
}

pub(super) fn read_tally(db: &Connection) -> Result<Tally, Error> {
    Ok(db.query_row("SELECT last_id, rows_gone, taken, delivered, dropped FROM tally", [], |r| {
        Ok(Tally {
            last_id: r.get(0)?,
            rows_gone: r.get(1)?,
            taken: r.get(2)?,
            delivered: r.get(3)?,
            dropped: r.get(4)?,
        })
    })?)
}

pub(super) fn write_tally(t: &Transaction, tally: &Tally) -> Result<(), Error> {
    t.prepare_cached(
        "UPDATE tally SET last_id = ?1, rows_gone = ?2, taken = ?3, delivered = ?4, dropped = ?5",
    )?
    .execute(params![tally.last_id, tally.rows_gone, tally.taken, tally.delivered, tally.dropped])?;
    Ok(())
}

pub(super) fn read_layout(db: &Connection, id: i64) -> Result<Layout, Error> {
    let (device, points): (String, String) = db
        .prepare_cached("SELECT device, points FROM layout WHERE id = ?1")?
        .query_row([id], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let points: Vec<(String, Option<String>)> =
        serde_json::from_str(&points).map_err(|e| Error::Corrupt(format!("layout {id}: {e}")))?;
    Ok(Layout {
        device: DeviceName::new(&device),
        points: points.into_iter().map(|(n, u)| (PointName::new(&n), u)).collect(),
    })
}

pub(super) fn insert(t: &Transaction, boot: i64, rows: &[NewRow], tally: &mut Tally) -> Result<(), Error> {
    let mut st = t.prepare_cached(
        "INSERT INTO outbox (id, kind, layout, boot, seq, readings, first_ms, span_ms, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for row in rows {
        tally.last_id += 1;
        tally.taken += i64::from(row.readings);
        st.execute(params![
            tally.last_id,
            kind_number(row.kind),
            row.layout.0,
            boot,
            row.seq as i64,
            row.readings,
            row.first.0,
            row.last.millis_since(row.first) as i64,
            row.payload,
        ])?;
    }
    Ok(())
}

fn delete_acked(t: &Transaction, acked: &Acked, tally: &mut Tally) -> Result<(), Error> {
    if acked.runs.is_empty() {
        return Ok(());
    }
    let mut st = t.prepare_cached("DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2 RETURNING readings")?;
    for &(first, last) in &acked.runs {
        let mut gone = st.query([first, last])?;
        while let Some(r) = gone.next()? {
            tally.rows_gone += 1;
            tally.delivered += r.get::<_, i64>(0)?;
        }
    }
    Ok(())
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
        "SELECT l.device, count(*), sum(o.readings), min(o.first_ms), max(o.first_ms + o.span_ms)
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
            first: Timestamp(r.get(3)?),
            last: Timestamp(r.get(4)?),
        });
    }
    t.prepare_cached("DELETE FROM outbox WHERE id BETWEEN ?1 AND ?2")?.execute([first, last])?;
    // Only readings are accounted; a dropped gap or fault record says nothing new.
    dropped.retain(|d| d.readings > 0);
    dropped.iter().try_for_each(|d| ledger::note(t, d, now))?;
    Ok(dropped)
}

pub(super) fn append_gaps(
    t: &Transaction,
    boot: i64,
    dropped: &[Dropped],
    now: Timestamp,
    tally: &mut Tally,
    render: &dyn Fn(&Dropped) -> Vec<u8>,
) -> Result<(), Error> {
    for d in dropped {
        t.prepare_cached("INSERT OR IGNORE INTO layout (device, points) VALUES (?1, '[]')")?
            .execute([d.device.as_str()])?;
        let layout = t
            .prepare_cached("SELECT id FROM layout WHERE device = ?1 AND points = '[]'")?
            .query_row([d.device.as_str()], |r| r.get(0))?;
        let row = NewRow {
            kind: Kind::Gap,
            layout: LayoutId(layout),
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

pub(super) fn used(db: &Connection) -> Result<u64, Error> {
    let pages: i64 = db.prepare_cached("PRAGMA page_count")?.query_row([], |r| r.get(0))?;
    let free: i64 = db.prepare_cached("PRAGMA freelist_count")?.query_row([], |r| r.get(0))?;
    Ok((pages - free) as u64 * PAGE_BYTES as u64)
}

fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Telemetry => 0,
        Kind::Fault => 1,
        Kind::Gap => 2,
    }
}

fn kind_from(number: i64) -> Result<Kind, Error> {
    match number {
        0 => Ok(Kind::Telemetry),
        1 => Ok(Kind::Fault),
        2 => Ok(Kind::Gap),
        n => Err(Error::Corrupt(format!("outbox row of kind {n}"))),
    }
}

/// At most this many rows go in one trim, so that no commit behind it waits for long.
const TRIM_ROWS: i64 = 4096;
/// Layouts kept in memory; a gateway has about one per device.
const LAYOUTS_CACHED_MAX: usize = 20_000;

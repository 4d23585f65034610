//! The outbox: append, peek, ack.

use std::sync::Arc;

use rusqlite::{Connection, Transaction, params};

use super::{Error, PAGE_BYTES, Store, Tally, audit, lock, mail, things};
use crate::model::ids::{DeviceName, PointName};
use crate::model::kept::{Kept, Letter};
use crate::model::row::{Boot, Kind, Layout, LayoutId, NewRow, OutboxId, Route, Row};
use crate::model::time::Timestamp;

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
        let text = points_json(points)?;
        let w = self.writer();
        self.marked(layout_id(&w.db, device, &text))
    }

    /// Appends the rows and removes what was acknowledged, in one transaction that is on the
    /// disk when this returns. On an error nothing has changed.
    pub fn commit(&self, rows: &[NewRow]) -> Result<OutboxId, Error> {
        self.commit_all(rows, &Kept::default(), &[])
    }

    /// [`Store::commit`] with what else belongs into the same transaction.
    pub fn commit_all(&self, rows: &[NewRow], kept: &Kept, letters: &[Letter]) -> Result<OutboxId, Error> {
        let boot = self.boot.count;
        let (tally, posted) = self.change(|t, tally| {
            insert(t, boot, rows, tally)?;
            if !kept.is_empty() {
                tally.audit = things::write(t, kept, tally.audit)?;
            }
            Ok((*tally, mail::insert(t, letters)?))
        })?;
        let newest = OutboxId(tally.last_id);
        if !rows.is_empty() {
            self.announce_rows(rows.iter().map(|row| row.route), newest);
        }
        self.announce_mail(posted);
        Ok(newest)
    }

    /// Wakes the connections of these routes: all their rows lie up to `newest`.
    pub(super) fn announce_rows(&self, routes: impl Iterator<Item = Route>, newest: OutboxId) {
        let mut last = None;
        for route in routes.filter(|route| last.replace(*route) != Some(*route)) {
            match route {
                Route::GATEWAY => drop(self.committed.send_replace(newest)),
                other => {
                    if let Some(known) = lock(&self.own).get(&other) {
                        known.rows.send_replace(newest);
                    }
                }
            }
        }
    }

    /// One transaction: what was acknowledged goes, then `work`, then the sums. On an error
    /// nothing has changed.
    pub(super) fn change<T>(
        &self,
        work: impl FnOnce(&Transaction, &mut Tally) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Taken under the writer's lock: whoever gets that lock next knows them gone.
        let mut w = self.writer();
        let acked = std::mem::take(&mut *lock(&self.acked));
        let read = std::mem::take(&mut *lock(&self.mail_done));
        let mut tally = w.tally;
        let done = w.transaction(|t| {
            // Deleting first lets the new rows take the pages of the old ones: a quiet gateway
            // then writes two pages a commit instead of six. And what was delivered is never
            // counted as dropped.
            delete_acked(t, &acked, &mut tally)?;
            mail::delete(t, &read)?;
            let done = work(t, &mut tally)?;
            write_tally(t, &tally)?;
            Ok(done)
        });
        match done {
            Ok(_) => w.tally = tally,
            Err(_) => {
                self.put_back(acked);
                lock(&self.mail_done).extend(read);
            }
        }
        self.marked(done)
    }

    /// Up to `n` rows of this route with `after < id <= through`, in order; fewer when `bytes`
    /// are reached.
    pub fn peek(
        &self,
        route: Route,
        after: OutboxId,
        through: OutboxId,
        n: usize,
        bytes: usize,
    ) -> Result<Vec<Row>, Error> {
        self.marked(self.read_rows(route, after, through, n, bytes))
    }

    fn read_rows(
        &self,
        route: Route,
        after: OutboxId,
        through: OutboxId,
        n: usize,
        bytes: usize,
    ) -> Result<Vec<Row>, Error> {
        let db = lock(&self.reader);
        // Each has its own plan: by the order of the table, and by the index of the others.
        let mut st = db.prepare_cached(match route {
            Route::GATEWAY => {
                "SELECT id, kind, layout, boot, seq, readings, first_ms, payload FROM outbox
                 WHERE id > ?1 AND id <= ?2 AND route = ?4 ORDER BY id LIMIT ?3"
            }
            _ => {
                "SELECT id, kind, layout, boot, seq, readings, first_ms, payload FROM outbox INDEXED BY outbox_route
                 WHERE route = ?4 AND route != 0 AND id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3"
            }
        })?;
        let mut found = st.query(params![after.0, through.0, n as i64, route.0])?;
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

    /// When this returns, what was acknowledged before the call is off the disk, by this
    /// transaction or by one that was under way.
    pub fn flush_acks(&self) -> Result<(), Error> {
        if self.acked_rows() > 0 || !lock(&self.mail_done).is_empty() {
            self.commit(&[])?;
        } else {
            drop(self.writer());
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
        self.marked(read_oldest(&db))
    }

    /// Bytes of the file that hold something; freed pages do not count, they are used again.
    pub fn bytes_used(&self) -> Result<u64, Error> {
        let w = self.writer();
        self.marked(used(&w.db))
    }

    /// Gives freed pages back to the file system, a few at a time, once they are a quarter of
    /// the file: after an outage the file shrinks again, and a quiet gateway pays nothing.
    pub fn shrink(&self) -> Result<(), Error> {
        let w = self.writer();
        let (pages, free) = pages(&w.db)?;
        if free > SHRINK_PAGES && free > pages / 4 {
            let vacuum = format!("PRAGMA incremental_vacuum({SHRINK_PAGES})");
            self.marked(w.db.execute_batch(&vacuum).map_err(Error::from))?;
        }
        Ok(())
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

fn read_oldest(db: &Connection) -> Result<Option<Timestamp>, Error> {
    let mut st = db.prepare_cached("SELECT first_ms FROM outbox ORDER BY id LIMIT 1")?;
    let mut rows = st.query([])?;
    Ok(rows.next()?.map(|r| r.get(0)).transpose()?.map(Timestamp))
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
            audit: audit::Head::default(),
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

pub(super) fn points_json(points: &[(PointName, Option<String>)]) -> Result<String, Error> {
    let names: Vec<(&str, Option<&str>)> = points.iter().map(|(n, u)| (n.as_str(), u.as_deref())).collect();
    serde_json::to_string(&names).map_err(|e| Error::Corrupt(e.to_string()))
}

/// The id of a layout, made if it is new. `points` is JSON.
pub(super) fn layout_id(db: &Connection, device: &DeviceName, points: &str) -> Result<LayoutId, Error> {
    db.prepare_cached("INSERT OR IGNORE INTO layout (device, points) VALUES (?1, ?2)")?
        .execute(params![device.as_str(), points])?;
    let id = db
        .prepare_cached("SELECT id FROM layout WHERE device = ?1 AND points = ?2")?
        .query_row(params![device.as_str(), points], |r| r.get(0))?;
    Ok(LayoutId(id))
}

pub(super) fn insert(t: &Transaction, boot: i64, rows: &[NewRow], tally: &mut Tally) -> Result<(), Error> {
    let mut st = t.prepare_cached(
        "INSERT INTO outbox (id, kind, layout, boot, seq, readings, first_ms, span_ms, payload, route)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
            row.route.0,
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

pub(super) fn used(db: &Connection) -> Result<u64, Error> {
    let (pages, free) = pages(db)?;
    Ok((pages - free) as u64 * PAGE_BYTES as u64)
}

/// Pages of the file, and how many of them are free.
fn pages(db: &Connection) -> Result<(i64, i64), Error> {
    let pages = db.prepare_cached("PRAGMA page_count")?.query_row([], |r| r.get(0))?;
    let free = db.prepare_cached("PRAGMA freelist_count")?.query_row([], |r| r.get(0))?;
    Ok((pages, free))
}

pub(super) fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Telemetry => 0,
        Kind::Fault => 1,
        Kind::Gap => 2,
    }
}

pub(super) fn kind_from(number: i64) -> Result<Kind, Error> {
    match number {
        0 => Ok(Kind::Telemetry),
        1 => Ok(Kind::Fault),
        2 => Ok(Kind::Gap),
        n => Err(Error::Corrupt(format!("outbox row of kind {n}"))),
    }
}

/// Pages given back at one go (1 MiB), and the least that is worth it.
const SHRINK_PAGES: i64 = 256;
/// Layouts kept in memory; a gateway has about one per device.
const LAYOUTS_CACHED_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a plain set: the same ids, in as few runs as there can be.
        #[test]
        fn runs_are_the_set_of_what_was_added(ids in prop::collection::vec(1i64..40, 0..60)) {
            let (mut acked, mut toy) = (Acked::default(), BTreeSet::new());
            for id in ids {
                acked.add(OutboxId(id));
                toy.insert(id);
                let held: Vec<i64> = acked.runs.iter().flat_map(|&(first, last)| first..=last).collect();
                prop_assert_eq!(held, toy.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(acked.rows(), toy.len());
                prop_assert!(acked.runs.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{:?}", acked.runs);
            }
        }
    }
}

//! A damaged file: set aside, read what reads, begin anew, say so loudly.
//!
//! The mark is a file beside the store, written when a running agent meets damage; the next
//! start finds it. The damaged file is kept for a person to look at; the newest two of them,
//! so that a card that fails each night does not fill itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, params};

use super::{Error, Store, connect, ledger, outbox};
use crate::model::ids::{DeviceName, PointName};
use crate::model::row::{Dropped, LayoutId, Reason};
use crate::model::time::Timestamp;

pub fn is_marked(path: &Path) -> bool {
    beside(path, "-corrupt").exists()
}

pub fn mark(path: &Path) -> Result<(), Error> {
    Ok(fs::write(beside(path, "-corrupt"), "set aside at the next start\n")?)
}

/// Renames the damaged file, opens a new one and copies every row that can be read.
pub fn open(path: &Path, bytes_max: u64, age_max: Option<Duration>, now: Timestamp) -> Result<Store, Error> {
    let aside = beside(path, &format!(".damaged-{}", now.0));
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(path, suffix);
        if from.exists() {
            fs::rename(&from, beside(&aside, suffix))?;
        }
    }
    forget_old(path)?;
    let store = Store::open_file(path, bytes_max, age_max)?;
    let (saved, lost) = copy(&aside, &store, now).unwrap_or_else(|e| {
        tracing::error!(why = %e, "nothing could be read from the damaged store");
        (0, 0)
    });
    tracing::error!(
        set_aside = %aside.display(), readings_saved = saved, readings_lost = lost,
        "the store was damaged; a new one was begun. Look at the disk: this should not happen"
    );
    // The mark goes last: a power cut before this repeats the salvage on an empty new file,
    // and the damaged one is still there under its first name.
    let mark = beside(path, "-corrupt");
    if mark.exists() {
        fs::remove_file(mark)?;
    }
    Ok(store)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Keeps the newest set-aside file (the one just made comes on top of it).
fn forget_old(path: &Path) -> Result<(), Error> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.damaged-", name.to_string_lossy());
    let mut old: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .filter(|p| !p.to_string_lossy().ends_with("-wal") && !p.to_string_lossy().ends_with("-shm"))
        .collect();
    old.sort();
    for p in old.iter().rev().skip(2) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(beside(p, suffix));
        }
    }
    Ok(())
}

/// Reads from both ends towards the damage. Returns readings saved and lost.
fn copy(from: &Path, to: &Store, now: Timestamp) -> Result<(u64, u64), Error> {
    let db = connect(from, OpenFlags::default())?;
    let before = outbox::read_tally(&db).ok();
    let mut w = to.writer();
    let mut tally = w.tally;
    if let Some(b) = before {
        // Ids go on where the damaged file stopped: none is used twice.
        tally.last_id = tally.last_id.max(b.last_id);
        tally.rows_gone = tally.last_id;
        tally.taken = b.delivered + b.dropped;
        tally.delivered = b.delivered;
        tally.dropped = b.dropped;
    }
    let t = w.db.transaction()?;
    let mut seen = 0i64;
    for sql in [
        "SELECT id, kind, layout, boot, seq, readings, first_ms, span_ms, payload FROM outbox ORDER BY id",
        "SELECT id, kind, layout, boot, seq, readings, first_ms, span_ms, payload FROM outbox ORDER BY id DESC",
    ] {
        let Ok(mut st) = db.prepare(sql) else { continue };
        let Ok(mut rows) = st.query([]) else { continue };
        while let Ok(Some(r)) = rows.next() {
            match copy_row(&db, &t, r) {
                Ok(readings) => {
                    seen += readings;
                    tally.taken += readings;
                }
                Err(Error::Full) => break,
                Err(_) => continue,
            }
        }
    }
    let rows: i64 = t.query_row("SELECT count(*) FROM outbox", [], |r| r.get(0))?;
    let top: i64 = t.query_row("SELECT coalesce(max(id), 0) FROM outbox", [], |r| r.get(0))?;
    tally.last_id = tally.last_id.max(top);
    tally.rows_gone = tally.last_id - rows;
    let lost = before.map_or(0, |b| (b.readings_waiting() - seen).max(0));
    if lost > 0 {
        tally.taken += lost;
        tally.dropped += lost;
        let all = Dropped {
            device: DeviceName::new("*"),
            reason: Reason::Corrupt,
            readings: lost as u64,
            first: Timestamp(0),
            last: now,
        };
        ledger::note(&t, &all, now)?;
    }
    if let Ok(mut old) = ledger::read(&db) {
        old.retain(|e| e.count > 0);
        for e in old {
            t.execute(
                "INSERT OR IGNORE INTO ledger (device, reason, hour, readings, first_ms, last_ms)
                 VALUES (?1, ?2, 0, 0, ?4, ?5)",
                params![e.device, e.reason, 0, e.first.0, e.last.0],
            )?;
            t.execute(
                "UPDATE ledger SET readings = readings + ?3 WHERE device = ?1 AND reason = ?2 AND hour = 0",
                params![e.device, e.reason, e.count as i64],
            )?;
        }
    }
    outbox::write_tally(&t, &tally)?;
    t.commit()?;
    w.tally = tally;
    Ok((seen as u64, lost as u64))
}

/// Copies one row with its layout; a row that is there already counts nothing.
fn copy_row(from: &Connection, t: &rusqlite::Transaction, r: &Row) -> Result<i64, Error> {
    let layout = outbox::read_layout(from, r.get(2)?)?;
    let layout = layout_id(t, &layout.device, &layout.points)?;
    let readings: i64 = r.get(5)?;
    let payload: Vec<u8> = r.get(8)?;
    let new = t
        .prepare_cached(
            "INSERT OR IGNORE INTO outbox (id, kind, layout, boot, seq, readings, first_ms, span_ms, payload)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            r.get::<_, i64>(0)?,
            r.get::<_, i64>(1)?,
            layout.0,
            r.get::<_, i64>(3)?,
            r.get::<_, i64>(4)?,
            readings,
            r.get::<_, i64>(6)?,
            r.get::<_, i64>(7)?,
            payload
        ])?;
    Ok(if new == 1 { readings } else { 0 })
}

fn layout_id(
    t: &rusqlite::Transaction,
    device: &DeviceName,
    points: &[(PointName, Option<String>)],
) -> Result<LayoutId, Error> {
    let names: Vec<(&str, Option<&str>)> = points.iter().map(|(n, u)| (n.as_str(), u.as_deref())).collect();
    let text = serde_json::to_string(&names).map_err(|e| Error::Corrupt(e.to_string()))?;
    t.execute(
        "INSERT OR IGNORE INTO layout (device, points) VALUES (?1, ?2)",
        params![device.as_str(), text],
    )?;
    let id = t.query_row(
        "SELECT id FROM layout WHERE device = ?1 AND points = ?2",
        params![device.as_str(), text],
        |r| r.get(0),
    )?;
    Ok(LayoutId(id))
}

//! A damaged file: set aside, read what reads, begin anew, say so loudly.
//!
//! Constraints: a power cut at any moment in here loses nothing, and what was given up is in
//! the ledger. The damaged file is kept for a person to look at; the newest two of them, so
//! that a card that fails each night does not fill itself.
//!
//! The way: a running agent meets damage and leaves the *mark*, a file beside the store → the
//! next start writes into the mark under which name the file will lie aside → log, then file
//! are renamed → a new file, into which everything readable is copied in one transaction →
//! the mark goes. Whoever is interrupted finds the mark and does it again: as long as the
//! mark is there, what lies aside is the truth and what lies in its place is half made.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row, Transaction, params};

use super::{Error, PAGE_BYTES, Store, Tally, audit, connect, ledger, lock, outbox};
use crate::model::ids::DeviceName;
use crate::model::row::{Boot, Dropped, OutboxId, Reason};
use crate::model::time::Timestamp;

pub fn is_marked(path: &Path) -> bool {
    beside(path, MARK).exists()
}

pub fn mark(path: &Path) -> Result<(), Error> {
    if is_marked(path) {
        return Ok(());
    }
    write_mark(path, "set aside at the next start\n")
}

/// Renames the damaged file, opens a new one and copies every row that can be read.
pub fn open(path: &Path, bytes_max: u64, age_max: Option<Duration>, now: Timestamp) -> Result<Store, Error> {
    let aside = aside(path)?;
    set_aside(path, &aside)?;
    let mut store = Store::open_file(path, bytes_max, age_max)?;
    // Opened for writing, because the log that lies beside it may have to be played back.
    let (saved, lost) = match pad(&aside).and_then(|()| connect(&aside, OpenFlags::default())) {
        Ok(from) => copy(&from, &mut store, now)?,
        Err(e) => {
            tracing::error!(why = %e, "nothing can be read from the damaged store");
            (0, 0)
        }
    };
    tracing::error!(
        set_aside = %aside.display(), readings_saved = saved, readings_lost = lost,
        "the store was damaged; a new one was begun. Look at the disk: this should not happen"
    );
    fs::remove_file(beside(path, MARK))?;
    sync_folder(path)?;
    forget_old(path)?;
    Ok(store)
}

/// The name chosen by an earlier, interrupted try, else the next number.
fn aside(path: &Path) -> Result<PathBuf, Error> {
    let text = fs::read_to_string(beside(path, MARK)).unwrap_or_default();
    let chosen = text.strip_prefix(CHOSEN).and_then(|n| n.trim().parse::<u64>().ok());
    let number = match chosen {
        Some(number) => number,
        None => {
            let number = kept(path)?.last().map_or(1, |(number, _)| number + 1);
            write_mark(path, &format!("{CHOSEN}{number}\n"))?;
            number
        }
    };
    Ok(beside(path, &format!("{ASIDE}{number}")))
}

/// The main file goes last: once it lies aside, nothing of it is left in the old place.
fn set_aside(path: &Path, aside: &Path) -> Result<(), Error> {
    let moved = aside.exists();
    for suffix in ["-shm", "-wal", ""] {
        let (from, to) = (beside(path, suffix), beside(aside, suffix));
        if !from.exists() {
            continue;
        }
        if moved || to.exists() {
            fs::remove_file(from)?;
        } else {
            fs::rename(from, to)?;
        }
    }
    sync_folder(path)
}

/// In full on the disk before it has its name, so that it is never read half written.
fn write_mark(path: &Path, text: &str) -> Result<(), Error> {
    let (draft, mark) = (beside(path, MARK_DRAFT), beside(path, MARK));
    let mut file = fs::File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, mark)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::File::open(folder)?.sync_all()?)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The files that lie aside, by number. (Not by time: the clock may not be set.)
fn kept(path: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(Vec::new()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let prefix = format!("{}{ASIDE}", name.to_string_lossy());
    let mut kept: Vec<(u64, PathBuf)> = fs::read_dir(folder)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter_map(|p| {
            let number = p.file_name()?.to_string_lossy().strip_prefix(&prefix)?.parse().ok()?;
            Some((number, p))
        })
        .collect();
    kept.sort();
    Ok(kept)
}

fn forget_old(path: &Path) -> Result<(), Error> {
    for (_, old) in kept(path)?.iter().rev().skip(KEPT_MAX) {
        for suffix in ["", "-wal", "-shm"] {
            let file = beside(old, suffix);
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
    }
    Ok(())
}

/// SQLite reads nothing of a file that is shorter than its header says, be all but the last
/// page there. So the end is made up of zeros, which read as damage.
fn pad(aside: &Path) -> Result<(), Error> {
    let mut file = fs::File::options().read(true).write(true).open(aside)?;
    let mut header = [0; 32];
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    let size = u64::from(pages) * PAGE_BYTES as u64;
    // A page count that is itself damaged must not blow the file up.
    let length = file.metadata()?.len();
    if length < size && size < length.saturating_mul(64) {
        file.set_len(size)?;
    }
    Ok(())
}

/// Returns readings saved and lost. An error is one of the new file: what cannot be read from
/// the damaged one is passed over and counted.
fn copy(from: &Connection, to: &mut Store, now: Timestamp) -> Result<(u64, u64), Error> {
    let before = outbox::read_tally(from).ok().filter(is_plausible);
    let (boot, own) = (read_boot(from).ok(), to.boot);
    let mut w = to.writer();
    let t = w.db.transaction()?;
    let saved = copy_rows(from, &t)?;
    let given_up = copy_ledger(from, &t)?;
    TABLES.iter().try_for_each(|table| copy_table(from, &t, table))?;
    let mut tally = match before {
        // Ids go on where the damaged file stopped: none is used twice.
        Some(b) => Tally { taken: b.delivered + b.dropped, ..b },
        None => Tally { taken: given_up, dropped: given_up, ..Tally::default() },
    };
    tally.taken += saved;
    let lost = before.map_or(0, |b| (b.readings_waiting() - saved).max(0));
    tally.taken += lost;
    tally.dropped += lost;
    // Entries of the ledger that could not be read are made up for, too.
    let unaccounted = tally.dropped - given_up;
    if unaccounted > 0 {
        let all = Dropped {
            device: DeviceName::new("*"),
            reason: Reason::Corrupt,
            readings: unaccounted as u64,
            first: Timestamp(0),
            last: now,
        };
        ledger::note(&t, &all, now)?;
        lock(&to.unannounced).extend((lost > 0).then_some(Dropped { readings: lost as u64, ..all }));
    }
    let (rows, top, boots): (i64, i64, i64) =
        t.query_row("SELECT count(*), coalesce(max(id), 0), coalesce(max(boot), 0) FROM outbox", [], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?))
        })?;
    tally.last_id = tally.last_id.max(top);
    tally.rows_gone = tally.last_id - rows;
    outbox::write_tally(&t, &tally)?;
    // (boot, device, seq) names one reading for ever: the rows that were saved keep theirs, and
    // this start is one that the damaged file has not seen.
    let boot = Boot {
        store_id: boot.map_or(own.store_id, |b| b.store_id),
        count: boot.map_or(0, |b| b.count).max(boots).max(0) + 1,
    };
    t.execute("UPDATE tally SET store_id = ?1, boots = ?2", params![i64::from(boot.store_id), boot.count])?;
    tally.audit = audit::head(&t)?;
    t.commit()?;
    w.tally = tally;
    drop(w);
    to.boot = boot;
    to.committed.send_replace(OutboxId(tally.last_id));
    Ok((saved as u64, lost as u64))
}

fn read_boot(db: &Connection) -> Result<Boot, Error> {
    Ok(db.query_row("SELECT store_id, boots FROM tally", [], |r| {
        Ok(Boot { store_id: r.get(0)?, count: r.get(1)? })
    })?)
}

/// Reads from both ends towards the damage. Returns how many readings were saved.
fn copy_rows(from: &Connection, t: &Transaction) -> Result<i64, Error> {
    let mut saved = 0;
    // A file from before the first migration of things has no such column.
    let route = if from.prepare("SELECT route FROM outbox LIMIT 0").is_ok() { "route" } else { "0" };
    for order in ["ASC", "DESC"] {
        let sql = format!(
            "SELECT id, kind, layout, boot, seq, readings, first_ms, span_ms, payload, {route} FROM outbox ORDER BY id {order}"
        );
        let Ok(mut st) = from.prepare(&sql) else { continue };
        let Ok(mut rows) = st.query([]) else { continue };
        while let Ok(Some(r)) = rows.next() {
            if let Ok(row) = Saved::read(from, r) {
                saved += row.write(t)?;
            }
        }
    }
    Ok(saved)
}

/// A row of the damaged file that is what a row should be.
struct Saved {
    id: i64,
    kind: i64,
    device: DeviceName,
    points: String,
    boot: i64,
    seq: i64,
    readings: u32,
    first_ms: i64,
    span_ms: i64,
    payload: Vec<u8>,
    route: i64,
}

impl Saved {
    fn read(from: &Connection, r: &Row) -> Result<Saved, Error> {
        let (id, kind, boot): (i64, i64, i64) = (r.get(0)?, r.get(1)?, r.get(3)?);
        outbox::kind_from(kind)?;
        if !(1..COUNT_MAX).contains(&id) || !(0..COUNT_MAX).contains(&boot) {
            return Err(Error::Corrupt(format!("outbox row {id} of boot {boot}")));
        }
        let layout = outbox::read_layout(from, r.get(2)?)?;
        Ok(Saved {
            id,
            kind,
            points: outbox::points_json(&layout.points)?,
            device: layout.device,
            boot,
            seq: r.get(4)?,
            readings: r.get(5)?,
            first_ms: r.get(6)?,
            span_ms: r.get(7)?,
            payload: r.get(8)?,
            route: r.get(9)?,
        })
    }

    /// How many readings that added: none if the row is there already.
    fn write(&self, t: &Transaction) -> Result<i64, Error> {
        let layout = outbox::layout_id(t, &self.device, &self.points)?;
        let new = t
            .prepare_cached(
                "INSERT OR IGNORE INTO outbox (id, kind, layout, boot, seq, readings, first_ms, span_ms, payload, route)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                self.id,
                self.kind,
                layout.0,
                self.boot,
                self.seq,
                self.readings,
                self.first_ms,
                self.span_ms,
                self.payload,
                self.route
            ])?;
        Ok(if new == 1 { i64::from(self.readings) } else { 0 })
    }
}

/// Row by row, as far as they read; what does not fit is left out. Nobody counts these, and a
/// shadow that is gone is made anew by its device and its mirror.
fn copy_table(from: &Connection, t: &Transaction, table: &str) -> Result<(), Error> {
    let Ok(mut st) = from.prepare(&format!("SELECT * FROM {table}")) else { return Ok(()) };
    let columns = st.column_count();
    let marks = vec!["?"; columns].join(",");
    let mut insert = t.prepare(&format!("INSERT OR IGNORE INTO {table} VALUES ({marks})"))?;
    let Ok(mut rows) = st.query([]) else { return Ok(()) };
    while let Ok(Some(r)) = rows.next() {
        let values = (0..columns).map(|i| r.get::<_, Value>(i)).collect::<Result<Vec<_>, _>>();
        if let Ok(values) = values {
            match insert.execute(rusqlite::params_from_iter(values)) {
                Err(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::ConstraintViolation) => {
                    return Err(e.into());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What is kept of things.
const TABLES: [&str; 8] = ["route", "shadow", "mirror", "mail", "member", "command", "audit", "fingerprint"];

/// Whether these can have been the sums before the damage.
fn is_plausible(t: &Tally) -> bool {
    let counts = [t.last_id, t.rows_gone, t.taken, t.delivered, t.dropped];
    counts.iter().all(|n| (0..COUNT_MAX).contains(n)) && t.readings_waiting() >= 0 && t.rows_waiting() >= 0
}

/// Takes the old entries over, as folded ones. Returns how many readings they account for.
fn copy_ledger(from: &Connection, t: &Transaction) -> Result<i64, Error> {
    let mut sum = 0;
    for e in ledger::read(from).unwrap_or_default() {
        let Some(count) = i64::try_from(e.count).ok().filter(|n| (1..COUNT_MAX).contains(n)) else {
            continue;
        };
        sum += count;
        ledger::add(t, &e.device, &e.reason, 0, count, e.first.0, e.last.0)?;
    }
    Ok(sum)
}

const MARK: &str = "-corrupt";
const MARK_DRAFT: &str = "-corrupt-new";
/// What the mark says once a name was chosen.
const CHOSEN: &str = "set aside as number ";
const ASIDE: &str = ".damaged-";
/// A million readings a second for three centuries: larger counts are damage.
const COUNT_MAX: i64 = 10_000_000_000_000_000;
/// Damaged files that are kept.
const KEPT_MAX: usize = 2;

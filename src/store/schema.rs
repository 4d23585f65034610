//! Numbered migrations. `user_version` of the file says how many have run.
//!
//! A migration, once released, is never edited: files in the field were made by it.

use rusqlite::Connection;

use super::Error;

const MIGRATIONS: &[&str] = &[
    // 1: the outbox and what is needed to account for it.
    "CREATE TABLE layout (
         id INTEGER PRIMARY KEY,
         device TEXT NOT NULL,
         points TEXT NOT NULL,      -- JSON: [[name, unit or null], ...]
         UNIQUE (device, points)
     );
     -- Ids come from tally.last_id, which is raised in the transaction that uses them: an id
     -- is never used twice, also after the table was empty. (AUTOINCREMENT promises the same
     -- and would write one more page in each commit, where a quiet gateway writes two.)
     CREATE TABLE outbox (
         id INTEGER PRIMARY KEY,
         kind INTEGER NOT NULL,     -- 0 telemetry, 1 fault, 2 gap
         layout INTEGER NOT NULL,
         boot INTEGER NOT NULL,
         seq INTEGER NOT NULL,      -- sequence number of the first reading
         readings INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         span_ms INTEGER NOT NULL,
         payload BLOB NOT NULL
     );
     CREATE TABLE ledger (
         device TEXT NOT NULL,
         reason TEXT NOT NULL,
         hour INTEGER NOT NULL,     -- hours since 1970 in which it was noted; 0: older, folded
         readings INTEGER NOT NULL,
         first_ms INTEGER NOT NULL,
         last_ms INTEGER NOT NULL,
         PRIMARY KEY (device, reason, hour)
     ) WITHOUT ROWID;
     -- One row. taken = delivered + dropped + waiting, at any commit.
     CREATE TABLE tally (
         store_id INTEGER NOT NULL,
         boots INTEGER NOT NULL,
         last_id INTEGER NOT NULL,
         rows_gone INTEGER NOT NULL,
         taken INTEGER NOT NULL,
         delivered INTEGER NOT NULL,
         dropped INTEGER NOT NULL
     );",
];

/// What this program can read; a file that is newer is refused, never guessed at.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

pub fn migrate(db: &mut Connection) -> Result<(), Error> {
    let found: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if found > VERSION {
        return Err(Error::Newer { found, known: VERSION });
    }
    for (i, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let t = db.transaction()?;
        t.execute_batch(sql)?;
        t.pragma_update(None, "user_version", i as i64 + 1)?;
        t.commit()?;
    }
    Ok(())
}

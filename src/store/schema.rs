//! Numbered migrations. `user_version` of the file says how many have run.
//!
//! A migration, once released, is never edited: files in the field were made by it. With the
//! next one comes a file of the version before, written by its own release
//! (`tests/cases/store/make`, held by `tests/upgrade.rs`).

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Error, connect};

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
    // 2: things. The texts are short, without comments and spaces, because the schema has to
    // fit on the first page: a second one would be one more page whose damage loses everything.
    //
    // - route: a thing with a connection of its own has a number that is never given to another;
    //   rows of the gateway's own connection (route 0) are read by id alone and pay nothing.
    // - shadow: an empty name is the classic one; state is JSON {desired?, reported?}, metadata
    //   the same tree with seconds since 1970 as leaves; deleted 1 is a tombstone.
    // - mirror: what the cloud and we last agreed upon, JSON; only where a shadow is mirrored.
    // - mail: messages that are no readings; class 0 answer, 1 news (the newest of a topic
    //   counts), 2 request.
    // - member: where each desired member stands on its way to the device, JSON.
    // - command: begun or done, so that none is executed twice; answer NULL: begun, and the
    //   outcome is not known.
    // - audit: append-only; hash is SHA-256 over the hash before and the entry.
    // - fingerprint: the serial number or identification that was read from a device.
    "ALTER TABLE outbox ADD COLUMN route INTEGER NOT NULL DEFAULT 0;
CREATE INDEX outbox_route ON outbox(route,id) WHERE route!=0;
CREATE TABLE route(id INTEGER PRIMARY KEY AUTOINCREMENT,thing TEXT NOT NULL UNIQUE);
CREATE TABLE shadow(thing TEXT,name TEXT,state TEXT NOT NULL,metadata TEXT NOT NULL,version INTEGER NOT NULL,deleted INTEGER NOT NULL,updated_s INTEGER NOT NULL,PRIMARY KEY(thing,name))WITHOUT ROWID;
CREATE TABLE mirror(thing TEXT,name TEXT,base TEXT NOT NULL,PRIMARY KEY(thing,name))WITHOUT ROWID;
CREATE TABLE mail(id INTEGER PRIMARY KEY AUTOINCREMENT,route INTEGER NOT NULL,class INTEGER NOT NULL,topic TEXT NOT NULL,payload BLOB NOT NULL,at_ms INTEGER NOT NULL);
CREATE INDEX mail_route ON mail(route,id);
CREATE UNIQUE INDEX mail_news ON mail(route,topic)WHERE class=1;
CREATE TABLE member(thing TEXT,point TEXT,state TEXT NOT NULL,PRIMARY KEY(thing,point))WITHOUT ROWID;
CREATE TABLE command(thing TEXT,id TEXT,name TEXT NOT NULL,at_ms INTEGER NOT NULL,expires_ms INTEGER NOT NULL,answer TEXT,PRIMARY KEY(thing,id))WITHOUT ROWID;
CREATE INDEX command_age ON command(at_ms);
CREATE TABLE audit(id INTEGER PRIMARY KEY AUTOINCREMENT,entry TEXT NOT NULL,hash BLOB NOT NULL);
CREATE TABLE fingerprint(thing TEXT PRIMARY KEY,approved TEXT,found TEXT,found_ms INTEGER)WITHOUT ROWID;",
];

/// What this program can read; a file that is newer is refused, never guessed at.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// Looks before anybody opens the file for writing: that alone, and the end of it, would move
/// pages from the log into the file. What cannot be read is for the opening itself to meet.
pub fn refuse_newer(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    let look = || -> Result<i64, Error> {
        version(&connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
    };
    look().map_or(Ok(()), |found| known(found, path))
}

/// Each step is one transaction with its number: interrupted, it has not happened.
pub fn migrate(db: &mut Connection, path: &Path) -> Result<(), Error> {
    let found = version(db)?;
    known(found, path)?;
    for (i, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let t = db.transaction()?;
        t.execute_batch(sql)?;
        t.pragma_update(None, "user_version", i as i64 + 1)?;
        t.commit()?;
    }
    Ok(())
}

/// How many migrations have made this file.
pub fn version(db: &Connection) -> Result<i64, Error> {
    Ok(db.pragma_query_value(None, "user_version", |r| r.get(0))?)
}

fn known(found: i64, path: &Path) -> Result<(), Error> {
    if found > VERSION {
        return Err(Error::Newer { file: path.to_owned(), found, known: VERSION });
    }
    Ok(())
}
